//! Many runs, on all cores, until one breaks a promise.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::bug::Bug;
use crate::checker::Violation;
use crate::fault::{KINDS, Scenario};
use crate::world::{Counts, Story, run};

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    pub first_seed: u64,
    pub runs: u64,
    pub bug: Option<Bug>,
    pub threads: usize,
}

/// The sum of all runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub runs: u64,
    pub faults: [u64; KINDS],
    pub steps: u64,
    pub takeovers: u64,
    pub switchovers: u64,
    pub generations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub reads: u64,
    pub simulated: Duration,
    /// The longest time from the last fault's end to a write, and the seed that had it.
    pub slowest: (Duration, u64),
}

/// How a campaign ended.
#[derive(Debug)]
pub struct Report {
    pub totals: Totals,
    /// The failed run of the lowest seed that was found.
    pub failed: Option<(u64, Violation)>,
}

impl Campaign {
    /// Runs it; `progress` is called after each run, by any thread.
    ///
    /// # Panics
    ///
    /// If `progress` does.
    pub fn go(self, progress: impl Fn(&Totals) + Sync) -> Report {
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let report = Mutex::new(Report { totals: Totals::default(), failed: None });
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.runs {
                    return;
                }
                let seed = self.first_seed + index;
                let outcome = run(&Scenario::draw(seed), self.bug, Story::Untold);
                let mut report = report.lock().expect("no thread panics while it holds this");
                report.totals.add(seed, &outcome.counts);
                if let Some(violation) = outcome.violation {
                    stop.store(true, Ordering::Relaxed);
                    if report.failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                        report.failed = Some((seed, violation));
                    }
                }
                progress(&report.totals);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        report.into_inner().expect("no thread panics while it holds this")
    }
}

impl Totals {
    fn add(&mut self, seed: u64, counts: &Counts) {
        self.runs += 1;
        for (sum, more) in self.faults.iter_mut().zip(counts.faults) {
            *sum += more;
        }
        self.steps += counts.steps;
        self.takeovers += counts.takeovers;
        self.switchovers += counts.switchovers;
        self.generations += counts.generations;
        self.acknowledged += counts.acknowledged;
        self.unknown += counts.unknown;
        self.reads += counts.reads;
        self.simulated += counts.simulated;
        self.slowest = self.slowest.max((counts.writable_after, seed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_tells_the_same_story_every_time() {
        let told = || run(&Scenario::draw(42), None, Story::Kept).story;
        let (first, second) = (told(), told());
        assert!(first.len() > 20, "{} lines", first.len());
        assert_eq!(first, second);
    }
}
