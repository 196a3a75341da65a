//! Situations to start from: a cluster of three, in generation 3, on timeline 2.

use std::time::Duration;

use dugong_topology::{
    Address, Generation, History, InstanceId, Lsn, Position, Revision, TimelineId,
};

use crate::*;

pub(super) const NOW: Time = Time(100_000);
pub(super) const BEGAN: u64 = 0x100;
pub(super) const END: u64 = 0x200;

pub(super) fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

pub(super) fn at(timeline: u32, lsn: u64) -> Position {
    Position::new(TimelineId(timeline), Lsn(lsn))
}

pub(super) fn later(seconds: u64) -> Time {
    NOW.after(Duration::from_secs(seconds))
}

fn settings() -> Settings {
    Settings {
        session_ttl: Duration::from_secs(3),
        link_ttl: Duration::from_secs(2),
        sync_timeout: Duration::from_secs(2),
        restart_after: Duration::from_secs(5),
        stuck_after: Duration::from_secs(30),
        forget_after: Duration::from_secs(3600),
        bootstrap: Bootstrap::Of(3),
    }
}

pub(super) fn history() -> History {
    History { timeline: TimelineId(2), ancestors: vec![at(1, 0x80)] }
}

pub(super) fn record() -> Record {
    Record {
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(7),
        generation: Generation(3),
        primary: id("pg-1"),
        sync: Some(id("pg-2")),
        asyncs: vec![id("pg-3")],
        deposed: Vec::new(),
        began_at: at(2, BEGAN),
        timeline: TimelineId(2),
        frozen: None,
        one_node: false,
        reason: Reason::PrimaryLost,
    }
}

pub(super) fn presence(name: &str, server: ServerState) -> Presence {
    let primary = server == ServerState::Primary;
    Presence {
        id: id(name),
        postgres: Address::loopback(5000),
        http: Address::loopback(6000),
        server,
        system_identifier: Some(SystemIdentifier(7)),
        seen: Generation(3),
        open: primary.then_some(Generation(3)),
        position: Some(at(2, END)),
        history: Some(history()),
        upstream: None,
        lag: None,
        making: None,
        drains: false,
        hands_over: None,
        note: None,
    }
}

/// Everybody is present: pg-1 primary, pg-2 sync, pg-3 async.
pub(super) fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot {
        revision: Revision(40),
        declared: Some(Declared { record: record(), revision: Revision(40), since_unix_ms: 0 }),
        ..Snapshot::default()
    };
    for (name, server) in
        [("pg-1", ServerState::Primary), ("pg-2", ServerState::Ready), ("pg-3", ServerState::Ready)]
    {
        says(&mut snapshot, presence(name, server));
    }
    snapshot
}

pub(super) fn says(snapshot: &mut Snapshot, presence: Presence) {
    let instance = Instance { presence: presence.clone(), session: Session::Alive };
    snapshot.instances.insert(presence.id, instance);
    snapshot.revision = Revision(snapshot.revision.0 + 1);
}

pub(super) fn lapse(snapshot: &mut Snapshot, name: &str) {
    snapshot.instances.get_mut(&id(name)).unwrap().session = Session::Lapsed;
    snapshot.revision = Revision(snapshot.revision.0 + 1);
}

pub(super) fn redeclare(snapshot: &mut Snapshot, record: Record) {
    snapshot.revision = Revision(snapshot.revision.0 + 1);
    let revision = snapshot.revision;
    snapshot.declared = Some(Declared { record, revision, since_unix_ms: 0 });
}

/// The number of the request that [`asks`] makes.
pub(super) const NUMBER: RequestNumber = RequestNumber(5);

/// An operator asks for something.
pub(super) fn asks(snapshot: &mut Snapshot, what: Ask) {
    let request = Request { number: NUMBER, by: "ann".to_owned(), asked_unix_ms: 0, what };
    snapshot.requests.insert(NUMBER, request);
    snapshot.revision = Revision(snapshot.revision.0 + 1);
}

/// The outcome that it gets, if it gets one.
pub(super) fn outcome(actions: Vec<Action>) -> Option<Outcome> {
    actions.into_iter().find_map(|action| match action {
        Action::Answer { request: NUMBER, outcome } => Some(outcome),
        Action::Answer { .. }
        | Action::Announce(_)
        | Action::Declare(_)
        | Action::Want(_)
        | Action::Finish => None,
    })
}

pub(super) fn identity(name: &str) -> Identity {
    Identity {
        instance: id(name),
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(7),
        generation: Generation(3),
        making: 1,
        made_in: Generation(1),
        made_at: at(1, 0x10),
    }
}

pub(super) fn server(name: &str, run: Run) -> Server {
    Server { data: Data::Own(identity(name)), run, ..Server::unknown() }
}

pub(super) fn standby(receiver: Receiver) -> StandbyView {
    StandbyView {
        upstream: Some(id("pg-1")),
        receiver,
        history: history(),
        flushed: Lsn(END),
        replayed: Lsn(END),
        lag: None,
    }
}

/// A primary that nothing is missing from: its sync is at its end.
pub(super) fn primary(names: &[&str]) -> PrimaryView {
    PrimaryView {
        history: history(),
        end: Lsn(END),
        names: Names::Each(names.iter().map(|name| id(name)).collect()),
        access: Access::ReadWrite,
        leaving: None,
        checkpointed: Some(NUMBER),
        standbys: vec![StandbyRow { id: id("pg-2"), flushed: Lsn(END), waits: Waits::ForIt }],
    }
}

/// An instance that has begun long ago, with `snapshot` and a live session, but no server seen.
pub(super) fn instance(name: &str, snapshot: Snapshot) -> State {
    let mut state = State::new(
        id(name),
        "main".to_owned(),
        Address::loopback(5000),
        Address::loopback(6000),
        settings(),
        Time(0),
    );
    state.leases.session_until = later(1);
    state.snapshot = Some(snapshot.into());
    state
}

/// pg-2 as the sync, following pg-1.
pub(super) fn sync(snapshot: Snapshot) -> State {
    let state = instance("pg-2", snapshot);
    after(
        state,
        Time(0),
        Event::Observed(server("pg-2", Run::Standby(standby(Receiver::Streaming)))),
    )
}

/// pg-1 in office, open.
pub(super) fn in_office(snapshot: Snapshot) -> State {
    let state = instance("pg-1", snapshot);
    let state =
        after(state, NOW, Event::Observed(server("pg-1", Run::Primary(primary(&["pg-2"])))));
    after(state, NOW, Event::Tick)
}

pub(super) fn after(state: State, now: Time, event: Event) -> State {
    step(&state, now, event).0
}

/// The goal and the declaration that an event leads to.
pub(super) fn led_to(state: &State, now: Time, event: Event) -> (State, Option<Declaration>) {
    let (next, actions) = step(state, now, event);
    let declared = actions.into_iter().find_map(|action| match action {
        Action::Declare(declaration) => Some(declaration),
        Action::Announce(_) | Action::Answer { .. } | Action::Want(_) | Action::Finish => None,
    });
    (next, declared)
}

/// The answer to the declaration that is in flight.
pub(super) fn answered(state: &State, answer: Answer) -> Event {
    let (declaration, _) = state.declaring.as_ref().expect("a declaration is in flight");
    Event::DeclareAnswered { at: declaration.at, answer }
}

pub(super) fn names_of(state: &State) -> Vec<InstanceId> {
    match &state.goal {
        Some(Goal::Primary(PrimaryGoal { names: Names::Each(names), .. })) => names.clone(),
        other => panic!("no names of a primary's goal: {other:?}"),
    }
}

pub(super) fn access_of(state: &State) -> Access {
    match &state.goal {
        Some(Goal::Primary(goal)) => goal.access,
        other => panic!("no primary's goal: {other:?}"),
    }
}

pub(super) fn is_sealing(state: &State) -> bool {
    matches!(state.goal, Some(Goal::Sealed { .. }))
}
