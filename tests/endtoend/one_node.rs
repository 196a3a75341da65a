//! A single instance that takes writes by itself, and becomes a cluster.

use std::time::Duration;

use dugong_tests::{Cluster, Writer, kill, pause, restart, resume};
use dugong_topology::{Phase, Role};

use crate::{SOON, nothing_is_lost};

/// Longer than either lease as `dugong up` has them.
const PAST_ANY_LEASE: Duration = Duration::from_secs(6);

#[tokio::test]
async fn one_node_takes_writes_and_becomes_a_cluster() {
    let mut cluster = Cluster::begin_with(&["--one-node"]);
    let alone = cluster.until("it takes writes", |t| t.phase == Phase::ReadWrite).await;
    assert!(alone.one_node && alone.sync.is_none() && alone.newcomers.is_empty(), "{alone:?}");
    let page = String::from_utf8_lossy(&cluster.run("status", &[]).stdout).into_owned();
    assert!(page.contains("WARNING: one node"), "{page}");
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    let report = nothing_is_lost(writer).await;

    cluster.stop().await;
    cluster.resume_with(&["--instances", "3"]);
    let whole = cluster.whole().await;
    assert!(!whole.one_node, "{whole:?}");
    let client = dugong_tests::connect(&cluster.dsn(&[])).await.expect("it accepts a connection");
    let row = client.query_one("select count(*) from numbers", &[]).await.expect("rows are there");
    let there = usize::try_from(row.get::<_, i64>(0)).expect("a count");
    assert!(there >= report.acknowledged, "{there} rows of {}", report.acknowledged);

    // From now on it survives the loss of an instance, and no instance is one node again.
    let writer = Writer::start(&cluster.dsn(&[]), "more").await;
    writer.goes_on(20, SOON).await;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    nothing_is_lost(writer).await;
    assert!(!cluster.whole().await.one_node);
    cluster.stop().await;
    let output = cluster.run("up", &["--one-node"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("never goes back to one node"), "{said}");
}

/// Nobody could take over, so nothing is gained by an end of the server.
#[tokio::test]
async fn one_node_outlives_its_controller() {
    let cluster = Cluster::begin_with(&["--one-node"]);
    cluster.until("it takes writes", |t| t.phase == Phase::ReadWrite).await;
    let only = cluster.with_role(Role::Primary);
    let (server, controller) = (only.postmaster(), only.controller().expect("it runs"));
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;

    pause(cluster.launcher()); // Nobody starts another controller.
    restart(controller);
    writer.goes_on_for(PAST_ANY_LEASE, SOON).await;
    assert_eq!(only.controller(), None);
    resume(cluster.launcher());

    cluster.until("there is another controller", |t| t.phase == Phase::ReadWrite).await;
    assert_eq!(only.postmaster(), server, "it has taken the server over");
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, [""; 0], "no write has failed");
}
