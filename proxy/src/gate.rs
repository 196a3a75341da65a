//! Held clients: how many may wait, for how long each did, and how many go on at once.
//!
//! **Invariant:** never more than `max_held` clients wait; the next one is refused at once. A place
//! is free again as soon as its [`Held`] is dropped, whichever way the wait ended.
//!
//! **Invariant:** never more than [`TURNS`] clients are on their way to the primary: when a cluster
//! opens again, thousands are let go at the same moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use crate::error::SessionError;
use crate::listener::Listener;
use crate::metrics::{Gauges, HeldGuard};

/// Clients that connect to the primary at the same time, until it has said its first word.
///
/// Its system keeps so many connections that it has not accepted yet, and drops the rest, who are heard
/// a second later: twice its `max_connections`, which is 100 by default.
///
/// Source: PostgreSQL's `StreamServerPort`.
const TURNS: usize = 128;

/// The places for clients that wait, and the turns of those who go on.
pub struct Gate {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
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
        let places = Arc::new(Semaphore::new(places));
        Self { places, turns: Arc::new(Semaphore::new(TURNS)), max_held, gauges }
    }

    /// Waits for a turn to connect to the primary; others have theirs when it is dropped.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("nobody closes it")
    }

    /// Takes a turn, where one is free and nobody waits for it.
    pub(crate) fn free_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).try_acquire_owned().ok()
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
    deadline: Instant,
}

impl Budget {
    /// A budget that has run since then.
    pub fn since(began: Instant, limit: Duration) -> Self {
        Self { deadline: began + limit }
    }

    /// Whether nothing is left.
    pub fn is_spent(self) -> bool {
        Instant::now() >= self.deadline
    }

    /// When nothing will be left.
    pub fn deadline(self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

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

    #[tokio::test]
    async fn who_has_no_turn_waits_for_one() {
        let gate = Gate::new(1, Arc::default());
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(gate.turn().await);
        }
        let at_once = || unconstrained(gate.turn()).now_or_never();
        assert!(at_once().is_none());
        turns.pop();
        assert!(at_once().is_some());
    }
}
