//! Follows the server of one session, and enters its cancel key where cancel requests look for it.

use std::sync::Arc;

use crate::cancel::{Cancels, Registered};
use crate::relay::Observer;
use crate::replicas::Claim;
use crate::route::Target;
use crate::session::questions::Questions;
use crate::session::tracker::Tracker;

/// What the proxy knows of one session's server by listening to it.
///
/// Dropping it forgets the cancel key, and takes the client off what a standby has to do.
#[derive(Debug)]
pub struct Follower {
    tracker: Tracker,
    questions: Questions,
    target: Arc<Target>,
    cancels: Arc<Cancels>,
    registered: Option<Registered>,
    claim: Option<Claim>,
}

impl Follower {
    /// One for a server that has said nothing yet.
    pub fn new(target: Arc<Target>, cancels: Arc<Cancels>) -> Self {
        let (tracker, questions) = (Tracker::default(), Questions::default());
        Self { tracker, questions, target, cancels, registered: None, claim: None }
    }

    /// One of a client that has its part in what a standby has to do.
    #[must_use]
    pub fn with_claim(self, claim: Option<Claim>) -> Self {
        Self { claim, ..self }
    }

    /// What was heard.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether the client is between two transactions: everything that it asked for is answered, and
    /// nothing that was begun is open. Who ends the session now takes nothing from it.
    pub fn is_between_transactions(&self) -> bool {
        self.tracker.is_outside_transaction() && self.questions.are_settled()
    }

    /// Whether the client waits is part of what a standby has to do.
    fn note(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.note(self.questions.are_open());
        }
    }
}

impl Observer for Follower {
    fn asked(&mut self, bytes: &[u8]) {
        self.questions.asked(bytes);
        self.note();
    }

    /// Before the client sees the bytes: a key that it has is a key that is known.
    fn arrived(&mut self, bytes: &[u8]) {
        self.tracker.arrived(bytes);
        let answers = self.tracker.take_readies();
        if answers > 0 {
            self.questions.answered(answers);
            self.note();
        }
        if let Some(key) = self.tracker.take_key() {
            self.registered = Some(self.cancels.register(key, self.target.address.clone()));
        }
    }

    /// And waits for nothing.
    fn has_heard_farewell(&self) -> bool {
        self.questions.are_over()
    }
}
