//! Rows of the table "Transitions, seen by one instance" that need a few lines only.

use dugong_topology::InstanceId;

use super::*;

fn streaming(name: &str) -> Event {
    Event::Observed(server(name, Run::Standby(standby(Receiver::Streaming))))
}

fn upstream_of(state: &State) -> InstanceId {
    match &state.goal {
        Some(Goal::Standby(goal)) => goal.upstream.clone().unwrap().id,
        other => panic!("no standby's goal: {other:?}"),
    }
}

/// unassigned | a record without me | get a copy of the chain's tail, stream, announce `ready`
#[test]
fn an_unassigned_instance_copies_the_tail_of_the_chain_and_gets_ready() {
    let nothing = Server { data: Data::Empty, run: Run::Down, ..Server::unknown() };
    let empty = after(instance("pg-4", snapshot()), NOW, Event::Observed(nothing));
    let Some(Goal::Copied { source, making, .. }) = &empty.goal else { panic!("{:?}", empty.goal) };
    assert_eq!((&source.id, *making), (&id("pg-3"), 1));

    let copied = after(empty, NOW, Event::Observed(server("pg-4", Run::Down)));
    assert_eq!(upstream_of(&copied), id("pg-3"));
    let (ready, declared) = led_to(&copied, NOW, streaming("pg-4"));
    assert_eq!(ready.said.unwrap().0.server, ServerState::Ready);
    assert_eq!(declared, None, "it waits to be added");
}

/// primary | sync gone and no async | stay primary, the write address holds
#[test]
fn a_primary_whose_standbys_are_all_gone_stays_and_its_commits_wait() {
    let mut alone = snapshot();
    lapse(&mut alone, "pg-2");
    lapse(&mut alone, "pg-3");
    let mut given = after(in_office(snapshot()), NOW, Event::Snapshot(alone.clone().into()));
    given.leases.session_until = later(90);
    let view = PrimaryView { standbys: Vec::new(), ..primary(&["pg-2"]) };
    let seen = || Event::Observed(server("pg-1", Run::Primary(view.clone())));
    let (holding, declared) = led_to(&after(given, NOW, seen()), later(60), seen());
    assert_eq!((names_of(&holding), declared), (vec![id("pg-2")], None), "never fewer names");

    // Until a standby arrives.
    says(&mut alone, presence("pg-3", ServerState::Ready));
    let found = after(holding, later(60), Event::Snapshot(alone.into()));
    assert_eq!(names_of(&found), [id("pg-2"), id("pg-3")]);
}

/// async | I became sync | follow the primary directly
#[test]
fn an_async_that_became_sync_follows_the_primary() {
    let given = after(instance("pg-3", snapshot()), NOW, streaming("pg-3"));
    assert_eq!(upstream_of(&given), id("pg-2"));
    let mut changed = snapshot();
    redeclare(&mut changed, record().with_sync_exchanged(&id("pg-3"), at(2, END)));
    let then = after(given, NOW, Event::Snapshot(changed.into()));
    assert_eq!(upstream_of(&then), id("pg-1"));
}

/// anyone | frozen | keep the server running in its role; change nothing in the record
#[test]
fn whoever_is_frozen_goes_on_and_declares_nothing() {
    let mut frozen = snapshot();
    redeclare(&mut frozen, record().with_freeze(freeze()));
    lapse(&mut frozen, "pg-2");
    says(&mut frozen, presence("pg-4", ServerState::Ready));
    let mut given = in_office(snapshot());
    given.leases.session_until = later(90);
    let given = after(given, NOW, Event::Snapshot(frozen.clone().into()));
    let (primary, declared) = led_to(&given, later(9), Event::Tick);
    assert_eq!((access_of(&primary), declared), (Access::ReadWrite, None));

    lapse(&mut frozen, "pg-1");
    let given = after(sync(snapshot()), NOW, Event::Snapshot(frozen.into()));
    let (sync, declared) = led_to(&given, later(60), Event::Tick);
    assert_eq!((upstream_of(&sync), declared), (id("pg-1"), None));
}

/// R4: sync | R3 holds | declare a timeline that nobody ever had
#[test]
fn each_takeover_has_a_timeline_of_its_own() {
    #[rustfmt::skip]
    let cases = [
        // the record's   where the WAL here ends  the next one's
        (2,               at(2, END),              3),
        (3,               at(2, END),              4), // the primary was lost before it was heard of
        (0,               at(2, END),              3), // of a program that did not count them
    ];
    for (known, end, next) in cases {
        let before = Record { timeline: TimelineId(known), ..record() };
        for after in [
            before.taken_over_by(&id("pg-2"), &id("pg-3"), end),
            before.handed_over_to(&id("pg-2"), &id("pg-3"), end),
            before.promoted(&id("pg-2"), None, end),
        ] {
            assert_eq!(after.timeline, TimelineId(next), "{after}");
        }
        for same in [before.with_sync(&id("pg-3"), end), before.with_async(&id("pg-4"))] {
            assert_eq!(same.timeline, TimelineId(known), "the primary stays: {same}");
        }
    }
}
