//! A planned handover, as the primary that hands over sees it: close the write address, drain,
//! stop in order, say so; or roll back. What the sync does with that word is in `takeover`.
//!
//! The request is read from each snapshot again; what is remembered between two steps is the
//! [`Stage`] alone. A controller that begins anew remembers none: it goes back to its office by
//! taking its word back, as after any stop, and refuses what was asked before it began.
//!
//! **Invariant:** from the moment in which the stop is begun, the primary may be taken over from
//! at any time. So no outcome but "done" is given before it is seen in office again.
//!
//! Source: PROTOCOL.md, "Switchover".

use std::time::Duration;

use dugong_topology::{InstanceId, Role};

use crate::chain::next_sync;
use crate::presence::{Handover, ServerState};
use crate::record::Record;
use crate::request::{Outcome, RequestNumber, Switchover};
use crate::server::{Access, Goal, Run, Stop, Waits};
use crate::snapshot::Snapshot;
use crate::state::{Ongoing, Stage, State};
use crate::time::Time;

use super::Decision;

/// How long proxies have to send clients away in their manner. After that, whoever is left comes
/// without a proxy, or is in a long transaction.
const CLOSING: Duration = Duration::from_secs(1);

impl State {
    /// Takes the switchover one stage further, or back.
    pub(super) fn keep_switchover(&mut self, now: Time) {
        self.switchover = self.ongoing(now);
        if self.is_stopping() {
            self.vacancy = None; // It is stopped on purpose: nothing has died.
        }
    }

    fn ongoing(&self, now: Time) -> Option<Ongoing> {
        let snapshot = self.snapshot.as_ref()?;
        let record = snapshot.record().filter(|record| record.primary == self.me)?;
        let (request, asked) = snapshot.switchover()?;
        let known = self.switchover.clone().filter(|known| known.request == request);
        let mut ongoing = known.unwrap_or(Ongoing { request, since: now, stage: Stage::Preparing });
        let late = now.is_past(ongoing.since, asked.deadline);
        ongoing.stage = match ongoing.stage {
            Stage::Preparing => self.prepare(now, snapshot, record, request, asked, late),
            Stage::Closing { since } | Stage::Draining { since } => {
                match self.cannot_drain(snapshot, record, asked, late) {
                    Some(why) => Stage::Ended(Outcome::RolledBack { why }),
                    None if self.is_drained(snapshot) => Stage::Stopping,
                    None if now.is_past(since, asked.drain) => Stage::Stopping,
                    None if now.is_past(since, CLOSING) => Stage::Draining { since },
                    None => ongoing.stage,
                }
            }
            Stage::Stopping => self.stop(snapshot, record, asked, late),
            ended @ Stage::Ended(_) => ended,
        };
        Some(ongoing)
    }

    fn prepare(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
        request: RequestNumber,
        asked: &Switchover,
        late: bool,
    ) -> Stage {
        if let Some(why) = self.refuses_to_begin(record, request, asked) {
            return Stage::Ended(Outcome::Refused { why });
        }
        match self.not_ready(snapshot, record, request, asked) {
            None => Stage::Closing { since: now },
            Some(why) if late => Stage::Ended(Outcome::Refused { why }),
            Some(_) => Stage::Preparing,
        }
    }

    /// What no waiting can change.
    fn refuses_to_begin(
        &self,
        record: &Record,
        request: RequestNumber,
        asked: &Switchover,
    ) -> Option<String> {
        let me = &self.me;
        if asked.from != *me {
            return Some(format!(
                "{me} has become the primary meanwhile, in place of {}",
                asked.from
            ));
        }
        if request <= self.inherited {
            return Some(format!("the controller of {me} began anew meanwhile: ask again"));
        }
        let role = |to: &InstanceId| match record.role_of(to) {
            Some(Role::Sync | Role::Async) => None,
            Some(Role::Primary) => Some(format!("{to} is the primary already")),
            Some(Role::Deposed) => Some(format!("{to} is being repaired: ask again later")),
            None => Some(format!("{to} is no member of the cluster")),
        };
        asked.to.as_ref().and_then(role).or_else(|| frozen(record))
    }

    /// What must come before the first thing that clients notice, in words.
    fn not_ready(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        request: RequestNumber,
        asked: &Switchover,
    ) -> Option<String> {
        if let Some(to) = self.wanted_sync(record) {
            return Some(format!("{to} has not become the sync in time"));
        }
        if let Some(why) = self.hindrance(snapshot, record, asked) {
            return Some(why);
        }
        let Run::Primary(view) = &self.server.run else {
            return Some("the server here is on its way".to_owned());
        };
        let open = self.office.as_ref().and_then(|office| office.open);
        let sync = record.sync.as_ref().and_then(|sync| view.standby(sync));
        if open != Some(record.generation) || sync.is_none_or(|row| row.waits != Waits::ForIt) {
            return Some("the sync has not caught up".to_owned());
        }
        if view.checkpointed != Some(request) {
            return Some("the checkpoint before the stop has not ended in time".to_owned());
        }
        let unsure = self.declaring.is_some() || self.raced_at.is_some();
        unsure.then(|| "the record is being changed".to_owned())
    }

    /// Why clients are let in again, in words.
    fn cannot_drain(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        asked: &Switchover,
        late: bool,
    ) -> Option<String> {
        if !matches!(self.server.run, Run::Primary(_)) {
            return Some("the server ended while transactions were finishing".to_owned());
        }
        let in_time = || late.then(|| "transactions did not finish in time".to_owned());
        self.hindrance(snapshot, record, asked).or_else(in_time)
    }

    /// Whether the stop breaks nothing off: nobody is there and nobody will be led here any more,
    /// or nobody writes.
    fn is_drained(&self, snapshot: &Snapshot) -> bool {
        let Run::Primary(view) = &self.server.run else { return false };
        let Some(leaving) = view.leaving else { return false };
        match view.access {
            Access::ReadWrite => {
                let closed = snapshot.present(&self.me).is_some_and(|presence| presence.drains);
                closed && leaving.sessions == 0
            }
            Access::ReadOnly => leaving.in_transaction == 0,
        }
    }

    fn stop(&self, snapshot: &Snapshot, record: &Record, asked: &Switchover, late: bool) -> Stage {
        if self.server.run != Run::Down {
            return Stage::Stopping; // A shutdown cannot be taken back.
        }
        let failed = || Some("the server here did not stop in order".to_owned());
        let in_time = || late.then(|| "the sync has not taken over in time".to_owned());
        let why = if self.server.shut_down_at.is_none() { failed() } else { None };
        match why.or_else(|| self.hindrance(snapshot, record, asked)).or_else(in_time) {
            Some(why) => Stage::Ended(Outcome::RolledBack { why }),
            None => Stage::Stopping,
        }
    }

    /// Why the sync could not take over just now (R3), in words.
    fn hindrance(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        asked: &Switchover,
    ) -> Option<String> {
        if let Some(trouble) = &self.store_trouble {
            return Some(format!("the store cannot be read: {trouble}"));
        }
        if let Some(why) = frozen(record) {
            return Some(why);
        }
        let Some(sync) = &record.sync else {
            return Some("there is no sync that could take over".to_owned());
        };
        if let Some(to) = asked.to.as_ref().filter(|to| *to != sync) {
            return Some(format!("{to} is not fit to become the sync"));
        }
        let runs = snapshot.present(sync).is_some_and(|presence| match presence.server {
            ServerState::Standby | ServerState::Ready => true,
            ServerState::Stopped
            | ServerState::Starting
            | ServerState::Copying
            | ServerState::Primary => false,
        });
        if !runs {
            return Some(format!("{sync}, which would take over, is away"));
        }
        let alone = next_sync(snapshot, record, sync).is_none();
        alone.then(|| format!("no third instance is there to become the sync of {sync}"))
    }

    /// The async that was asked for as the next primary: it has to be the sync first.
    pub(super) fn wanted_sync(&self, record: &Record) -> Option<InstanceId> {
        let Some(Ongoing { stage: Stage::Preparing, .. }) = &self.switchover else { return None };
        let snapshot = self.snapshot.as_ref()?;
        let (_, asked) = snapshot.switchover()?;
        let to = asked.to.as_ref().filter(|to| record.asyncs.contains(to))?;
        snapshot.is_ready(to).then(|| to.clone())
    }

    /// While clients notice nothing, most of what a stop would have to write is written.
    pub(super) fn wanted_checkpoint(&self) -> Option<RequestNumber> {
        let ongoing = self.switchover.as_ref()?;
        (ongoing.stage == Stage::Preparing).then_some(ongoing.request)
    }

    /// Whether the server is on its way down for a switchover, or down for it.
    pub(super) fn is_stopping(&self) -> bool {
        self.switchover.as_ref().is_some_and(|ongoing| match ongoing.stage {
            Stage::Stopping => true,
            Stage::Preparing | Stage::Closing { .. } | Stage::Draining { .. } | Stage::Ended(_) => {
                false
            }
        })
    }

    /// Whether the deadline of the switchover has passed.
    fn is_late(&self, now: Time) -> bool {
        let asked = self.snapshot.as_ref().and_then(|snapshot| snapshot.switchover());
        self.switchover
            .as_ref()
            .zip(asked)
            .is_some_and(|(ongoing, (_, asked))| now.is_past(ongoing.since, asked.deadline))
    }

    /// Whether clients finish what they have begun, and begin nothing.
    pub(super) fn is_draining(&self) -> bool {
        self.drain_access().is_some()
    }

    /// Whether clients are to leave: from the first word of it until the former primary is let go,
    /// or back in office.
    pub(super) fn is_leaving_office(&self) -> bool {
        self.is_draining() || self.is_stopping()
    }

    /// What new transactions may do while clients leave; none while they do not.
    pub(super) fn drain_access(&self) -> Option<Access> {
        match self.switchover.as_ref()?.stage {
            Stage::Closing { .. } => Some(Access::ReadWrite),
            Stage::Draining { .. } => Some(Access::ReadOnly),
            Stage::Preparing | Stage::Stopping | Stage::Ended(_) => None,
        }
    }

    /// The server stops in order; once it is down, the sync may take over.
    pub(super) fn hand_over(&self, now: Time, record: &Record) -> Decision {
        let heir = record.sync.as_ref().map_or("the sync", InstanceId::as_str);
        // A shutdown cannot be taken back, but it can be ended: clients wait no longer than that.
        let stop = if self.is_late(now) { Stop::Immediate } else { Stop::Fast };
        let decision = Decision::want(Goal::Down(stop));
        let request = self.switchover.as_ref().map(|ongoing| ongoing.request);
        let hands_over = match (request, self.server.shut_down_at, &self.server.run) {
            (Some(request), Some(last), Run::Down) => Some(Handover { request, last }),
            (_, _, _) => None,
        };
        let note = match hands_over {
            Some(_) => format!("handing over: waiting for {heir} to take over"),
            None => format!("handing over to {heir}: the server stops"),
        };
        Decision { hands_over, ..decision.noting(note) }
    }

    /// The outcome that is to be answered, seen from the office.
    pub(super) fn outcome(&self) -> Option<(RequestNumber, Outcome)> {
        let Ongoing { request, stage, .. } = self.switchover.as_ref()?;
        match stage {
            Stage::Ended(outcome) => Some((*request, outcome.clone())),
            Stage::Preparing | Stage::Closing { .. } | Stage::Draining { .. } | Stage::Stopping => {
                None
            }
        }
    }
}

pub(super) fn frozen(record: &Record) -> Option<String> {
    let frozen = record.frozen.as_ref()?;
    Some(format!("the cluster is frozen by {}: {}", frozen.by, frozen.why))
}
