//! The thread that watches: it looks for changes, and publishes whole snapshots.
//!
//! SQLite has no notification between processes: `bell` wakes this thread. It looks now and then
//! in any case, which costs some microseconds: whether the file is still the one at the path, and
//! SQLite's `data_version`, which differs after every write of another connection.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::{Edition, Reading};
use super::bell::{Bell, Woken};
use super::clock::{BootTime, Clock};
use super::content;
use super::file::{Open, StoreFile};
use super::settings;
use super::trouble::Trouble;
use super::writer::{Durability, Job};

/// How often a store that cannot be read is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How long the writing thread has to mark a session that has ended, before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// The state of the thread.
pub(super) struct Watcher {
    file: Arc<StoreFile>,
    clock: Clock,
    publish: watch::Sender<Reading>,
    publish_settings: watch::Sender<Option<Arc<Edition>>>,
    bell: Bell,
    /// Weak: this thread must not keep the writing one alive.
    jobs: Weak<SyncSender<Job>>,
    open: Option<Open>,
    /// SQLite's number of the last write that was looked at; none: look in any case.
    data_version: Option<i64>,
    /// The revision that was published last; none: none, or a failure since.
    published: Option<i64>,
    next_lapse: Option<BootTime>,
    /// When the writing thread was last asked to mark sessions that have ended.
    asked: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(
        file: Arc<StoreFile>,
        clock: Clock,
        (publish, publish_settings): (watch::Sender<Reading>, watch::Sender<Option<Arc<Edition>>>),
        bell: Bell,
        jobs: Weak<SyncSender<Job>>,
    ) -> Self {
        Self {
            file,
            clock,
            publish,
            publish_settings,
            bell,
            jobs,
            open: None,
            data_version: None,
            published: None,
            next_lapse: None,
            asked: None,
        }
    }

    /// Watches until the handle is dropped.
    pub(super) fn run(mut self) {
        loop {
            let pause = match self.look() {
                Ok(()) => self.pause(),
                Err(trouble) => {
                    self.fail(&trouble);
                    RETRY
                }
            };
            match self.bell.wait(pause) {
                Woken::Look => (),
                Woken::Ended => return,
            }
        }
    }

    /// Publishes what is new, if anything is.
    fn look(&mut self) -> Result<(), Trouble> {
        let highest = self.file.highest();
        let mut open = self.connected()?;
        let data_version = open
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get::<_, i64>(0))?;
        if self.data_version != Some(data_version) {
            let transaction = open.connection.transaction()?;
            let revision = content::revision(&transaction)?;
            self.file.check(highest, revision)?;
            self.next_lapse = content::next_lapse(&transaction, &self.clock)?;
            if self.published != Some(revision) {
                let snapshot = content::snapshot(&transaction)?;
                self.publish.send_replace(Reading::Whole(Arc::new(snapshot)));
                self.published = Some(revision);
                let edition = settings::read(&transaction)?;
                self.publish_settings.send_if_modified(|known| {
                    let is_known = known.as_deref() == Some(&edition);
                    if !is_known {
                        *known = Some(Arc::new(edition));
                    }
                    !is_known
                });
            }
            transaction.finish()?;
            self.data_version = Some(data_version);
        }
        self.open = Some(open);
        Ok(())
    }

    /// The connection, opened again where there is none or the file was exchanged.
    fn connected(&mut self) -> Result<Open, Trouble> {
        if let Some(open) = self.open.take()
            && self.file.holds(&open)?
        {
            return Ok(open);
        }
        self.data_version = None;
        // Before opening, so that no ring is missed in between.
        self.bell.listen_at(&self.file.path);
        self.file.connect()
    }

    /// How long to wait for the next look; has sessions marked that have ended.
    fn pause(&mut self) -> Duration {
        let Some(next_lapse) = self.next_lapse else {
            return self.bell.patience();
        };
        let left = next_lapse.since(self.clock.now());
        if !left.is_zero() {
            return left.min(self.bell.patience());
        }
        let is_asked = self.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN);
        if let Some(jobs) = self.jobs.upgrade().filter(|_| !is_asked) {
            self.asked = Some(Instant::now());
            // Every transaction marks them, so an empty one does. Where it fails, or the queue is
            // full, it is asked for again; and what keeps it from writing shows in every request.
            let _ = jobs.try_send(Box::new(|writer| {
                let _ = writer.transact(Durability::Lazy, |_| Ok(()));
            }));
        }
        self.bell.patience()
    }

    fn fail(&mut self, trouble: &Trouble) {
        self.open = None;
        self.data_version = None;
        self.published = None;
        self.next_lapse = None;
        let error = trouble.at(&self.file.path);
        self.publish.send_if_modified(|reading| {
            let is_known = matches!(&*reading, Reading::Failed(known) if *known == error);
            if !is_known {
                *reading = Reading::Failed(error);
            }
            !is_known
        });
    }
}
