//! The only place where the state machine meets the world: waits, steps, starts what was asked.
//!
//! One task owns the [`State`], so there is no lock. Actions are started here and never awaited:
//! what became of one comes back as an event, in order with everything else that happened.
//!
//! A controller may leave its running server to the next one ([`Order::Restart`]): the office goes
//! on, so that the new controller says and wants nothing before it knows as much as the old one.
//!
//! **Invariant:** the lease that the server lives by is named after each step, by the same numbers
//! that the machine itself fences by.

use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{
    Action, Answer, Declaration, Event, Goal, Leases, Neighbours, Office, Presence, Run, Server,
    State, Time, step,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Interval;

use crate::clock::Clock;
use crate::metrics;
use crate::postgres::{Mandate, Seen};
use crate::session;
use crate::store::{DeclareError, Reading, Store};

/// How often time alone is an event: the finest span that the protocol measures is ten times this.
const TICK: Duration = Duration::from_millis(50);

/// How long the last renewal of the session may take before the server is left as it is.
const LAST_RENEWAL: Duration = Duration::from_millis(500);

/// How long a controller that has taken a server over waits for its first looks at the server and
/// the store, before it goes on like one that knows nothing. The server lives by its lease anyway.
const FIRST_LOOKS: Duration = Duration::from_secs(5);

/// What the operator wants of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    GoOn,
    /// End, but leave the server running for the next controller.
    Restart,
    /// Stop the server, and end.
    Leave,
}

/// How a driver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server is stopped, and the session given back.
    Left,
    /// The server is being left to the next controller, with the session.
    Restarting,
}

/// What the driver is connected to.
pub struct Wiring {
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    /// What the server shall be; its owner compares it with what is there.
    pub goal: watch::Sender<Option<Goal>>,
    /// Until when the server may be a primary: see [`Supervised`](crate::postgres::Supervised).
    pub lease: watch::Sender<Time>,
    /// Who stands beside this instance, for whoever looks after the server.
    pub neighbours: watch::Sender<Neighbours>,
    pub leave_running: oneshot::Sender<Mandate>,
    /// What the controller before this one knew, where it has left its server.
    pub inherited: Option<Mandate>,
    pub seen: mpsc::Receiver<Seen>,
    /// What the controller knows, for its HTTP side.
    pub local: watch::Sender<Local>,
    pub orders: watch::Receiver<Order>,
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

/// Runs one instance until it has left, or its server is left to the next controller.
pub async fn run(mut state: State, mut wiring: Wiring) -> End {
    let mut readings = wiring.store.watch();
    let mut first = None;
    if let Some(mandate) = wiring.inherited {
        first = take_over(&mut state, mandate, &mut wiring, &mut readings).await;
    }
    let (results, mut outcomes) = mpsc::channel(64);
    let session = session::keep(
        wiring.clock,
        wiring.store.clone(),
        state.settings.session_ttl,
        results.clone(),
    );
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);

    loop {
        let event = match first.take() {
            Some(event) => event,
            None => next_event(&mut wiring, &mut outcomes, &mut readings, &mut ticks).await,
        };
        let now = wiring.clock.now();
        let (next, actions) = step(&state, now, event);
        tell_changes(&state, &next);
        state = next;
        // Before a goal that needs it.
        if let Some(end) = state.may_serve_until() {
            wiring.lease.send_if_modified(|lease| std::mem::replace(lease, end) != end);
        }
        wiring.neighbours.send_replace(state.neighbours());
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
                    return End::Left;
                }
            }
        }
        metrics::show(&state);
        wiring.local.send_if_modified(|local| show(local, &state, now));
        // R6: not before it is known what was declared. Nor in the middle of a switchover, whose
        // stage nobody else would know.
        let at_rest = state.declaring.is_none() && state.switchover.is_none();
        let may_go = at_rest && !state.leaving;
        if may_go && *wiring.orders.borrow() == Order::Restart {
            make_way(state, wiring, session).await;
            return End::Restarting;
        }
    }
}

/// Waits for the next thing that happens.
async fn next_event(
    wiring: &mut Wiring,
    outcomes: &mut mpsc::Receiver<Event>,
    readings: &mut watch::Receiver<Reading>,
    ticks: &mut Interval,
) -> Event {
    loop {
        return tokio::select! {
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
            Ok(()) = wiring.orders.changed() => match *wiring.orders.borrow_and_update() {
                Order::GoOn | Order::Restart => Event::Tick,
                Order::Leave => Event::Leave,
            },
            _ = ticks.tick() => Event::Tick,
        };
    }
}

/// Begins where the controller before this one has ended. Returns the first event; none where too
/// little can be seen, and all begins anew.
async fn take_over(
    state: &mut State,
    mandate: Mandate,
    wiring: &mut Wiring,
    readings: &mut watch::Receiver<Reading>,
) -> Option<Event> {
    let Mandate { session_until, link_until, until: _, open } = mandate;
    state.leases = Leases { session_until, link_until };
    let looks = async {
        readings.wait_for(|reading| !matches!(reading, Reading::Pending)).await.ok()?;
        first_look(&mut wiring.seen).await
    };
    let server = tokio::time::timeout(FIRST_LOOKS, looks).await.ok().flatten()?;
    if let Reading::Whole(snapshot) = &*readings.borrow() {
        state.snapshot = Some(snapshot.clone());
        // As with any first snapshot: what was asked before this process began is refused.
        state.inherited = snapshot.requests.keys().next_back().copied().unwrap_or_default();
    }
    readings.mark_changed(); // What follows from it is found out in its turn.
    if let (Run::Primary(view), Some(open)) = (&server.run, open) {
        state.office = Some(Office {
            since: wiring.clock.now(),
            end: view.end,
            open: Some(open),
            sync: None,
            sync_dry_since: None,
            sync_at: None,
        });
    }
    Some(Event::Observed(server))
}

/// The first look that shows what the server is.
async fn first_look(seen: &mut mpsc::Receiver<Seen>) -> Option<Server> {
    loop {
        if let Seen::Observed(server) = seen.recv().await?
            && !matches!(server.run, Run::Unknown | Run::Busy(_))
        {
            return Some(server);
        }
    }
}

/// Leaves the session and the server to the next controller, with leases as fresh as can be.
async fn make_way(mut state: State, wiring: Wiring, session: session::Keeper) {
    if let Some(begun) = session.leave(wiring.clock, LAST_RENEWAL).await {
        // Only for its leases: nothing is asked for any more.
        (state, _) = step(&state, wiring.clock.now(), Event::Renewed { begun });
    }
    let Leases { session_until, link_until } = state.leases;
    let until = state.may_serve_until().unwrap_or_default();
    wiring.lease.send_replace(until);
    let open = state.office.as_ref().and_then(|office| office.open);
    // A supervisor that has ended has nothing to leave.
    let _ = wiring.leave_running.send(Mandate { session_until, link_until, until, open });
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
