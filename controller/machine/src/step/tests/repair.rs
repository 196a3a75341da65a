//! R7, R8: data that is made anew, and what becomes of the data that was there.

use super::*;

#[test]
fn a_deposed_primary_is_fenced_then_copied_then_follows() {
    let mut deposed = snapshot();
    let taken = record().taken_over_by(&id("pg-2"), &id("pg-3"), at(2, END));
    redeclare(&mut deposed, taken);
    let seen = |run| Event::Observed(server("pg-1", run));
    says(&mut deposed, Presence { seen: Generation(4), ..presence("pg-2", ServerState::Primary) });
    says(&mut deposed, presence("pg-3", ServerState::Ready));

    let fenced = after(in_office(snapshot()), NOW, Event::Snapshot(deposed.into()));
    assert_eq!(fenced.goal, Some(Goal::Down(Stop::Immediate)), "R7, R9");

    let copying = after(fenced, NOW, seen(Run::Down));
    let Some(Goal::Copied { source, making, generation, old }) = copying.goal.clone() else {
        panic!("{:?}", copying.goal)
    };
    assert_eq!((source.id, making, generation), (id("pg-3"), 2, Generation(4)), "from the tail");
    assert_eq!(old, Old::Untouched, "the new primary is not open yet");

    let made = Identity { making: 2, made_in: Generation(4), ..identity("pg-1") };
    let copied = Server { data: Data::Own(made), ..server("pg-1", Run::Down) };
    let following = after(copying, NOW, Event::Observed(copied));
    assert!(matches!(following.goal, Some(Goal::Standby(_))), "{:?}", following.goal);
}

#[test]
fn data_is_given_up_only_while_two_others_have_all_that_was_acknowledged() {
    let gives_up = |state: &State| match state.goal.clone() {
        Some(Goal::Copied { old: Old::GivenUp { primary }, .. }) => primary.id == id("pg-2"),
        Some(Goal::Copied { old: Old::Untouched, .. }) => false,
        other => panic!("{other:?}"),
    };
    let open = |generation| Presence {
        seen: Generation(4),
        open: Some(Generation(generation)),
        ..presence("pg-2", ServerState::Primary)
    };
    #[rustfmt::skip]
    let cases = [
        // what is so                     the primary  its sync                                     given up
        ("both have it",                  open(4),     presence("pg-3", ServerState::Ready),        true),
        ("the sync has not come yet",     open(3),     presence("pg-3", ServerState::Ready),        false),
        ("the sync is on its way",        open(4),     presence("pg-3", ServerState::Standby),      false),
    ];
    let mut deposed = snapshot();
    redeclare(&mut deposed, record().taken_over_by(&id("pg-2"), &id("pg-3"), at(2, END)));
    for (what, primary, sync, expected) in cases {
        let mut given = deposed.clone();
        says(&mut given, primary);
        says(&mut given, sync);
        let down = || Event::Observed(server("pg-1", Run::Down));
        let then = after(instance("pg-1", given.clone()), NOW, down());
        assert_eq!(gives_up(&then), expected, "{what}");

        // Whoever copies already is told as soon as it may.
        says(&mut given, open(4));
        says(&mut given, presence("pg-3", ServerState::Ready));
        let then = after(then, NOW, Event::Snapshot(given.clone().into()));
        assert!(gives_up(&then), "{what}, at first");
        lapse(&mut given, "pg-2");
        let then = after(then, NOW, Event::Snapshot(given.into()));
        assert!(gives_up(&then), "what was given up is gone");
    }
}

#[test]
fn what_only_lacks_its_upstreams_wal_stays_until_its_copy_is_complete() {
    let dry = || Event::Observed(server("pg-3", Run::Standby(standby(Receiver::Stopped))));
    let mut given = snapshot();
    let open = Some(Generation(3));
    says(&mut given, Presence { open, ..presence("pg-1", ServerState::Primary) });
    let stuck = after(after(instance("pg-3", given), NOW, dry()), later(30), dry());
    let Some(Goal::Copied { old, .. }) = stuck.goal else { panic!("{:?}", stuck.goal) };
    assert_eq!(old, Old::Untouched);
}

#[test]
fn data_that_is_gone_is_not_distrusted_any_more() {
    let forked = Run::Standby(StandbyView { replayed: Lsn(0x81), ..standby(Receiver::Stopped) });
    let Run::Standby(mut view) = forked else { unreachable!("it is one") };
    view.history.timeline = TimelineId(1);
    let given = after(
        instance("pg-3", snapshot()),
        NOW,
        Event::Observed(server("pg-3", Run::Standby(view))),
    );
    assert!(given.forked_making.is_some(), "{:?}", given.goal);
    let gone = Server { data: Data::Empty, run: Run::Down, ..Server::unknown() };
    assert_eq!(after(given, NOW, Event::Observed(gone)).forked_making, None);
}

#[test]
fn a_copy_of_what_cannot_stream_goes_on_while_the_server_is_down_for_it() {
    let dry = || Event::Observed(server("pg-3", Run::Standby(standby(Receiver::Stopped))));
    let copies = |state: &State| matches!(state.goal, Some(Goal::Copied { making: 2, .. }));
    let given = after(instance("pg-3", snapshot()), NOW, dry());
    assert!(!copies(&after(given.clone(), later(29), dry())));
    let stuck = after(given, later(30), dry());
    assert!(copies(&stuck));
    let down = after(stuck, later(31), Event::Observed(server("pg-3", Run::Down)));
    assert!(copies(&down), "it is down for the copy, so that it cannot stream");

    let made = Identity { making: 2, made_in: Generation(3), ..identity("pg-3") };
    let run = Run::Standby(standby(Receiver::Stopped));
    let fresh = Server { data: Data::Own(made), ..server("pg-3", run) };
    let given = after(down, later(32), Event::Observed(fresh));
    assert!(matches!(given.goal, Some(Goal::Standby(_))), "the copy gets its own time to stream");
}

#[test]
fn a_standby_without_room_is_not_copied_but_gets_its_time_once_there_is_room() {
    let run = || Run::Standby(standby(Receiver::Stopped));
    let dry = |room| Event::Observed(Server { room, ..server("pg-3", run()) });
    let copies = |state: &State| matches!(state.goal, Some(Goal::Copied { .. }));
    let given = after(instance("pg-3", snapshot()), NOW, dry(Room::Short));
    let short = after(given, later(3600), dry(Room::Short));
    assert!(!copies(&short), "a copy needs more room than it has");
    let freed = after(short, later(3601), dry(Room::Enough));
    assert!(!copies(&after(freed.clone(), later(3629), dry(Room::Enough))));
    assert!(copies(&after(freed, later(3630), dry(Room::Enough))));
}

#[test]
fn the_syncs_data_is_kept_while_no_primary_is_in_office() {
    let dry = |name: &str| Event::Observed(server(name, Run::Standby(standby(Receiver::Stopped))));
    let copies = |state: &State| matches!(state.goal, Some(Goal::Copied { .. }));
    let stuck = after(sync(snapshot()), NOW, dry("pg-2"));
    let stuck = after(stuck, later(30), dry("pg-2"));
    assert!(copies(&stuck), "as far as it knows, the primary is in office");
    let mut gone = snapshot();
    says(&mut gone, presence("pg-1", ServerState::Starting));
    let then = after(stuck, later(31), Event::Snapshot(gone.into()));
    assert!(!copies(&then), "what it has may be all that there is");
}

#[test]
fn forked_wal_is_replaced_by_a_copy() {
    #[rustfmt::skip]
    let cases = [
        // where its WAL ends             position         known to the record  copied
        ("ahead on the same timeline",    at(2, END + 9),  2,                   false),
        ("before the branch",             at(1, 0x80),     2,                   false),
        ("past the branch",               at(1, 0x81),     2,                   true),
        ("on the timeline of a lost one", at(3, 0x200),    3,                   true),
        ("ahead of what is known here",   at(3, 0x200),    2,                   false),
    ];
    for (what, position, known, copied) in cases {
        let mut view = standby(Receiver::Stopped);
        view.history.timeline = position.timeline;
        view.replayed = position.lsn;
        let mut snapshot = snapshot();
        redeclare(&mut snapshot, Record { timeline: TimelineId(known), ..record() });
        let given = instance("pg-3", snapshot);

        let then = after(given, NOW, Event::Observed(server("pg-3", Run::Standby(view))));

        assert_eq!(matches!(then.goal, Some(Goal::Copied { .. })), copied, "{what}");
    }
}

/// Found by the simulator: a primary that was cut off gave its sync's place to an async, lost its disk,
/// and only then was heard. The record named nobody any more who had all of the WAL.
#[test]
fn what_was_declared_for_data_that_are_gone_is_not_asked_for_again() {
    let asks = |state: &State| {
        let (_, actions) = step(state, later(1), Event::Tick);
        actions.iter().any(|action| matches!(action, Action::Declare(_)))
    };
    let mut given = in_office(snapshot());
    let next = record().with_sync(&id("pg-3"), at(2, END));
    let at = Some(given.record_revision());
    let change = Declaration { next, at, guard: Guard::None, fulfils: None };
    given.declaring = Some((change, NOW));
    let killed = after(given.clone(), NOW, Event::Observed(server("pg-1", Run::Down)));
    assert!(asks(&killed), "its WAL is here still");

    let empty = Server { data: Data::Empty, ..server("pg-1", Run::Down) };
    let destroyed = after(given, NOW, Event::Observed(empty));
    assert!(!asks(&destroyed), "its sync takes over");
}
