//! Single processes of a server are stopped (SIGSTOP) and go on later: neither dead nor alive.

use std::time::Duration;

use dugong_tests::{Cluster, Pid, Writer, connect, pause, resume};
use dugong_topology::{InstanceId, Role, Topology};

use crate::{SOON, nothing_is_lost, written_to};

/// Longer than any lease or timeout that a stopped process could run into, but those of a server
/// that hangs.
const A_WHILE: Duration = Duration::from_secs(8);

/// The next write comes within this time: by far, but for a machine with other things to do.
const UNNOTICED: Duration = Duration::from_secs(5);

async fn begin() -> (Cluster, Writer, Topology) {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    (cluster, writer, before)
}

fn pid_of(cluster: &Cluster, role: Role, kind: &str) -> Pid {
    let instance = cluster.with_role(role);
    instance.server_process(kind).unwrap_or_else(|| panic!("{} has a {kind}", instance.id))
}

fn primary(of: &Topology) -> Option<&InstanceId> {
    of.primary.as_ref().map(|member| &member.id)
}

/// Nobody misses the process; `A_WHILE` later it goes on.
async fn nobody_notices(pid: impl Fn(&Cluster) -> Pid) {
    let (cluster, writer, before) = begin().await;
    let pid = pid(&cluster);
    pause(pid);
    writer.goes_on_for(A_WHILE, UNNOTICED).await;
    resume(pid);
    let after = cluster.whole().await;
    assert_eq!(after.generation, before.generation);
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new());
}

/// It cannot be made to go, and may know older names for ever: the whole primary counts as hanging.
#[tokio::test]
async fn the_primarys_walsender() {
    let (cluster, writer, before) = begin().await;
    let pid = pid_of(&cluster, Role::Primary, "walsender");
    pause(pid);
    writer.goes_on(50, SOON).await;
    let during = cluster.until("another sync", |now| now.generation > before.generation).await;
    assert_ne!(primary(&during), primary(&before));
    resume(pid);
    let after = cluster.whole().await;
    assert_eq!(after.generation.0, before.generation.0 + 1, "once is enough");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn the_syncs_walreceiver() {
    let (cluster, writer, before) = begin().await;
    let pid = pid_of(&cluster, Role::Sync, "walreceiver");
    pause(pid);
    writer.goes_on(50, SOON).await;
    let during = cluster.until("another sync", |now| now.generation > before.generation).await;
    assert_eq!(primary(&during), primary(&before), "the primary stays");
    resume(pid);
    let after = cluster.whole().await;
    assert_eq!(after.generation, during.generation, "once is enough");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn the_primarys_checkpointer() {
    nobody_notices(|cluster| pid_of(cluster, Role::Primary, "checkpointer")).await;
}

#[tokio::test]
async fn the_syncs_postmaster_alone() {
    nobody_notices(|cluster| cluster.with_role(Role::Sync).postmaster().unwrap()).await;
}

#[tokio::test]
async fn the_asyncs_postmaster_alone() {
    nobody_notices(|cluster| cluster.with_role(Role::Async).postmaster().unwrap()).await;
}

#[tokio::test]
async fn one_clients_backend() {
    let (cluster, writer, before) = begin().await;
    let client = connect(&cluster.dsn(&[])).await.unwrap();
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let pid = Pid::try_from(pid).unwrap();
    pause(pid);
    let (again, ()) = tokio::join!(client.query_one("select pg_backend_pid()", &[]), async {
        writer.goes_on_for(A_WHILE, UNNOTICED).await;
        resume(pid);
    });
    let again: i32 = again.expect("it was only slow").get(0);
    assert_eq!(Pid::try_from(again).unwrap(), pid);
    let after = cluster.whole().await;
    assert_eq!(after.generation, before.generation);
    nothing_is_lost(writer).await;
}

/// Open sessions go on for a while, but nobody new is let in: as good as a server that hangs.
#[tokio::test]
async fn the_primarys_postmaster_alone() {
    let (cluster, writer, before) = begin().await;
    let primary = cluster.with_role(Role::Primary);
    let postmaster = primary.postmaster().unwrap();
    pause(postmaster);
    let client = connect(&cluster.dsn(&[])).await.expect("a new client is let in by somebody");
    let row = client.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0));
    writer.goes_on(50, SOON).await;
    resume(postmaster);
    let after = cluster.whole().await;
    assert_eq!(after.generation.0, before.generation.0 + 1);
    assert_ne!(cluster.with_role(Role::Primary).id, primary.id);
    nothing_is_lost(writer).await;
}
