//! An orderly end, and everything again; data that is destroyed; words for what is wrong.

use std::fs;
use std::io::ErrorKind;

use dugong_tests::{Cluster, eventually, kill, pause, resume};
use dugong_topology::{Generation, Phase, Role};

use crate::{SOON, kill_all_of, nothing_is_lost, written_to};

#[tokio::test]
async fn an_orderly_end_and_the_same_cluster_again() {
    let (mut cluster, writer) = written_to().await;
    let report = writer.stop().await;
    cluster.stop().await;

    cluster.resume();
    let topology = cluster.whole().await;
    assert_eq!(topology.generation, Generation(1), "nobody took over while all ended");
    assert!(topology.frozen.is_none(), "the launcher takes its own freeze back");
    let client = dugong_tests::connect(&cluster.dsn(&[])).await.unwrap();
    let row = client.query_one("select count(*) from numbers", &[]).await.unwrap();
    let there = usize::try_from(row.get::<_, i64>(0)).unwrap();
    assert!(there >= report.acknowledged, "{there} rows of {}", report.acknowledged);
}

#[tokio::test]
async fn destroyed_data_is_replaced_by_a_copy() {
    let (cluster, writer) = written_to().await;
    for role in [Role::Async, Role::Sync, Role::Primary] {
        let victim = cluster.with_role(role);
        let postmaster = victim.postmaster().unwrap();
        // As a destroyed disk would: the files first, and the server with them.
        eventually("everything is removed", SOON, async || {
            // The server writes meanwhile: what it made anew is removed by the next try.
            match fs::remove_dir_all(victim.data()) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await;
        kill(postmaster);
        writer.goes_on(20, SOON).await;
        eventually("a fresh copy is there", SOON, async || {
            victim.postmaster().map(drop).ok_or_else(|| "no server".to_owned())
        })
        .await;
        cluster.whole().await;
    }
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn an_instance_whose_directory_is_gone_is_made_anew() {
    let (cluster, writer) = written_to().await;
    let victim = cluster.with_role(Role::Async);
    let directory = victim.data().parent().unwrap().to_owned();
    let before = victim.postmaster().unwrap();
    eventually("everything is removed", SOON, async || {
        // The server writes meanwhile: what it made anew is removed by the next try.
        fs::remove_dir_all(&directory).map_err(|error| error.to_string())
    })
    .await;
    eventually("another server runs in its place", SOON, async || {
        let other = victim.postmaster().filter(|pid| *pid != before);
        other.map(drop).ok_or_else(|| "no other server".to_owned())
    })
    .await;
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn a_killed_launcher_leaves_nothing_behind_and_loses_nothing() {
    let (mut cluster, writer) = written_to().await;
    let report = writer.stop().await;
    cluster.kill_launcher();
    eventually("every process ends", SOON, async || {
        let left = cluster.processes();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .await;

    cluster.resume();
    cluster.whole().await;
    let client = dugong_tests::connect(&cluster.dsn(&[])).await.unwrap();
    let row = client.query_one("select count(*) from numbers", &[]).await.unwrap();
    assert!(usize::try_from(row.get::<_, i64>(0)).unwrap() >= report.acknowledged);
}

#[tokio::test]
async fn status_says_in_words_why_writes_wait() {
    let (cluster, writer) = written_to().await;
    // Neither the launcher nor the async's controller can help: no failover is possible.
    let launcher = cluster.launcher();
    let sync = cluster.with_role(Role::Sync);
    let other = cluster.with_role(Role::Async);
    pause(launcher);
    kill(other.controller().unwrap());
    kill(sync.controller().unwrap());
    let topology = cluster
        .until("the reason is told", |topology| {
            topology.waiting.as_deref().is_some_and(|why| why.contains("writes wait"))
        })
        .await;
    assert_eq!(topology.phase, Phase::ReadWrite, "the primary is in office, its commits wait");
    resume(launcher);
    writer.goes_on(20, SOON).await;
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn the_loss_of_a_whole_instance_is_noticed_by_its_session() {
    let (cluster, writer) = written_to().await;
    let launcher = cluster.launcher();
    let primary = cluster.with_role(Role::Primary);
    // The launcher would start the controller again at once.
    pause(launcher);
    kill_all_of(&primary);
    writer.goes_on(20, SOON).await;
    assert_ne!(cluster.with_role(Role::Primary).id, primary.id);
    resume(launcher);
    cluster.whole().await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn a_cluster_grows_by_an_instance() {
    let mut cluster = Cluster::start().await;
    cluster.stop().await;
    cluster.resume_with(&["--instances", "4"]);
    let topology = cluster.until("pg-4 has joined", |t| t.asyncs.len() == 2).await;
    assert_eq!(topology.asyncs[1].id.as_str(), "pg-4");
    cluster.until("pg-4 streams", |t| t.asyncs[1].upstream.is_some()).await;
}
