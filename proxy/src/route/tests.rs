//! Which server a connection gets, and when it must leave.

use std::time::Duration;

use dugong_topology::Revision;
use dugong_topology::document::Lag;

use super::*;

const RULES: ReadRules =
    ReadRules { max_lag: LagLimit { bytes: 100, time: None }, fallback: ReadFallback::Primary };

fn member(id: &str, port: u16, lag_bytes: Option<u64>) -> Member {
    serde_json::from_value(serde_json::json!({
        "id": id, "address": format!("127.0.0.1:{port}"), "healthy": true, "lag_bytes": lag_bytes,
    }))
    .unwrap()
}

/// pg-1 is the primary; pg-2 the sync; pg-3 and pg-4 are asyncs.
fn cluster() -> Topology {
    Topology {
        generation: Generation(3),
        phase: Phase::ReadWrite,
        primary: Some(member("pg-1", 1, None)),
        sync: Some(member("pg-2", 2, Some(0))),
        asyncs: vec![member("pg-3", 3, Some(100)), member("pg-4", 4, Some(0))],
        ..Topology::unformed("main".to_owned(), Revision(7))
    }
}

fn with(change: impl FnOnce(&mut Topology)) -> Topology {
    let mut topology = cluster();
    change(&mut topology);
    topology
}

/// The ids of an answer, or the word for it.
fn told(options: Options) -> String {
    match options {
        Options::Try(targets) => {
            targets.iter().map(|target| target.id.as_str()).collect::<Vec<_>>().join(" ")
        }
        Options::Hold => "hold".to_owned(),
        Options::Refuse => "refuse".to_owned(),
    }
}

#[test]
fn writes_go_to_a_primary_that_takes_them() {
    #[rustfmt::skip]
    let cases = [
        ("open",                    cluster(),                                          "pg-1"),
        ("catching up",             with(|t| t.phase = Phase::CatchingUp),              "hold"),
        ("no primary runs",         with(|t| t.phase = Phase::NoPrimary),               "hold"),
        ("not formed",              with(|t| t.phase = Phase::Unformed),                "hold"),
        ("no primary is named",     with(|t| t.primary = None),                         "hold"),
        ("its address is unknown",  with(|t| t.primary.as_mut().unwrap().address = None), "hold"),
    ];
    for (what, topology, expected) in cases {
        let options = options(Listener::Write, Some(&topology), RULES);
        assert_eq!(told(options), expected, "{what}");
    }
    assert_eq!(options(Listener::Write, None, RULES), Options::Hold, "nothing is known");
}

#[test]
fn reads_go_to_standbys_that_are_fit() {
    let refusing = ReadRules { fallback: ReadFallback::Refuse, ..RULES };
    let alone = || with(|t| (t.sync, t.asyncs) = (None, Vec::new()));
    let lagging = with(|t| t.asyncs[0].lag_bytes = Some(101));
    let unknown = with(|t| t.asyncs[0].lag_bytes = None);
    let ill = with(|t| t.sync.as_mut().unwrap().healthy = false);
    let closed = with(|t| t.phase = Phase::CatchingUp);
    let limit = LagLimit { time: Some(Duration::from_secs(2)), ..RULES.max_lag };
    let timely = ReadRules { max_lag: limit, ..RULES };
    // Of the third it is not known.
    let aged = with(|t| {
        t.sync.as_mut().unwrap().lag_seconds = Some(Lag { millis: 2_000 });
        t.asyncs[0].lag_seconds = Some(Lag { millis: 2_001 });
    });
    let alone_and_closed = Topology { phase: Phase::CatchingUp, ..alone() };
    #[rustfmt::skip]
    let cases = [
        ("all are fit",             cluster(),  RULES,      "pg-2 pg-3 pg-4"),
        ("one lags",                lagging,    RULES,      "pg-2 pg-4"),
        ("one lags, nobody knows",  unknown,    RULES,      "pg-2 pg-4"),
        ("one shows what is old",   aged,       timely,     "pg-2"),
        ("one is not healthy",      ill,        RULES,      "pg-3 pg-4"),
        ("writes are held",         closed,     RULES,      "pg-2 pg-3 pg-4"),
        ("only the primary",        alone(),    RULES,      "pg-1"),
        ("only it, and it is shut", alone_and_closed, RULES, "hold"),
        ("only it, no fallback",    alone(),    refusing,   "refuse"),
    ];
    for (what, topology, rules, expected) in cases {
        let options = options(Listener::Read, Some(&topology), rules);
        assert_eq!(told(options), expected, "{what}");
    }
    assert_eq!(options(Listener::Read, None, refusing), Options::Hold, "nothing is known");
}

#[test]
fn a_session_leaves_at_once_only_when_its_server_is_something_else() {
    let primary =
        Target { id: "pg-1".parse().unwrap(), address: Address::loopback(1), seat: Seat::Primary };
    let standby =
        Target { id: "pg-2".parse().unwrap(), address: Address::loopback(2), seat: Seat::Standby };
    let taken_over = || {
        with(|t| {
            t.generation = Generation(4);
            t.deposed = t.primary.take().into_iter().collect();
            t.primary = t.sync.take();
        })
    };
    let moved = |t: &mut Topology| t.primary.as_mut().unwrap().address = Some(Address::loopback(9));
    let same_primary = with(|t| (t.generation, t.sync) = (Generation(4), None));
    let no_address = with(|t| t.primary.as_mut().unwrap().address = None);
    let ill = with(|t| t.sync.as_mut().unwrap().healthy = false);
    let lost = with(|t| t.sync.as_mut().unwrap().lag_bytes = None);
    let asynchronous = with(|t| t.asyncs.extend(t.sync.take()));
    let deposed = with(|t| t.deposed.extend(t.sync.take()));
    #[rustfmt::skip]
    let cases = [
        ("nothing changed",             &primary, cluster(),    None),
        ("another primary",             &primary, taken_over(), Some("the primary changed from pg-1 to pg-2 (generation 4)")),
        ("another sync only",           &primary, same_primary, None),
        ("catching up",                 &primary, with(|t| t.phase = Phase::CatchingUp), None),
        ("handing over",                &primary, with(|t| t.phase = Phase::HandingOver), None),
        ("no primary is named",         &primary, with(|t| t.primary = None), None),
        ("another address",             &primary, with(moved),  Some("pg-1 moved from 127.0.0.1:1 to 127.0.0.1:9 (generation 3)")),
        ("no address for a moment",     &primary, no_address,   None),
        ("a standby, unchanged",        &standby, cluster(),    None),
        ("a standby took over",         &standby, taken_over(), Some("pg-2 became the primary (generation 4)")),
        ("a standby is not healthy",    &standby, ill,          None),
        ("a standby's lag is unknown",  &standby, lost,         None),
        ("the sync became an async",    &standby, asynchronous, None),
        ("a standby was deposed",       &standby, deposed,      Some("pg-2 is no longer a standby (generation 3)")),
        ("a standby is gone",           &standby, with(|t| t.sync = None), Some("pg-2 is no longer a standby (generation 3)")),
    ];
    for (what, target, topology, expected) in cases {
        let told = leave(target, &topology).map(|leave| leave.to_string());
        assert_eq!(told.as_deref(), expected, "{what}");
    }
}

#[test]
fn a_session_leaves_a_primary_that_hands_over_when_it_can() {
    let (address, other) = (Address::loopback(1), Address::loopback(2));
    let primary = Target { id: "pg-1".parse().unwrap(), address, seat: Seat::Primary };
    let standby = Target { id: "pg-2".parse().unwrap(), address: other, seat: Seat::Standby };
    let handing_over = with(|t| t.phase = Phase::HandingOver);
    let Some(Parting::BetweenTransactions(leave)) = parting(&primary, &handing_over) else {
        panic!("it stays, or leaves at once");
    };
    let expected = "pg-1 hands over to another primary, as planned (generation 3)";
    assert_eq!(leave.to_string(), expected);
    assert_eq!(parting(&standby, &handing_over), None);
    assert_eq!(parting(&primary, &cluster()), None);
}

#[test]
fn a_connection_that_is_being_made_is_given_up_when_writes_are_held() {
    let Options::Try(targets) = options(Listener::Write, Some(&cluster()), RULES) else {
        panic!("the cluster is open");
    };
    let closed = with(|t| t.phase = Phase::CatchingUp);
    assert!(still_right(Listener::Write, &targets[0], &cluster()));
    assert!(!still_right(Listener::Write, &targets[0], &closed));
    assert!(still_right(Listener::Read, &targets[0], &closed));
}
