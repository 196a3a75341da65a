//! Logical replication, and the slots of users: what stays where it was made.

use std::collections::BTreeSet;
use std::time::Duration;

use dugong_tests::{Cluster, Instance, connect, eventually, kill, pause, resume};
use dugong_topology::Role;
use tokio_postgres::error::SqlState;

use crate::settings::done;
use crate::{SOON, nothing_is_lost, superuser_dsn, written_to};

/// A standby copies a slot only once the slot's consumer has gone past what the standby can decode, and
/// asks for that every 30 s at worst.
const COPIED_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_logical_slot_is_told_of_and_keeps_no_former_primary_from_following() {
    let (cluster, writer) = written_to().await;
    done(&cluster, &["config", "set", "wal_level=logical"]).await;
    done(&cluster, &["restart", "--pending"]).await;
    let primary = cluster.with_role(Role::Primary);
    let client = connect(&superuser_dsn(&cluster, &primary)).await.expect("the primary answers");
    let made = "select pg_create_logical_replication_slot('events', 'test_decoding')";
    client.batch_execute(made).await.expect("wal_level is logical");
    let decoded = "select count(*) from pg_logical_slot_peek_changes('events', null, null)";
    writer.goes_on(20, SOON).await;
    let row = client.query_one(decoded, &[]).await.expect("changes are decoded");
    assert!(row.get::<_, i64>(0) > 0, "nothing was decoded");
    let words = "the replication slots events are on this instance only";
    let said = done(&cluster, &["status"]).await;
    assert!(said.contains(&format!("{}: {words}", primary.id)), "{said}");

    done(&cluster, &["switchover"]).await;

    cluster.whole().await;
    let former = cluster.with_role(Role::Async);
    assert_eq!(former.id, primary.id);
    let said = done(&cluster, &["status"]).await;
    assert!(said.contains(&format!("{}: {words}", primary.id)), "it is where it was: {said}");
    nothing_is_lost(writer).await;
}

/// What its superuser is answered by that instance.
async fn asked(cluster: &Cluster, instance: &Instance, sql: &str) -> Result<Vec<String>, String> {
    let client = connect(&superuser_dsn(cluster, instance)).await?;
    let rows = client.query(sql, &[]).await.map_err(|error| error.to_string())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The numbers that a consumer of the slot `events` is sent next.
async fn sent(cluster: &Cluster) -> Result<BTreeSet<i64>, String> {
    let changes = "select data from pg_logical_slot_get_changes('events', null, null)";
    let changes = asked(cluster, &cluster.with_role(Role::Primary), changes).await?;
    let number = |change: &String| change.split_once("n[bigint]:")?.1.trim().parse().ok();
    Ok(changes.iter().filter_map(number).collect())
}

/// Writes, and consumes, until the sync has the slot; adds to both.
async fn until_the_sync_has_it(
    cluster: &Cluster,
    written: &mut BTreeSet<i64>,
    consumed: &mut BTreeSet<i64>,
) {
    let client = connect(&cluster.dsn(&[])).await.expect("the cluster accepts a connection");
    let copied = "select slot_name::text from pg_replication_slots \
                  where slot_name = 'events' and synced and not temporary";
    eventually("the sync has the slot", COPIED_WITHIN, async || {
        let next = written.last().copied().unwrap_or_default() + 1;
        let insert = format!("insert into events values ({next})");
        client.batch_execute(&insert).await.map_err(|error| error.to_string())?;
        written.insert(next);
        let primary = cluster.with_role(Role::Primary);
        asked(cluster, &primary, "select pg_log_standby_snapshot()::text").await?;
        consumed.extend(sent(cluster).await?);
        let found = asked(cluster, &cluster.with_role(Role::Sync), copied).await?;
        if found.is_empty() { Err("it has not".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// Commits a number that the sync has not got for a while; what is sent after that.
async fn sent_only_once_the_sync_has_it(cluster: &Cluster, number: i64) -> BTreeSet<i64> {
    // It stays the sync, however long it does not follow.
    done(cluster, &["freeze", "--why", "its sync is stopped for a while"]).await;
    let (primary, sync) = (cluster.with_role(Role::Primary), cluster.with_role(Role::Sync));
    let receiver = sync.server_process("walreceiver").expect("it receives");
    let client = connect(&superuser_dsn(cluster, &primary)).await.expect("the primary answers");
    pause(receiver);
    let insert = format!("set synchronous_commit = local; insert into events values ({number})");
    client.batch_execute(&insert).await.expect("it waits for nobody");
    client.batch_execute("set statement_timeout = '2s'").await.expect("it can be set");
    let changes = "select data from pg_logical_slot_get_changes('events', null, null)";
    let early = client.query(changes, &[]).await;
    resume(receiver);
    let waited = early.expect_err("it is sent what the sync has not got");
    assert_eq!(waited.code(), Some(&SqlState::QUERY_CANCELED), "{waited}");
    done(cluster, &["unfreeze"]).await;
    cluster.whole().await;
    sent(cluster).await.expect("the slot is there")
}

#[tokio::test]
async fn a_failover_slot_goes_along_and_its_consumer_misses_nothing() {
    with_a_failover_slot(17).await;
}

#[tokio::test]
async fn a_failover_slot_goes_along_with_postgresql_18_as_well() {
    with_a_failover_slot(18).await;
}

async fn with_a_failover_slot(major: u32) {
    let Some(cluster) = Cluster::start_on_version(major).await else {
        println!("skipped: PostgreSQL {major} is not there, .ci/versions gets it");
        return;
    };
    done(&cluster, &["config", "set", "wal_level=logical"]).await;
    done(&cluster, &["restart", "--pending"]).await;
    cluster.whole().await;
    let client = connect(&cluster.dsn(&[])).await.expect("the cluster accepts a connection");
    client.batch_execute("create table events (n bigint)").await.expect("it takes writes");
    let first = cluster.with_role(Role::Primary);
    let make = "select pg_create_logical_replication_slot('events', 'test_decoding', \
                failover => true)::text";
    asked(&cluster, &first, make).await.expect("wal_level is logical");
    let (mut written, mut consumed) = (BTreeSet::new(), BTreeSet::new());
    until_the_sync_has_it(&cluster, &mut written, &mut consumed).await;
    let said = done(&cluster, &["status"]).await;
    assert!(!said.contains("events"), "there is nothing to say: {said}");
    written.insert(500);
    consumed.extend(sent_only_once_the_sync_has_it(&cluster, 500).await);

    for next in 1_000..1_100 {
        let insert = format!("insert into events values ({next})");
        client.batch_execute(&insert).await.expect("it takes writes");
        written.insert(next);
    }
    kill(first.postmaster().expect("the server runs"));
    let before = cluster.topology().expect("it shows its topology").generation;
    cluster.until("the sync took over", |topology| topology.generation > before).await;
    cluster.whole().await;
    consumed.extend(sent(&cluster).await.expect("the slot is there"));
    assert_eq!(consumed, written, "neither more nor less than what was acknowledged");

    // The next sync has it, too, and what the first primary had is in nobody's way.
    until_the_sync_has_it(&cluster, &mut written, &mut consumed).await;
    done(&cluster, &["switchover"]).await;
    cluster.whole().await;
    until_the_sync_has_it(&cluster, &mut written, &mut consumed).await;
    assert_eq!(cluster.with_role(Role::Sync).id, first.id, "it was the primary");
    assert_eq!(consumed, written);
}
