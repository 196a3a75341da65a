//! The transition function: what one instance does next.
//!
//! [`step`] takes in what happened, decides from all that is known (never from the event alone),
//! and asks for what is not yet asked for. So a lost or repeated event changes nothing: whatever
//! is wanted is compared with what is there, again and again (R11).
//!
//! | file | what it decides |
//! | --- | --- |
//! | `facts` | nothing: it takes in an event and keeps the times since when things are so |
//! | `bootstrap` | from no record to generation 1 |
//! | `primary` | the office: names, opening, another sync, newcomers; a server that died (R2, R5, R6) |
//! | `takeover` | the sync becomes primary (R3, R4) |
//! | `promote` | the operator's override (R13) |
//! | `switchover` | the primary hands over, or rolls that back |
//! | `follow` | replicating from the left neighbour, or being copied from it (R7) |

mod bootstrap;
mod facts;
mod follow;
mod primary;
mod promote;
mod switchover;
mod takeover;
#[cfg(test)]
mod tests;

use std::time::Duration;

use dugong_topology::{Generation, Role};

use crate::action::{Action, Declaration};
use crate::event::Event;
use crate::presence::{Handover, Presence, ServerState};
use crate::record::Record;
use crate::request::{Outcome, RequestNumber};
use crate::server::{Access, Data, Goal, Receiver, Run, Stop, Work};
use crate::state::State;
use crate::time::Time;

/// Positions that move all the time are announced this often, everything else at once.
const REFRESH: Duration = Duration::from_secs(1);

/// For so long a standby that lost its upstream still tells the lag that it had.
const LAG_KEPT: Duration = Duration::from_secs(5);

/// How long a declaration without an answer waits before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Advances one instance by one event. Pure: equal arguments give equal results.
#[must_use]
pub fn step(state: &State, now: Time, event: Event) -> (State, Vec<Action>) {
    let mut next = state.clone();
    next.take(now, event);
    next.keep_times(now);
    next.keep_switchover(now);
    let mut decision = next.decide(now);
    decision.answer = decision.answer.or_else(|| next.refuses_promotion(now));
    let actions = next.ask(now, decision);
    next.assert_reachable_from(state);
    (next, actions)
}

/// What an instance wants in one situation.
struct Decision {
    /// None: the server stays as it is.
    goal: Option<Goal>,
    declare: Option<Declaration>,
    /// What the presence says while no server process exists.
    vacant: ServerState,
    /// What the presence says beside "stopped".
    hands_over: Option<Handover>,
    answer: Option<(RequestNumber, Outcome)>,
    /// What is waited for, in words.
    note: Option<String>,
}

impl Decision {
    fn want(goal: Goal) -> Self {
        let vacant = match &goal {
            Goal::Down(_) | Goal::Initialised => ServerState::Stopped,
            Goal::Copied { .. } => ServerState::Copying,
            Goal::Primary(_) | Goal::Standby(_) | Goal::Sealed { .. } => ServerState::Starting,
        };
        Self { declare: None, vacant, hands_over: None, answer: None, note: None, goal: Some(goal) }
    }

    /// No new goal: what is there is kept, because too little is known.
    fn keep(state: &State, note: impl Into<String>) -> Self {
        let goal = state.goal.clone();
        let vacant = goal.clone().map_or(ServerState::Starting, |goal| Self::want(goal).vacant);
        let note = Some(note.into());
        Self { goal, declare: None, vacant, hands_over: None, answer: None, note }
    }

    fn noting(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    fn declaring(self, declare: Option<Declaration>) -> Self {
        Self { declare, ..self }
    }
}

impl State {
    fn decide(&self, now: Time) -> Decision {
        if self.leaving {
            return Decision::want(Goal::Down(Stop::Fast))
                .noting("the operator stops this instance");
        }
        let Some(snapshot) = &self.snapshot else {
            return Decision::keep(self, "waiting for a first reading of the store");
        };
        if !self.leases.is_known_to_the_store() {
            return Decision::keep(self, "waiting for the store to take this controller's word");
        }
        let role = snapshot.record().and_then(|record| record.role_of(&self.me));
        match &self.server.data {
            Data::Unknown => return Decision::keep(self, "looking at the data directory"),
            // A member that will not serve says so: its sync need not wait for it (R11).
            Data::Foreign { why } if role.is_some() => {
                return Decision::want(Goal::Down(Stop::Immediate)).noting(why.clone());
            }
            Data::Foreign { why } => return Decision::keep(self, why.clone()),
            Data::Empty | Data::Own(_) => (),
        }
        let Some(record) = snapshot.record() else {
            return self.decide_bootstrap(snapshot);
        };
        if let Some(refusal) = self.refuses(record) {
            return Decision::keep(self, refusal);
        }
        if let Some(decision) = self.decide_promotion(now, snapshot, record) {
            return decision;
        }
        match role {
            Some(Role::Primary) => self.decide_primary(now, snapshot, record),
            Some(Role::Sync) => self.decide_sync(now, snapshot, record),
            Some(Role::Async | Role::Deposed) | None => self.follow(snapshot, record),
        }
    }

    /// R10: a record that does not fit the data here is not obeyed.
    fn refuses(&self, record: &Record) -> Option<String> {
        let identity = self.server.identity()?;
        if identity.generation > record.generation {
            return Some(format!(
                "the store holds generation {}, but this instance has already served generation \
                 {}: the store was put back to an older state; restore its newest state",
                record.generation, identity.generation
            ));
        }
        let disposable = identity.generation == Generation::default();
        if identity.system_identifier != record.system_identifier && !disposable {
            return Some(format!(
                "the data directory belongs to another cluster (system identifier {}, the record \
                 says {}): give this instance an empty directory",
                identity.system_identifier, record.system_identifier
            ));
        }
        None
    }

    /// Turns a decision into what was not asked for yet.
    fn ask(&mut self, now: Time, decision: Decision) -> Vec<Action> {
        let mut actions = Vec::new();
        if decision.goal != self.goal
            && let Some(goal) = &decision.goal
        {
            actions.push(Action::Want(goal.clone()));
            self.goal = Some(goal.clone());
        }
        if let Some((declaration, asked)) = &mut self.declaring {
            if now.is_past(*asked, ASK_AGAIN) {
                *asked = now;
                actions.push(Action::Declare(declaration.clone()));
            }
        } else if let Some(declaration) = decision.declare {
            actions.push(Action::Declare(declaration.clone()));
            self.declaring = Some((declaration, now));
        }
        if let Some((request, outcome)) = decision.answer {
            let pending = self
                .answered
                .is_some_and(|(answered, at)| answered == request && !now.is_past(at, ASK_AGAIN));
            if !pending {
                self.answered = Some((request, now));
                actions.push(Action::Answer { request, outcome });
            }
        }
        let hands_over = decision.hands_over;
        let presence =
            Presence { hands_over, ..self.presence(now, decision.vacant, decision.note) };
        let stale = match &self.said {
            None => true,
            Some((said, _)) if !said.is_like(&presence) => true,
            Some((said, at)) => {
                // R11: also when the store does not show what was said.
                let known = self.snapshot.as_ref().and_then(|store| store.present(&self.me));
                let settled = *said == presence && known == Some(said);
                !settled && now.is_past(*at, REFRESH)
            }
        };
        if stale {
            self.said = Some((presence.clone(), now));
            actions.push(Action::Announce(presence));
        }
        if self.leaving && self.server.run == Run::Down && !self.finished {
            self.finished = true;
            actions.push(Action::Finish);
        }
        actions
    }

    fn presence(&self, now: Time, vacant: ServerState, note: Option<String>) -> Presence {
        let (history, upstream, lag) = match &self.server.run {
            Run::Standby(view) => {
                let streams = view.receiver == Receiver::Streaming;
                let upstream = view.upstream.clone().filter(|_| streams);
                // A receiver that stops for a moment does not make the lag unknown.
                let recent = self.dry_since.is_none_or(|at| !now.is_past(at, LAG_KEPT));
                let last = self.said.as_ref().and_then(|(said, _)| said.lag).filter(|_| recent);
                (Some(view.history.clone()), upstream, view.lag.or(last))
            }
            Run::Primary(view) => (Some(view.history.clone()), None, None),
            Run::Unknown | Run::Down | Run::Busy(_) => (None, None, None),
        };
        Presence {
            id: self.me.clone(),
            postgres: self.postgres.clone(),
            http: self.http.clone(),
            server: self.server_state(vacant),
            system_identifier: self.server.identity().map(|identity| identity.system_identifier),
            seen: self.generation(),
            open: self.open_generation(),
            position: self.position,
            history,
            upstream,
            lag,
            making: match &self.server.run {
                Run::Busy(Work::Copying(making)) => Some(*making),
                Run::Busy(
                    Work::Initialising | Work::Starting | Work::Promoting | Work::Stopping,
                )
                | Run::Unknown
                | Run::Down
                | Run::Standby(_)
                | Run::Primary(_) => None,
            },
            drains: self.is_leaving_office(),
            hands_over: None,
            note: self.words(note),
        }
    }

    /// What it does or waits for, and what is in its way.
    fn words(&self, note: Option<String>) -> Option<String> {
        match (note, &self.server.trouble) {
            (Some(note), Some(trouble)) if note != *trouble => Some(format!("{note} ({trouble})")),
            (note, trouble) => note.or_else(|| trouble.clone()),
        }
    }

    fn server_state(&self, vacant: ServerState) -> ServerState {
        match &self.server.run {
            Run::Unknown => ServerState::Starting,
            Run::Down => vacant,
            Run::Busy(Work::Initialising | Work::Copying { .. }) => ServerState::Copying,
            Run::Busy(Work::Starting | Work::Promoting | Work::Stopping) => ServerState::Starting,
            Run::Standby(view) if self.is_on_the_primarys_history(view) => ServerState::Ready,
            Run::Standby(_) => ServerState::Standby,
            Run::Primary(_) => ServerState::Primary,
        }
    }

    /// The generation in which this primary takes writes: its sync has caught up, and the server
    /// is seen to let sessions write.
    fn open_generation(&self) -> Option<Generation> {
        let Run::Primary(view) = &self.server.run else { return None };
        let in_office = self.snapshot.as_ref()?.record()?.primary == self.me;
        let writable = view.access == Access::ReadWrite && !self.is_leaving_office();
        self.office.as_ref()?.open.filter(|_| in_office && writable)
    }

    /// What no event may ever do. Kept on in release builds: a controller that finds itself in an
    /// impossible state ends, and its server with it.
    fn assert_reachable_from(&self, before: &Self) {
        assert_eq!(before.me, self.me, "an instance keeps its name");
        assert!(before.generation() <= self.generation(), "generations only grow");
        let revision = |of: &Self| of.snapshot.as_ref().map(|snapshot| snapshot.revision);
        assert!(revision(before) <= revision(self), "revisions only grow");
    }
}
