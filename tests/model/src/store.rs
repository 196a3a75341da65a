//! The store's contract, and nothing more.
//!
//! Its revision counts the changes of the state record alone: in which order instances said what
//! they said makes no state of its own.

use std::sync::Arc;

use dugong_machine::{
    Answer, Ask, Declaration, Declared, Instance, Outcome, Presence, Record, Request,
    RequestNumber, Session, Snapshot,
};
use dugong_simulator::contract::{self, Guarded};
use dugong_topology::{InstanceId, Revision};

/// Seconds that a session lives without a renewal.
pub(crate) const SESSION_TTL: u32 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Until when each session lives; none: there is none.
    pub(crate) until: Vec<Option<u32>>,
    /// The newest controller of each instance that said a word.
    heard_of: Vec<u8>,
}

impl Store {
    pub(crate) fn new(size: usize) -> Self {
        Self { snapshot: Arc::default(), until: vec![None; size], heard_of: vec![0; size] }
    }

    fn edit(&mut self) -> &mut Snapshot {
        Arc::make_mut(&mut self.snapshot)
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.snapshot.record()
    }

    pub(crate) fn announce(&mut self, now: u32, node: usize, epoch: u8, presence: Presence) {
        self.until[node] = Some(now + SESSION_TTL);
        self.heard_of[node] = self.heard_of[node].max(epoch);
        let id = presence.id.clone();
        let instance = Instance { presence, session: Session::Alive };
        if self.snapshot.instances.get(&id) != Some(&instance) {
            self.edit().instances.insert(id, instance);
        }
    }

    /// Whether there is a session to renew.
    pub(crate) fn renew(&mut self, now: u32, node: usize) -> bool {
        let session = &mut self.until[node];
        *session = session.map(|_| now + SESSION_TTL);
        session.is_some()
    }

    pub(crate) fn lapse(&mut self, now: u32, ids: &[InstanceId]) {
        for (node, id) in ids.iter().enumerate() {
            if self.until[node].is_some_and(|until| until <= now) {
                self.until[node] = None;
                if let Some(instance) = self.edit().instances.get_mut(id) {
                    instance.session = Session::Lapsed;
                }
            }
        }
    }

    /// One compare-and-swap; none where a later controller of the instance has said a word.
    pub(crate) fn declare(
        &mut self,
        node: usize,
        epoch: u8,
        declaration: &Declaration,
        guarded: Guarded,
    ) -> Option<Answer> {
        if epoch < self.heard_of[node] {
            return None;
        }
        let refusal = contract::refusal(&self.snapshot, declaration, guarded);
        if refusal.is_some() {
            return refusal;
        }
        if let Some(request) = declaration.fulfils {
            self.answer(request, Outcome::Done);
        }
        let snapshot = self.edit();
        let revision = Revision(snapshot.revision.0 + 1);
        snapshot.revision = revision;
        let record = declaration.next.clone();
        snapshot.declared = Some(Declared { record, revision, since_unix_ms: 0 });
        Some(Answer::Won { at: revision })
    }

    pub(crate) fn ask(&mut self, what: Ask) {
        let number = RequestNumber(1);
        let request = Request { number, by: "the model".to_owned(), asked_unix_ms: 0, what };
        self.edit().requests.insert(number, request);
    }

    /// The first outcome stays.
    pub(crate) fn answer(&mut self, request: RequestNumber, outcome: Outcome) {
        contract::answer(self.edit(), request, outcome);
    }
}
