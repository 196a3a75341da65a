//! A controller that is paused, restarted in order, or loses the warden of its server.

use std::time::{Duration, Instant};

use dugong_tests::{connect, eventually, kill, parent_of, pause, restart, resume};
use dugong_topology::{Generation, Role};

use crate::{SOON, direct_dsn, nothing_is_lost, written_to};

/// The longer of a primary's two leases as `dugong up` has them, and a second.
const LEASES_AND_A_SECOND: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_paused_controller_fences_its_primary_all_the_same() {
    let (cluster, writer) = written_to().await;
    let before = cluster.topology().unwrap().generation;
    let old = cluster.with_role(Role::Primary);
    let direct = connect(&direct_dsn(&cluster, &old)).await.unwrap();
    let (controller, postmaster) = (old.controller().unwrap(), old.postmaster().unwrap());

    pause(controller);
    let paused = Instant::now();
    eventually("the direct connection is dead", LEASES_AND_A_SECOND, async || {
        match direct.simple_query("select count(*) from numbers").await {
            Ok(_) => Err("it reads".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    println!("fenced {:?} after its controller was paused", paused.elapsed());
    eventually("the whole server is gone", LEASES_AND_A_SECOND, async || {
        if old.postmaster() == Some(postmaster) { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(paused.elapsed() < LEASES_AND_A_SECOND, "in time: {:?}", paused.elapsed());
    writer.goes_on(50, SOON).await;
    let took_over = cluster.with_role(Role::Primary).id;
    assert_ne!(took_over, old.id);
    assert_eq!(old.controller(), Some(controller), "it is still paused");

    resume(controller);
    let topology = cluster.whole().await;
    assert_eq!(topology.generation, Generation(before.0 + 1), "it never was in office again");
    assert_eq!(topology.primary.unwrap().id, took_over);
    assert_eq!(cluster.with_role(Role::Async).id, old.id, "it repaired itself");
    let client = connect(&direct_dsn(&cluster, &old)).await.unwrap();
    let row = client.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    nothing_is_lost(writer).await;
}

/// Ends the controller of the instance with `role` in order; its successor takes everything over.
async fn restarted_in_order(role: Role) {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let postmasters = || {
        let members = before.members().map(|(_, member)| cluster.instance(&member.id));
        members.map(|instance| instance.postmaster()).collect::<Vec<_>>()
    };
    let (instance, servers) = (cluster.with_role(role), postmasters());
    // More than once, since the second controller has taken its server over itself.
    for _ in 0..3 {
        let old = instance.controller().expect("the controller runs");
        restart(old);
        eventually("another controller runs", SOON, async || {
            let new = instance.controller().filter(|new| *new != old);
            new.map(drop).ok_or_else(|| "none yet".to_owned())
        })
        .await;
        writer.goes_on(100, SOON).await;
        let after = cluster.whole().await;
        assert_eq!(after.generation, before.generation, "nobody took over, nobody was replaced");
        assert_eq!(postmasters(), servers, "the same servers run");
    }
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, [""; 0], "no write has failed");

    // The last one is in charge of what it took over: a server that dies is started again.
    let dead = instance.postmaster().expect("the server runs");
    kill(dead);
    eventually("another server runs", SOON, async || {
        let new = instance.postmaster().filter(|new| *new != dead);
        new.map(drop).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    cluster.whole().await;
}

#[tokio::test]
async fn the_primarys_controller_is_restarted_in_order() {
    restarted_in_order(Role::Primary).await;
}

#[tokio::test]
async fn the_syncs_controller_is_restarted_in_order() {
    restarted_in_order(Role::Sync).await;
}

#[tokio::test]
async fn the_asyncs_controller_is_restarted_in_order() {
    restarted_in_order(Role::Async).await;
}

#[tokio::test]
async fn a_killed_warden_is_a_dead_server() {
    let (cluster, writer) = written_to().await;
    let before = cluster.topology().unwrap().generation;
    let old = cluster.with_role(Role::Primary);
    let (controller, postmaster) = (old.controller().unwrap(), old.postmaster().unwrap());
    let warden = parent_of(postmaster).unwrap();
    assert_ne!(warden, controller);
    kill(warden);
    writer.goes_on(50, SOON).await;
    let topology = cluster.whole().await;
    assert_eq!(topology.generation, Generation(before.0 + 1), "the sync took over");
    assert_ne!(topology.primary.unwrap().id, old.id);
    assert_eq!(old.controller(), Some(controller), "it has seen to that itself");
    nothing_is_lost(writer).await;
}
