//! One test per rule: a table where a decision has several inputs, a short story where it has
//! several steps.

mod given;
mod one_node;
mod promote;
mod repair;
mod rows;
mod switchover;

use std::sync::Arc;

use dugong_topology::{Freeze, Generation, Lsn, Revision, TimelineId};

use crate::*;
use given::*;

fn freeze() -> Option<Freeze> {
    Some(Freeze { by: "ann".to_owned(), why: "a test".to_owned(), since: String::new() })
}

#[test]
fn the_sync_seals_its_wal_only_where_r3_holds() {
    type Change = fn(&mut Snapshot);
    let stopped: Change = |s| says(s, presence("pg-1", ServerState::Stopped));
    let lapsed: Change = |s| lapse(s, "pg-1");
    #[rustfmt::skip]
    let cases: [(&str, Time, Vec<Change>, bool); 9] = [
        // what is so                              when      what happened                    seals
        ("the primary serves",                     later(9), vec![],                          false),
        ("the primary is starting",                later(9), vec![|s| says(s, presence("pg-1", ServerState::Starting))], false),
        ("the primary says that it stopped",       NOW,      vec![stopped],                   true),
        ("its session has lapsed, its link too",   NOW,      vec![lapsed],                    true),
        ("its session has lapsed, its link lives", Time(2_000), vec![lapsed],                 false),
        ("an operator froze the cluster",          NOW,      vec![stopped, |s| { let r = record().with_freeze(freeze()); redeclare(s, r) }], false),
        ("the async is away",                      NOW,      vec![stopped, |s| lapse(s, "pg-3")], false),
        ("a newcomer is ready in its place",       NOW,      vec![stopped, |s| lapse(s, "pg-3"), |s| says(s, presence("pg-4", ServerState::Ready))], true),
        ("the WAL ends before the generation",     NOW,      vec![stopped, |s| { let mut r = record(); r.began_at = at(2, END + 1); redeclare(s, r) }], false),
    ];
    for (what, now, changes, seals) in cases {
        let given = sync(snapshot());
        let mut snapshot = snapshot();
        changes.iter().for_each(|change| change(&mut snapshot));

        let (then, declared) = led_to(&given, now, Event::Snapshot(snapshot.into()));

        assert_eq!(is_sealing(&then), seals, "{what}: {:?}", then.said);
        assert_eq!(declared, None, "{what}: nothing is declared before the WAL is sealed");
    }
}

#[test]
fn a_takeover_declares_exactly_what_was_sealed() {
    let mut snapshot = snapshot();
    says(&mut snapshot, presence("pg-1", ServerState::Stopped));
    let sealing = after(sync(snapshot.clone()), NOW, Event::Snapshot(snapshot.into()));
    let mut view = standby(Receiver::Sealed);
    view.replayed = Lsn(END + 0x10);

    let observed = Event::Observed(server("pg-2", Run::Standby(view)));
    let (declaring, declared) = led_to(&sealing, NOW, observed);

    let declaration = declared.unwrap();
    assert_eq!(declaration.next.began_at, at(2, END + 0x10), "R4");
    assert_eq!(declaration.next.generation, Generation(4));
    assert_eq!(declaration.next.primary, id("pg-2"));
    assert_eq!(declaration.next.sync, Some(id("pg-3")));
    assert_eq!(declaration.next.deposed_since(&id("pg-1")), Some(Generation(4)));
    assert_eq!(declaration.at, Some(Revision(40)));
    assert_eq!(declaration.guard, Guard::AbsentOrStopped(id("pg-1")));

    let won = answered(&declaring, Answer::Won { at: Revision(50) });
    let promoting = after(declaring.clone(), NOW, won);
    assert_eq!(names_of(&promoting), [id("pg-3")], "R6: in force before the promotion");
    assert_eq!(access_of(&promoting), Access::ReadOnly, "R5");

    // An answer that never came is asked for again, and nothing is received meanwhile (R1).
    let unknown = answered(&declaring, Answer::Unknown);
    let unsure = after(declaring, NOW, unknown);
    let (unsure, asked) = led_to(&unsure, later(1), Event::Tick);
    assert_eq!(asked, Some(declaration));
    let guarded = after(unsure.clone(), later(1), answered(&unsure, Answer::Guarded));
    assert!(is_sealing(&unsure) && is_sealing(&guarded));
}

#[test]
fn a_primary_opens_once_its_sync_has_what_was_visible() {
    let row = |flushed, waits| vec![StandbyRow { id: id("pg-2"), flushed: Lsn(flushed), waits }];
    #[rustfmt::skip]
    let cases = [
        // what is so                         its rows                       names in force  opens
        ("the sync has everything",           row(END, Waits::ForIt),        vec!["pg-2"],   true),
        ("the sync is behind",                row(END - 1, Waits::ForIt),    vec!["pg-2"],   false),
        ("the sync catches up",               row(END, Waits::NotYet),       vec!["pg-2"],   false),
        ("nothing waits for the sync",        row(END, Waits::ForOthers),    vec!["pg-2"],   false),
        ("the sync is away",                  vec![],                        vec!["pg-2"],   false),
        ("other names are in force",          row(END, Waits::ForIt),        vec!["pg-3"],   false),
    ];
    for (what, standbys, names, opens) in cases {
        let view = PrimaryView { standbys, access: Access::ReadOnly, ..primary(&names) };
        let given = instance("pg-1", snapshot());

        let then = after(given, NOW, Event::Observed(server("pg-1", Run::Primary(view.clone()))));

        let expected = if opens { Access::ReadWrite } else { Access::ReadOnly };
        assert_eq!(access_of(&then), expected, "{what}");
        let said = |state: &State| state.said.as_ref().unwrap().0.open;
        assert_eq!(said(&then), None, "{what}: it is open when sessions are seen to write");
        let view = PrimaryView { access: Access::ReadWrite, ..view };
        let then = after(then, NOW, Event::Observed(server("pg-1", Run::Primary(view))));
        assert_eq!(said(&then), opens.then_some(Generation(3)), "{what}");
    }
}

#[test]
fn a_change_of_sync_goes_through_both_names() {
    let mut lost = snapshot();
    lapse(&mut lost, "pg-2");
    let alone =
        |names: &[&str], end| PrimaryView { standbys: vec![], end: Lsn(end), ..primary(names) };
    let seen = |view| Event::Observed(server("pg-1", Run::Primary(view)));

    let mut given = after(in_office(snapshot()), NOW, Event::Snapshot(lost.into()));
    given.leases.session_until = later(9);
    let (both, declared) = led_to(&given, NOW, seen(alone(&["pg-2"], END)));
    assert_eq!(names_of(&both), [id("pg-2"), id("pg-3")]);
    assert_eq!(declared, None, "not before both names are in force");

    let (declaring, declared) = led_to(&both, NOW, seen(alone(&["pg-2", "pg-3"], END + 8)));
    let declaration = declared.unwrap();
    assert_eq!(declaration.next.sync, Some(id("pg-3")));
    assert_eq!(declaration.next.began_at, at(2, END + 8), "the end as read after that");
    assert_eq!(declaration.next.role_of(&id("pg-2")), None, "it comes back as a newcomer");
    assert_eq!(names_of(&declaring), [id("pg-2"), id("pg-3")], "while nobody knows who won");

    let raced = after(declaring.clone(), NOW, answered(&declaring, Answer::Raced));
    assert_eq!(names_of(&raced), [id("pg-2"), id("pg-3")], "until the record was read again");

    let won = answered(&declaring, Answer::Won { at: Revision(60) });
    let then = after(declaring, later(2), won);
    assert_eq!(names_of(&then), [id("pg-3")]);
    assert_eq!(access_of(&then), Access::ReadWrite, "sessions go on, their commits wait");
    let open = |state: &State| state.said.as_ref().unwrap().0.open;
    assert_eq!(open(&then), Some(Generation(3)), "not open in generation 4 yet");
    let mut back = snapshot();
    says(&mut back, presence("pg-2", ServerState::Ready));
    back.declared = then.snapshot.clone().unwrap().declared.clone();
    back.revision = Revision(61);
    let patient = after(then.clone(), later(3), Event::Snapshot(back.into()));
    assert_eq!(names_of(&patient), [id("pg-3")], "a new sync gets its own time to come");
    let row = StandbyRow { id: id("pg-3"), flushed: Lsn(END + 8), waits: Waits::ForIt };
    let caught_up = PrimaryView { standbys: vec![row], ..alone(&["pg-3"], END + 8) };
    assert_eq!(open(&after(then, NOW, seen(caught_up))), Some(Generation(4)));
}

#[test]
fn a_late_answer_says_nothing_about_a_newer_declaration() {
    let mut joining = snapshot();
    says(&mut joining, presence("pg-4", ServerState::Ready));
    let first = after(in_office(snapshot()), NOW, Event::Snapshot(joining.into()));
    let late = answered(&first, Answer::Raced);
    let mut won = after(first.clone(), NOW, answered(&first, Answer::Won { at: Revision(70) }));
    let mut more = won.snapshot.take().unwrap();
    says(Arc::make_mut(&mut more), presence("pg-5", ServerState::Ready));
    won.snapshot = Some(more);
    let second = after(won, NOW, Event::Tick);
    assert_eq!(second.declaring.as_ref().unwrap().0.at, Some(Revision(70)));

    let then = after(second.clone(), NOW, late);

    assert_eq!((then.declaring, then.raced_at), (second.declaring, None));
}

#[test]
fn a_sync_that_is_present_but_does_not_follow_is_replaced() {
    let row =
        |flushed| vec![StandbyRow { id: id("pg-2"), flushed: Lsn(flushed), waits: Waits::ForIt }];
    #[rustfmt::skip]
    let cases = [
        ("it follows",           row(END),     3, false),
        ("it stands still",      row(END - 1), 3, true),
        ("it is gone",           vec![],       3, true),
        ("it is gone, just now", vec![],       1, false),
    ];
    for (what, standbys, seconds, replaced) in cases {
        let mut given = in_office(snapshot());
        given.leases.session_until = later(9);
        let view = PrimaryView { standbys, ..primary(&["pg-2"]) };
        let seen = Event::Observed(server("pg-1", Run::Primary(view)));
        let given = after(given, NOW, seen.clone());

        let then = after(given, later(seconds), seen);

        assert_eq!(names_of(&then).len() == 2, replaced, "{what}");
    }
}

#[test]
fn the_first_sync_of_a_new_cluster_may_take_its_time() {
    let alone = PrimaryView { standbys: vec![], access: Access::ReadOnly, ..primary(&["pg-2"]) };
    let seen = Event::Observed(server("pg-1", Run::Primary(alone)));
    #[rustfmt::skip]
    let cases = [
        // the generation began by   was open here        replaced
        (Reason::Bootstrap,          None,                false),
        (Reason::Bootstrap,          Some(Generation(3)), true),
        (Reason::PrimaryLost,        None,                true),
    ];
    for (reason, opened, replaced) in cases {
        let mut new = snapshot();
        redeclare(&mut new, Record { reason, ..record() });
        let mut given = instance("pg-1", new);
        given.leases.session_until = later(9);
        given.opened = opened;
        let given = after(given, NOW, seen.clone());

        let then = after(given, later(3), seen.clone());

        assert_eq!(names_of(&then).len() == 2, replaced, "{reason:?}, open in {opened:?}");
    }
}

#[test]
fn newcomers_and_repaired_instances_are_appended_by_the_primary() {
    let mut joined = snapshot();
    let mut record = record();
    record.deposed.push(Deposed { id: id("pg-4"), since: Generation(3) });
    redeclare(&mut joined, record.clone());
    let given = in_office(joined.clone());
    for (server, appended) in [
        (ServerState::Standby, false), // Not proven to be on the primary's history.
        (ServerState::Copying, false),
        (ServerState::Ready, true),
    ] {
        says(&mut joined, presence("pg-4", server));
        let (_, declared) = led_to(&given, NOW, Event::Snapshot(joined.clone().into()));
        assert_eq!(declared.is_some(), appended, "{server:?}");
        if let Some(declaration) = declared {
            assert_eq!(declaration.next, record.with_async(&id("pg-4")));
            assert_eq!(declaration.next.generation, Generation(3), "no new generation");
            assert!(declaration.next.deposed.is_empty());
        }
    }
    let frozen = record.with_freeze(freeze());
    redeclare(&mut joined, frozen);
    assert_eq!(led_to(&given, NOW, Event::Snapshot(joined.into())).1, None, "frozen");
}

#[test]
fn an_async_is_forgotten_only_after_long() {
    let mut away = snapshot();
    lapse(&mut away, "pg-3");
    let mut given = after(in_office(snapshot()), NOW, Event::Snapshot(away.into()));
    given.leases.session_until = later(9_000);
    assert_eq!(led_to(&given, later(3_599), Event::Tick).1, None);
    let (_, declared) = led_to(&given, later(3_600), Event::Tick);
    assert_eq!(declared.unwrap().next, record().without(&id("pg-3")));
}

#[test]
fn a_primary_that_lost_both_leases_is_fenced() {
    #[rustfmt::skip]
    let cases = [
        // what lives     session   link     fenced
        ("both",          later(5), later(5), false),
        ("the session",   later(5), NOW,      false),
        ("the link",      NOW,      later(5), false),
        ("neither",       NOW,      NOW,      true),
    ];
    for (what, session_until, link_until, fenced) in cases {
        let mut given = in_office(snapshot());
        given.leases = Leases { session_until, link_until };

        let then = after(given, later(4), Event::Tick);

        let down = then.goal == Some(Goal::Down(Stop::Immediate));
        assert_eq!(down, fenced, "{what} alive");
    }
}

#[test]
fn a_primary_whose_server_died_first_leaves_its_office_to_the_sync() {
    let given = in_office(snapshot());
    let dead = after(given, NOW, Event::Observed(server("pg-1", Run::Down)));
    let said = |state: &State| state.said.as_ref().unwrap().0.server;
    assert_eq!(said(&dead), ServerState::Stopped, "the word that needs no lease");
    assert_eq!(dead.goal, Some(Goal::Down(Stop::Immediate)));

    // Nobody took over in time: take the word back, see it taken back, then start.
    let mut back = after(dead.clone(), later(5), Event::Tick);
    assert_eq!(said(&back), ServerState::Starting);
    assert_eq!(back.goal, Some(Goal::Down(Stop::Immediate)));
    let mut known = snapshot();
    says(&mut known, presence("pg-1", ServerState::Starting));
    back.leases.session_until = later(9);
    let started = after(back, later(5), Event::Snapshot(known.into()));
    assert_eq!(access_of(&started), Access::ReadOnly);

    // Nobody can take over: no reason to wait.
    let mut alone = snapshot();
    lapse(&mut alone, "pg-3");
    let dead = after(dead, NOW, Event::Snapshot(alone.into()));
    assert_eq!(said(&dead), ServerState::Starting);
}

#[test]
fn a_primary_whose_server_hangs_or_cannot_be_started_hands_over() {
    let said = |state: &State| state.said.as_ref().unwrap().0.server;
    let seen = |run| Event::Observed(server("pg-1", run));
    let hung = |state, now| after(state, now, seen(Run::Busy(Work::Starting)));
    let held = |snapshot| {
        let mut state = in_office(snapshot);
        state.leases.session_until = later(90);
        state
    };
    let patient = hung(hung(held(snapshot()), NOW), later(9));
    assert!(matches!(patient.goal, Some(Goal::Primary(_))));
    let given_up = hung(patient, later(10));
    assert_eq!(given_up.goal, Some(Goal::Down(Stop::Immediate)));
    let down = after(given_up, later(11), seen(Run::Down));
    assert_eq!(said(&down), ServerState::Stopped, "the sync may take over");
    assert_eq!(down.goal, Some(Goal::Down(Stop::Immediate)));

    let mut known = snapshot();
    says(&mut known, presence("pg-1", ServerState::Starting));
    let mut never = instance("pg-1", known);
    never.leases.session_until = later(90);
    let never = after(after(never, NOW, seen(Run::Down)), later(9), Event::Tick);
    assert_eq!((access_of(&never), said(&never)), (Access::ReadOnly, ServerState::Starting));
    let never = after(never, later(19), Event::Tick);
    assert_eq!(said(&never), ServerState::Stopped, "it does not start, and somebody else could");

    let mut alone = snapshot();
    lapse(&mut alone, "pg-3");
    let alone = hung(hung(held(alone), NOW), later(60));
    assert!(matches!(alone.goal, Some(Goal::Primary(_))), "nobody could take over");
}

#[test]
fn a_server_that_ended_is_started_again_in_another_life() {
    let life = |state: &State| match &state.goal {
        Some(Goal::Primary(goal)) => goal.life,
        other => panic!("no primary's goal: {other:?}"),
    };
    let mut alone = snapshot();
    lapse(&mut alone, "pg-2");
    says(&mut alone, presence("pg-1", ServerState::Starting));
    let given = in_office(alone);
    let before = life(&given);
    let starting = Event::Observed(server("pg-1", Run::Busy(Work::Starting)));
    let dead = after(given, NOW, starting);
    let dead = after(dead, NOW, Event::Observed(server("pg-1", Run::Down)));
    assert_eq!(life(&dead), before + 1, "else nobody could tell this goal from the one before");
}

#[test]
fn each_follows_the_nearest_running_instance_to_its_left() {
    let upstream = |state: &State| match &state.goal {
        Some(Goal::Standby(goal)) => goal.upstream.clone().unwrap().id,
        other => panic!("{other:?}"),
    };
    let run = || Run::Standby(standby(Receiver::Streaming));
    let seen = |name| Event::Observed(server(name, run()));
    let given = after(instance("pg-3", snapshot()), NOW, seen("pg-3"));
    assert_eq!(upstream(&given), id("pg-2"));
    let mut broken = snapshot();
    lapse(&mut broken, "pg-2");
    assert_eq!(upstream(&after(given, NOW, Event::Snapshot(broken.into()))), id("pg-1"));
    let newcomer = after(instance("pg-4", snapshot()), NOW, seen("pg-4"));
    assert_eq!(upstream(&newcomer), id("pg-3"), "where it will be appended");
}

#[test]
fn only_the_first_of_enough_empty_instances_makes_a_cluster() {
    let empty = |count: usize| {
        let mut snapshot = Snapshot::default();
        for name in ["pg-1", "pg-2", "pg-3"].into_iter().take(count) {
            says(&mut snapshot, presence(name, ServerState::Stopped));
        }
        snapshot
    };
    let seen = |data| Event::Observed(Server { data, run: Run::Down, ..Server::unknown() });
    #[rustfmt::skip]
    let cases = [
        ("pg-1", 3, true),
        ("pg-1", 2, false), // too few
        ("pg-2", 3, false), // not the first
    ];
    for (name, count, initialises) in cases {
        let then = after(instance(name, empty(count)), NOW, seen(Data::Empty));
        assert_eq!(then.goal == Some(Goal::Initialised), initialises, "{name} of {count}");
    }
    let fresh = Identity { generation: Generation(0), ..identity("pg-1") };
    let given = instance("pg-1", empty(3));
    let (_, declared) = led_to(&given, NOW, seen(Data::Own(fresh)));
    let declaration = declared.unwrap();
    assert_eq!((declaration.at, declaration.next.generation), (None, Generation(1)));
    assert_eq!(declaration.next.sync, Some(id("pg-2")));

    // R10: data that has served is never the beginning of another cluster.
    let then = after(given, NOW, seen(Data::Own(identity("pg-1"))));
    assert_eq!(then.goal, None);
}

#[test]
fn a_record_that_does_not_fit_the_data_is_refused() {
    #[rustfmt::skip]
    let cases = [
        ("the same",                    identity("pg-3"), false),
        ("the store went back",         Identity { generation: Generation(4), ..identity("pg-3") }, true),
        ("another cluster's data",      Identity { system_identifier: SystemIdentifier(8), ..identity("pg-3") }, true),
    ];
    for (what, own, refused) in cases {
        let given = instance("pg-3", snapshot());
        let seen = Server { data: Data::Own(own), ..server("pg-3", Run::Down) };
        let then = after(given, NOW, Event::Observed(seen));
        assert_eq!(then.goal.is_none(), refused, "{what}: {:?}", then.goal);
    }
}

#[test]
fn foreign_data_is_left_alone_and_a_primary_with_it_leaves_its_office() {
    let foreign = Data::Foreign { why: "it is somebody else's".to_owned() };
    let seen = Event::Observed(Server { data: foreign, run: Run::Down, ..Server::unknown() });
    #[rustfmt::skip]
    let cases = [
        ("pg-1", ServerState::Stopped),  // the primary: its sync may take over at once
        ("pg-4", ServerState::Starting), // no member: it is nobody that a cluster is made of
    ];
    for (name, says) in cases {
        let then = after(instance(name, snapshot()), NOW, seen.clone());
        let said = &then.said.as_ref().unwrap().0;
        assert_eq!(said.server, says, "{name}");
        assert_eq!(said.note.as_deref(), Some("it is somebody else's"), "{name}");
        assert!(matches!(then.goal, None | Some(Goal::Down(_))), "{name}: {:?}", then.goal);
    }
}

#[test]
fn nothing_is_asked_of_the_server_before_the_store_knows_the_controller() {
    let mut new = instance("pg-3", snapshot());
    new.leases = Leases::default();
    let looked = Event::Observed(server("pg-3", Run::Down));
    let new = after(new, NOW, looked);
    assert_eq!(new.goal, None, "what an earlier controller declared may still win");
    let known = after(new, NOW, Event::Renewed { begun: NOW });
    assert!(matches!(known.goal, Some(Goal::Standby(_))), "{:?}", known.goal);
}

#[test]
fn a_word_that_the_store_does_not_show_is_said_again() {
    let announces = |state: &State, now| {
        step(state, now, Event::Tick).1.iter().any(|action| matches!(action, Action::Announce(_)))
    };
    let mut older = snapshot();
    says(&mut older, presence("pg-1", ServerState::Starting));
    let mut given = in_office(older);
    given.leases.session_until = later(9);
    assert!(!announces(&given, NOW), "it was said just now");
    assert!(announces(&given, later(1)), "the store still shows an older word");
    let mut shown = given.snapshot.clone().unwrap();
    says(Arc::make_mut(&mut shown), given.said.clone().unwrap().0);
    let given = after(given, NOW, Event::Snapshot(shown));
    assert!(!announces(&given, later(1)));
}

#[test]
fn who_leaves_stops_in_order_and_then_ends() {
    let leaving = after(in_office(snapshot()), NOW, Event::Leave);
    assert_eq!(leaving.goal, Some(Goal::Down(Stop::Fast)));
    let (_, actions) = step(&leaving, NOW, Event::Observed(server("pg-1", Run::Down)));
    let [Action::Announce(last), Action::Finish] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(last.server, ServerState::Stopped);
}
