//! A primary without a sync, as the operator wanted it, and its way to a cluster.

use dugong_topology::{Generation, Lsn, Revision};

use super::given::*;
use crate::*;

fn alone() -> Snapshot {
    let mut snapshot = Snapshot { revision: Revision(40), ..Snapshot::default() };
    let record = Record { sync: None, asyncs: vec![], one_node: true, ..record() };
    redeclare(&mut snapshot, record);
    says(&mut snapshot, presence("pg-1", ServerState::Primary));
    snapshot
}

fn seen(names: Names, end: u64) -> Event {
    let view = PrimaryView { names, standbys: vec![], end: Lsn(end), ..primary(&[]) };
    Event::Observed(server("pg-1", Run::Primary(view)))
}

fn each(names: &[&str]) -> Names {
    Names::Each(names.iter().map(|name| id(name)).collect())
}

fn goal_of(state: &State) -> PrimaryGoal {
    match &state.goal {
        Some(Goal::Primary(goal)) => goal.clone(),
        other => panic!("no primary's goal: {other:?}"),
    }
}

fn said_open(state: &State) -> Option<Generation> {
    state.said.as_ref().unwrap().0.open
}

#[test]
fn one_instance_makes_a_cluster_only_where_the_operator_wants_one_node() {
    let mut empty = Snapshot::default();
    says(&mut empty, presence("pg-1", ServerState::Stopped));
    says(&mut empty, presence("pg-2", ServerState::Stopped));
    let fresh = Identity { generation: Generation(0), ..identity("pg-1") };
    let made = Server { data: Data::Own(fresh), ..server("pg-1", Run::Down) };
    #[rustfmt::skip]
    let cases = [
        (Bootstrap::OneNode, Some((None, true))),
        (Bootstrap::Of(2),   Some((Some(id("pg-2")), false))),
        (Bootstrap::Of(3),   None),
    ];
    for (bootstrap, expected) in cases {
        let mut given = instance("pg-1", empty.clone());
        given.settings.bootstrap = bootstrap;
        let (_, declared) = led_to(&given, NOW, Event::Observed(made.clone()));
        let found = declared.map(|declared| (declared.next.sync, declared.next.one_node));
        assert_eq!(found, expected, "{bootstrap:?}");
    }
}

#[test]
fn commits_wait_for_nobody_only_where_the_record_says_so() {
    #[rustfmt::skip]
    let cases = [
        // one node  names                    open
        (true,       Names::OneNode,          Some(Generation(3))),
        (false,      Names::Each(Vec::new()), None), // never by accident
    ];
    for (one_node, names, open) in cases {
        let mut snapshot = alone();
        let record = Record { one_node, ..snapshot.record().unwrap().clone() };
        redeclare(&mut snapshot, record);
        let mut given = instance("pg-1", snapshot);
        given.leases.session_until = later(9);

        let begun = after(given, NOW, Event::Tick);
        let closed = after(begun, NOW, Event::Observed(server("pg-1", Run::Busy(Work::Starting))));
        assert_eq!(
            (goal_of(&closed).names, goal_of(&closed).access),
            (names.clone(), Access::ReadOnly)
        );
        let then = after(closed, NOW, seen(names.clone(), END));
        assert_eq!(said_open(&then), open, "one node: {one_node}");
        // What is in force for another reason opens nothing.
        let other = after(then, NOW, seen(each(&["pg-2"]), END));
        assert_eq!(goal_of(&other).names, names);
    }
}

#[test]
fn a_ready_standby_becomes_the_sync_and_that_is_for_ever() {
    let mut given = instance("pg-1", alone());
    given.leases.session_until = later(9);
    let given = after(given, NOW, Event::Tick);
    let given = after(given, NOW, seen(Names::OneNode, END));
    let mut joined = alone();
    says(&mut joined, presence("pg-2", ServerState::Copying));
    let copying = after(given, NOW, Event::Snapshot(joined.clone().into()));
    assert_eq!(goal_of(&copying).names, Names::OneNode, "not before it is ready");
    says(&mut joined, presence("pg-2", ServerState::Ready));

    let (joining, early) = led_to(&copying, NOW, Event::Snapshot(joined.clone().into()));
    assert_eq!((goal_of(&joining).names, early), (each(&["pg-2"]), None), "R6: first in force");
    assert_eq!(joining.may_serve_until(), Some(joining.leases.session_until), "an heir may be");
    let (declaring, declared) = led_to(&joining, NOW, seen(each(&["pg-2"]), END + 8));

    let next = declared.unwrap().next;
    assert_eq!((next.sync.clone(), next.one_node), (Some(id("pg-2")), false));
    assert_eq!((next.began_at, next.reason), (at(2, END + 8), Reason::SyncFound));
    let won = after(declaring.clone(), NOW, answered(&declaring, Answer::Won { at: Revision(60) }));
    assert_eq!(goal_of(&won).names, each(&["pg-2"]));
    let mut lost = joined;
    redeclare(&mut lost, next);
    lapse(&mut lost, "pg-2");
    let lost = after(won, later(5), Event::Snapshot(lost.into()));
    assert_eq!(goal_of(&lost).names, each(&["pg-2"]), "its loss makes writes wait");
}

#[test]
fn a_standby_that_goes_before_it_is_the_sync_leaves_one_node() {
    let mut given = instance("pg-1", alone());
    given.leases.session_until = later(9);
    let given = after(given, NOW, seen(Names::OneNode, END));
    let mut joined = alone();
    says(&mut joined, presence("pg-2", ServerState::Ready));
    let joining = after(given, NOW, Event::Snapshot(joined.clone().into()));
    assert_eq!(goal_of(&joining).names, each(&["pg-2"]));
    lapse(&mut joined, "pg-2");
    let then = after(joining, NOW, Event::Snapshot(joined.into()));
    assert_eq!(goal_of(&then).names, Names::OneNode);
}

#[test]
fn one_node_serves_on_without_the_store() {
    let given = after(instance("pg-1", alone()), NOW, seen(Names::OneNode, END));
    let then = after(given, later(60), Event::StoreFailed { why: "no disk".to_owned() });
    assert_eq!(goal_of(&then).access, Access::ReadWrite, "nobody can take over from it");
    assert_eq!(then.may_serve_until(), Some(Time::NEVER), "nor need anybody end it");
}
