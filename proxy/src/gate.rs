//! Held clients: how many may wait, and for how long each did.
//!
//! **Invariant:** never more than `max_held` clients wait; the next one is refused at once. A place
//! is free again as soon as its [`Held`] is dropped, whichever way the wait ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

use crate::error::SessionError;
use crate::listener::Listener;
use crate::metrics::{Gauges, HeldGuard};

/// The places for clients that wait.
pub struct Gate {
    places: Arc<Semaphore>,
    max_held: u32,
    gauges: Arc<Gauges>,
}

/// One client's place; dropping it records how long the client waited.
pub struct Held {
    _place: OwnedSemaphorePermit,
    _gauge: HeldGuard,
}

impl Gate {
    /// A gate before which at most `max_held` clients wait.
    pub fn new(max_held: u32, gauges: Arc<Gauges>) -> Self {
        let places = usize::try_from(max_held).unwrap_or(usize::MAX);
        let places = places.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), max_held, gauges }
    }

    /// Takes a place.
    ///
    /// # Errors
    ///
    /// [`SessionError::HeldFull`] where there is none.
    pub fn hold(&self, listener: Listener) -> Result<Held, SessionError> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Held { _place: place, _gauge: self.gauges.held(listener) }),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                Err(SessionError::HeldFull { max_held: self.max_held })
            }
        }
    }
}

/// How long one client may wait in all, however often what it waits for comes and goes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    began: Instant,
    deadline: Instant,
}

impl Budget {
    /// A budget that runs from now on.
    pub fn new(limit: Duration) -> Self {
        let began = Instant::now();
        Self { began, deadline: began + limit }
    }

    /// Whether nothing is left.
    pub fn is_spent(self) -> bool {
        Instant::now() >= self.deadline
    }

    /// When nothing will be left.
    pub fn deadline(self) -> Instant {
        self.deadline
    }

    /// How long this client has waited.
    pub fn waited(self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_client_leaves() {
        let gauges = Arc::<Gauges>::default();
        let gate = Gate::new(2, Arc::clone(&gauges));
        let first = gate.hold(Listener::Write).unwrap();
        let _second = gate.hold(Listener::Read).unwrap();
        assert!(matches!(gate.hold(Listener::Write), Err(SessionError::HeldFull { max_held: 2 })));
        assert_eq!(gauges.held_now(Listener::Write), 1);
        drop(first);
        assert_eq!(gauges.held_now(Listener::Write), 0);
        assert!(gate.hold(Listener::Write).is_ok());
    }
}
