//! How soon to look again: the time that a failover takes is made of such pauses.

use std::time::Duration;

use dugong_machine::{
    Access, Goal, Names, PrimaryGoal, PrimaryView, Receiver, Run, Sessions, Waits, Work,
};
use tokio::time::Instant;

/// How soon to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Clients wait for exactly this.
    Eager,
    /// What is seen is not yet what is wanted.
    Fast,
    Steady,
}

/// How soon to look again, after `run` was seen.
pub(super) fn pace(goal: Option<&Goal>, run: &Run) -> Pace {
    let arrived = match (goal, run) {
        (_, Run::Busy(Work::Promoting)) => return Pace::Eager,
        (Some(Goal::Sealed { .. }), Run::Standby(view)) if view.receiver != Receiver::Sealed => {
            return Pace::Eager;
        }
        // Those whose clients have left wait at another address.
        (Some(Goal::Primary(goal)), Run::Primary(_)) if goal.sessions == Sessions::Leave => {
            return Pace::Eager;
        }
        (Some(Goal::Standby(goal)), Run::Standby(_)) if goal.heir => return Pace::Eager,
        // Promoted, and about to open: its sync has nearly all that it needs.
        (Some(Goal::Primary(goal)), Run::Primary(view))
            if view.access == Access::ReadOnly && all_stream(goal, view) =>
        {
            return Pace::Eager;
        }
        (None, _) => true,
        (Some(Goal::Down(_) | Goal::Initialised | Goal::Copied { .. }), run) => *run == Run::Down,
        (Some(Goal::Primary(goal)), Run::Primary(view)) => has_caught_up(goal, view),
        (Some(Goal::Standby(goal)), Run::Standby(view)) => {
            goal.upstream.is_none() || view.receiver == Receiver::Streaming
        }
        (Some(Goal::Sealed { .. }), Run::Standby(_)) => true,
        (Some(Goal::Primary(_) | Goal::Standby(_) | Goal::Sealed { .. }), _) => false,
    };
    if arrived { Pace::Steady } else { Pace::Fast }
}

/// Whether it is open, everybody that commits wait for streams, and nothing is to be written.
fn has_caught_up(goal: &PrimaryGoal, view: &PrimaryView) -> bool {
    let written = goal.checkpoint.is_none() || goal.checkpoint == view.checkpointed;
    let open = view.access == Access::ReadWrite && goal.access == view.access;
    open && all_stream(goal, view) && written
}

/// Whether everybody that commits wait for streams.
fn all_stream(goal: &PrimaryGoal, view: &PrimaryView) -> bool {
    let waits = |id| view.standby(id).is_some_and(|row| row.waits == Waits::ForIt);
    match &goal.names {
        Names::Each(names) => names.iter().all(waits),
        Names::OneNode => true,
    }
}

/// Pauses between attempts that fail in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    pauses: &'static [u64],
    failures: usize,
    not_before: Option<Instant>,
}

impl Backoff {
    /// For a server that ends by itself; the first restart is at once.
    pub(super) fn restarts() -> Self {
        Self { pauses: &[0, 200, 500, 1000, 2000, 5000], failures: 0, not_before: None }
    }

    /// For data that cannot be made.
    pub(super) fn copies() -> Self {
        Self { pauses: &[500, 1000, 2000, 5000], failures: 0, not_before: None }
    }

    /// First data that comes from elsewhere, or a copy of what is damaged.
    pub(super) fn beginnings() -> Self {
        Self { pauses: &[2000, 10_000, 60_000], failures: 0, not_before: None }
    }

    pub(super) fn failed(&mut self) {
        let last = self.pauses.len() - 1;
        let pause = Duration::from_millis(self.pauses[self.failures.min(last)]);
        self.failures += 1;
        self.not_before = Some(Instant::now() + pause);
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    pub(super) fn must_wait(&self) -> bool {
        self.not_before.is_some_and(|at| Instant::now() < at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dugong_machine::StandbyRow;
    use dugong_topology::{Generation, History, InstanceId, Lsn, TimelineId};

    use super::*;

    #[test]
    fn who_is_about_to_open_is_looked_at_again_at_once() {
        let sync: InstanceId = "pg-2".parse().unwrap();
        let goal = |access| {
            Goal::Primary(PrimaryGoal {
                generation: Generation(2),
                timeline: TimelineId(2),
                names: Names::Each(vec![sync.clone()]),
                access,
                sessions: Sessions::Stay,
                checkpoint: None,
                downstreams: BTreeSet::new(),
                life: 0,
            })
        };
        let view = |access, waits| {
            let row = StandbyRow { id: sync.clone(), flushed: Lsn(1), waits };
            Run::Primary(PrimaryView {
                history: History::root(TimelineId(2)),
                end: Lsn(2),
                names: Names::Each(vec![sync.clone()]),
                access,
                leaving: None,
                checkpointed: None,
                standbys: vec![row],
            })
        };
        use Access::{ReadOnly, ReadWrite};
        #[rustfmt::skip]
        let cases = [
            ("its sync is not there yet", ReadOnly,  view(ReadOnly, Waits::NotYet),  Pace::Fast),
            ("its sync streams",          ReadOnly,  view(ReadOnly, Waits::ForIt),   Pace::Eager),
            ("it is to open",             ReadWrite, view(ReadOnly, Waits::ForIt),   Pace::Eager),
            ("it is open",                ReadWrite, view(ReadWrite, Waits::ForIt),  Pace::Steady),
            ("its sync is gone again",    ReadWrite, view(ReadWrite, Waits::NotYet), Pace::Fast),
        ];
        for (what, access, run, expected) in cases {
            assert_eq!(pace(Some(&goal(access)), &run), expected, "{what}");
        }
    }

    #[test]
    fn the_pause_grows_with_each_failure_up_to_the_last_and_success_forgets() {
        let mut backoff = Backoff::restarts();
        backoff.failed();
        assert!(!backoff.must_wait(), "the first restart is at once");
        for _ in 0..20 {
            backoff.failed();
        }
        assert!(backoff.must_wait());
        backoff.succeeded();
        assert!(!backoff.must_wait());
    }
}
