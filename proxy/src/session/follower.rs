//! Follows the server of one session, and enters its cancel key where cancel requests look for it.

use std::sync::Arc;

use crate::cancel::{Cancels, Registered};
use crate::relay::Observer;
use crate::route::Target;
use crate::session::tracker::Tracker;

/// What the proxy knows of one session's server by listening to it.
///
/// Dropping it forgets the cancel key.
#[derive(Debug)]
pub struct Follower {
    tracker: Tracker,
    target: Arc<Target>,
    cancels: Arc<Cancels>,
    registered: Option<Registered>,
}

impl Follower {
    /// One for a server that has said nothing yet.
    pub fn new(target: Arc<Target>, cancels: Arc<Cancels>) -> Self {
        Self { tracker: Tracker::default(), target, cancels, registered: None }
    }

    /// What was heard.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }
}

impl Observer for Follower {
    /// Before the client sees the bytes: a key that it has is a key that is known.
    fn arrived(&mut self, bytes: &[u8]) {
        self.tracker.arrived(bytes);
        if let Some(key) = self.tracker.take_key() {
            self.registered = Some(self.cancels.register(key, self.target.address.clone()));
        }
    }
}
