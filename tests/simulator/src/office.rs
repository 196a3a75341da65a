//! What a fresh look at a primary shows, for whoever plays a server.

use dugong_machine::{
    Access, Goal, Leaving, Names, PrimaryGoal, PrimaryView, Sessions, StandbyRow, Waits,
};
use dugong_topology::{History, InstanceId};

use crate::bug::Bug;
use crate::lie;
use crate::wal::{Shown, WalSender, lsn};

/// A primary as it is.
#[derive(Clone, Debug)]
pub struct Office<'a> {
    pub names: &'a Names,
    /// Commits wait for the names: the checkpointer has seen that there are any.
    pub heeded: bool,
    pub access: Access,
    pub history: History,
    /// How much of its WAL is flushed.
    pub end: usize,
    /// The same when the names were last changed.
    pub end_before: usize,
    /// How many sessions are inside a transaction.
    pub waiting: usize,
}

impl Office<'_> {
    /// What is seen of it by whoever wants `goal`. `made`: whether a mistake is made.
    ///
    /// # Panics
    ///
    /// More sessions than PostgreSQL could have are inside a transaction.
    pub fn view<S: WalSender>(
        self,
        senders: &[S],
        ids: &[InstanceId],
        goal: Option<&Goal>,
        made: impl Fn(Bug) -> bool,
    ) -> PrimaryView {
        let goal = primary_goal(goal);
        // Names are in force once no WAL sender goes by older ones (R6).
        let known = senders.iter().all(|sender| sender.shown(ids).names == self.names);
        let settled = known && (self.heeded || *self.names == Names::OneNode);
        let two = matches!(self.names, Names::Each(names) if names.len() == 2);
        let early = made(Bug::EndBeforeNames) && settled && two;
        let wanted = goal.map(|goal| &goal.names);
        let names = lie::names_in_force(wanted, self.names, settled, made);
        let row = |Shown { standby, flushed, streaming, .. }: Shown<'_>| StandbyRow {
            id: standby.clone(),
            flushed: lsn(flushed),
            waits: match streaming {
                false => Waits::NotYet,
                true if names.contains(standby) => Waits::ForIt,
                true => Waits::ForOthers,
            },
        };
        let standbys = senders.iter().map(|sender| row(sender.shown(ids))).collect();
        let leave = goal.is_some_and(|goal| goal.sessions == Sessions::Leave);
        // A client here has a session for as long as it waits for an answer.
        let sessions = u32::try_from(self.waiting).expect("few clients");
        PrimaryView {
            history: self.history,
            end: lsn(if early { self.end_before } else { self.end }),
            names,
            access: self.access,
            checkpointed: goal.and_then(|goal| goal.checkpoint),
            leaving: leave.then_some(Leaving { sessions, in_transaction: sessions }),
            standbys,
        }
    }
}

fn primary_goal(goal: Option<&Goal>) -> Option<&PrimaryGoal> {
    match goal? {
        Goal::Primary(goal) => Some(goal),
        Goal::Down(_)
        | Goal::Initialised
        | Goal::Standby(_)
        | Goal::Sealed { .. }
        | Goal::Copied { .. } => None,
    }
}
