//! Being a standby: replicating from the left neighbour, or being copied from it.
//!
//! The same for a sync, an async, a newcomer and a deposed instance: what differs is who the left
//! neighbour is, and whether the data may be trusted (R7).

use dugong_topology::Generation;

use crate::chain::{downstreams_of, is_in_office, is_running, upstream_of};
use crate::presence::ServerState;
use crate::record::Record;
use crate::server::{Goal, Identity, Receiver, Run, StandbyGoal, Stop, Upstream};
use crate::snapshot::Snapshot;
use crate::state::State;

use super::Decision;

impl State {
    pub(super) fn follow(&self, snapshot: &Snapshot, record: &Record) -> Decision {
        if let Run::Primary(_) = &self.server.run {
            // R7: from this instant it serves no writes; killed, not released (R9).
            return Decision::want(Goal::Down(Stop::Immediate))
                .noting(format!("fenced: {} is primary now", record.primary));
        }
        let upstream = upstream_of(snapshot, record, &self.me);
        match self.server.identity() {
            None => self.copy(snapshot, record, upstream, 1, "it has no data yet"),
            Some(identity) => match self.distrusts(snapshot, record, identity) {
                Some(why) => self.copy(snapshot, record, upstream, identity.making + 1, why),
                None => self.stand_by(snapshot, record, upstream),
            },
        }
    }

    /// Why the data here cannot be followed up on, in words; none where it can.
    fn distrusts(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        identity: &Identity,
    ) -> Option<&'static str> {
        if identity.generation == Generation::default()
            && identity.system_identifier != record.system_identifier
        {
            return Some("its data was initialised for a cluster that was never declared");
        }
        if record.deposed_since(&self.me).is_some_and(|since| identity.made_in < since) {
            return Some("it was deposed, and its WAL may have forked");
        }
        // Without a primary the sync's data may be all that there is: it is kept, and R3 (c) judges.
        let judged = is_in_office(snapshot, record) || record.sync.as_ref() != Some(&self.me);
        if self.forked_making == Some(identity.making) && judged {
            return Some("its WAL has forked from the primary's");
        }
        let stuck = self.stuck_making == Some(identity.making);
        (stuck && is_in_office(snapshot, record)).then_some("it cannot stream from what it has")
    }

    fn copy(
        &self,
        snapshot: &Snapshot,
        record: &Record,
        upstream: Option<Upstream>,
        making: u32,
        why: &str,
    ) -> Decision {
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
        if let Some(Goal::Copied { source, making: current, .. }) = &self.goal
            && *current == making
            && is_running(snapshot, &source.id)
        {
            return Decision::keep(self, format!("copying from {}: {why}", source.id));
        }
        match upstream.filter(fit) {
            Some(source) => {
                let note = format!("copying from {}: {why}", source.id);
                let generation = record.generation;
                Decision::want(Goal::Copied { source, generation, making }).noting(note)
            }
            None => Decision::want(Goal::Down(Stop::Fast))
                .noting(format!("needs a copy ({why}); waiting for an instance to copy from")),
        }
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
