//! Keeps this instance's session in the store alive, and its presence up to date.

use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Event, Presence, Time};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::metrics;
use crate::store::{RenewError, Store};

/// A session is renewed this many times within its time to live, so that two renewals may fail.
const RENEWALS_PER_TTL: u32 = 4;

/// The pause before the store is asked again after it did not answer.
const PAUSE: Duration = Duration::from_millis(100);

/// A session that is kept until [`Keeper::end`].
pub(crate) struct Keeper {
    words: watch::Sender<Option<Presence>>,
    task: JoinHandle<()>,
    store: Arc<dyn Store>,
}

/// Keeps a session of `ttl`; each renewal becomes an event with the time before it was asked for.
pub(crate) fn keep(
    clock: Clock,
    store: Arc<dyn Store>,
    ttl: Duration,
    results: mpsc::Sender<Event>,
) -> Keeper {
    let (words, said) = watch::channel(None);
    let task = tokio::spawn(renew_for_ever(clock, store.clone(), ttl, said, results));
    Keeper { words, task, store }
}

impl Keeper {
    /// Announces `presence` as soon as the store takes it; a newer one replaces it.
    pub(crate) fn say(&self, presence: Presence) {
        self.words.send_replace(Some(presence));
    }

    /// Leaves the session as it is, for the next controller of this instance; renewed once more if
    /// the store does that within `limit`. Returns when that renewal was asked for.
    pub(crate) async fn leave(self, clock: Clock, limit: Duration) -> Option<Time> {
        self.task.abort();
        let begun = clock.now();
        match tokio::time::timeout(limit, self.store.renew()).await {
            Ok(Ok(())) => Some(begun),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the session was not renewed for the next controller");
                None
            }
            Err(_elapsed) => None,
        }
    }

    /// Says the last word and gives the session back; bounded by the store's own time limits.
    pub(crate) async fn end(self) {
        self.task.abort();
        let last = self.words.borrow().clone();
        if let Some(presence) = last
            && let Err(error) = self.store.announce(presence).await
        {
            tracing::warn!(%error, "the last word was not taken by the store");
        }
        if let Err(error) = self.store.resign().await {
            tracing::warn!(%error, "the session was not given back; it lapses by itself");
        }
    }
}

async fn renew_for_ever(
    clock: Clock,
    store: Arc<dyn Store>,
    ttl: Duration,
    mut said: watch::Receiver<Option<Presence>>,
    results: mpsc::Sender<Event>,
) {
    let mut beat = tokio::time::interval(ttl / RENEWALS_PER_TTL);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lapsed = false;
    loop {
        let told = tokio::select! {
            changed = said.changed() => match changed {
                Ok(()) => true,
                Err(_) => return, // The keeper is gone, and with it who would say anything.
            },
            _ = beat.tick() => false,
        };
        // Both may be due: a word is news even if it was the renewal's turn.
        let (presence, news) = {
            let current = said.borrow_and_update();
            (current.clone(), told || current.has_changed())
        };
        let Some(presence) = presence else { continue };
        let begun = clock.now();
        let outcome = if news || lapsed {
            store.announce(presence).await.map_err(RenewError::Store)
        } else {
            store.renew().await
        };
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut lapsed) {
                    tracing::info!("the session is kept again");
                }
                if results.send(Event::Renewed { begun }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if lapsed {
                    tracing::debug!(%error, "the session was not renewed");
                } else {
                    tracing::warn!(%error, "the session was not renewed; it is tried on");
                }
                metrics::renewal_failed();
                // Whatever was not taken is said again.
                lapsed = true;
                beat.reset_after(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use dugong_machine::{Ask, Declaration, Outcome, RequestNumber, ServerState, Snapshot};
    use dugong_topology::{Address, Generation, Revision};
    use futures_util::future::{BoxFuture, FutureExt, ready};

    use super::*;
    use crate::store::{
        AmendError, AskError, ClusterSettings, DeclareError, Edition, HistoryEntry, Reading,
        StoreError,
    };

    /// Takes everything, and remembers what was announced.
    #[derive(Default)]
    struct Patient {
        announced: Mutex<Vec<ServerState>>,
    }

    impl Store for Patient {
        fn declare(&self, _: Declaration) -> BoxFuture<'_, Result<Revision, DeclareError>> {
            ready(Err(DeclareError::Raced)).boxed()
        }

        fn announce(&self, presence: Presence) -> BoxFuture<'_, Result<(), StoreError>> {
            self.announced.lock().unwrap().push(presence.server);
            ready(Ok(())).boxed()
        }

        fn renew(&self) -> BoxFuture<'_, Result<(), RenewError>> {
            ready(Ok(())).boxed()
        }

        fn resign(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            ready(Ok(())).boxed()
        }

        fn ask(&self, _: String, _: Ask) -> BoxFuture<'_, Result<RequestNumber, AskError>> {
            ready(Ok(RequestNumber(1))).boxed()
        }

        fn answer(&self, _: RequestNumber, _: Outcome) -> BoxFuture<'_, Result<(), StoreError>> {
            ready(Ok(())).boxed()
        }

        fn read(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
            ready(Ok(Snapshot::default())).boxed()
        }

        fn watch(&self) -> watch::Receiver<Reading> {
            watch::channel(Reading::Pending).1
        }

        fn history(&self, _: u32) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
            ready(Ok(Vec::new())).boxed()
        }

        fn settings(&self) -> BoxFuture<'_, Result<Edition, StoreError>> {
            ready(Ok(Edition::default())).boxed()
        }

        fn amend(
            &self,
            _: ClusterSettings,
            _: Revision,
        ) -> BoxFuture<'_, Result<Revision, AmendError>> {
            ready(Err(AmendError::Raced)).boxed()
        }

        fn watch_settings(&self) -> watch::Receiver<Option<Arc<Edition>>> {
            watch::channel(None).1
        }
    }

    fn word(server: ServerState) -> Presence {
        Presence {
            id: "pg-1".parse().unwrap(),
            postgres: Address::loopback(5000),
            http: Address::loopback(6000),
            server,
            system_identifier: None,
            seen: Generation(1),
            open: None,
            position: None,
            history: None,
            upstream: None,
            lag: None,
            making: None,
            drains: false,
            hands_over: None,
            note: None,
        }
    }

    /// A word that comes just when the session is due for renewal used to be taken for old.
    #[tokio::test(start_paused = true)]
    async fn a_word_is_announced_even_if_a_renewal_is_due_at_that_moment() {
        for round in 0..50 {
            let store = Arc::new(Patient::default());
            let (results, mut renewed) = mpsc::channel(64);
            let keeper = keep(Clock, store.clone(), Duration::from_secs(3), results);
            // The first renewal is due at once, and so is this.
            keeper.say(word(ServerState::Starting));
            renewed.recv().await.unwrap();
            renewed.recv().await.unwrap();
            let announced = store.announced.lock().unwrap().clone();
            assert_eq!(announced, [ServerState::Starting], "round {round}");
        }
    }
}
