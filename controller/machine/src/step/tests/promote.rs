//! R13: the operator's override, and what it never overrides.

use dugong_topology::{Freeze, Generation, Revision};

use super::given::*;
use crate::*;

/// pg-1 and pg-3 are away; `id` is named to become the primary.
fn named(name: &str, over: Over) -> Snapshot {
    let mut snapshot = snapshot();
    lapse(&mut snapshot, "pg-1");
    lapse(&mut snapshot, "pg-3");
    let what = Ask::Promotion(Promotion { id: id(name), from: id("pg-1"), over });
    asks(&mut snapshot, what);
    snapshot
}

/// What `name` does and answers, its last WAL having come long ago.
fn told(name: &str, run: Run, snapshot: Snapshot) -> (State, Option<Outcome>) {
    let given = instance(name, super::given::snapshot());
    let given = after(given, Time(0), Event::Observed(server(name, run)));
    let (then, actions) = step(&given, NOW, Event::Snapshot(snapshot.into()));
    (then, outcome(actions))
}

fn stopped() -> Run {
    Run::Standby(StandbyView { upstream: None, ..standby(Receiver::Stopped) })
}

#[test]
fn a_promotion_is_refused_where_it_would_be_a_mistake() {
    type Change = fn(&mut Snapshot);
    let back: Change = |s| says(s, presence("pg-1", ServerState::Starting));
    let ended: Change = |s| says(s, presence("pg-1", ServerState::Stopped));
    let frozen: Change = |s| {
        let freeze =
            Freeze { by: "bob".to_owned(), why: "a test".to_owned(), since: String::new() };
        redeclare(s, record().with_freeze(Some(freeze)));
    };
    let other: Change = |s| redeclare(s, Record { primary: id("pg-3"), ..record() });
    #[rustfmt::skip]
    let cases: [(&str, &str, Over, Change, Option<&str>); 8] = [
        // what is so                      named   the primary   what happened   refused
        ("the primary is lost",            "pg-2", Over::Lost,   |_| (),         None),
        ("it says that it has stopped",    "pg-2", Over::Lost,   ended,          None),
        ("it is present",                  "pg-2", Over::Lost,   back,           Some("pg-1 is present, and may take writes")),
        ("which was confirmed once more",  "pg-2", Over::Alive,  back,           None),
        ("the cluster is frozen",          "pg-2", Over::Alive,  frozen,         Some("the cluster is frozen by bob: a test")),
        ("somebody else took over",        "pg-2", Over::Alive,  other,          Some("pg-3 has become the primary meanwhile")),
        ("an async is named",              "pg-3", Over::Lost,   |_| (),         None),
        ("nobody here is named",           "pg-9", Over::Alive,  |_| (),         None),
    ];
    for (what, name, over, change, refused) in cases {
        let mut snapshot = named(name, over);
        change(&mut snapshot);
        let me = if name == "pg-9" { "pg-2" } else { name };

        let (then, answer) = told(me, stopped(), snapshot);

        let expected = refused.map(|why| Outcome::Refused { why: why.to_owned() });
        assert_eq!(answer, expected, "{what}");
        let begins = refused.is_none() && name != "pg-9";
        assert_eq!(is_sealing(&then), begins, "{what}: {:?}", then.goal);
    }
    // Its session is gone, but WAL came from it just now: it serves on its link.
    let linked = Run::Standby(standby(Receiver::Streaming));
    let mut given = instance("pg-2", snapshot());
    given = after(given, NOW, Event::Observed(server("pg-2", linked)));
    let then = after(given, NOW, Event::Snapshot(named("pg-2", Over::Lost).into()));
    assert!(!is_sealing(&then), "R13: never while a lease is known to be alive");

    // Asked before this controller began: whoever asked has long gone.
    let mut begun = instance("pg-2", snapshot());
    begun.snapshot = None;
    let begun = after(begun, NOW, Event::Snapshot(named("pg-2", Over::Lost).into()));
    let begun = after(begun, NOW, Event::Observed(server("pg-2", stopped())));
    assert!(!is_sealing(&begun));
}

/// What `name` declares, once it is sealed.
fn declared(name: &str, over: Over) -> (State, Declaration) {
    let mut snapshot = named(name, over);
    says(&mut snapshot, presence("pg-4", ServerState::Copying));
    let (sealing, _) = told(name, stopped(), snapshot);
    let sealed = Event::Observed(server(name, Run::Standby(standby(Receiver::Sealed))));
    let (declaring, declared) = led_to(&sealing, NOW, sealed);
    (declaring, declared.unwrap())
}

#[test]
fn a_sync_without_a_third_instance_takes_over_by_the_operators_word() {
    let (declaring, declaration) = declared("pg-2", Over::Lost);
    let next = &declaration.next;
    assert_eq!((&next.primary, &next.sync), (&id("pg-2"), &None));
    assert_eq!((next.generation, next.reason), (Generation(4), Reason::Operator));
    assert_eq!(next.began_at, at(2, END), "R4");
    assert_eq!(next.deposed_since(&id("pg-1")), Some(Generation(4)));
    assert_eq!(next.asyncs, [id("pg-3")], "its WAL is a prefix of the sync's");
    assert_eq!(declaration.guard, Guard::AbsentOrStopped(id("pg-1")));
    assert_eq!(declaration.fulfils, Some(NUMBER));

    let won = after(declaring.clone(), NOW, answered(&declaring, Answer::Won { at: Revision(60) }));
    assert_eq!(names_of(&won), [], "commits wait for nobody that exists (R6)");
    assert_eq!(access_of(&won), Access::ReadOnly, "R5");
}

#[test]
fn whoever_is_not_proven_to_follow_an_async_is_made_anew() {
    let (_, declaration) = declared("pg-3", Over::Alive);
    let next = &declaration.next;
    assert_eq!((&next.primary, &next.sync, next.asyncs.len()), (&id("pg-3"), &None, 0));
    for other in ["pg-1", "pg-2", "pg-4"] {
        assert_eq!(next.deposed_since(&id(other)), Some(Generation(4)), "{other}");
    }
    assert_eq!(declaration.guard, Guard::None, "the primary may be alive, as was confirmed");
}

#[test]
fn a_deposed_instance_is_started_to_be_promoted_and_never_released() {
    let mut record = record();
    record.asyncs.clear();
    record.deposed.push(Deposed { id: id("pg-3"), since: Generation(3) });
    let mut snapshot = named("pg-3", Over::Lost);
    redeclare(&mut snapshot, record);
    let (then, answer) = told("pg-3", Run::Down, snapshot.clone());
    assert!(is_sealing(&then) && answer.is_none(), "started from rest: {:?}", then.goal);
    let (then, _) = told("pg-3", Run::Primary(primary(&["pg-2"])), snapshot);
    assert_eq!(then.goal, Some(Goal::Down(Stop::Immediate)), "R7, R9: fenced first");
}
