//! What operators ask for: another primary, as planned or rolled back; and that nothing moves.

use std::process::Output;
use std::time::{Duration, Instant};

use dugong_tests::crowd::{self, Crowd};
use dugong_tests::{Cluster, Instance, connect, pause, resume};
use dugong_topology::{Phase, Role, Topology};

use crate::{SOON, kill_all_of, nothing_is_lost, written_to};

/// Runs the command while writers go on.
async fn run(cluster: &Cluster, subcommand: &str, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(cluster.command(subcommand));
    let output = command.args(arguments).output().await.expect("dugong can be started");
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn chain(topology: &Topology) -> Vec<String> {
    let members = topology.primary.iter().chain(&topology.sync).chain(&topology.asyncs);
    members.map(|member| member.id.to_string()).collect()
}

#[tokio::test]
async fn the_primary_hands_over_and_follows_without_a_copy() {
    let (cluster, writer) = written_to().await;
    let (before, former) = (cluster.whole().await, cluster.with_role(Role::Primary));
    let made = former.making();

    let output = run(&cluster, "switchover", &[]).await;

    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("asked pg-1 to hand over") && said.contains("done: pg-2"), "{said}");
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(chain(&topology), ["pg-2", "pg-3", "pg-1"]);
    assert_eq!(topology.generation.0, before.generation.0 + 1);
    assert_eq!(topology.reason.as_deref(), Some("switchover"));
    assert_eq!(former.making(), made, "the same data as before");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn busy_clients_lose_nothing_that_they_have_begun() {
    let cluster = Cluster::start().await;
    cluster.whole().await;
    let crowd = Crowd::start(&cluster.dsn(&[]), 8).await;
    crowd.works().await;
    for at in ["pg-2", "pg-3"] {
        let output = run(&cluster, "switchover", &["--at", "+1s"]).await;
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).starts_with("waiting until 2"), "{output:?}");
        crowd.works().await;
        assert_eq!(cluster.whole().await.primary.unwrap().id.as_str(), at);
    }
    let told = crowd.ends().await;
    for told in &told {
        assert_eq!((&told.broken, told.doubted), (&Vec::new(), 0));
        assert!(told.connected_again >= 2, "its sessions were ended between two transactions");
    }
    assert_eq!(crowd::lost(&cluster.dsn(&[]), &told).await, []);
}

#[tokio::test]
async fn an_async_becomes_the_primary_by_way_of_the_sync() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let makings = ["pg-1", "pg-2", "pg-3"].map(|id| cluster.instance(&id.parse().unwrap()));
    let made = makings.each_ref().map(Instance::making);

    let output = run(&cluster, "switchover", &["--to", "pg-3"]).await;

    assert!(output.status.success(), "{output:?}");
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(chain(&topology), ["pg-3", "pg-2", "pg-1"]);
    assert_eq!(topology.generation.0, before.generation.0 + 2);
    assert_eq!(makings.each_ref().map(Instance::making), made, "nobody needed a copy");
    nothing_is_lost(writer).await;
}

/// Pauses something of the sync, which cannot take over then; the primary goes on.
async fn rolled_back(what: impl Fn(&Instance) -> u32) {
    let (cluster, writer) = written_to().await;
    let sync = cluster.with_role(Role::Sync);
    let paused = what(&sync);
    pause(paused);

    let output = run(&cluster, "switchover", &["--drain", "1s", "--timeout", "15s"]).await;

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("rolled back") && said.contains("pg-2"), "{said}");
    writer.goes_on(50, SOON).await;
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-1");
    resume(paused);
    cluster.whole().await;
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-1");
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn a_sync_whose_controller_hangs_takes_nothing_over() {
    rolled_back(|sync| sync.controller().expect("the controller runs")).await;
}

#[tokio::test]
async fn a_sync_whose_postmaster_hangs_takes_nothing_over() {
    rolled_back(|sync| sync.postmaster().expect("the server runs")).await;
}

/// A server that does not stop, since one backend does nothing, holds up everybody else for no
/// longer than was asked for.
#[tokio::test]
async fn a_primary_that_does_not_stop_stays_the_primary() {
    let (cluster, writer) = written_to().await;
    cluster.whole().await;
    let client = connect(&cluster.dsn(&[])).await.unwrap();
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    pause(pid.unsigned_abs());
    let begun = Instant::now();

    let output = run(&cluster, "switchover", &["--drain", "1s", "--timeout", "6s"]).await;

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("rolled back") && said.contains("did not stop in order"), "{said}");
    let took = begun.elapsed();
    println!("rolled back after {took:?}");
    assert!(took > Duration::from_secs(5), "longer than any lease: {took:?}");
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(chain(&topology), ["pg-1", "pg-2", "pg-3"]);
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn what_cannot_be_begun_is_refused_and_nobody_notices() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    for (to, why) in [("pg-1", "the primary already"), ("pg-9", "no member")] {
        let output = run(&cluster, "switchover", &["--to", to]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("refused") && said.contains(why), "{said}");
    }
    assert_eq!(cluster.whole().await.generation, before.generation);
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new());
}

#[tokio::test]
async fn nobody_takes_over_while_the_cluster_is_frozen() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let output = run(&cluster, "freeze", &["--why", "new disks"]).await;
    assert!(output.status.success(), "{output:?}");
    // The launcher would start the primary's controller again.
    let launcher = cluster.launcher();
    let primary = cluster.with_role(Role::Primary);
    pause(launcher);
    kill_all_of(&primary);
    let frozen = cluster
        .until("the sync says why it does not take over", |topology| {
            let sync = topology.sync.as_ref().and_then(|sync| sync.note.as_deref());
            sync.is_some_and(|note| note.contains("no takeover: frozen by"))
        })
        .await;
    assert_eq!(frozen.generation, before.generation);
    let page = text(&run(&cluster, "status", &[]).await.stdout);
    assert!(page.contains("frozen by") && page.contains("new disks"), "{page}");

    let output = run(&cluster, "unfreeze", &[]).await;
    assert!(output.status.success(), "{output:?}");
    writer.goes_on(50, SOON).await;
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
    resume(launcher);
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn a_freeze_by_a_person_outlives_the_cluster() {
    let mut cluster = Cluster::start().await;
    let output = run(&cluster, "freeze", &["--why", "a long weekend"]).await;
    assert!(output.status.success(), "{output:?}");
    let again = run(&cluster, "freeze", &["--why", "another one"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("a long weekend"), "{again:?}");
    let before = cluster.topology().unwrap();
    cluster.stop().await;
    cluster.resume();
    let topology = cluster.whole().await;
    assert_eq!(chain(&topology), chain(&before));
    assert_eq!(topology.phase, Phase::ReadWrite, "servers run on in their roles");
    assert_eq!(topology.frozen.unwrap().why, "a long weekend");
    let output = run(&cluster, "unfreeze", &[]).await;
    assert!(output.status.success(), "{output:?}");
    cluster.until("it is free again", |topology| topology.frozen.is_none()).await;
}

#[tokio::test]
async fn each_instance_in_turn_is_primary() {
    let (cluster, writer) = written_to().await;
    for next in ["pg-2", "pg-3", "pg-1"] {
        let output = run(&cluster, "switchover", &[]).await;
        assert!(output.status.success(), "{output:?}");
        writer.goes_on(20, SOON).await;
        let topology = cluster.whole().await;
        assert_eq!(chain(&topology)[0], next);
    }
    let report = nothing_is_lost(writer).await;
    assert!(report.longest_pause < Duration::from_secs(20), "{:?}", report.longest_pause);
}
