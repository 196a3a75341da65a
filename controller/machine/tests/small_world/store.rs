//! A toy store: what the contract says, in memory.

use std::collections::BTreeMap;

use dugong_machine::{
    Answer, Declaration, Declared, Guard, Instance, Presence, ServerState, Session, Snapshot,
};
use dugong_topology::{InstanceId, Revision};

/// Milliseconds after which a session lapses.
const TTL: u64 = 3_000;

#[derive(Default)]
pub(crate) struct ToyStore {
    pub(crate) snapshot: Snapshot,
    expiries: BTreeMap<InstanceId, u64>,
}

impl ToyStore {
    fn bump(&mut self) -> Revision {
        self.snapshot.revision = Revision(self.snapshot.revision.0 + 1);
        self.snapshot.revision
    }

    pub(crate) fn announce(&mut self, presence: Presence, now: u64) {
        self.expiries.insert(presence.id.clone(), now + TTL);
        let id = presence.id.clone();
        self.snapshot.instances.insert(id, Instance { presence, session: Session::Alive });
        self.bump();
    }

    pub(crate) fn renew(&mut self, id: &InstanceId, now: u64) {
        self.expiries.insert(id.clone(), now + TTL);
        if let Some(instance) = self.snapshot.instances.get_mut(id)
            && instance.session == Session::Lapsed
        {
            instance.session = Session::Alive;
            self.bump();
        }
    }

    pub(crate) fn lapse(&mut self, now: u64) {
        let over: Vec<_> =
            self.expiries.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.expiries.remove(&id);
            self.snapshot.instances.get_mut(&id).unwrap().session = Session::Lapsed;
            self.bump();
        }
    }

    pub(crate) fn declare(&mut self, declaration: Declaration, now: u64) -> Answer {
        let at = self.snapshot.declared.as_ref().map(|declared| declared.revision);
        if at != declaration.at {
            return Answer::Raced;
        }
        if let Guard::AbsentOrStopped(id) = &declaration.guard
            && let Some(presence) = self.snapshot.present(id)
            && presence.server != ServerState::Stopped
        {
            return Answer::Guarded;
        }
        let revision = self.bump();
        let record = declaration.next;
        self.snapshot.declared = Some(Declared { record, revision, since_unix_ms: now });
        Answer::Won { at: revision }
    }
}
