//! To a server: connects, hands the startup packet on, and waits for the first word.
//!
//! That first word decides whether the client has a server or goes on waiting; it is kept for the
//! client, who has seen nothing of this.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use dugong_topology::Address;

use crate::names::{ConnectError, Names};
use crate::socket;
use crate::stream::Stream;
use crate::wire::message::{FirstAnswer, first_answer};

/// What is read at most in one piece.
const READ_BYTES: usize = 2 * 1024;

/// A server that answers this client.
pub struct Server {
    pub stream: Stream,
    /// What it said so far, for the client.
    pub spoken: Vec<u8>,
}

/// A server that does not, now. Nothing was executed: another try is safe.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no connection within {limit:?}")]
    ConnectTimeout { limit: Duration },
    #[error("no connection ({0})")]
    Connect(ConnectError),
    #[error("it closed before it answered")]
    Closed,
    #[error("the connection was lost before it answered ({0})")]
    Lost(io::Error),
    #[error("it is not up: {says}")]
    NotUp { says: String },
}

/// Opens a session on a server, up to its first word.
///
/// Connecting, look-ups of the server's name included, takes at most `connect_timeout`; how long a silent server is waited for is the
/// caller's decision.
///
/// # Errors
///
/// See [`DialError`].
pub async fn open(
    names: &Names,
    address: &Address,
    startup: &[u8],
    connect_timeout: Duration,
) -> Result<Server, DialError> {
    let stream = timeout(connect_timeout, names.connect(address))
        .await
        .map_err(|_| DialError::ConnectTimeout { limit: connect_timeout })?
        .map_err(DialError::Connect)?;
    socket::prepare(&stream).map_err(DialError::Lost)?;
    let mut stream = Stream::Plain(stream);
    stream.write_all(startup).await.map_err(DialError::Lost)?;
    stream.flush().await.map_err(DialError::Lost)?;

    let mut spoken = Vec::new();
    loop {
        match first_answer(&spoken) {
            FirstAnswer::Final => return Ok(Server { stream, spoken }),
            FirstAnswer::NotUp(says) => return Err(DialError::NotUp { says }),
            FirstAnswer::Incomplete => (),
        }
        spoken.reserve(READ_BYTES);
        let mut limited = (&mut stream).take(READ_BYTES as u64);
        if limited.read_buf(&mut spoken).await.map_err(DialError::Lost)? == 0 {
            return Err(DialError::Closed);
        }
    }
}
