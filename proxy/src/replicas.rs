//! What the proxy learns of standbys by leading clients to them, and which of them gets the next one.
//!
//! [`Replicas::arrange`] puts the standbys that are fit in the order in which to try them: of two
//! that are drawn at random the one with less to do ([`choice`]), then the others. A [`Claim`] is one
//! client's part in what a standby has to do. Drawing two keeps a crowd from running to the one that
//! was the least busy a moment ago.
//!
//! - One that refused is left out for a while, longer each time, and never if all others are too.
//! - One that came back gets its share little by little, while its caches are cold.
//! - The operator may want some tried before others, or led more clients to ([`Preferences`]).
//!
//! **Invariant:** fitness is the topology's to decide (`crate::route`): nobody is tried here who is
//! not fit, and nobody who is fit is never tried.
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).

mod choice;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dugong_topology::InstanceId;

use crate::config::Preferences;
use crate::metrics;
use crate::replicas::choice::Candidate;
use crate::route::{Seat, Target};

/// For how long a standby is left out after its first refusal; doubled with each one that follows.
const LEFT_OUT_MIN: Duration = Duration::from_secs(1);
const LEFT_OUT_MAX: Duration = Duration::from_secs(30);

/// The share of a standby that has just come back.
const FIRST_SHARE: f64 = 0.1;

/// Every standby that a client was ever led to.
#[derive(Debug)]
pub struct Replicas {
    /// A mutex: taken a few times while a connection is made, never while its bytes move, and what
    /// one client learns has to be known to the next one on whichever thread.
    known: Mutex<BTreeMap<InstanceId, Known>>,
    /// Until a standby that came back has its whole share. Zero: at once.
    slow_start: Duration,
    preferences: Preferences,
}

#[derive(Debug, Default)]
struct Known {
    work: Arc<Work>,
    is_fit: bool,
    /// When it came back; none: it was there from the first look on.
    back_since: Option<Instant>,
    /// In a row.
    refusals: u32,
    left_out_until: Option<Instant>,
}

/// What a standby has to do for the clients of this proxy.
#[derive(Debug, Default)]
struct Work {
    sessions: AtomicU64,
    /// Of those: that wait for an answer. In parts that mean something only in sum, since a session
    /// may move to another thread.
    busy: [Part; PARTS],
}

/// On a cache line that one thread writes: it changes with every question and every answer.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(AtomicI64);

/// Threads beyond these share parts, which is slower and as right.
const PARTS: usize = 8;

thread_local! {
    static PART: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Relaxed) % PARTS
    };
}

impl Work {
    fn add_busy(&self, clients: i64) {
        self.busy[PART.with(|part| *part)].0.fetch_add(clients, Relaxed);
    }

    /// Of one moment, more or less: threads go on meanwhile.
    fn busy(&self) -> u64 {
        let sum: i64 = self.busy.iter().map(|part| part.0.load(Relaxed)).sum();
        u64::try_from(sum).unwrap_or_default()
    }
}

/// One client's part in what a standby has to do, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    work: Arc<Work>,
    waits: bool,
}

impl Replicas {
    /// Nobody is known yet.
    pub fn new(slow_start: Duration, preferences: Preferences) -> Self {
        Self { known: Mutex::default(), slow_start, preferences }
    }

    /// Puts the targets that are fit in the order in which to try them.
    ///
    /// The one primary, or nobody, is left as it is.
    pub fn arrange(&self, fit: Vec<Target>, now: Instant) -> Vec<Target> {
        if fit.iter().any(|target| target.seat == Seat::Primary) {
            return fit;
        }
        let mut known = self.known();
        note_fitness(&mut known, &fit, now);
        let candidates: Vec<Candidate> = fit
            .iter()
            .filter_map(|target| known.get(&target.id).map(|known| (&target.id, known)))
            .map(|(id, known)| self.candidate(id, known, now))
            .collect();
        drop(known);
        let order = choice::order(&candidates, |count| fastrand::usize(..count));
        order.into_iter().map(|index| fit[index].clone()).collect()
    }

    /// A client is led to `id`, and waits for its first answer.
    pub fn claim(&self, id: &InstanceId) -> Claim {
        let work = Arc::clone(&self.known().entry(id.clone()).or_default().work);
        work.sessions.fetch_add(1, Relaxed);
        work.add_busy(1);
        Claim { work, waits: true }
    }

    /// `id` took a client.
    pub fn served(&self, id: &InstanceId) {
        if let Some(known) = self.known().get_mut(id) {
            (known.refusals, known.left_out_until) = (0, None);
        }
    }

    /// `id` did not take a client.
    pub fn refused(&self, id: &InstanceId, now: Instant) {
        let mut known = self.known();
        let known = known.entry(id.clone()).or_default();
        // Several clients may be refused at the same moment: that is one refusal.
        if known.left_out_until.is_some_and(|until| now < until) {
            return;
        }
        let doubled = LEFT_OUT_MIN.saturating_mul(1 << known.refusals.min(16));
        known.left_out_until = Some(now + doubled.min(LEFT_OUT_MAX));
        known.refusals += 1;
        metrics::count_left_out(id);
        tracing::info!("{id} refused a client of the read port: left out for {doubled:?}");
    }

    fn candidate(&self, id: &InstanceId, known: &Known, now: Instant) -> Candidate {
        let share = match known.back_since {
            Some(since) if !self.slow_start.is_zero() => {
                let back_for = now.saturating_duration_since(since);
                (back_for.as_secs_f64() / self.slow_start.as_secs_f64()).clamp(FIRST_SHARE, 1.0)
            }
            Some(_) | None => 1.0,
        };
        Candidate {
            busy: known.work.busy(),
            sessions: known.work.sessions.load(Relaxed),
            share: share * f64::from(self.preferences.weight(id)),
            is_left_out: known.left_out_until.is_some_and(|until| now < until),
            is_near: self.preferences.is_near(id),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Known>> {
        // What is known is whole after each change, whatever panicked around it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notices who is back, and forgets who is gone and has no client any more.
fn note_fitness(known: &mut BTreeMap<InstanceId, Known>, fit: &[Target], now: Instant) {
    // All at once, as in the beginning, means that nobody comes back to the others.
    let is_first_look = !known.values().any(|known| known.is_fit);
    known.retain(|id, known| {
        known.is_fit &= fit.iter().any(|target| target.id == *id);
        known.is_fit || known.refusals > 0 || known.work.sessions.load(Relaxed) > 0
    });
    for target in fit {
        let known = known.entry(target.id.clone()).or_default();
        if !std::mem::replace(&mut known.is_fit, true) && !is_first_look {
            known.back_since = Some(now);
        }
    }
}

impl Claim {
    /// Whether the client waits for an answer.
    pub fn note(&mut self, waits: bool) {
        if std::mem::replace(&mut self.waits, waits) != waits {
            self.work.add_busy(if waits { 1 } else { -1 });
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.waits {
            self.work.add_busy(-1);
        }
        self.work.sessions.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
