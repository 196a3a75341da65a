//! What the clients of one run share: clock, end, registers in use, counters.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Options;
use super::tables::Tables;
use crate::verify::history::{Key, Moment};
use crate::verify::outcome::Outcome;

/// How long an answer may take when the clients were told to end.
const GRACE: Duration = Duration::from_secs(2);

/// Operations on one register before the next one takes its place: the judge's work grows with it.
const OPERATIONS_PER_REGISTER: u64 = 200;

/// Operations that one run records; more would not fit into memory at ease.
pub const OPERATIONS_MAX: u64 = 2_000_000;

/// How far the clients are, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Writes, by outcome.
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Answered reads at the write address.
    pub reads: u64,
    /// Attempts to connect to the write address that failed.
    pub failed_connects: u64,
    /// Answered reads at the read address.
    pub glances: u64,
    /// For how long nothing has been acknowledged.
    pub paused: Duration,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tables: Tables,
    pub(super) seed: u64,
    pub(super) pace: Duration,
    pub(super) answer_within: Duration,
    began: Instant,
    stop: watch::Sender<bool>,
    full: OnceLock<Moment>,
    /// Operations on each register in use and on those before it.
    used: Vec<AtomicU64>,
    recorded: AtomicU64,
    acknowledged: AtomicU64,
    last_acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    reads: AtomicU64,
    failed_connects: AtomicU64,
    glances: AtomicU64,
}

impl Shared {
    pub(super) fn new(tables: Tables, options: &Options) -> Self {
        Self {
            tables,
            seed: options.seed,
            pace: options.pace,
            answer_within: options.answer_within,
            began: Instant::now(),
            stop: watch::Sender::new(false),
            full: OnceLock::new(),
            used: (0..options.registers).map(|_| AtomicU64::new(0)).collect(),
            recorded: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            last_acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            failed_connects: AtomicU64::new(0),
            glances: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Moment {
        // 584 years fit.
        Moment(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The register to use now, in place `place` of those in use.
    pub(super) fn register(&self, place: u64) -> Key {
        let places = self.places();
        let place = place % places;
        let count = usize::try_from(place).ok().and_then(|place| self.used.get(place));
        let before = count.map_or(0, |count| count.fetch_add(1, Ordering::Relaxed));
        Key(before / OPERATIONS_PER_REGISTER * places + place)
    }

    /// How many registers are in use at a time. The remainder of a key is its place.
    pub(super) fn places(&self) -> u64 {
        self.used.len() as u64
    }

    /// Tells everybody to end; returns since when.
    pub(super) fn stop(&self) -> Moment {
        let now = self.now();
        self.stop.send_replace(true);
        self.full_since().unwrap_or(now)
    }

    /// Returns when everybody was told to end.
    pub(super) async fn stopped(&self) {
        // The sender lives as long as `self` does.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Returns when nobody shall wait for an answer any longer.
    pub(super) async fn over(&self) {
        self.stopped().await;
        tokio::time::sleep(GRACE).await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Since when the record has its bound, if it has.
    pub(super) fn full_since(&self) -> Option<Moment> {
        self.full.get().copied()
    }

    /// Counts one more operation or glance; ends the run where that was the last that fits.
    fn recorded(&self) {
        if self.recorded.fetch_add(1, Ordering::Relaxed) + 1 == OPERATIONS_MAX {
            self.full.get_or_init(|| self.now());
            self.stop.send_replace(true);
        }
    }

    pub(super) fn wrote(&self, outcome: Outcome, at: Moment) {
        let counter = match outcome {
            Outcome::Acknowledged => {
                self.last_acknowledged.fetch_max(at.0, Ordering::Relaxed);
                &self.acknowledged
            }
            Outcome::Refused(_) => &self.refused,
            Outcome::Unknown(_) => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.recorded();
    }

    pub(super) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.recorded();
    }

    pub(super) fn glanced(&self) {
        self.glances.fetch_add(1, Ordering::Relaxed);
        self.recorded();
    }

    pub(super) fn not_connected(&self) {
        self.failed_connects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn progress(&self) -> Progress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            acknowledged: get(&self.acknowledged),
            refused: get(&self.refused),
            unknown: get(&self.unknown),
            reads: get(&self.reads),
            failed_connects: get(&self.failed_connects),
            glances: get(&self.glances),
            paused: self.now().since(Moment(get(&self.last_acknowledged))),
        }
    }
}
