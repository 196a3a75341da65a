//! Everything that can happen to one instance, as far as the protocol is concerned.

use std::sync::Arc;

use dugong_topology::Revision;

use crate::server::Server;
use crate::snapshot::Snapshot;
use crate::time::Time;

/// One thing that happened. Whatever was started by an [`Action`](crate::Action) ends in one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::large_enum_variant, reason = "lives for one step, and the large one is the usual")]
pub enum Event {
    /// Time passed; nothing else did.
    Tick,
    /// The store was read.
    Snapshot(Arc<Snapshot>),
    /// The store did not answer. No reason to change a role, one to say so.
    StoreFailed { why: String },
    /// The session was opened or renewed by a request that was begun at `begun`.
    Renewed { begun: Time },
    /// The server was looked at.
    Observed(Server),
    /// A commit that was begun at `begun` came back through synchronous replication.
    LinkConfirmed { begun: Time },
    /// The answer to the one declaration in flight.
    DeclareAnswered {
        /// What the declaration was to replace: a late answer to an older one is told by it.
        at: Option<Revision>,
        answer: Answer,
    },
    /// The operator wants this instance to end.
    Leave,
}

/// What became of a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The record is written; this is its revision.
    Won { at: Revision },
    /// The record had changed: read again before anything else is decided (R1).
    Raced,
    /// The guard did not hold: the primary is present and runs its server.
    Guarded,
    /// No answer came: it may have been written or not. Asked again until there is one.
    Unknown,
}
