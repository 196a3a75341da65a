//! The store: its contract and nothing more, with a clock of its own.
//!
//! What the contract asks of a backend is all here: a declaration is one transaction with its
//! guard; the words of one session take effect in the order in which they were said; a controller that has
//! a successor declares nothing.

use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{
    Answer, Ask, Declaration, Declared, Instance, Outcome, Presence, Record, Request,
    RequestNumber, Session, Snapshot,
};
use dugong_topology::{Freeze, InstanceId, Revision};

use crate::contract::{self, Guarded};
use crate::moment::Moment;

/// What an instance asks on its session.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    Announce(Box<Presence>),
    Renew,
    /// The last word of an instance that ends in order.
    Resign,
}

#[derive(Debug)]
pub(crate) struct Store {
    pub snapshot: Arc<Snapshot>,
    pub down_until: Moment,
    ttl: Duration,
    sessions: Vec<Lease>,
    /// The number of the last request.
    asked: RequestNumber,
}

#[derive(Clone, Debug, Default)]
struct Lease {
    /// None: no session.
    until: Option<Moment>,
    /// The number of the last word that was taken.
    last: u64,
    /// Of the newest controller that said one.
    epoch: u32,
}

impl Store {
    pub(crate) fn new(size: usize, ttl: Duration) -> Self {
        let sessions = vec![Lease::default(); size];
        let asked = RequestNumber::default();
        Self { snapshot: Arc::default(), down_until: Moment::default(), ttl, sessions, asked }
    }

    fn edit(&mut self) -> &mut Snapshot {
        let snapshot = Arc::make_mut(&mut self.snapshot);
        snapshot.revision = Revision(snapshot.revision.0 + 1);
        snapshot
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.snapshot.record()
    }

    /// Whether a later controller of this instance has said a word.
    pub(crate) fn has_heard_of_a_successor(&self, node: usize, epoch: u32) -> bool {
        epoch < self.sessions[node].epoch
    }

    /// Takes a word; false: there is no session that it could be about.
    pub(crate) fn take(
        &mut self,
        now: Moment,
        node: usize,
        id: &InstanceId,
        (epoch, number): (u32, u64),
        word: Word,
    ) -> bool {
        let lease = &mut self.sessions[node];
        lease.epoch = lease.epoch.max(epoch);
        if number <= lease.last {
            return false; // A later one was taken: this one was given up by whoever said it.
        }
        lease.last = number;
        match word {
            Word::Announce(presence) => {
                lease.until = Some(now.after(self.ttl));
                let instance = Instance { presence: *presence, session: Session::Alive };
                if self.snapshot.instances.get(id) != Some(&instance) {
                    self.edit().instances.insert(id.clone(), instance);
                }
                true
            }
            Word::Renew => {
                let alive = lease.until.is_some();
                if alive {
                    lease.until = Some(now.after(self.ttl));
                }
                alive
            }
            Word::Resign => {
                lease.until = None;
                self.end_session(id);
                true
            }
        }
    }

    /// Ends the sessions that were not renewed in time; whether there were any.
    pub(crate) fn lapse(&mut self, now: Moment, ids: &[InstanceId]) -> bool {
        let before = self.snapshot.revision;
        for (node, id) in ids.iter().enumerate() {
            if self.sessions[node].until.is_some_and(|until| until <= now) {
                self.sessions[node].until = None;
                self.end_session(id);
            }
        }
        self.snapshot.revision != before
    }

    fn end_session(&mut self, id: &InstanceId) {
        if let Some(instance) = self.edit().instances.get_mut(id) {
            instance.session = Session::Lapsed;
        }
    }

    /// One compare-and-swap.
    pub(crate) fn declare(&mut self, declaration: &Declaration, guarded: Guarded) -> Answer {
        if let Some(refusal) = contract::refusal(&self.snapshot, declaration, guarded) {
            return refusal;
        }
        if let Some(request) = declaration.fulfils {
            self.answer(request, Outcome::Done);
        }
        Answer::Won { at: self.write(declaration.next.clone()) }
    }

    /// An operator asks; one request at a time.
    pub(crate) fn ask(&mut self, what: Ask) {
        if !self.snapshot.requests.is_empty() {
            return;
        }
        self.asked = RequestNumber(self.asked.0 + 1);
        let (number, by) = (self.asked, "a fault".to_owned());
        let request = Request { number, by, asked_unix_ms: 0, what };
        self.edit().requests.insert(number, request);
    }

    /// The first outcome stays.
    pub(crate) fn answer(&mut self, request: RequestNumber, outcome: Outcome) {
        if self.snapshot.requests.contains_key(&request) {
            contract::answer(self.edit(), request, outcome);
        }
    }

    /// The operator's word; none: transitions are free again.
    pub(crate) fn freeze(&mut self, frozen: Option<Freeze>) {
        if let Some(record) = self.record() {
            let next = record.with_freeze(frozen);
            self.write(next);
        }
    }

    fn write(&mut self, record: Record) -> Revision {
        let snapshot = self.edit();
        let revision = snapshot.revision;
        snapshot.declared = Some(Declared { record, revision, since_unix_ms: 0 });
        revision
    }
}
