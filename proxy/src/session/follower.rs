//! Follows the server of one session, and enters its cancel key where cancel requests look for it.

use std::sync::Arc;

use crate::cancel::{Cancels, Registered};
use crate::relay::Observer;
use crate::replicas::Claim;
use crate::route::Target;
use crate::session::tracker::Tracker;

/// What the proxy knows of one session's server by listening to it.
///
/// Dropping it forgets the cancel key, and takes the client off what a standby has to do.
#[derive(Debug)]
pub struct Follower {
    tracker: Tracker,
    target: Arc<Target>,
    cancels: Arc<Cancels>,
    registered: Option<Registered>,
    claim: Option<Claim>,
}

impl Follower {
    /// One for a server that has said nothing yet.
    pub fn new(target: Arc<Target>, cancels: Arc<Cancels>) -> Self {
        Self { tracker: Tracker::default(), target, cancels, registered: None, claim: None }
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
}

impl Observer for Follower {
    fn asked(&mut self, bytes: &[u8]) {
        if let Some(claim) = &mut self.claim {
            claim.asked(bytes);
        }
    }

    /// Before the client sees the bytes: a key that it has is a key that is known.
    fn arrived(&mut self, bytes: &[u8]) {
        self.tracker.arrived(bytes);
        let answers = self.tracker.take_readies();
        if let Some(claim) = &mut self.claim {
            claim.answered(answers);
        }
        if let Some(key) = self.tracker.take_key() {
            self.registered = Some(self.cancels.register(key, self.target.address.clone()));
        }
    }
}
