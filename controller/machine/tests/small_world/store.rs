//! A toy store: what the contract says, in memory.

use std::collections::BTreeMap;

use dugong_machine::{
    Answer, Ask, Declaration, Declared, Guard, Instance, Outcome, Presence, Request, RequestNumber,
    ServerState, Session, Snapshot,
};
use dugong_topology::{InstanceId, Revision};

/// Milliseconds after which a session lapses.
const TTL: u64 = 3_000;

#[derive(Default)]
pub(crate) struct ToyStore {
    pub(crate) snapshot: Snapshot,
    expiries: BTreeMap<InstanceId, u64>,
    pub(crate) asked: u64,
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

    pub(crate) fn ask(&mut self, what: Ask) {
        self.asked += 1;
        let number = RequestNumber(self.asked);
        let request = Request { number, by: "ann".to_owned(), asked_unix_ms: 0, what };
        self.snapshot.requests.insert(number, request);
        self.bump();
    }

    /// The first outcome stays.
    pub(crate) fn answer(&mut self, request: RequestNumber, outcome: Outcome) {
        if self.snapshot.requests.remove(&request).is_some() {
            self.snapshot.outcomes.insert(request, outcome);
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
        if let Guard::HandedOver { by, request } = &declaration.guard {
            let word = self.snapshot.present(by).and_then(|presence| presence.hands_over);
            if word.is_none_or(|word| word.request != *request) {
                return Answer::Guarded;
            }
        }
        if let Some(request) = declaration.fulfils {
            if !self.snapshot.requests.contains_key(&request) {
                return Answer::Guarded;
            }
            self.answer(request, Outcome::Done);
        }
        let revision = self.bump();
        let record = declaration.next;
        self.snapshot.declared = Some(Declared { record, revision, since_unix_ms: now });
        Answer::Won { at: revision }
    }
}
