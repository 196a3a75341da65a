//! The only place where the state machine meets the world: waits, steps, starts what was asked.
//!
//! One task owns the [`State`], so there is no lock. Actions are started here and never awaited:
//! what became of one comes back as an event, in order with everything else that happened.

use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Action, Answer, Declaration, Event, Goal, Presence, State, Time, step};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::metrics;
use crate::postgres::Seen;
use crate::session;
use crate::store::{DeclareError, Reading, Store};

/// How often time alone is an event: the finest span that the protocol measures is ten times this.
const TICK: Duration = Duration::from_millis(50);

/// What the driver is connected to.
pub struct Wiring {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    /// What the server shall be; its owner compares it with what is there.
    pub goal: watch::Sender<Option<Goal>>,
    pub seen: mpsc::Receiver<Seen>,
    /// Until when the server may live: see [`State::may_serve_until`].
    pub lease: watch::Sender<Option<Time>>,
    /// What the controller knows, for its HTTP side.
    pub local: watch::Sender<Local>,
    /// True once the operator wants this instance to end.
    pub leave: watch::Receiver<bool>,
}

/// What this controller knows of itself, whether or not the store answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    pub presence: Option<Presence>,
    /// Why the store cannot be read, while it cannot.
    pub store_trouble: Option<String>,
    /// When the machine last took a step: what tells a live controller from a hung one.
    pub stepped_at: Time,
}

/// Runs one instance until it has left.
pub async fn run(mut state: State, mut wiring: Wiring) {
    let (results, mut outcomes) = mpsc::channel(64);
    let session = session::keep(
        wiring.clock,
        wiring.store.clone(),
        state.settings.session_ttl,
        results.clone(),
    );
    let mut readings = wiring.store.watch();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);

    loop {
        let event = tokio::select! {
            // Every branch is a receive, which loses nothing when another one wins.
            Some(event) = outcomes.recv() => event,
            Ok(()) = readings.changed() => match as_event(&readings.borrow_and_update()) {
                Some(event) => event,
                None => continue,
            },
            Some(seen) = wiring.seen.recv() => match seen {
                Seen::Observed(server) => Event::Observed(server),
                Seen::LinkConfirmed { begun } => Event::LinkConfirmed { begun },
            },
            Ok(()) = wiring.leave.changed() => Event::Leave,
            _ = ticks.tick() => Event::Tick,
        };
        let now = wiring.clock.now();
        let (next, actions) = step(&state, now, event);
        tell_changes(&state, &next);
        state = next;
        for action in actions {
            match action {
                Action::Announce(presence) => session.say(presence),
                Action::Want(goal) => {
                    tracing::info!("want the server {goal}");
                    wiring.goal.send_replace(Some(goal));
                }
                Action::Declare(declaration) => {
                    tracing::info!("declare {declaration}");
                    let store = wiring.store.clone();
                    // Its answer is an event; the machine asks again for one that does not come.
                    tokio::spawn(declare(store, declaration, results.clone()));
                }
                Action::Answer { request, outcome } => {
                    tracing::info!("request {request}: {outcome:?}");
                    let store = wiring.store.clone();
                    // The machine asks again until the store shows the outcome.
                    tokio::spawn(async move {
                        if let Err(error) = store.answer(request, outcome).await {
                            tracing::warn!(%error, "the store did not take an outcome");
                        }
                    });
                }
                Action::Finish => {
                    session.end().await;
                    return;
                }
            }
        }
        let until = state.may_serve_until();
        wiring.lease.send_if_modified(|lease| std::mem::replace(lease, until) != until);
        metrics::show(&state);
        wiring.local.send_if_modified(|local| show(local, &state, now));
    }
}

/// One compare-and-swap; its answer is an event.
async fn declare(store: Arc<dyn Store>, declaration: Declaration, results: mpsc::Sender<Event>) {
    let replaced = declaration.at;
    let answer = match store.declare(declaration).await {
        Ok(at) => Answer::Won { at },
        Err(DeclareError::Raced) => Answer::Raced,
        Err(DeclareError::Guarded) => Answer::Guarded,
        Err(DeclareError::Store(error)) => {
            tracing::warn!(%error, "the store did not answer a declaration");
            Answer::Unknown
        }
    };
    tracing::info!("declared: {answer:?}");
    metrics::declared(answer);
    // A closed channel means that the driver has ended: nobody waits for the answer.
    let _ = results.send(Event::DeclareAnswered { at: replaced, answer }).await;
}

fn as_event(reading: &Reading) -> Option<Event> {
    match reading {
        Reading::Pending => None,
        Reading::Whole(snapshot) => Some(Event::Snapshot(snapshot.clone())),
        Reading::Failed(error) => Some(Event::StoreFailed { why: error.to_string() }),
    }
}

fn show(local: &mut Local, state: &State, now: Time) -> bool {
    let presence = state.said.as_ref().map(|(presence, _)| presence.clone());
    let changed = presence != local.presence || state.store_trouble != local.store_trouble;
    *local = Local { presence, store_trouble: state.store_trouble.clone(), stepped_at: now };
    changed
}

/// One line in the log for whatever an operator would want to have read afterwards.
fn tell_changes(before: &State, after: &State) {
    let role = |state: &State| {
        let record = state.snapshot.as_ref().and_then(|snapshot| snapshot.record());
        record.map(|record| (record.generation, record.role_of(&state.me)))
    };
    if role(before) != role(after) {
        match role(after) {
            Some((generation, Some(role))) => tracing::info!("{role} in g{generation}"),
            Some((generation, None)) => tracing::info!("no part in g{generation}"),
            None => (),
        }
    }
    if std::mem::discriminant(&before.server.run) != std::mem::discriminant(&after.server.run) {
        tracing::info!("the server is {}", after.server.run);
    }
    if before.server.trouble != after.server.trouble
        && let Some(trouble) = &after.server.trouble
    {
        tracing::warn!("{trouble}");
    }
    if before.store_trouble != after.store_trouble {
        match &after.store_trouble {
            Some(trouble) => tracing::warn!("the store cannot be read: {trouble}"),
            None => tracing::info!("the store can be read again"),
        }
    }
}
