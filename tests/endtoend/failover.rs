//! Each process of a cluster is killed, and comes back; no acknowledged row is lost.

use dugong_tests::{Cluster, Instance, Writer, connect, eventually, kill, pause, resume};
use dugong_topology::{Generation, Role};

use crate::{SOON, direct_dsn, kill_all_of, nothing_is_lost, written_to};

fn kill_postmaster(instance: &Instance) {
    kill(instance.postmaster().expect("the server runs"));
}

fn kill_controller(instance: &Instance) {
    kill(instance.controller().expect("the controller runs"));
}

/// Kills something of the instance with `role`; the cluster is whole again by itself. Returns how
/// many generations that took.
async fn lost_and_back(role: Role, kill: impl Fn(&Instance)) -> (Cluster, u64) {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await.generation;
    kill(&cluster.with_role(role));
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    nothing_is_lost(writer).await;
    (cluster, topology.generation.0 - before.0)
}

#[tokio::test]
async fn the_primarys_postmaster() {
    let (cluster, generations) = lost_and_back(Role::Primary, kill_postmaster).await;
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
    assert_eq!(cluster.with_role(Role::Async).id.as_str(), "pg-1", "it repaired itself");
}

#[tokio::test]
async fn the_primarys_controller() {
    let (cluster, writer) = written_to().await;
    let primary = cluster.with_role(Role::Primary);
    let postmaster = primary.postmaster().unwrap();
    kill_controller(&primary);
    eventually("its server does not outlive it", SOON, async || {
        if primary.postmaster() == Some(postmaster) { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    writer.goes_on(50, SOON).await;
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn every_process_of_the_primary() {
    lost_and_back(Role::Primary, kill_all_of).await;
}

#[tokio::test]
async fn the_syncs_postmaster() {
    lost_and_back(Role::Sync, kill_postmaster).await;
}

#[tokio::test]
async fn the_syncs_controller() {
    lost_and_back(Role::Sync, kill_controller).await;
}

#[tokio::test]
async fn the_asyncs_postmaster() {
    let (_cluster, generations) = lost_and_back(Role::Async, kill_postmaster).await;
    assert_eq!(generations, 0, "an async is nobody's concern");
}

#[tokio::test]
async fn the_asyncs_controller() {
    let (_cluster, generations) = lost_and_back(Role::Async, kill_controller).await;
    assert_eq!(generations, 0, "an async is nobody's concern");
}

/// A server that is there, but does nothing: neither dead nor alive to anybody who only counts
/// processes.
#[tokio::test]
async fn a_primary_whose_server_hangs() {
    let (cluster, generations) = lost_and_back(Role::Primary, |primary| {
        primary.server_processes().into_iter().for_each(pause);
    })
    .await;
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
}

/// 13.5 and 14.1 tell standbys that such a record will never be whole: the release notes, "Fix physical
/// replication for cases where the primary crashes". Before, no copy of the new primary can be read.
const MENDED_IN_13: i32 = 130_005;

/// Ends two MB before the next segment of WAL.
const UP_TO_A_BOUNDARY: &str = "select pg_logical_emit_message(true, 'fill', repeat('x', ( \
    (31457280 - (pg_current_wal_insert_lsn() - '0/0') % 16777216) % 16777216)::int))";

/// More than the buffers for WAL hold, so that its beginning is written at once. Nobody flushes
/// the rest.
const ACROSS_A_BOUNDARY: &str =
    "begin; select pg_logical_emit_message(false, 'long', repeat('x', 8000000))";

/// What the standbys have of a record that never became whole ends where a segment ends: they ask
/// the new primary for the next one, which it has not reached itself.
#[tokio::test]
async fn the_primary_between_two_segments_of_its_wal() {
    let (cluster, writer) = written_to().await;
    let (before, old) = (cluster.whole().await, cluster.with_role(Role::Primary));
    let makings = || ["pg-2", "pg-3"].map(|id| cluster.instance(&id.parse().unwrap()).making());
    let made = makings();
    let first = writer.stop().await;
    let last = connect(&direct_dsn(&cluster, &cluster.with_role(Role::Async))).await.unwrap();
    let client = connect(&cluster.dsn(&[])).await.unwrap();
    let version = "select current_setting('server_version_num')::int";
    if client.query_one(version, &[]).await.unwrap().get::<_, i32>(0) < MENDED_IN_13 {
        println!("skipped: before 13.5 PostgreSQL leaves half a record in the new primary's WAL");
        return;
    }
    client.batch_execute(UP_TO_A_BOUNDARY).await.unwrap();

    // Neither a heartbeat nor anything else flushes WAL from here on.
    let (controller, walwriter) = (old.controller().unwrap(), old.server_process("walwriter"));
    pause(walwriter.expect("it has one"));
    pause(controller);
    client.batch_execute(ACROSS_A_BOUNDARY).await.unwrap();
    eventually("the last one has all up to the boundary", SOON, async || {
        let row = last
            .query_one(
                "select pg_last_wal_receive_lsn()::text, \
            (pg_last_wal_receive_lsn() - '0/0') % 16777216 = 0",
                &[],
            )
            .await;
        let row = row.map_err(|error| error.to_string())?;
        if row.get(1) { Ok(()) } else { Err(row.get::<_, String>(0)) }
    })
    .await;
    kill_postmaster(&old);
    resume(controller);

    let writer = Writer::start(&cluster.dsn(&[]), "more_numbers").await;
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(topology.generation.0, before.generation.0 + 1);
    assert_eq!(makings(), made, "nobody but the old primary needed a copy");
    assert!(first.lost.is_empty(), "{first:?}");
    nothing_is_lost(writer).await;
}

/// How many segments of WAL an instance has made.
fn segments(instance: &Instance) -> usize {
    let files = std::fs::read_dir(instance.data().join("pg_wal")).expect("it has WAL");
    let is_segment = |name: &str| name.len() == 24 && name.starts_with("0000000");
    files.flatten().filter(|file| file.file_name().to_str().is_some_and(is_segment)).count()
}

/// Its standbys read what they have of the record again and again; nobody may take that for news.
#[tokio::test]
async fn the_primary_in_the_middle_of_a_very_long_record() {
    let (cluster, writer) = written_to().await;
    let (before, old) = (cluster.whole().await, cluster.with_role(Role::Primary));
    let makings = || ["pg-2", "pg-3"].map(|id| cluster.instance(&id.parse().unwrap()).making());
    let (made, last) = (makings(), cluster.with_role(Role::Async));
    let there = segments(&last);
    let client = connect(&cluster.dsn(&[])).await.unwrap();
    let message = "select pg_logical_emit_message(true, 'long', repeat('x', 500000000))";
    let record = tokio::spawn(async move { client.batch_execute(message).await });
    eventually("the last one has some segments of the record", SOON, async || {
        let now = segments(&last);
        if now > there + 3 { Ok(()) } else { Err(format!("{now} segments")) }
    })
    .await;
    kill_postmaster(&old);
    assert!(record.await.unwrap().is_err(), "it was not whole");
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(topology.generation.0, before.generation.0 + 1, "the sync took over");
    assert_eq!(makings(), made, "nobody but the old primary needed a copy");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn the_primary_twice_in_a_row() {
    let (cluster, writer) = written_to().await;
    for _ in 0..2 {
        kill_postmaster(&cluster.with_role(Role::Primary));
        writer.goes_on(50, SOON).await;
        cluster.whole().await;
    }
    assert_eq!(cluster.topology().unwrap().generation, Generation(3));
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn every_instance_is_primary_in_two_rounds() {
    let (cluster, writer) = written_to().await;
    let mut primaries = Vec::new();
    for _ in 0..6 {
        let primary = cluster.with_role(Role::Primary);
        kill_postmaster(&primary);
        primaries.push(primary.id.to_string());
        writer.goes_on(20, SOON).await;
        cluster.whole().await;
    }
    primaries.sort();
    assert_eq!(primaries, ["pg-1", "pg-1", "pg-2", "pg-2", "pg-3", "pg-3"]);
    nothing_is_lost(writer).await;
}

/// Several clients at once, so that commits are in flight when the primary dies.
#[tokio::test]
async fn the_primary_under_many_writers() {
    let (cluster, first) = written_to().await;
    let mut writers = vec![first];
    for number in 0..7 {
        writers.push(Writer::start(&cluster.dsn(&[]), &format!("numbers_{number}")).await);
    }
    for writer in &writers {
        writer.goes_on(50, SOON).await;
    }
    kill_postmaster(&cluster.with_role(Role::Primary));
    for writer in &writers {
        writer.goes_on(50, SOON).await;
    }
    cluster.whole().await;
    for writer in writers {
        nothing_is_lost(writer).await;
    }
}
