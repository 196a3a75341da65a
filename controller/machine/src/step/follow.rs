//! Being a standby: replicating from the left neighbour, or being copied from it.
//!
//! The same for a sync, an async, a newcomer and a deposed instance: what differs is who the left
//! neighbour is, and whether the data may be trusted (R7).

use dugong_topology::Generation;

use crate::chain::{downstreams_of, is_in_office, is_running, upstream_of};
use crate::presence::{Presence, ServerState};
use crate::record::Record;
use crate::server::{Goal, Identity, Old, Receiver, Run, StandbyGoal, Stop, Upstream};
use crate::snapshot::Snapshot;
use crate::state::State;

use super::Decision;

/// Why data has to be made anew (R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distrust {
    Missing,
    NeverDeclared,
    Deposed,
    Forked,
    Stuck,
}

impl Distrust {
    fn words(self) -> &'static str {
        match self {
            Self::Missing => "it has no data yet",
            Self::NeverDeclared => "its data was initialised for a cluster that was never declared",
            Self::Deposed => "it was deposed, and its WAL may have forked",
            Self::Forked => "its WAL has forked from the primary's",
            Self::Stuck => "it cannot stream from what it has",
        }
    }
}

impl State {
    pub(super) fn follow(&self, snapshot: &Snapshot, record: &Record) -> Decision {
        if let Run::Primary(_) = &self.server.run {
            // R7: from this instant it serves no writes; killed, not released (R9).
            return Decision::want(Goal::Down(Stop::Immediate))
                .noting(format!("fenced: {} is primary now", record.primary));
        }
        let (why, making) = match self.server.identity() {
            None => (Some(Distrust::Missing), 1),
            Some(identity) => {
                (self.distrusts(snapshot, record, identity), identity.making.saturating_add(1))
            }
        };
        match why {
            Some(why) => self.copy(snapshot, record, making, why),
            None => self.stand_by(snapshot, record, upstream_of(snapshot, record, &self.me)),
        }
    }

    /// Why the data here cannot be followed up on; none where it can.
    fn distrusts(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        identity: &Identity,
    ) -> Option<Distrust> {
        if identity.generation == Generation::default()
            && identity.system_identifier != record.system_identifier
        {
            return Some(Distrust::NeverDeclared);
        }
        if record.deposed_since(&self.me).is_some_and(|since| identity.made_in < since) {
            return Some(Distrust::Deposed);
        }
        // Without a primary the sync's data may be all that there is: it is kept, and R3 (c) judges.
        let judged = is_in_office(snapshot, record) || record.sync.as_ref() != Some(&self.me);
        if self.forked_making == Some(identity.making) && judged {
            return Some(Distrust::Forked);
        }
        let stuck = self.stuck_making == Some(identity.making);
        (stuck && is_in_office(snapshot, record)).then_some(Distrust::Stuck)
    }

    /// What may become of the data here while it is made anew.
    ///
    /// Nobody else may lack what is given up: the primary and its sync have all of it (R5), and
    /// are both there.
    fn old(&self, snapshot: &Snapshot, record: &Record, why: Distrust) -> Old {
        let worthless = match why {
            Distrust::Missing | Distrust::Deposed | Distrust::Forked => true,
            // Another cluster's; or a prefix that lacks nothing but its upstream's WAL.
            Distrust::NeverDeclared | Distrust::Stuck => false,
        };
        let safe_without = record.sync.as_ref().is_some_and(|sync| {
            let ready = |presence: &Presence| presence.server == ServerState::Ready;
            *sync != self.me && snapshot.present(sync).is_some_and(ready)
        });
        let primary = snapshot.present(&record.primary).filter(|presence| {
            worthless && safe_without && presence.open == Some(record.generation)
        });
        primary.map_or(Old::Untouched, |primary| {
            let (id, address) = (primary.id.clone(), primary.postgres.clone());
            Old::GivenUp { primary: Upstream { id, address } }
        })
    }

    fn copy(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        making: u32,
        distrust: Distrust,
    ) -> Decision {
        let why = distrust.words();
        let fit = |source: &Upstream| {
            snapshot.present(&source.id).is_some_and(|presence| match presence.server {
                ServerState::Ready | ServerState::Primary => true,
                // Without a primary, the sync's data is what a new primary's would be: a copy of
                // it may be what its takeover waits for (R3 d).
                ServerState::Standby => record.sync.as_ref() == Some(&source.id),
                ServerState::Stopped | ServerState::Starting | ServerState::Copying => false,
            })
        };
        // A copy under way goes on, whoever the left neighbour is meanwhile.
        if let Some(Goal::Copied { source, generation, making: current, old }) = &self.goal
            && *current == making
            && is_running(snapshot, &source.id)
        {
            let (source, generation) = (source.clone(), *generation);
            let old = match old {
                // What was untouched may be given up meanwhile; what was given up is gone.
                Old::Untouched => self.old(snapshot, record, distrust),
                Old::GivenUp { .. } => old.clone(),
            };
            let note = format!("copying from {}: {why}", source.id);
            return Decision::want(Goal::Copied { source, generation, making, old }).noting(note);
        }
        match upstream_of(snapshot, record, &self.me).filter(fit) {
            Some(source) => {
                let note = format!("copying from {}: {why}", source.id);
                let generation = record.generation;
                let old = self.old(snapshot, record, distrust);
                Decision::want(Goal::Copied { source, generation, making, old }).noting(note)
            }
            None => Decision::want(Goal::Down(Stop::Fast))
                .noting(format!("needs a copy ({why}); waiting for an instance to copy from")),
        }
    }

    fn is_heir(&self, snapshot: &Snapshot, record: &Record) -> bool {
        let drains = || snapshot.present(&record.primary).is_some_and(|primary| primary.drains);
        record.sync.as_ref() == Some(&self.me) && drains()
    }

    fn stand_by(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        upstream: Option<Upstream>,
    ) -> Decision {
        let from = upstream.as_ref().map_or(&record.primary, |upstream| &upstream.id).clone();
        let decision = Decision::want(Goal::Standby(StandbyGoal {
            generation: record.generation,
            upstream,
            heir: self.is_heir(snapshot, record),
            downstreams: downstreams_of(snapshot, record, &self.me),
        }));
        match &self.server.run {
            Run::Standby(view) if view.receiver == Receiver::Streaming => decision,
            Run::Standby(_) => decision.noting(format!("waiting for WAL from {from}")),
            Run::Unknown | Run::Down | Run::Busy(_) | Run::Primary(_) => {
                decision.noting("the server is on its way")
            }
        }
    }
}
