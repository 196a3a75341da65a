//! Everything that keeps the store from doing what it was asked, and the words for it.

use std::io;
use std::path::Path;

use dugong_topology::InstanceId;
use rusqlite::ErrorCode;

use super::super::StoreError;
use super::super::codec::CodecError;
use super::file::SCHEMA;

/// Why the store could not do something.
#[derive(Debug)]
pub(super) enum Trouble {
    BootId {
        error: io::Error,
    },
    Thread {
        error: io::Error,
    },
    /// The file was not there, and could not be made.
    NotCreated {
        error: io::Error,
    },
    /// Nothing is at the path, and it is not for this process to make a store there.
    Missing,
    /// The file was there before.
    Gone,
    /// Another user's, or of another kind.
    Unreachable {
        error: io::Error,
    },
    /// A database, but not a store.
    Foreign,
    NewerSchema {
        found: i64,
    },
    /// The file at the path is a store, but not the one that was opened.
    Exchanged,
    /// The file at the path is older than what was read from it.
    WentBack {
        seen: i64,
        found: i64,
    },
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
    Codec(CodecError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<CodecError> for Trouble {
    fn from(error: CodecError) -> Self {
        Self::Codec(error)
    }
}

impl Trouble {
    /// Whether the connection is as good as before: the trouble is not the file's.
    pub(super) fn spares_connection(&self) -> bool {
        match self {
            Self::Observer | Self::Misnamed { .. } | Self::Replaced { .. } => true,
            Self::Sqlite(error) => is_busy(error),
            Self::BootId { .. }
            | Self::Thread { .. }
            | Self::NotCreated { .. }
            | Self::Missing
            | Self::Gone
            | Self::Unreachable { .. }
            | Self::Foreign
            | Self::NewerSchema { .. }
            | Self::Exchanged
            | Self::WentBack { .. }
            | Self::Codec(_) => false,
        }
    }

    /// Cause and next step, for people.
    pub(super) fn at(&self, path: &Path) -> StoreError {
        let store = format!("the store {}", path.display());
        StoreError(match self {
            Self::BootId { error } => {
                format!("/proc/sys/kernel/random/boot_id cannot be read ({error}): mount /proc")
            }
            Self::Thread { error } => format!("no thread can be started for {store}: {error}"),
            Self::NotCreated { error } if error.kind() == io::ErrorKind::NotFound => format!(
                "{store} cannot be created, since its directory does not exist: create it, owned \
                 by the user that runs the controllers"
            ),
            Self::NotCreated { error } => format!(
                "{store} cannot be created ({error}): its directory must be writable for the user \
                 that runs the controllers"
            ),
            Self::Missing => {
                format!("{store} does not exist: put the file back, or name the one of a cluster")
            }
            Self::Gone => format!("{store} is gone: put the file back"),
            Self::Unreachable { error } => format!("{store} cannot be reached: {error}"),
            Self::Foreign => format!(
                "{} is a database of something else, no store: name another file",
                path.display()
            ),
            Self::NewerSchema { found } => format!(
                "{store} has schema {found}, this program knows schema {SCHEMA}: use the Dugong \
                 that made it, or a newer one"
            ),
            Self::Exchanged => format!(
                "{store} is not the one that was opened, but another: put the first one back, or \
                 restart the controllers if the other one is meant"
            ),
            Self::WentBack { seen, found } => format!(
                "{store} went back from revision {seen} to {found}: put the newer file back, or \
                 restart the controllers if the older one is meant"
            ),
            Self::Observer => {
                format!("{store} was opened to observe: only an instance has a session")
            }
            Self::Misnamed { instance, presence } => {
                format!("the store's handle of {instance} cannot announce {presence}")
            }
            Self::Replaced { instance } => format!(
                "another controller announces itself as {instance}: stop one of the two, or give \
                 it another name"
            ),
            Self::Codec(error) => format!("{store}: {error}"),
            Self::Sqlite(error) => sqlite_words(&store, error),
        })
    }
}

/// Somebody else holds the file's lock; nothing is wrong with the file.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn sqlite_words(store: &str, error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            format!("{store} was locked by another process for too long: look for one that hangs")
        }
        Some(ErrorCode::DiskFull) => format!("{store} has no room: free space on its disk"),
        Some(ErrorCode::NotADatabase) => {
            format!("{store} is no database: name another file, or restore it from a backup")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("{store} is damaged ({error}): restore it from a backup")
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => format!(
            "{store} cannot be opened for writing ({error}): it and its directory must be \
             writable for this user"
        ),
        Some(ErrorCode::SystemIoFailure) => {
            format!("{store} cannot be read or written ({error}): look at its disk")
        }
        _ => format!("{store}: {error}"),
    }
}
