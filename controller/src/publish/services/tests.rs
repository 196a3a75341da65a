//! Which services a topology means, and what their watchers hear.

use dugong_topology::{Generation, Revision};

use super::feed::Interest;
use super::*;

fn member(name: &str, healthy: bool) -> Member {
    Member {
        id: name.parse().unwrap(),
        address: Some(Address::loopback(5000)),
        healthy,
        position: None,
        http: Some(Address::loopback(6000)),
        state: if healthy { "running" } else { "unreachable" }.to_owned(),
        upstream: None,
        lag_bytes: None,
        lag_seconds: None,
        making: None,
        note: None,
    }
}

fn cluster(revision: u64) -> Topology {
    Topology {
        generation: Generation(3),
        phase: Phase::ReadWrite,
        primary: Some(member("pg-1", true)),
        sync: Some(member("pg-2", true)),
        asyncs: vec![member("pg-3", true)],
        ..Topology::unformed("main".to_owned(), Revision(revision))
    }
}

/// The ids of a service's instances, its leader in capitals.
fn text(service: Service, topology: &Topology) -> String {
    let instances = service.instances(topology);
    let leader = service.leader(topology, &instances).map(|leader| leader.id);
    let names = instances.iter().map(|instance| {
        let name = instance.id.to_string();
        if Some(&instance.id) == leader.as_ref() { name.to_uppercase() } else { name }
    });
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_service_is_whoever_can_do_it_now() {
    let vacant = Topology { phase: Phase::NoPrimary, ..cluster(1) };
    // Its session lapsed, but nobody took over: it may serve on its link.
    let degraded = Topology { primary: Some(member("pg-1", false)), ..cluster(1) };
    let lame = Topology { sync: Some(member("pg-2", false)), ..cluster(1) };
    let mut dark = cluster(1);
    for member in dark.primary.iter_mut().chain(&mut dark.sync).chain(&mut dark.asyncs) {
        *member = self::member(member.id.as_str(), false);
    }
    let unformed = Topology::unformed("main".to_owned(), Revision(1));
    #[rustfmt::skip]
    let cases = [
        // what           topology    postgres          primary  sync    replica      controller
        ("all is well",   cluster(1), ["PG-1 pg-2 pg-3", "PG-1", "PG-2", "PG-2 pg-3", "PG-1 pg-2 pg-3"]),
        ("no primary",    vacant,     ["pg-1 pg-2 pg-3", "",     "PG-2", "PG-2 pg-3", "PG-1 pg-2 pg-3"]),
        ("it is cut off", degraded,   ["PG-1 pg-2 pg-3", "PG-1", "PG-2", "PG-2 pg-3", "pg-2 pg-3"]),
        ("the sync is",   lame,       ["PG-1 pg-2 pg-3", "PG-1", "",     "PG-3",      "PG-1 pg-3"]),
        ("everybody is",  dark,       ["PG-1 pg-2 pg-3", "PG-1", "",     "",          "PG-1 pg-2 pg-3"]),
        ("unformed",      unformed,   ["",               "",     "",     "",          ""]),
    ];
    for (what, topology, expected) in cases {
        assert_eq!(Service::ALL.map(|service| text(service, &topology)), expected, "{what}");
    }
}

/// The kinds of the events, with their instances.
fn kinds(events: &Bytes) -> String {
    let text = std::str::from_utf8(events).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let one = |json: &str| {
        let event: serde_json::Value = serde_json::from_str(json).unwrap();
        let id = event["instance"]["id"].as_str().unwrap_or("-").to_owned();
        format!("{} {id}", event["kind"].as_str().unwrap())
    };
    data.map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_watcher_hears_what_leads_from_one_state_to_the_next() {
    let after = Topology {
        generation: Generation(4),
        primary: Some(member("pg-2", true)),
        sync: Some(member("pg-3", true)),
        asyncs: Vec::new(),
        ..cluster(2)
    };
    let dark = Topology { phase: Phase::NoPrimary, ..cluster(2) };
    let deaf = Topology { sync: None, ..cluster(2) };
    #[rustfmt::skip]
    let cases = [
        ("the same again",    Service::Primary,  cluster(2),  ""),
        ("a takeover",        Service::Primary,  after.clone(), "down pg-1, up pg-2, leader pg-2"),
        ("seen by replicas",  Service::Replica,  after.clone(), "down pg-2, update pg-3, leader pg-3"),
        ("no primary",        Service::Primary,  dark.clone(), "down pg-1, leader -"),
        ("all are there yet", Service::Postgres, dark,        "leader -"),
        ("one less",          Service::Replica,  deaf,        "down pg-2, leader pg-3"),
    ];
    for (what, service, then, expected) in cases {
        let first = Services::new(&cluster(1), None).unwrap();
        let next = Services::new(&then, Some(&first)).unwrap();
        let (old, new) = (first.of(service), next.of(service));
        if expected.is_empty() {
            assert!(Arc::ptr_eq(old, new), "{what}: shared, so nobody is told");
            continue;
        }
        assert_eq!(
            kinds(&new.changes_since(old, Interest::Everything).unwrap()),
            expected,
            "{what}"
        );
        let leaders: Vec<_> =
            expected.split(", ").filter(|kind| kind.starts_with("lead")).collect();
        assert_eq!(
            kinds(&new.changes_since(old, Interest::Leader).unwrap()),
            leaders.join(", "),
            "{what}"
        );
    }
    let first = Services::new(&cluster(1), None).unwrap();
    let feed = &first.of(Service::Replica).feed;
    assert_eq!(
        kinds(&feed.opening(Interest::Everything)),
        "up pg-2, up pg-3, leader pg-2, current -"
    );
    assert_eq!(kinds(&feed.opening(Interest::Leader)), "leader pg-2, current -");
}

#[test]
fn who_missed_a_state_hears_the_sum() {
    let first = Services::new(&cluster(1), None).unwrap();
    let less = Topology { asyncs: Vec::new(), ..cluster(2) };
    let second = Services::new(&less, Some(&first)).unwrap();
    let third = Services::new(&cluster(3), Some(&second)).unwrap();
    let state = third.of(Service::Replica);
    let by_all = state.changes_since(second.of(Service::Replica), Interest::Everything).unwrap();
    let again = state.changes_since(second.of(Service::Replica), Interest::Everything).unwrap();
    assert_eq!(kinds(&by_all), "up pg-3");
    assert_eq!(by_all.as_ptr(), again.as_ptr(), "encoded once");
    let by_slow = state.changes_since(first.of(Service::Replica), Interest::Everything).unwrap();
    assert_eq!(kinds(&by_slow), "", "it never heard that pg-3 was away");
}

#[test]
fn a_service_keeps_the_version_of_its_last_change() {
    let first = Services::new(&cluster(1), None).unwrap();
    let moved = Topology { generation: Generation(4), sync: None, ..cluster(7) };
    let next = Services::new(&moved, Some(&first)).unwrap();
    let since = |service| next.of(service).since.to_string();
    assert_eq!(since(Service::Primary), "g3 r1");
    assert_eq!(since(Service::Sync), "g4 r7");
    assert_eq!(next.since.to_string(), "g4 r7");
}
