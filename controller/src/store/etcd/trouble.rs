//! Everything that keeps etcd from doing what it was asked, and the words for it.

use std::time::Duration;

use dugong_topology::InstanceId;
use etcd_client::Error;
use tonic::Code;

use super::super::StoreError;
use super::super::codec::CodecError;

/// gRPC's codes of a member that cannot answer, whatever it is asked.
///
/// Source: gRPC, "Status codes and their use in gRPC"; etcd, `rpctypes/error.go`.
const AWAY: [Code; 5] = [
    Code::Unavailable,
    Code::DeadlineExceeded,
    Code::Cancelled,
    Code::Unknown,
    // A login that has ended: with the next connection comes another one.
    Code::Unauthenticated,
];

/// Why the store could not do something.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A member did not answer in time.
    Silent {
        endpoint: String,
        waited: Duration,
    },
    /// A member, or the way to it, refused.
    Failed {
        endpoint: String,
        error: Error,
    },
    /// A watch ended.
    Ended {
        endpoint: String,
        why: String,
    },
    /// The content is older than what was read before.
    WentBack {
        seen: i64,
        found: i64,
    },
    /// Another etcd cluster answers at these addresses.
    Exchanged,
    /// An observer has no session, and can neither announce nor renew.
    Observer,
    /// A handle of one instance was given the presence of another.
    Misnamed {
        instance: InstanceId,
        presence: InstanceId,
    },
    /// A newer controller of the same instance is alive.
    Replaced {
        instance: InstanceId,
    },
    /// Others wrote the same again and again.
    Contended,
    /// A key that has to be there is not, or is no text.
    Malformed {
        key: String,
    },
    Codec(CodecError),
}

impl From<CodecError> for Trouble {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl Trouble {
    /// Whether another member may well do better.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Ended { .. } => true,
            Self::Failed { error, .. } => match error {
                Error::GRpcStatus(status) => AWAY.contains(&status.code()),
                Error::IoError(_)
                | Error::TransportError(_)
                | Error::WatchError(_)
                | Error::EndpointError(_)
                | Error::EndpointsNotManaged
                | Error::Internal(_) => true,
                Error::InvalidArgs(_)
                | Error::InvalidUri(_)
                | Error::LeaseKeepAliveError(_)
                | Error::Utf8Error(_)
                | Error::ElectError(_)
                | Error::InvalidMetadataValue(_) => false,
            },
            Self::WentBack { .. }
            | Self::Exchanged
            | Self::Observer
            | Self::Misnamed { .. }
            | Self::Replaced { .. }
            | Self::Contended
            | Self::Malformed { .. }
            | Self::Codec(_) => false,
        }
    }

    /// Cause and next step, for people.
    pub(super) fn in_words(&self) -> StoreError {
        StoreError(match self {
            Self::Silent { endpoint, waited } => format!(
                "etcd at {endpoint} did not answer within {waited:?}: is it running, has it a \
                 majority, can it be reached?"
            ),
            Self::Failed { endpoint, error } => {
                format!("etcd at {endpoint}: {}{}", chain(error), advice(error))
            }
            Self::Ended { endpoint, why } => {
                format!("etcd at {endpoint} ended the watch ({why}): it is begun again")
            }
            Self::WentBack { seen, found } => format!(
                "etcd is at revision {found}, but {seen} was read from it before: it was restored \
                 from an older backup. Restart every controller once that is what you want"
            ),
            Self::Exchanged => {
                "another etcd cluster answers than before: restart every controller \
                                if that is what you want"
                    .to_owned()
            }
            Self::Observer => "only a controller can announce or renew".to_owned(),
            Self::Misnamed { instance, presence } => {
                format!("a controller of {instance} announced {presence}, which is a bug")
            }
            Self::Replaced { instance } => format!(
                "another controller of {instance} has taken over its session: end one of the two"
            ),
            Self::Contended => {
                "others wrote at the same time, again and again: try again".to_owned()
            }
            Self::Malformed { key } => {
                format!("etcd's key {key} is malformed: who else writes below this prefix?")
            }
            Self::Codec(error) => error.to_string(),
        })
    }
}

/// An error and its causes: a transport's own text is only "transport error".
fn chain(error: &Error) -> String {
    let (mut text, mut cause) = if let Error::GRpcStatus(status) = error {
        (status.message().to_owned(), std::error::Error::source(status))
    } else {
        (error.to_string(), std::error::Error::source(error))
    };
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = next.source();
    }
    text
}

fn advice(error: &Error) -> &'static str {
    let Error::GRpcStatus(status) = error else { return "" };
    let (code, text) = (status.code(), status.message());
    if text.contains("database space exceeded") {
        ". Compact and defragment it, then `etcdctl alarm disarm`; and let it compact by itself: \
         --auto-compaction-retention=1h"
    } else if code == Code::PermissionDenied {
        ". The user needs read and write permission for everything below the prefix"
    } else if code == Code::Unauthenticated || text.contains("authentication failed") {
        ". See user and password_file in [store]"
    } else {
        ""
    }
}
