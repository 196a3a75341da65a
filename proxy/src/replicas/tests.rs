//! What is learned of standbys.

use dugong_topology::Address;

use super::*;

fn standby(number: u16) -> Target {
    let id = format!("pg-{number}").parse().unwrap();
    Target { id, address: Address::loopback(number), seat: Seat::Standby }
}

fn first(replicas: &Replicas, fit: &[Target], now: Instant) -> String {
    replicas.arrange(fit.to_vec(), now)[0].id.to_string()
}

/// Whether `wanted` comes first in all of a hundred orders.
fn always_first(replicas: &Replicas, fit: &[Target], now: Instant, wanted: &str) -> bool {
    (0..100).all(|_| first(replicas, fit, now) == wanted)
}

#[test]
fn a_client_counts_until_it_has_left() {
    let replicas = Replicas::new(Duration::ZERO, Preferences::default());
    let (fit, now) = ([standby(2), standby(3)], Instant::now());
    let mut claim = replicas.claim(&fit[0].id);
    assert!(always_first(&replicas, &fit, now, "pg-3"), "one more is being led there");
    claim.note(false);
    assert!(always_first(&replicas, &fit, now, "pg-3"), "it has one session more");
    let mut other = replicas.claim(&fit[1].id);
    assert!(always_first(&replicas, &fit, now, "pg-2"), "one waits there, nobody here");
    other.note(false);
    claim.note(true);
    claim.note(true);
    assert!(always_first(&replicas, &fit, now, "pg-3"), "it waits");
    drop(claim);
    assert!(always_first(&replicas, &fit, now, "pg-2"), "its client has left");
}

#[test]
fn who_refuses_is_left_out_for_longer_each_time() {
    let replicas = Replicas::new(Duration::ZERO, Preferences::default());
    let fit = [standby(2), standby(3)];
    let begun = Instant::now();
    let _busy = replicas.claim(&fit[1].id);
    let at = |seconds| begun + Duration::from_secs(seconds);
    assert!(always_first(&replicas, &fit, at(0), "pg-2"));
    replicas.refused(&fit[0].id, at(0));
    replicas.refused(&fit[0].id, at(0)); // In the same moment: no second one.
    assert!(always_first(&replicas, &fit, at(0), "pg-3"), "left out");
    assert!(always_first(&replicas, &fit, at(1), "pg-2"), "after a second it gets a try");
    replicas.refused(&fit[0].id, at(1));
    assert!(always_first(&replicas, &fit, at(2), "pg-3"), "for two seconds this time");
    assert!(always_first(&replicas, &fit, at(3), "pg-2"));
    replicas.served(&fit[0].id);
    replicas.refused(&fit[0].id, at(3));
    assert!(always_first(&replicas, &fit, at(4), "pg-2"), "from the beginning again");
    // However often: half a minute.
    for _ in 0..40 {
        replicas.refused(&fit[0].id, begun + Duration::from_secs(3_600));
    }
    assert!(always_first(&replicas, &fit, begun + Duration::from_secs(3_631), "pg-2"));
}

#[test]
fn who_comes_back_gets_its_share_little_by_little() {
    let replicas = Replicas::new(Duration::from_secs(10), Preferences::default());
    let fit = [standby(2), standby(3)];
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let _busy = [replicas.claim(&fit[1].id), replicas.claim(&fit[1].id)];
    replicas.arrange(fit.to_vec(), at(0));
    assert!(always_first(&replicas, &fit, at(0), "pg-2"), "there from the beginning");
    replicas.arrange(fit[1..].to_vec(), at(1));
    assert!(always_first(&replicas, &fit, at(2), "pg-3"), "it has just come back");
    assert!(always_first(&replicas, &fit, at(5), "pg-3"), "a third of 3 is no more than 1");
    assert!(always_first(&replicas, &fit, at(6), "pg-2"), "it counts more by now");
}

#[test]
fn the_operator_may_prefer_some() {
    let near = vec!["pg-3".parse().unwrap()];
    let weights = vec!["pg-2=2".parse().unwrap()];
    let now = Instant::now();
    let fit = [standby(2), standby(3)];
    let weighing = Replicas::new(Duration::ZERO, Preferences { weights, ..Default::default() });
    let mut claims = Vec::new();
    for _ in 0..30 {
        claims.push(weighing.claim(&weighing.arrange(fit.to_vec(), now)[0].id));
    }
    let sessions = |id: &InstanceId| weighing.known()[id].work.sessions.load(Relaxed);
    assert_eq!([sessions(&fit[0].id), sessions(&fit[1].id)], [20, 10]);

    let choosing = Replicas::new(Duration::ZERO, Preferences { near, ..Default::default() });
    let _busy = choosing.claim(&fit[1].id);
    assert!(always_first(&choosing, &fit, now, "pg-3"), "however busy it is");
    choosing.refused(&fit[1].id, now);
    assert!(always_first(&choosing, &fit, now, "pg-2"), "while it refuses");
}

#[test]
fn the_primary_is_not_arranged() {
    let replicas = Replicas::new(Duration::ZERO, Preferences::default());
    let primary = Target { seat: Seat::Primary, ..standby(1) };
    assert_eq!(replicas.arrange(vec![primary.clone()], Instant::now()), [primary]);
    assert!(replicas.known().is_empty());
}
