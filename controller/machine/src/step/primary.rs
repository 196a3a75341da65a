//! The primary's office: what commits wait for, when clients may come, who is in the record.
//!
//! Within a generation only the primary changes the record (R2).

use std::time::Duration;

use dugong_topology::{InstanceId, Revision};

use crate::action::{Declaration, Guard};
use crate::chain::{downstreams_of, newcomers, next_sync};
use crate::presence::ServerState;
use crate::record::{Reason, Record};
use crate::server::{Access, Goal, Names, PrimaryGoal, PrimaryView, Run, Sessions, Stop};
use crate::snapshot::Snapshot;
use crate::state::{Office, State, Vacancy};
use crate::time::Time;

use super::Decision;

/// A server that has lived this long has not died "in a row" with the one before it.
pub(super) const STEADY_AFTER: Duration = Duration::from_secs(10);

/// The first pause before a server that keeps dying is started again; it doubles up to the last.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

impl State {
    pub(super) fn decide_primary(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
    ) -> Decision {
        let serves = match &self.server.run {
            Run::Unknown => return Decision::keep(self, "looking at the server"),
            Run::Down if self.is_stopping() => return self.hand_over(now, record),
            Run::Down => return self.fill_vacancy(now, snapshot, record),
            Run::Busy(_) | Run::Standby(_) => None,
            Run::Primary(view) => self.office.as_ref().map(|office| (view, office)),
        };
        if self.given_up {
            return Decision::want(Goal::Down(Stop::Immediate))
                .noting("the server does not answer; it is stopped, so that the sync takes over");
        }
        if !self.leases.alive_at(now) && !self.has_no_heir() {
            return Decision::want(Goal::Down(Stop::Immediate))
                .noting("fenced: neither the store nor the sync confirms the office");
        }
        if self.is_stopping() {
            return self.hand_over(now, record);
        }
        match (serves, &self.goal) {
            (Some((view, office)), _) => self.hold_office(now, snapshot, record, view, office),
            // On its way out of recovery: starting, or promoted after a takeover.
            (None, Some(Goal::Primary(_))) => Decision::keep(self, "the server is on its way"),
            (None, Some(_) | None) => Decision::want(self.closed(snapshot, record)),
        }
    }

    /// The server is down and none was asked for, or it died.
    ///
    /// First it is the sync's turn, which has everything that was acknowledged. If nobody can take
    /// over, or nobody did in time, the server is started again.
    fn fill_vacancy(&self, now: Time, snapshot: &Snapshot, record: &Record) -> Decision {
        let vacate = || Decision::want(Goal::Down(Stop::Immediate));
        let heir = self.heir(snapshot, record);
        if self.server.identity().is_none() {
            let heir = heir.map_or_else(|| "an instance that can".to_owned(), String::from);
            return vacate()
                .noting(format!("the data here is gone; waiting for {heir} to take over"));
        }
        if let Some(Vacancy { since, deaths }) = self.vacancy {
            if let Some(heir) = heir
                && !now.is_past(since, self.settings.restart_after)
            {
                return vacate()
                    .noting(format!("the server died; waiting for {heir} to take over"));
            }
            if deaths > 1 && !now.is_past(since, restart_pause(deaths)) {
                return vacate()
                    .noting(format!("the server died {deaths} times; it is started again"));
            }
        }
        // Who says "stopped" may be taken over from at any moment: first take the word back, and
        // see that the store has it, then start.
        let said = snapshot.present(&self.me).map(|presence| presence.server);
        if said == Some(ServerState::Starting) && now < self.leases.session_until {
            Decision::want(self.closed(snapshot, record))
        } else {
            Decision { vacant: ServerState::Starting, ..vacate() }
        }
    }

    /// The sync, if it could take over as far as can be seen (R3).
    pub(super) fn heir(&self, snapshot: &Snapshot, record: &Record) -> Option<InstanceId> {
        let sync = record.sync.clone()?;
        let server = snapshot.present(&sync)?.server;
        let runs = matches!(server, ServerState::Standby | ServerState::Ready);
        let has_next = next_sync(snapshot, record, &sync).is_some();
        (runs && has_next && record.frozen.is_none()).then_some(sync)
    }

    /// A primary that nobody may use yet (R5), with its names in force from the first moment (R6).
    fn closed(&self, snapshot: &Snapshot, record: &Record) -> Goal {
        self.primary_goal(
            snapshot,
            record,
            Names::of(record, None),
            Access::ReadOnly,
            Sessions::Stay,
        )
    }

    fn primary_goal(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        names: Names,
        access: Access,
        sessions: Sessions,
    ) -> Goal {
        Goal::Primary(PrimaryGoal {
            generation: record.generation,
            timeline: record.timeline,
            names,
            access,
            sessions,
            checkpoint: self.wanted_checkpoint(),
            downstreams: downstreams_of(snapshot, record, &self.me),
            life: self.lives,
        })
    }

    fn hold_office(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
        view: &PrimaryView,
        office: &Office,
    ) -> Decision {
        let (access, sessions) = match (self.drain_access(), office.open) {
            (Some(access), _) => (access, Sessions::Leave),
            (None, Some(_)) => (Access::ReadWrite, Sessions::Stay),
            (None, None) => (Access::ReadOnly, Sessions::Stay),
        };
        let unsure = self.declaring.is_some() || self.raced_at.is_some();
        let next = self.another_sync(now, snapshot, record, office);
        let names = match (&self.goal, unsure) {
            // Which record holds is not known: the names stay as they are (R6).
            (Some(Goal::Primary(goal)), true) => goal.names.clone(),
            (Some(_) | None, _) => Names::of(record, next.as_ref()),
        };
        let in_force = view.names == names;
        let decision = Decision {
            note: self.waits_for(record, view, office, next.as_ref()),
            answer: self.outcome(),
            ..Decision::want(self.primary_goal(snapshot, record, names, access, sessions))
        };
        if unsure || record.frozen.is_some() || self.is_draining() {
            return decision;
        }
        let change = match next {
            // R6: both names are in force, and the end was read after that.
            Some(next) if in_force && self.wanted_sync(record).as_ref() == Some(&next) => {
                Some(record.with_sync_exchanged(&next, view.position()))
            }
            Some(next) if in_force => Some(record.with_sync(&next, view.position())),
            Some(_) => None,
            None => self.membership(now, snapshot, record),
        };
        decision.declaring(change.map(|next| Declaration {
            next,
            at: Some(self.record_revision()),
            guard: Guard::None,
            fulfils: None,
        }))
    }

    /// R2, R11: the first fit async where the sync is gone, or does not follow; or the one that
    /// was asked for.
    fn another_sync(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
        office: &Office,
    ) -> Option<InstanceId> {
        if record.frozen.is_some() || self.is_draining() {
            return None;
        }
        if let Some(wanted) = self.wanted_sync(record) {
            return Some(wanted);
        }
        // Before a new cluster has opened for the first time nobody waits: its sync may take the
        // time that a first copy takes.
        let is_new = record.reason == Reason::Bootstrap && self.opened.is_none();
        let patience = if is_new { self.settings.stuck_after } else { self.settings.sync_timeout };
        let too_long = |since| now.is_past(since, patience);
        let lost = record.sync.as_ref().is_none_or(|sync| {
            let absent = snapshot.present(sync).is_none();
            let dry = office.sync_dry_since.is_some_and(|since| absent || too_long(since));
            dry || office.sync_at.is_some_and(|(_, since)| too_long(since))
        });
        if lost { next_sync(snapshot, record, &self.me) } else { None }
    }

    /// R2, R8: newcomers and repaired instances join; asyncs that are gone for good leave.
    fn membership(&self, now: Time, snapshot: &Snapshot, record: &Record) -> Option<Record> {
        if let Some(newcomer) = newcomers(snapshot, record).next() {
            return Some(record.with_async(newcomer));
        }
        let gone = |id: &&InstanceId| {
            self.away_since.get(*id).is_some_and(|at| now.is_past(*at, self.settings.forget_after))
        };
        record.asyncs.iter().find(gone).map(|id| record.without(id))
    }

    /// Why writes wait, in words; none while they do not.
    fn waits_for(
        &self,
        record: &Record,
        view: &PrimaryView,
        office: &Office,
        next: Option<&InstanceId>,
    ) -> Option<String> {
        if self.is_draining() {
            return Some("handing over: open transactions finish, new ones wait".to_owned());
        }
        if let Some(next) = next {
            return Some(format!("writes wait: {next} becomes the new sync"));
        }
        if record.is_one_node() {
            return None;
        }
        let Some(sync) = &record.sync else {
            return Some("writes wait for a standby that can become the sync".to_owned());
        };
        if view.standby(sync).is_none() {
            return Some(format!("writes wait for the sync {sync}, which does not stream"));
        }
        let caught_up = office.open == Some(record.generation);
        (!caught_up).then(|| format!("writes wait for the sync {sync} to catch up"))
    }

    pub(super) fn record_revision(&self) -> Revision {
        let declared = self.snapshot.as_ref().and_then(|snapshot| snapshot.declared.as_ref());
        declared.map_or_else(Revision::default, |declared| declared.revision)
    }
}

/// Doubles with each death.
fn restart_pause(deaths: u32) -> Duration {
    let (first, last) = RESTART_PAUSE;
    first.saturating_mul(1 << deaths.min(10)).min(last)
}
