//! Follows what is below `now/`, and publishes whole snapshots.
//!
//! One read of everything, then a watch from the revision of that read on. When a watch ends, or
//! its member falls silent, all begins anew with another member: nothing is missed, since what is
//! read is the newest.
//!
//! **Invariant:** what is published never goes back to a smaller revision.
//!
//! Source: etcd, "etcd API guarantees", watch: ordered, reliable, atomic for each revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use dugong_machine::Snapshot;
use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{Edition, Reading};
use super::content::Content;
use super::keys::Keys;
use super::members::{Member, Members};
use super::trouble::Trouble;

/// A watch that is quiet for so long is asked whether it is alive.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// The pause before another member is tried.
const PAUSE: Duration = Duration::from_millis(100);

/// What was read, and what is shared with whoever reads beside the watch.
pub(super) struct Watcher {
    members: Arc<Members>,
    keys: Keys,
    publish: watch::Sender<Reading>,
    publish_settings: watch::Sender<Option<Arc<Edition>>>,
    highest: Arc<AtomicI64>,
}

impl Watcher {
    pub(super) fn new(
        members: Arc<Members>,
        keys: Keys,
        (publish, publish_settings): (watch::Sender<Reading>, watch::Sender<Option<Arc<Edition>>>),
        highest: Arc<AtomicI64>,
    ) -> Self {
        Self { members, keys, publish, publish_settings, highest }
    }

    /// Watches for ever.
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            let Err(trouble) = self.follow(&mut failures).await;
            failures += 1;
            // The store is away only once no member was of use.
            if failures >= self.members.count() || !trouble.is_the_members() {
                self.fail(&trouble);
            } else {
                tracing::info!(why = %trouble.in_words(), "the next member of etcd is watched");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow(&self, failures: &mut usize) -> Result<std::convert::Infallible, Trouble> {
        let member = self.members.member().await?;
        let (mut content, revision, snapshot) =
            whole(&self.members, &self.keys, &self.highest).await?;
        self.show(snapshot);
        self.show_settings(content.settings(&self.keys)?);
        *failures = 0;
        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut stream = self.members.watch(&member, self.keys.now(), options).await?;
        loop {
            let next = match timeout(QUIET_MAX, stream.message()).await {
                Ok(next) => self.members.answer_of(&member, async { next }).await?,
                Err(_quiet) => {
                    let alive = async {
                        stream.request_progress().await?;
                        stream.message().await
                    };
                    self.members.answer_of(&member, alive).await?
                }
            };
            let Some(response) = next else {
                return Err(self.ended(&member, "the stream was closed"));
            };
            if response.canceled() {
                return Err(self.ended(&member, response.cancel_reason()));
            }
            self.members.knows(response.header())?;
            if let Some(revision) = take(&mut content, &response)? {
                self.highest.fetch_max(revision, Relaxed);
                self.show(content.snapshot(&self.keys, revision)?);
                self.show_settings(content.settings(&self.keys)?);
            }
        }
    }

    /// A watch is ended by a member that has no leader, or has compacted what was asked for.
    fn ended(&self, member: &Member, why: &str) -> Trouble {
        self.members.leave_member(member);
        Trouble::Ended { endpoint: self.members.endpoint(member), why: why.to_owned() }
    }

    fn show(&self, snapshot: Snapshot) {
        self.publish.send_replace(Reading::Whole(Arc::new(snapshot)));
    }

    fn show_settings(&self, edition: Edition) {
        self.publish_settings.send_if_modified(|known| {
            let is_known = known.as_deref() == Some(&edition);
            if !is_known {
                *known = Some(Arc::new(edition));
            }
            !is_known
        });
    }

    fn fail(&self, trouble: &Trouble) {
        let error = trouble.in_words();
        self.publish.send_if_modified(|reading| {
            let is_known = matches!(&*reading, Reading::Failed(known) if *known == error);
            if !is_known {
                *reading = Reading::Failed(error);
            }
            !is_known
        });
    }
}

/// Everything, as it is now.
pub(super) async fn whole(
    members: &Members,
    keys: &Keys,
    highest: &AtomicI64,
) -> Result<(Content, i64, Snapshot), Trouble> {
    let seen = highest.load(Relaxed);
    let answer = members.get(keys.now(), Some(GetOptions::new().with_prefix())).await?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    if revision < seen {
        return Err(Trouble::WentBack { seen, found: revision });
    }
    highest.fetch_max(revision, Relaxed);
    let content = Content::of(answer.kvs())?;
    let snapshot = content.snapshot(keys, revision)?;
    Ok((content, revision, snapshot))
}

/// Takes the events over; their last revision, if there are any.
fn take(content: &mut Content, response: &WatchResponse) -> Result<Option<i64>, Trouble> {
    let mut last = None;
    for event in response.events() {
        let Some(pair) = event.kv() else { continue };
        match event.event_type() {
            EventType::Put => content.put(pair)?,
            EventType::Delete => content.delete(pair)?,
        }
        last = last.max(Some(pair.mod_revision()));
    }
    Ok(last)
}
