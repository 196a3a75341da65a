//! Where the state record, the presences and the history live: one contract, several backends.
//!
//! 1. [`Store::declare`] replaces the state record if its revision is still the expected one *and*
//!    the guard holds, in one transaction.
//! 2. [`Store::announce`] says something about this instance under the session of this handle;
//!    [`Store::renew`] keeps the session alive; [`Store::resign`] ends it.
//! 3. [`Store::watch`] shows whole snapshots, monotonic in revision, always the newest.
//! 4. [`Store::ask`] writes an operator's request; it ends by one outcome, the first: through
//!    [`Store::answer`], or with the declaration that fulfils it, in the same transaction.
//! 5. [`Store::amend`] replaces the settings of the cluster, by compare-and-swap on a revision of their
//!    own; [`Store::watch_settings`] shows the newest.
//! 6. An unreachable store is an error, never an empty answer.
//!
//! A handle belongs to one controller process: it opens its own session, and a new process opens
//! a new one, which ends whatever session the instance had before.
//!
//! Source: PROTOCOL.md, "The store's contract".

mod codec;
#[cfg(test)]
mod contract;
pub mod etcd;
pub(crate) mod freeze;
mod requests;
mod settings;
pub mod sqlite;

use std::sync::Arc;

use dugong_machine::{Ask, Declaration, Outcome, Presence, Record, RequestNumber, Snapshot};
use dugong_topology::Revision;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use settings::{AmendError, ClusterSettings, Edition};

/// The store, as a controller uses it.
pub trait Store: Send + Sync + 'static {
    /// Writes the state record by compare-and-swap, and appends it to the history.
    ///
    /// # Errors
    ///
    /// [`DeclareError`] tells a lost race from a store that did not answer.
    fn declare(&self, declaration: Declaration) -> BoxFuture<'_, Result<Revision, DeclareError>>;

    /// Replaces this instance's presence and renews the session, opening one if there is none.
    ///
    /// # Errors
    ///
    /// The store did not take it.
    fn announce(&self, presence: Presence) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Renews the session, counted from when the store takes the request.
    ///
    /// # Errors
    ///
    /// [`RenewError::Lapsed`]: the session is gone, [`Store::announce`] opens a new one.
    fn renew(&self) -> BoxFuture<'_, Result<(), RenewError>>;

    /// Ends the session at once; the last word about the instance stays readable.
    ///
    /// # Errors
    ///
    /// The store did not take it: the session lapses by itself.
    fn resign(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Writes a request of an operator, `by` for people to read; every watch shows it. A promotion
    /// ends whatever else is open as refused.
    ///
    /// # Errors
    ///
    /// [`AskError::Busy`]: another one is not answered yet.
    fn ask(&self, by: String, what: Ask) -> BoxFuture<'_, Result<RequestNumber, AskError>>;

    /// Gives a request its outcome. One that has an outcome keeps it.
    ///
    /// # Errors
    ///
    /// The store did not take it.
    fn answer(
        &self,
        request: RequestNumber,
        outcome: Outcome,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The content as it is now: newer than, or equal to, every reading that was published.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    fn read(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>>;

    /// The newest reading of the store, or why it cannot be read just now.
    ///
    /// The channel never closes while the store lives. A reader that is slow misses intermediate
    /// snapshots, never the newest.
    fn watch(&self) -> watch::Receiver<Reading>;

    /// The last `limit` declared records, newest first.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>>;

    /// The settings of the cluster as they are now.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    fn settings(&self) -> BoxFuture<'_, Result<Edition, StoreError>>;

    /// Replaces the settings that were written at revision `at`; returns the revision of these.
    ///
    /// # Errors
    ///
    /// [`AmendError`] tells a lost race from a store that did not answer.
    fn amend(
        &self,
        next: ClusterSettings,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, AmendError>>;

    /// The newest settings that were read; none before the first reading. While the store cannot
    /// be read they stay what they were.
    fn watch_settings(&self) -> watch::Receiver<Option<Arc<Edition>>>;
}

/// What a watch shows.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Nothing was read yet.
    Pending,
    /// The store's content at one revision.
    Whole(Arc<Snapshot>),
    /// The store cannot be read; what was read before is still the newest that is known.
    Failed(StoreError),
}

/// One line of the history: a record that begins a generation, or changes within it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub revision: Revision,
    /// Milliseconds since 1970, by the declarer's clock.
    pub at_unix_ms: u64,
    pub record: Record,
}

/// The store did not do what was asked, in words for people: cause and next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Why a declaration was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// The record is no longer at the expected revision.
    #[error("the state record was changed by somebody else")]
    Raced,
    /// The guard did not hold: the primary is present and runs its server.
    #[error("the primary is present and has not stopped its server")]
    Guarded,
    /// It may have been written or not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error(
        "request {request} is not answered yet: wait for its outcome (`dugong status` shows it)"
    )]
    Busy { request: RequestNumber },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a session was not renewed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    #[error("the session has lapsed")]
    Lapsed,
    #[error(transparent)]
    Store(#[from] StoreError),
}
