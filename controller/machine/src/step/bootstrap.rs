//! From no state record to generation 1.

use dugong_topology::Generation;

use crate::action::{Declaration, Guard};
use crate::presence::{Presence, ServerState};
use crate::record::{Reason, Record};
use crate::server::{Goal, Identity, Run, Stop};
use crate::snapshot::Snapshot;
use crate::state::{Bootstrap, State};

use super::Decision;

impl State {
    /// The lexically first of enough present instances makes the cluster; the others wait for it.
    pub(super) fn decide_bootstrap(&self, snapshot: &Snapshot) -> Decision {
        let down = || Decision::want(Goal::Down(Stop::Immediate));
        let identity = self.server.identity();
        if let Some(identity) = identity.filter(|own| own.generation > Generation::default()) {
            // R10: data that has served never begins another cluster by itself.
            return Decision::keep(
                self,
                format!(
                    "the store has no state record, but this instance has served generation {}: \
                     the store was lost; restore it, or move the data directory away to begin anew",
                    identity.generation
                ),
            );
        }
        let present: Vec<&Presence> = snapshot.all_present().filter(|p| has_no_part(p)).collect();
        let needed = match self.settings.bootstrap {
            Bootstrap::Of(size) => size,
            Bootstrap::OneNode => 1,
        };
        if present.len() < needed {
            let count = present.len();
            return down().noting(format!("waiting for {needed} instances, {count} present"));
        }
        if present.first().is_none_or(|first| first.id != self.me) {
            return down().noting("waiting for the first instance to begin the cluster");
        }
        let initialise = Decision::want(Goal::Initialised);
        match identity {
            Some(identity) if self.server.run == Run::Down => {
                let next = self.first_record(identity, &present);
                let free = self.declaring.is_none() && self.raced_at.is_none();
                let declaration = Declaration { next, at: None, guard: Guard::None, fulfils: None };
                initialise.declaring(free.then_some(declaration))
            }
            Some(_) | None => initialise.noting("initialising the cluster"),
        }
    }

    /// Generation 1: the first instance is primary, the next its sync, the others follow.
    fn first_record(&self, identity: &Identity, present: &[&Presence]) -> Record {
        let one_node = self.settings.bootstrap == Bootstrap::OneNode;
        // In one-node mode the others join once they replicate.
        let mut others =
            present.iter().map(|p| p.id.clone()).filter(|id| !one_node && *id != self.me);
        Record {
            cluster: self.cluster.clone(),
            system_identifier: identity.system_identifier,
            generation: Generation(1),
            primary: self.me.clone(),
            sync: others.next(),
            asyncs: others.collect(),
            deposed: Vec::new(),
            began_at: identity.made_at,
            timeline: identity.made_at.timeline,
            frozen: None,
            one_node,
            reason: Reason::Bootstrap,
        }
    }
}

/// Whether an instance is free for a new cluster: it has looked at its data and found nothing that
/// belongs to another one.
fn has_no_part(presence: &Presence) -> bool {
    match presence.server {
        ServerState::Stopped | ServerState::Copying => true,
        ServerState::Starting
        | ServerState::Standby
        | ServerState::Ready
        | ServerState::Primary => false,
    }
}
