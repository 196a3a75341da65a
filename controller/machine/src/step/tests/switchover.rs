//! A planned handover: the rows of "Switchover", and each way in which it goes back.

use std::time::Duration;

use dugong_topology::{Generation, Lsn, Position, Revision};

use super::given::*;
use crate::*;

fn asked(to: Option<&str>) -> Snapshot {
    let mut snapshot = snapshot();
    let what = Ask::Switchover(Switchover {
        from: id("pg-1"),
        to: to.map(id),
        drain: Duration::from_secs(2),
        deadline: Duration::from_secs(10),
    });
    asks(&mut snapshot, what);
    snapshot
}

fn stage(state: &State) -> Option<Stage> {
    state.switchover.as_ref().map(|ongoing| ongoing.stage.clone())
}

fn goal_of(state: &State) -> PrimaryGoal {
    match &state.goal {
        Some(Goal::Primary(goal)) => goal.clone(),
        other => panic!("no primary's goal: {other:?}"),
    }
}

fn said(state: &State) -> Presence {
    state.said.clone().unwrap().0
}

fn answer(state: &State, now: Time, event: Event) -> Option<Outcome> {
    outcome(step(state, now, event).1)
}

/// pg-1 in office with a session that lives on, and a request.
fn told(snapshot: Snapshot) -> State {
    let mut state = in_office(super::given::snapshot());
    state.leases.session_until = later(60);
    after(state, NOW, Event::Snapshot(snapshot.into()))
}

fn left(access: Access, sessions: u32, in_transaction: u32) -> Event {
    let leaving = Some(Leaving { sessions, in_transaction });
    let view = PrimaryView { access, leaving, ..primary(&["pg-2"]) };
    Event::Observed(server("pg-1", Run::Primary(view)))
}

/// Nobody writes any more.
fn drained() -> Event {
    left(Access::ReadOnly, 1, 0)
}

/// The end of its WAL after a stop in order.
fn last() -> Position {
    at(2, END + 0x40)
}

fn stopped(shut_down_at: Option<Position>) -> Event {
    Event::Observed(Server { shut_down_at, ..server("pg-1", Run::Down) })
}

/// pg-1, stopped, waiting for the sync to take over.
fn handing_over() -> State {
    let stopping = after(told(asked(None)), NOW, drained());
    after(stopping, NOW, stopped(Some(last())))
}

#[test]
fn a_switchover_begins_once_its_sync_could_take_over() {
    type Change = fn(&mut Snapshot);
    let frozen: Change = |s| {
        let freeze = dugong_topology::Freeze {
            by: "bob".to_owned(),
            why: "an upgrade".to_owned(),
            since: String::new(),
        };
        redeclare(s, record().with_freeze(Some(freeze)));
    };
    let is_in = |what| Some(Outcome::Refused { why: String::from(what) });
    #[rustfmt::skip]
    let cases: [(&str, Option<&str>, Change, Option<Outcome>); 9] = [
        // what is so                     asked for     what happened                    refused in the end
        ("all is well",                   None,         |_| (),                           None),
        ("the sync by its name",          Some("pg-2"), |_| (),                           None),
        ("the primary itself",            Some("pg-1"), |_| (),                           is_in("pg-1 is the primary already")),
        ("somebody unknown",              Some("pg-9"), |_| (),                           is_in("pg-9 is no member of the cluster")),
        ("frozen",                        None,         frozen,                           is_in("the cluster is frozen by bob: an upgrade")),
        ("no third instance (R3 d)",      None,         |s| lapse(s, "pg-3"),             is_in("no third instance is there to become the sync of pg-2")),
        ("the sync is away",              None,         |s| lapse(s, "pg-2"),             is_in("pg-2, which would take over, is away")),
        ("an async that is away",         Some("pg-3"), |s| lapse(s, "pg-3"),             is_in("pg-3 is not fit to become the sync")),
        ("another primary was meant",     None,         |s| { s.requests.values_mut().for_each(|r| { if let Ask::Switchover(w) = &mut r.what { w.from = id("pg-3") } }); },
                                                                                          is_in("pg-1 has become the primary meanwhile, in place of pg-3")),
    ];
    for (what, to, change, refused) in cases {
        let mut snapshot = asked(to);
        change(&mut snapshot);
        let mut given = told(snapshot);
        // No sync is replaced meanwhile: this is about waiting.
        given.settings.sync_timeout = Duration::from_secs(3600);
        if let Some(office) = &mut given.office {
            office.sync_dry_since = None;
        }

        let late = after(given.clone(), later(10), Event::Tick);

        match refused {
            None => assert_eq!(stage(&given), Some(Stage::Closing { since: NOW }), "{what}"),
            Some(_) => {
                assert_eq!(stage(&late), refused.clone().map(Stage::Ended), "{what}");
                let begun = !matches!(stage(&given), Some(Stage::Preparing | Stage::Ended(_)));
                assert!(!begun, "{what}: nothing that a client notices");
                assert_eq!(goal_of(&late).access, Access::ReadWrite, "{what}");
            }
        }
    }
}

#[test]
fn a_primary_sends_clients_away_then_drains_then_stops_in_order() {
    let given = told(asked(None));
    let goal = goal_of(&given);
    assert_eq!((goal.access, goal.sessions), (Access::ReadWrite, Sessions::Leave), "at first");
    assert!(said(&given).drains, "proxies learn of it");
    let mut shown = asked(None);
    says(&mut shown, said(&given));
    let closed = after(given.clone(), NOW, Event::Snapshot(shown.into()));
    let draining = after(closed.clone(), later(1), left(Access::ReadWrite, 1, 1));
    let goal = goal_of(&draining);
    assert_eq!((goal.access, goal.sessions), (Access::ReadOnly, Sessions::Leave), "after a while");
    #[rustfmt::skip]
    let cases = [
        // what is so                          of         when      what is seen                      stops
        ("nobody is there, but may come",      &given,    NOW,      left(Access::ReadWrite, 0, 0),    false),
        ("nobody is there, nor will be",       &closed,   NOW,      left(Access::ReadWrite, 0, 0),    true),
        ("somebody is between two",            &closed,   NOW,      left(Access::ReadWrite, 1, 0),    false),
        ("somebody is inside one",             &draining, later(1), left(Access::ReadOnly, 1, 1),     false),
        ("and still is after the drain",       &draining, later(2), left(Access::ReadOnly, 1, 1),     true),
        ("nobody writes any more",             &draining, later(1), drained(),                        true),
        ("it is not known who is there",       &closed,   NOW,      Event::Tick,                      false),
    ];
    for (what, state, now, seen, stops) in cases {
        let then = after(state.clone(), now, seen);
        assert_eq!(then.goal == Some(Goal::Down(Stop::Fast)), stops, "{what}: {:?}", then.goal);
        assert_eq!(said(&then).server, ServerState::Primary, "{what}: its server runs");
        assert_eq!(said(&then).open, None, "{what}: the write address holds clients");
        assert!(said(&then).drains, "{what}");
    }
    let stopping = after(given, NOW, drained());
    let busy = after(stopping, NOW, Event::Observed(server("pg-1", Run::Busy(Work::Stopping))));
    assert_eq!((said(&busy).server, said(&busy).hands_over), (ServerState::Starting, None));

    let down = after(busy, NOW, stopped(Some(last())));
    let handover = Handover { request: NUMBER, last: last() };
    assert_eq!(
        (said(&down).server, said(&down).hands_over),
        (ServerState::Stopped, Some(handover))
    );
    assert_eq!(down.goal, Some(Goal::Down(Stop::Fast)));
}

#[test]
fn what_a_stop_would_write_is_written_before_anybody_notices() {
    let unwritten = |checkpointed| {
        let view = PrimaryView { checkpointed, ..primary(&["pg-2"]) };
        Event::Observed(server("pg-1", Run::Primary(view)))
    };
    let mut given = in_office(snapshot());
    given.leases.session_until = later(60);
    let given = after(given, NOW, unwritten(Some(RequestNumber(4))));
    let given = after(given, NOW, Event::Snapshot(asked(None).into()));
    let goal = goal_of(&given);
    assert_eq!((stage(&given), goal.checkpoint), (Some(Stage::Preparing), Some(NUMBER)));
    assert_eq!((goal.access, goal.sessions), (Access::ReadWrite, Sessions::Stay));

    let then = after(given.clone(), later(1), unwritten(Some(NUMBER)));
    assert_eq!(stage(&then), Some(Stage::Closing { since: later(1) }));
    assert_eq!(goal_of(&then).checkpoint, None);

    let why = "the checkpoint before the stop has not ended in time".to_owned();
    assert_eq!(answer(&given, later(10), Event::Tick), Some(Outcome::Refused { why }));
}

#[test]
fn the_sync_takes_over_exactly_what_was_handed_over() {
    let word = |last| {
        let mut snapshot = asked(None);
        let hands_over = Some(Handover { request: NUMBER, last });
        says(&mut snapshot, Presence { hands_over, ..presence("pg-1", ServerState::Stopped) });
        snapshot
    };
    let takes =
        |last| is_sealing(&after(sync(snapshot()), NOW, Event::Snapshot(word(last).into())));
    #[rustfmt::skip]
    let cases = [
        // where the last record begins           takes over
        ("before the end here",       at(2, END - 1), true),
        ("it has not come yet",       at(2, END),     false),
        ("far from here",             at(2, END + 9), false),
        ("on another timeline",       at(3, END - 1), false),
    ];
    for (what, last, expected) in cases {
        assert_eq!(takes(last), expected, "{what}");
    }
    let sealing = after(sync(snapshot()), NOW, Event::Snapshot(word(at(2, END - 1)).into()));
    let sealed = Event::Observed(server("pg-2", Run::Standby(standby(Receiver::Sealed))));
    let (declaring, declared) = led_to(&sealing, NOW, sealed);
    let declaration = declared.unwrap();
    let next = &declaration.next;
    assert_eq!((next.generation, next.began_at), (Generation(4), at(2, END)), "R4");
    assert_eq!((&next.primary, &next.sync), (&id("pg-2"), &Some(id("pg-3"))));
    assert_eq!(next.asyncs, [id("pg-1")], "the former primary is the last async");
    assert_eq!((next.deposed.len(), next.reason), (0, Reason::Switchover));
    assert_eq!(declaration.guard, Guard::HandedOver { by: id("pg-1"), request: NUMBER });
    assert_eq!(declaration.fulfils, Some(NUMBER));

    // Whoever has won does not refuse what it has just done.
    let won = after(declaring.clone(), NOW, answered(&declaring, Answer::Won { at: Revision(60) }));
    assert_eq!(won.snapshot.unwrap().requests.len(), 0);
}

#[test]
fn only_the_sync_of_a_primary_that_drains_is_an_heir() {
    let heir = |state: State, drains| {
        let mut shown = snapshot();
        says(&mut shown, Presence { drains, ..presence("pg-1", ServerState::Primary) });
        match after(state, NOW, Event::Snapshot(shown.into())).goal {
            Some(Goal::Standby(goal)) => goal.heir,
            other => panic!("no standby's goal: {other:?}"),
        }
    };
    let third = || {
        let seen = Run::Standby(standby(Receiver::Streaming));
        after(instance("pg-3", snapshot()), Time(0), Event::Observed(server("pg-3", seen)))
    };
    let heirs = [heir(sync(snapshot()), false), heir(sync(snapshot()), true), heir(third(), true)];
    assert_eq!(heirs, [false, true, false]);
}

#[test]
fn the_sync_alone_knows_who_would_be_its_sync() {
    let mut without = snapshot();
    lapse(&mut without, "pg-3");
    #[rustfmt::skip]
    let cases = [
        // who    sees         next
        ("pg-1", snapshot(), None),
        ("pg-2", snapshot(), Some(id("pg-3"))),
        ("pg-2", without,    None),
        ("pg-3", snapshot(), None),
    ];
    for (name, seen, next_sync) in cases {
        let expected = Neighbours { primary: Some(id("pg-1")), next_sync };
        assert_eq!(instance(name, seen).neighbours(), expected, "{name}");
    }
}

#[test]
fn a_former_primary_that_handed_over_follows_without_a_copy() {
    let mut taken = snapshot();
    redeclare(&mut taken, record().handed_over_to(&id("pg-2"), &id("pg-3"), at(2, END + 0x60)));
    says(&mut taken, Presence { seen: Generation(4), ..presence("pg-2", ServerState::Primary) });

    let then = after(handing_over(), NOW, Event::Snapshot(taken.into()));

    let Some(Goal::Standby(goal)) = &then.goal else { panic!("{:?}", then.goal) };
    assert_eq!(goal.upstream.as_ref().unwrap().id, id("pg-3"), "the last of the chain");
    assert_eq!((then.switchover, then.vacancy), (None, None));
}

#[test]
fn a_handover_that_cannot_complete_is_taken_back() {
    type Change = fn(&mut Snapshot);
    let same: Change = |_| ();
    #[rustfmt::skip]
    let cases: [(&str, Time, Change, &str); 5] = [
        // what is so                 when       what happened            why
        ("nothing has gone wrong",    later(9),  same,                    ""),
        ("the deadline has passed",   later(10), same,                    "the sync has not taken over in time"),
        ("the sync is gone",          NOW,       |s| lapse(s, "pg-2"),    "pg-2, which would take over, is away"),
        ("no third instance",         NOW,       |s| lapse(s, "pg-3"),    "no third instance is there to become the sync of pg-2"),
        ("the request was withdrawn", NOW,       |s| s.requests.clear(),  "-"),
    ];
    for (what, now, change, why) in cases {
        let mut shown = asked(None);
        says(&mut shown, said(&handing_over()));
        change(&mut shown);

        let then = after(handing_over(), now, Event::Snapshot(shown.clone().into()));

        if why.is_empty() {
            assert_eq!(stage(&then), Some(Stage::Stopping), "{what}");
            continue;
        }
        // First the word is taken back, and seen to be; only then the server is started.
        assert_eq!(
            (said(&then).server, said(&then).hands_over),
            (ServerState::Starting, None),
            "{what}"
        );
        assert_eq!(then.goal, Some(Goal::Down(Stop::Immediate)), "{what}");
        says(&mut shown, said(&then));
        let started = after(then, now, Event::Snapshot(shown.into()));
        assert_eq!(access_of(&started), Access::ReadOnly, "{what}: R5");
        let up = Event::Observed(server("pg-1", Run::Primary(primary(&["pg-2"]))));
        let told = answer(&started, now, up);
        let expected = (why != "-").then(|| Outcome::RolledBack { why: why.to_owned() });
        assert_eq!(told, expected, "{what}: not before it is in office again");
    }
}

#[test]
fn a_stop_in_order_gets_its_time_up_to_the_deadline() {
    let stopping = after(told(asked(None)), NOW, drained());
    let busy = || Event::Observed(server("pg-1", Run::Busy(Work::Stopping)));
    let busy_at = |now| after(stopping.clone(), now, busy());

    let in_time = after(busy_at(later(9)), later(9), Event::Renewed { begun: later(9) });
    let lease = in_time.leases.session_until;
    assert_eq!(in_time.may_serve_until(), Some(lease), "nobody ends it before its lease");
    assert_eq!(after(stopping.clone(), NOW, busy()).goal, Some(Goal::Down(Stop::Fast)));

    let renewed = after(stopping.clone(), later(9), Event::Renewed { begun: later(9) });
    assert_eq!(after(renewed, later(10), busy()).goal, Some(Goal::Down(Stop::Immediate)));
    assert_eq!(after(busy_at(NOW), NOW, stopped(None)).may_serve_until(), None);
}

#[test]
fn a_stop_that_was_no_stop_in_order_hands_nothing_over() {
    let stopping = after(told(asked(None)), NOW, drained());
    let then = after(stopping, NOW, stopped(None));
    assert_eq!((said(&then).server, said(&then).hands_over), (ServerState::Starting, None));
    let why = "the server here did not stop in order".to_owned();
    assert_eq!(stage(&then), Some(Stage::Ended(Outcome::RolledBack { why })));
}

#[test]
fn a_drain_that_cannot_go_on_lets_clients_in_again() {
    let given = told(asked(None));
    let trouble = Event::StoreFailed { why: "no disk".to_owned() };
    let then = after(given.clone(), NOW, trouble);
    let goal = goal_of(&then);
    assert_eq!((goal.access, goal.sessions), (Access::ReadWrite, Sessions::Stay));
    assert!(!said(&then).drains, "proxies lead clients here again");

    // It died instead: the sync takes over as from any other that died, and answers.
    let died = after(given, NOW, stopped(None));
    assert_eq!((said(&died).server, said(&died).hands_over), (ServerState::Stopped, None));
    assert_eq!(answer(&died, later(1), Event::Tick), None);
}

#[test]
fn an_async_is_made_the_sync_first() {
    let given = told(asked(Some("pg-3")));
    assert_eq!(stage(&given), Some(Stage::Preparing));
    assert_eq!(names_of(&given), [id("pg-2"), id("pg-3")], "R6");
    let both = PrimaryView { end: Lsn(END + 8), ..primary(&["pg-2", "pg-3"]) };
    let seen = Event::Observed(server("pg-1", Run::Primary(both)));

    let (declaring, declared) = led_to(&given, NOW, seen);

    let next = declared.unwrap().next;
    assert_eq!((next.sync, next.asyncs), (Some(id("pg-3")), vec![id("pg-2")]));
    assert_eq!((next.generation, next.reason), (Generation(4), Reason::Switchover));
    let won = after(declaring.clone(), NOW, answered(&declaring, Answer::Won { at: Revision(60) }));
    assert_eq!(stage(&won), Some(Stage::Preparing), "not before pg-3 has caught up");
    let row = StandbyRow { id: id("pg-3"), flushed: Lsn(END + 8), waits: Waits::ForIt };
    let caught_up = PrimaryView { end: Lsn(END + 8), standbys: vec![row], ..primary(&["pg-3"]) };
    let then = after(won, NOW, Event::Observed(server("pg-1", Run::Primary(caught_up))));
    assert_eq!(stage(&then), Some(Stage::Closing { since: NOW }));
}

#[test]
fn an_outcome_is_told_until_the_store_has_it() {
    let mut given = in_office(snapshot());
    given.leases.session_until = later(9);
    let refused = Event::Snapshot(asked(Some("pg-9")).into());
    assert!(answer(&given, NOW, refused.clone()).is_some());
    let told = after(given, NOW, refused);
    assert_eq!(answer(&told, NOW, Event::Tick), None, "it was said just now");
    assert!(answer(&told, later(1), Event::Tick).is_some(), "the store still shows it as open");
    let mut taken = asked(None);
    taken.requests.clear();
    let then = after(told, NOW, Event::Snapshot(taken.into()));
    assert_eq!((answer(&then, later(1), Event::Tick), then.switchover), (None, None));
}

#[test]
fn what_was_asked_before_this_controller_began_is_refused() {
    let mut begun = instance("pg-1", snapshot());
    begun.snapshot = None;
    let begun = after(begun, NOW, Event::Snapshot(asked(None).into()));
    let up = Event::Observed(server("pg-1", Run::Primary(primary(&["pg-2"]))));
    let why = "the controller of pg-1 began anew meanwhile: ask again".to_owned();
    assert_eq!(answer(&begun, NOW, up), Some(Outcome::Refused { why }));
}
