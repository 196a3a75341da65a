//! To a server: connects, hands the startup packet on, and waits for the first word.
//!
//! That first word decides whether the client has a server or goes on waiting; it is kept for the
//! client, who has seen nothing of this.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::Address;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::names::ConnectError;
use crate::runtime::Shared;
use crate::shortage::Shortage;
use crate::socket;
use crate::stream::Stream;
use crate::tls::servers::NoTls;
use crate::wire::message::{FIRST_ANSWER_BYTES_MAX, FirstAnswer, first_answer};
use crate::wire::sasl::{self, Offer};

/// What is read at most in one piece of a server's first words.
pub const READ_BYTES: usize = 2 * 1024;

/// A server that answers this client.
pub struct Server {
    pub stream: Stream,
    /// What it said so far, for the client.
    pub spoken: Vec<u8>,
    pub binding: Binding,
}

/// Whether a proof of a password can be bound to the server's certificate (channel binding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// As the server says.
    AsOffered,
    /// The server offered it, and the client has not seen that: it could not hold.
    Withheld,
}

/// A server that does not, now. Nothing was executed: another try is safe.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no connection within {limit:?}")]
    ConnectTimeout { limit: Duration },
    #[error("no answer within {limit:?}")]
    Silent { limit: Duration },
    #[error("no connection ({0})")]
    Connect(ConnectError),
    #[error(transparent)]
    Tls(#[from] NoTls),
    #[error("it closed before it answered")]
    Closed,
    #[error("the connection was lost before it answered ({0})")]
    Lost(io::Error),
    #[error("it is not up: {says}")]
    NotUp { says: String },
}

impl DialError {
    /// What the proxy lacked, where it is that and not the server.
    pub fn shortage(&self) -> Option<Shortage> {
        let Self::Connect(ConnectError::Refused(error)) = self else { return None };
        Shortage::of(error)
    }
}

/// Connects, and encrypts where that is the rule.
///
/// All of it, the look-up of the server's name included, takes at most `connect_timeout`.
///
/// # Errors
///
/// See [`DialError`].
pub async fn connect(shared: &Shared, address: &Address) -> Result<Stream, DialError> {
    let limit = shared.config.connect_timeout;
    let connecting = async {
        let stream = shared.names.connect(address).await.map_err(DialError::Connect)?;
        socket::prepare(&stream).map_err(DialError::Lost)?;
        match &shared.back {
            None => Ok(Stream::Plain(stream)),
            // Boxed: a session in clear shall not pay for the room that a handshake needs.
            Some(back) => Ok(Box::pin(back.encrypt(stream, address)).await?),
        }
    };
    match timeout(limit, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(DialError::ConnectTimeout { limit }),
    }
}

/// Opens a session on a server, up to its first word, for a client that has seen `shown`.
///
/// Without a startup packet, a connection is all that is asked for (mode `tcp`).
///
/// How long a silent server is waited for is the caller's decision.
///
/// # Errors
///
/// See [`DialError`].
pub async fn open(
    shared: &Shared,
    address: &Address,
    startup: Option<&[u8]>,
    shown: Option<&Arc<CertificateDer<'static>>>,
) -> Result<Server, DialError> {
    let mut stream = connect(shared, address).await?;
    let Some(startup) = startup else {
        return Ok(Server { stream, spoken: Vec::new(), binding: Binding::AsOffered });
    };
    stream.write_all(startup).await.map_err(DialError::Lost)?;
    stream.flush().await.map_err(DialError::Lost)?;

    let mut spoken = Vec::new();
    loop {
        match first_answer(&spoken) {
            FirstAnswer::Final => break,
            FirstAnswer::NotUp(says) => return Err(DialError::NotUp { says }),
            FirstAnswer::Incomplete => hear(&mut stream, &mut spoken).await?,
        }
    }
    // The client may have seen the very certificate: then a proof holds from end to end.
    let binding = match stream.shown() {
        Some(theirs) if Some(theirs) != shown => withhold(&mut stream, &mut spoken).await?,
        Some(_) | None => Binding::AsOffered,
    };
    Ok(Server { stream, spoken, binding })
}

/// Takes channel binding out of what the server offers.
async fn withhold(stream: &mut Stream, spoken: &mut Vec<u8>) -> Result<Binding, DialError> {
    loop {
        match sasl::withhold_binding(spoken) {
            Offer::Incomplete if spoken.len() < FIRST_ANSWER_BYTES_MAX => {
                hear(stream, spoken).await?;
            }
            Offer::Incomplete | Offer::Kept => return Ok(Binding::AsOffered),
            Offer::Withheld => return Ok(Binding::Withheld),
        }
    }
}

/// Reads more of what a server says.
async fn hear(stream: &mut Stream, spoken: &mut Vec<u8>) -> Result<(), DialError> {
    spoken.reserve(READ_BYTES);
    match stream.take(READ_BYTES as u64).read_buf(spoken).await.map_err(DialError::Lost)? {
        0 => Err(DialError::Closed),
        _ => Ok(()),
    }
}
