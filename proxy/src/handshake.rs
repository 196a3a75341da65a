//! From accept to the first packet that says what the client wants.
//!
//! Exactly the bytes of that packet are read and none of what follows, so that the relay finds the
//! rest where it is. Memory grows with what arrives, not with what a length claims.
//!
//! **Invariant:** bounded in time (one limit for all of it) and in bytes, whatever the client sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::SessionError;
use crate::stream::Stream;
use crate::wire::message::CancelKey;
use crate::wire::startup::{self, FirstPacket, LENGTH_BYTES, StartupError};

/// What a client wants.
#[derive(Debug)]
pub enum Opening {
    /// A session; with the packet as it came, for the server.
    Startup(Vec<u8>),
    /// A query of another connection cancelled; with the packet as it came.
    Cancel(CancelKey, Vec<u8>),
    /// Nothing: it closed before it said anything, as health checks do.
    Nothing,
}

/// The answer to a request for encryption: there is none here.
const NOT_OFFERED: &[u8] = b"N";

/// Reads a client's first packet; requests for encryption that precede it are declined.
///
/// # Errors
///
/// Too slow, no startup packet, or gone.
pub async fn read(client: &mut Stream, limit: Duration) -> Result<Opening, SessionError> {
    match timeout(limit, read_unlimited(client)).await {
        Ok(result) => result,
        Err(_) => Err(SessionError::HandshakeTimeout { limit }),
    }
}

async fn read_unlimited(client: &mut Stream) -> Result<Opening, SessionError> {
    let mut asked_tls = false;
    let mut asked_gss = false;
    loop {
        let Some(packet) = packet(client).await? else { return Ok(Opening::Nothing) };
        let asked =
            match startup::parse(&packet[LENGTH_BYTES..]).map_err(SessionError::NoStartup)? {
                FirstPacket::Startup => return Ok(Opening::Startup(packet)),
                FirstPacket::Cancel(key) => return Ok(Opening::Cancel(key, packet)),
                FirstPacket::TlsRequest => &mut asked_tls,
                FirstPacket::GssRequest => &mut asked_gss,
            };
        if std::mem::replace(asked, true) {
            return Err(SessionError::NoStartup(StartupError::AskedTwice));
        }
        client.write_all(NOT_OFFERED).await.map_err(SessionError::Client)?;
    }
}

/// One packet with its length; none where the client closed before its first byte.
async fn packet(client: &mut Stream) -> Result<Option<Vec<u8>>, SessionError> {
    let mut packet = Vec::new();
    take(client, LENGTH_BYTES, &mut packet).await?;
    let Some(length) = packet.first_chunk::<LENGTH_BYTES>() else {
        if packet.is_empty() {
            return Ok(None);
        }
        return Err(SessionError::NoStartup(StartupError::CutShort));
    };
    let body = startup::body_bytes(*length).map_err(SessionError::NoStartup)?;
    take(client, body, &mut packet).await?;
    if packet.len() < LENGTH_BYTES + body {
        return Err(SessionError::NoStartup(StartupError::CutShort));
    }
    Ok(Some(packet))
}

/// Reads `bytes` more, or fewer where the client closes.
async fn take(client: &mut Stream, bytes: usize, into: &mut Vec<u8>) -> Result<(), SessionError> {
    match client.take(bytes as u64).read_to_end(into).await {
        Ok(_) => Ok(()),
        Err(error) => Err(SessionError::Client(error)),
    }
}
