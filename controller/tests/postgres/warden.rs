//! A server below its warden: ends with its lease, and outlives an orderly change of controllers.

use std::time::{Duration, Instant};

use dugong_controller::postgres::Mandate;
use dugong_machine::{Access, Receiver, Run, Time};
use dugong_topology::Generation;

use crate::instance::{Instance, cluster_of_two, each, id};
use crate::process_of_a_test::as_postgres;
use crate::processes::{parent_of, server_processes};

/// An open primary and its sync.
async fn open_cluster() -> (Instance, Instance) {
    let (mut primary, mut standby) = cluster_of_two().await;
    standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
    primary.primary(&["pg-2"], Access::ReadWrite);
    primary.until_open().await;
    primary.until_confirmed().await;
    (primary, standby)
}

fn mandate() -> Mandate {
    Mandate {
        session_until: Time(1),
        link_until: Time(2),
        until: Time::NEVER,
        open: Some(Generation(1)),
    }
}

#[test]
fn a_primary_ends_with_its_lease_and_a_standby_needs_none() {
    as_postgres(async {
        let (mut primary, mut standby) = open_cluster().await;
        let client = primary.client().await;
        let begun = Instant::now();
        let lease = Duration::from_secs(1);
        primary.lease_ends_in(lease);
        standby.lease_ends_in(Duration::ZERO);
        primary.until("it is down", |server| server.run == Run::Down).await;
        assert!(begun.elapsed() >= lease, "not before the end: {:?}", begun.elapsed());
        assert!(client.batch_execute("SELECT 1").await.is_err());
        assert_eq!(server_processes(&primary.data()), [0; 0]);
        let words = primary.server.trouble.clone().unwrap();
        assert!(words.contains("its lease of the office has ended"), "{words}");

        standby.standby(None);
        standby.until_standby("it still runs", |view| view.upstream.is_none()).await;
        // Out of recovery it would be a primary without a lease.
        let before = standby.postmaster();
        standby.primary(&["pg-1"], Access::ReadWrite);
        standby.until("it is not promoted", |server| server.run == Run::Down).await;
        assert!(!server_processes(&standby.data()).contains(&before));
        // Nor is a primary started without one.
        primary.life += 1;
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary
            .until("it says why", |server| {
                let words = server.trouble.as_deref();
                words.is_some_and(|words| words.contains("no server is started"))
            })
            .await;
        assert_eq!(server_processes(&primary.data()), [0; 0]);
    });
}

#[test]
fn a_killed_warden_takes_its_server_along() {
    as_postgres(async {
        let (mut primary, _standby) = open_cluster().await;
        primary.kill(parent_of(primary.postmaster()));
        primary.until("it is down", |server| server.run == Run::Down).await;
        assert_eq!(server_processes(&primary.data()), [0; 0]);
        primary.life += 1;
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs again", |_| true).await;
    });
}

#[test]
fn a_primary_comes_to_its_next_controller_while_it_serves() {
    as_postgres(async {
        let (primary, _standby) = open_cluster().await;
        let (postmaster, warden) = (primary.postmaster(), parent_of(primary.postmaster()));
        let client = primary.client().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();

        let ended = primary.leave_running(mandate()).await;
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        let mut primary = ended.resume();
        assert_eq!(primary.inherited(), Some(mandate()));
        // Seen as it is before anything is wanted of it.
        primary.until("it is looked at", |server| matches!(server.run, Run::Primary(_))).await;
        let view = primary.until_primary("it is open", |_| true).await;
        assert_eq!((view.access, view.names), (Access::ReadWrite, each(&["pg-2"])));
        primary.until_confirmed().await;
        assert_eq!((primary.postmaster(), parent_of(postmaster)), (postmaster, warden));

        // It is the new controller's own in every respect.
        primary.downstreams = [id("pg-2")].into();
        primary.primary(&["pg-2", "pg-3"], Access::ReadWrite);
        let names = each(&["pg-2", "pg-3"]);
        primary.until_primary("it takes other names", |view| view.names == names).await;
        primary.kill(postmaster);
        primary.until("its end is seen", |server| server.run == Run::Down).await;
        assert!(client.batch_execute("SELECT 1").await.is_err());
    });
}

#[test]
fn a_standby_comes_to_two_more_controllers_and_is_ended_by_the_last() {
    as_postgres(async {
        let (primary, mut standby) = open_cluster().await;
        let postmaster = standby.postmaster();
        for _ in 0..2 {
            standby = standby.leave_running(Mandate::default()).await.resume();
            assert_eq!(standby.inherited(), Some(Mandate::default()));
            let view = standby
                .until_standby("it streams", |view| view.receiver == Receiver::Streaming)
                .await;
            assert_eq!(view.upstream, Some(primary.id.clone()));
            assert_eq!(standby.postmaster(), postmaster);
        }
        let data = standby.data();
        standby.end().await;
        assert_eq!(server_processes(&data), [0; 0], "the last one did not leave it");
    });
}

#[test]
fn a_primary_whose_next_controller_is_late_ends_with_its_lease() {
    as_postgres(async {
        let (primary, _standby) = open_cluster().await;
        let data = primary.data();
        primary.lease_ends_in(Duration::from_secs(1));
        let ended = primary.leave_running(mandate()).await;
        assert!(!server_processes(&data).is_empty(), "it lives on for a moment");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server_processes(&data).is_empty() {
            assert!(Instant::now() < deadline, "it outlives its lease");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut primary = ended.resume();
        assert_eq!(primary.inherited(), None);
        primary.until("nothing runs", |server| server.run == Run::Down).await;
    });
}

#[test]
fn a_server_that_does_not_fit_its_next_controller_is_ended() {
    as_postgres(async {
        let (_primary, standby) = open_cluster().await;
        let (data, postmaster) = (standby.data(), standby.postmaster());
        let mut ended = standby.leave_running(Mandate::default()).await;
        ended.move_to_another_port();
        let mut standby = ended.resume();
        standby.until("it is down", |server| server.run == Run::Down).await;
        assert!(!server_processes(&data).contains(&postmaster));
        standby.standby(None);
        standby.until_standby("it runs where it shall", |_| true).await;
    });
}
