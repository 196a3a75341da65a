//! Why a client was refused, or its session ended, and what the client is told.

use std::io;
use std::time::Duration;

use dugong_topology::InstanceId;

use crate::route::Leave;
use crate::wire::message::Answer;
use crate::wire::sqlstate::SqlState;
use crate::wire::startup::StartupError;

/// Why a connection ended other than by the client's or the server's own word.
///
/// In the order of a connection's life. The text is the sentence that the client reads.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The client sent no complete first packet in time. Expected from port scanners.
    #[error("no startup packet came within {limit:?}")]
    HandshakeTimeout { limit: Duration },
    /// What the client sent is not PostgreSQL's protocol, or a version that nobody speaks.
    #[error("{0}")]
    NoStartup(StartupError),
    /// No TLS came about. The client was told as far as TLS can tell it.
    #[error("no TLS came about: {0}")]
    Tls(io::Error),
    /// The client came without encryption where that is needed.
    #[error("this port takes encrypted connections only")]
    TlsRequired,
    /// As many clients wait as may. Nothing was sent to a server.
    #[error("{max_held} clients wait for a server already: no more may wait")]
    HeldFull { max_held: u32 },
    /// Nobody could serve the client while it was held. Safe to retry: nothing was executed.
    #[error("{what} within {limit:?}: {because}")]
    HoldTimeout { what: Awaited, limit: Duration, because: String },
    /// No standby is fit for reads, and the operator wants no fallback.
    #[error("no standby is healthy and known to be within the allowed lag")]
    NoReplica,
    /// The client would bind its password's proof to our certificate, which is not the server's.
    #[error("channel binding cannot reach through the proxy to the server")]
    WouldBind,
    /// The topology moved away from the session's server.
    #[error("terminating connection: {0}")]
    Leave(Leave),
    /// The server went away under an established session.
    #[error("the connection to {instance} was lost")]
    ServerLost { instance: InstanceId },
    /// The proxy itself stops.
    #[error("the proxy is shutting down")]
    ShuttingDown,
    /// The same, but a message to the client was cut in half: one more would corrupt the stream.
    #[error("{why}, in the middle of a message")]
    Interrupted { why: Box<Self> },
    /// The client is gone. Nobody is left to tell.
    #[error("the connection to the client was lost")]
    Client(#[source] io::Error),
}

/// What a held client waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Awaited {
    #[error("no primary took writes")]
    Primary,
    #[error("no server took reads")]
    Reader,
}

const TRANSACTION: &str = "An open transaction is rolled back, unless its commit was under way: \
                           then its outcome is unknown.";
const BETWEEN: &str = "No transaction was open: what was committed is kept, and what was sent after \
                       it was not executed.";
const RECONNECT: &str = "Connect again: new connections lead to the right server.";
const ENCRYPT: &str = "Connect with sslmode=require or a stronger one.";
const BOUND: &str = "Its password's proof would be bound to the proxy's certificate, and the server \
                     has another one.";
const UNBIND: &str = "Connect with channel_binding=disable, or give the proxy the certificate and \
                      key that the servers have.";
const RETRY: &str = "Nothing was executed: try again.";

impl SessionError {
    /// What the client is told; none where nobody is left to tell or nothing more may be said.
    pub fn answer(&self) -> Option<Answer> {
        let (sqlstate, detail, hint) = match self {
            Self::HandshakeTimeout { .. } | Self::NoStartup(_) => {
                (SqlState::PROTOCOL_VIOLATION, None, None)
            }
            Self::TlsRequired => (SqlState::NOT_AUTHORIZED, None, Some(ENCRYPT)),
            Self::WouldBind => (SqlState::NOT_AUTHORIZED, Some(BOUND), Some(UNBIND)),
            Self::HeldFull { .. } => (SqlState::TOO_MANY_CONNECTIONS, None, Some(RETRY)),
            Self::HoldTimeout { .. } | Self::NoReplica => {
                (SqlState::CANNOT_CONNECT_NOW, None, Some(RETRY))
            }
            Self::Leave(Leave::HandsOver { .. }) => {
                (SqlState::ADMIN_SHUTDOWN, Some(BETWEEN), Some(RECONNECT))
            }
            Self::Leave(_) | Self::ServerLost { .. } => {
                (SqlState::ADMIN_SHUTDOWN, Some(TRANSACTION), Some(RECONNECT))
            }
            Self::ShuttingDown => (SqlState::ADMIN_SHUTDOWN, Some(TRANSACTION), None),
            Self::Tls(_) | Self::Interrupted { .. } | Self::Client(_) => return None,
        };
        let [detail, hint] = [detail, hint].map(|text: Option<&str>| text.map(str::to_owned));
        Some(Answer { sqlstate, message: self.to_string(), detail, hint })
    }

    /// The label in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::NoStartup(_) => "no_startup",
            Self::Tls(_) => "tls",
            Self::TlsRequired => "tls_required",
            Self::HeldFull { .. } => "held_full",
            Self::HoldTimeout { .. } => "hold_timeout",
            Self::NoReplica => "no_replica",
            Self::WouldBind => "channel_binding",
            Self::Leave(_) => "topology",
            Self::ServerLost { .. } => "server_lost",
            Self::ShuttingDown => "shutdown",
            Self::Interrupted { why } => why.reason(),
            Self::Client(_) => "client_lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code_and_its_sentence() {
        let id: InstanceId = "pg-1".parse().unwrap();
        let hold = SessionError::HoldTimeout {
            what: Awaited::Primary,
            limit: Duration::from_secs(30),
            because: "pg-2 has not caught up".to_owned(),
        };
        let cut = SessionError::Interrupted { why: Box::new(SessionError::ShuttingDown) };
        let gone = SessionError::Client(io::ErrorKind::ConnectionReset.into());
        #[rustfmt::skip]
        let cases = [
            (SessionError::HandshakeTimeout { limit: Duration::from_secs(10) },
                Some(("08P01", "no startup packet came within 10s"))),
            (SessionError::HeldFull { max_held: 3 },
                Some(("53300", "3 clients wait for a server already: no more may wait"))),
            (hold,
                Some(("57P03", "no primary took writes within 30s: pg-2 has not caught up"))),
            (SessionError::ServerLost { instance: id },
                Some(("57P01", "the connection to pg-1 was lost"))),
            (SessionError::TlsRequired,
                Some(("28000", "this port takes encrypted connections only"))),
            (SessionError::ShuttingDown, Some(("57P01", "the proxy is shutting down"))),
            (cut, None),
            (gone, None),
        ];
        for (error, expected) in cases {
            let answer = error.answer();
            let told = answer.as_ref().map(|told| (told.sqlstate.as_str(), told.message.as_str()));
            assert_eq!(told, expected, "{error}");
        }
    }
}
