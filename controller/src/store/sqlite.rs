//! The store in one SQLite file, which all controllers of one machine share.
//!
//! [`SqliteStore`] is a handle: it sends work to a thread that owns the writing connection
//! (`writer`); a second thread (`watcher`) looks for changes and publishes whole snapshots.
//! `content`, `requests` and `settings` are what both do inside a transaction; `file` opens the file and knows when it was
//! exchanged; `bell` wakes the watchers of all processes; `clock` tells when a session ends; `trouble` is every failure, in words.
//!
//! **Invariant:** no SQLite call is made on a thread of the runtime (but for the first opening).
//!
//! **Invariant:** a session that ended shows as a write: the first process that notices marks it
//! as lapsed and adds one to the revision. So equal revisions mean equal content.
//!
//! **Invariant:** a declaration is on disk when it is answered. Presences may be lost with the
//! machine, which ends all sessions anyway.
//!
//! Source: PROTOCOL.md, "The store's contract"; SQLite manual, "Write-Ahead Logging".

mod bell;
mod clock;
mod content;
mod file;
mod requests;
mod settings;
mod trouble;
mod watcher;
mod writer;

use std::io::PipeWriter;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use dugong_machine::{Ask, Declaration, Outcome, Presence, RequestNumber, Snapshot};
use dugong_topology::{InstanceId, Revision};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{oneshot, watch};

use self::bell::Bell;
use self::clock::Clock;
use self::content::{Refusal, Session};
use self::file::{Missing, StoreFile};
use self::trouble::Trouble;
use self::watcher::Watcher;
use self::writer::{Durability, Job, Writer};
use super::{
    AmendError, AskError, ClusterSettings, DeclareError, Edition, HistoryEntry, Reading,
    RenewError, Store, StoreError,
};

/// The most requests that wait for the writing thread. A controller has a handful in flight: a
/// full queue means a disk that stopped answering.
const WAITING_MAX: usize = 64;

/// A controller's, or an observer's, handle of the store in one file.
///
/// Its two threads end by themselves when it is dropped.
#[derive(Debug)]
pub struct SqliteStore {
    /// The only strong one, the watcher's is weak: the writer ends when this is dropped.
    jobs: Arc<SyncSender<Job>>,
    readings: watch::Receiver<Reading>,
    settings: watch::Receiver<Option<Arc<Edition>>>,
    /// The watcher ends when this closes.
    _alive: PipeWriter,
}

impl SqliteStore {
    /// Opens the store for one instance; creates the file, of mode 0600, where there is none.
    ///
    /// The instance's session opens with the first [`Store::announce`], and ends `session_ttl`
    /// after its last renewal. Blocks while the file is opened, at most some seconds: call it
    /// before the work of the runtime begins.
    ///
    /// # Errors
    ///
    /// The file cannot be used, in words.
    pub fn open(
        path: &Path,
        instance: InstanceId,
        session_ttl: Duration,
    ) -> Result<Self, StoreError> {
        Self::start(path, Missing::Create, Some((instance, session_ttl)))
    }

    /// The same for an instance whose data has served: its store was there, and one that is missing
    /// is waited for. An empty one in its place would be another store, which nobody else believes.
    ///
    /// # Errors
    ///
    /// There is no such file, or it cannot be used, in words.
    pub fn open_existing(
        path: &Path,
        instance: InstanceId,
        session_ttl: Duration,
    ) -> Result<Self, StoreError> {
        Self::start(path, Missing::Refuse, Some((instance, session_ttl)))
    }

    /// Opens an existing store without being an instance: to look, and for the operator's word.
    ///
    /// Such a handle cannot announce, renew or resign.
    ///
    /// # Errors
    ///
    /// There is no such file, or it cannot be used, in words.
    pub fn observe(path: &Path) -> Result<Self, StoreError> {
        Self::start(path, Missing::Refuse, None)
    }

    fn start(
        path: &Path,
        missing: Missing,
        instance: Option<(InstanceId, Duration)>,
    ) -> Result<Self, StoreError> {
        let words = |trouble: Trouble| trouble.at(path);
        let clock = Clock::new().map_err(words)?;
        let (file, open) = StoreFile::open(path, missing, &clock).map_err(words)?;
        let session = instance
            .map(|(instance, ttl)| Session::new(&open.connection, instance, ttl))
            .transpose()
            .map_err(words)?;
        let (jobs, work) = sync_channel::<Job>(WAITING_MAX);
        let jobs = Arc::new(jobs);
        let thread = |error| words(Trouble::Thread { error });
        let (bell, alive) = Bell::new().map_err(thread)?;
        let (publish, readings) = watch::channel(Reading::Pending);
        let (publish_settings, settings) = watch::channel(None);

        let writer = Writer::new(Arc::clone(&file), clock.clone(), open, session);
        let watcher =
            Watcher::new(file, clock, (publish, publish_settings), bell, Arc::downgrade(&jobs));
        // Nobody joins them: each ends when the channel that it waits for closes, and a thread that
        // panicked shows as an error of every request, or as the end of the readings.
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&work))
            .and_then(|_writer| {
                thread::Builder::new().name("store-watcher".to_owned()).spawn(move || watcher.run())
            })
            .map_err(thread)?;
        Ok(Self { jobs, readings, settings, _alive: alive })
    }

    /// Has one transaction done by the writing thread.
    async fn run<T, W>(&self, durability: Durability, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut writer::Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // Whoever asked has given up: a renewal that comes too late must not be made.
            if !answer.is_closed() {
                // A receiver that is gone by now has no use for the answer.
                let _ = answer.send(writer.transact(durability, work));
            }
        });
        let ended = || StoreError("the store's writing thread has ended: restart".to_owned());
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError(format!(
                "{WAITING_MAX} requests wait for the store: its disk does not answer"
            )),
            TrySendError::Disconnected(_) => ended(),
        })?;
        answered.await.map_err(|_dropped| ended())?
    }
}

impl Store for SqliteStore {
    fn declare(&self, declaration: Declaration) -> BoxFuture<'_, Result<Revision, DeclareError>> {
        async move {
            let written = self
                .run(Durability::OnDisk, move |transaction| {
                    content::declare(transaction, &declaration)
                })
                .await?;
            written.map_err(|refusal| match refusal {
                Refusal::Raced => DeclareError::Raced,
                Refusal::Guarded => DeclareError::Guarded,
            })
        }
        .boxed()
    }

    fn announce(&self, presence: Presence) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(Durability::Lazy, move |transaction| content::announce(transaction, &presence))
            .boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), RenewError>> {
        async move {
            match self.run(Durability::Lazy, content::renew).await? {
                content::Renewal::Renewed => Ok(()),
                content::Renewal::Lapsed => Err(RenewError::Lapsed),
            }
        }
        .boxed()
    }

    fn resign(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(Durability::Lazy, content::resign).boxed()
    }

    fn ask(&self, by: String, what: Ask) -> BoxFuture<'_, Result<RequestNumber, AskError>> {
        async move {
            let written = self
                .run(Durability::OnDisk, move |transaction| requests::ask(transaction, by, what))
                .await?;
            written.map_err(|request| AskError::Busy { request })
        }
        .boxed()
    }

    fn answer(
        &self,
        request: RequestNumber,
        outcome: Outcome,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(Durability::OnDisk, move |transaction| {
            requests::answer(transaction, request, &outcome)
        })
        .boxed()
    }

    fn read(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        self.run(Durability::Lazy, |transaction| content::snapshot(transaction.connection)).boxed()
    }

    fn watch(&self) -> watch::Receiver<Reading> {
        self.readings.clone()
    }

    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
        self.run(Durability::Lazy, move |transaction| {
            content::history(transaction.connection, limit)
        })
        .boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<Edition, StoreError>> {
        self.run(Durability::Lazy, |transaction| settings::read(transaction.connection)).boxed()
    }

    fn amend(
        &self,
        next: ClusterSettings,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, AmendError>> {
        async move {
            let written = self
                .run(Durability::OnDisk, move |transaction| {
                    settings::amend(transaction.connection, &next, at)
                })
                .await?;
            written.ok_or(AmendError::Raced)
        }
        .boxed()
    }

    fn watch_settings(&self) -> watch::Receiver<Option<Arc<Edition>>> {
        self.settings.clone()
    }
}

#[cfg(test)]
mod tests;
