//! The disk of one instance is full while clients write, and has room again later.

use dugong_tests::{Cluster, DiskKind, Writer, connect};
use dugong_topology::{InstanceId, Role, Topology};
use tokio::task::JoinSet;

use crate::{SOON, nothing_is_lost};

/// More than two segments of WAL and nothing else: a full disk shows only where a file grows, and
/// a table that cannot grow is an error for whoever writes into it, not the end of a server.
const BULK: &str = "select count(pg_logical_emit_message(true, 'bulk', repeat('x', 1000000))) \
    from generate_series(1, 40)";

async fn churn(dsn: String) {
    loop {
        // Its errors are those of any client while an instance is lost: the other writer counts.
        if let Ok(client) = connect(&dsn).await {
            while client.batch_execute(BULK).await.is_ok() {}
        }
    }
}

/// A cluster where the instance with `role` has a small disk of its own.
async fn with_disk(role: Role) -> (Cluster, Topology) {
    let mut cluster = Cluster::start().await;
    let id = cluster.with_role(role).id;
    cluster.stop().await;
    cluster.give_disk(&id, DiskKind::Small);
    cluster.resume();
    let topology = cluster.whole().await;
    assert_eq!(cluster.with_role(role).id, id, "it has the role again");
    (cluster, topology)
}

/// Fills the disk of the instance with `role` until `shows`, then frees it; the cluster is whole
/// again by itself. Returns how many generations that took; nothing where no disk may be mounted.
async fn full(role: Role, shows: impl Fn(&Topology, &Topology) -> bool) -> Option<(Cluster, u64)> {
    if !DiskKind::Small.is_allowed() {
        return None;
    }
    let (cluster, before) = with_disk(role).await;
    let id = cluster.with_role(role).id;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    let mut churning = JoinSet::new();
    churning.spawn(churn(cluster.dsn(&[])));
    cluster.disk().fill();
    cluster.until("the full disk shows", |now| shows(&before, now)).await;
    churning.shutdown().await;
    writer.goes_on(50, SOON).await;
    let says = |now: &Topology| note(now, &id).contains("is full");
    cluster.until("the instance says that its disk is full", says).await;
    cluster.disk().free();
    let after = cluster.whole().await;
    nothing_is_lost(writer).await;
    Some((cluster, after.generation.0 - before.generation.0))
}

/// What `instance` says about itself, for people.
fn note<'a>(topology: &'a Topology, instance: &InstanceId) -> &'a str {
    let mut members = topology.members();
    let member = members.find(|(_, member)| member.id == *instance);
    member.and_then(|(_, member)| member.note.as_deref()).unwrap_or_default()
}

fn next_generation(before: &Topology, now: &Topology) -> bool {
    now.generation > before.generation
}

/// No room for WAL ends a PostgreSQL, and lets none start.
#[tokio::test]
async fn of_the_primary() {
    let Some((cluster, generations)) = full(Role::Primary, next_generation).await else { return };
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
}

#[tokio::test]
async fn of_the_sync() {
    let Some((cluster, generations)) = full(Role::Sync, next_generation).await else { return };
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-1", "the primary stays");
}

#[tokio::test]
async fn of_the_async() {
    let does_not_follow =
        |_: &Topology, now: &Topology| now.asyncs.iter().any(|member| member.upstream.is_none());
    let Some((cluster, generations)) = full(Role::Async, does_not_follow).await else { return };
    assert_eq!(generations, 0, "an async is nobody's concern");
    assert_eq!(cluster.with_role(Role::Async).making(), 1, "it went on from what it had");
}
