//! Ends the sessions of others at their time, by this machine's clock.
//!
//! etcd alone ends a lease up to a second late, and a new leader of etcd gives every lease its whole
//! time again: whoever loses the machine of the primary and etcd's leader with it would wait twice.
//! So each renewal is written (a *beat*), and a session without one for its whole time to live is
//! ended by whoever sees that first. The lease remains for when nobody is there to look.
//!
//! **Invariant:** the time runs from when the last beat was *seen*, which is after its holder asked
//! for it: nobody counts a session from later than the holder does. Looking late, or at a member
//! that lags, only ends it later.
//!
//! **Invariant:** the end compares the beat, and a beat compares the session, each in the
//! transaction that writes it. Of an end and a renewal at the same moment one is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::InstanceId;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::content::Value;
use super::glance::Glance;
use super::keys::{Keys, OfInstance};
use super::members::Members;
use super::trouble::Trouble;

/// How often the beats are looked at: by so much, at most, a session ends late.
const LOOK: Duration = Duration::from_millis(100);

/// Looks after the sessions of all instances but one.
pub(super) struct Lapse {
    members: Arc<Members>,
    glance: Glance,
    keys: Keys,
    own: InstanceId,
    seen: BTreeMap<InstanceId, Beat>,
}

/// The last beat of an instance.
#[derive(Clone, Copy, Debug)]
struct Beat {
    revision: i64,
    ttl: Duration,
    first_seen: Instant,
}

impl Beat {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.first_seen) > self.ttl
    }
}

impl Lapse {
    /// Looks by `glance`, and ends by `members`.
    pub(super) fn new(members: Arc<Members>, glance: Glance, keys: Keys, own: InstanceId) -> Self {
        Self { members, glance, keys, own, seen: BTreeMap::new() }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // The watcher, which asks the same members, tells people what is wrong with them.
            let looked = match self.look().await {
                Ok(()) => self.end_the_silent().await,
                Err(trouble) => Err(trouble),
            };
            if let Err(trouble) = looked {
                tracing::debug!(why = %trouble.in_words(), "the beats were not looked at");
            }
        }
    }

    /// Learns who has a session, and who has renewed it.
    pub(super) async fn look(&mut self) -> Result<(), Trouble> {
        // What any member has is enough here: see the first invariant.
        let answer = self.glance.below(&self.keys.beats()).await?;
        let now = Instant::now();
        let mut seen = BTreeMap::new();
        for pair in answer.kvs() {
            let beat = Value::of(pair)?;
            let Some((id, ttl)) = self.read(pair.key(), &beat.text) else {
                let key = String::from_utf8_lossy(pair.key()).into_owned();
                return Err(Trouble::Malformed { key });
            };
            let fresh = Beat { revision: beat.revision, ttl, first_seen: now };
            let known = self.seen.get(&id).filter(|known| known.revision == beat.revision);
            seen.insert(id, known.copied().unwrap_or(fresh));
        }
        seen.remove(&self.own);
        self.seen = seen;
        Ok(())
    }

    /// Ends the sessions whose time is over.
    pub(super) async fn end_the_silent(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        let over =
            |(id, beat): (&InstanceId, &Beat)| beat.is_over(now).then(|| (id.clone(), *beat));
        let over: Vec<_> = self.seen.iter().filter_map(over).collect();
        for (id, beat) in over {
            self.end(&id, beat).await?;
        }
        Ok(())
    }

    /// The instance and its session's time to live.
    fn read(&self, key: &[u8], value: &str) -> Option<(InstanceId, Duration)> {
        let id = std::str::from_utf8(key).ok()?.strip_prefix(&self.keys.beats())?;
        Some((id.parse().ok()?, Duration::from_millis(value.parse().ok()?)))
    }

    async fn end(&mut self, id: &InstanceId, beat: Beat) -> Result<(), Trouble> {
        let key = self.keys.beat(id.as_str());
        let last = Compare::mod_revision(key.clone(), CompareOp::Equal, beat.revision);
        let of = |what| TxnOp::delete(self.keys.of(id, what), None);
        let ends = [of(OfInstance::Session), of(OfInstance::Handover), TxnOp::delete(key, None)];
        let txn = Txn::new().when([last]).and_then(ends);
        let ended = self.members.txn(txn).await?.succeeded();
        // Either way there is a newer beat than this one, or none.
        self.seen.remove(id);
        if ended {
            tracing::info!(instance = %id, ttl = ?beat.ttl, "a session was not renewed: it has lapsed");
        }
        Ok(())
    }
}
