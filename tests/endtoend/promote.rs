//! The operator's override: a cluster that rightly waits is made to go on.

use std::process::Output;

use dugong_tests::{Cluster, Writer, kill, pause, resume};
use dugong_topology::{Role, Topology};

use crate::{SOON, answered, nothing_is_lost, words, written_to};

/// `dugong promote …`, with what is typed when it asks.
fn promote(cluster: &Cluster, arguments: &[&str], typed: &str) -> Output {
    answered(cluster, "promote", arguments, typed)
}

fn primary(topology: &Topology) -> Option<&str> {
    topology.primary.as_ref().map(|primary| primary.id.as_str())
}

#[tokio::test]
async fn a_sync_that_is_left_alone_goes_on_by_the_operators_word() {
    let (cluster, writer) = written_to().await;
    let report = writer.stop().await;
    let launcher = cluster.launcher();
    let lost = [Role::Async, Role::Primary].map(|role| cluster.with_role(role));
    pause(launcher);
    for instance in &lost {
        // The third instance first, so that nobody takes over with it.
        let postmaster = instance.postmaster().expect("the server runs");
        kill(instance.controller().expect("the controller runs"));
        kill(postmaster);
        let gone = |topology: &Topology| {
            let mut members = topology.members();
            members.any(|(_, m)| m.id == instance.id && m.state == "unreachable")
        };
        cluster.until("its session has lapsed", gone).await;
    }
    let waits = |topology: &Topology| {
        let sync = topology.sync.as_ref().and_then(|sync| sync.note.as_deref());
        sync.is_some_and(|note| note.contains("no further instance"))
    };
    let before = cluster.until("the sync says what it waits for", waits).await;

    let mistyped = promote(&cluster, &["pg-2", "--lose-writes"], "mian\n");
    assert_eq!(mistyped.status.code(), Some(1), "{mistyped:?}");
    assert!(words(&mistyped).contains("not confirmed"), "{}", words(&mistyped));
    assert_eq!(cluster.topology().map(|t| t.generation), Ok(before.generation));
    let output = promote(&cluster, &["pg-2", "--lose-writes"], "main\n");
    println!("{}", words(&output));
    assert!(output.status.success(), "{output:?}");
    let after = cluster.until("it is the primary", |t| primary(t) == Some("pg-2")).await;
    assert_eq!(after.generation.0, before.generation.0 + 1);
    assert_eq!(after.reason.as_deref(), Some("operator"));

    resume(launcher);
    cluster.whole().await;
    let client = dugong_tests::connect(&cluster.dsn(&[])).await.expect("it accepts a connection");
    let row = client.query_one("select count(*) from numbers", &[]).await.expect("rows are there");
    let there = usize::try_from(row.get::<_, i64>(0)).expect("a count");
    assert!(there >= report.acknowledged, "the sync had everything: {there}");
    let writer = Writer::start(&cluster.dsn(&[]), "more").await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn an_async_replaces_a_living_primary_only_if_that_is_typed_as_well() {
    let cluster = Cluster::start().await;
    let output = promote(&cluster, &["pg-3", "--lose-writes"], "main\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words(&output).contains("pg-1 is present"), "{}", words(&output));
    let both = ["pg-3", "--lose-writes", "--although-primary-lives"];
    let output = promote(&cluster, &both, "main\nno\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(primary(&cluster.whole().await), Some("pg-1"));

    let output = promote(&cluster, &both, "main\npg-1\n");
    println!("{}", words(&output));
    assert!(output.status.success(), "{output:?}");
    let topology = cluster.whole().await;
    assert_eq!(primary(&topology), Some("pg-3"));
    let history = String::from_utf8_lossy(&cluster.run("history", &[]).stdout).into_owned();
    assert!(history.contains("operator"), "{history}");
    let writer = Writer::start(&cluster.dsn(&[]), "more").await;
    writer.goes_on(20, SOON).await;
    nothing_is_lost(writer).await;
}
