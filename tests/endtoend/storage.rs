//! The disk of one instance hangs: whoever writes to it is held, and cannot even be killed.

use dugong_tests::{Cluster, DiskKind, Instance, Writer, eventually};
use dugong_topology::{Role, Topology};

use crate::store::Hidden;
use crate::{SOON, nothing_is_lost, page_of, says, words};

/// A cluster where the instance with `role` has a disk of its own, and a strike takes a second.
async fn with_disk(role: Role) -> (Cluster, Instance, Topology) {
    let mut cluster = Cluster::begin_with(&["--set", "timings.storage_deadline=1s"]);
    cluster.whole().await;
    let id = cluster.with_role(role).id;
    cluster.stop().await;
    cluster.give_disk(&id, DiskKind::Freezable);
    cluster.resume();
    let topology = cluster.whole().await;
    assert_eq!(cluster.with_role(role).id, id, "it has the role again");
    let instance = cluster.instance(&id);
    (cluster, instance, topology)
}

/// The disk of the instance with `role` hangs, the others go on, and it comes back by itself. Returns
/// how many generations that took.
async fn hangs(role: Role) -> Option<(Cluster, Instance, u64)> {
    if !DiskKind::Freezable.is_allowed() {
        return None;
    }
    let (cluster, instance, before) = with_disk(role).await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    cluster.disk().freeze();
    let told = |now: &Topology| says(now, &instance, "does not write");
    cluster.until("the instance says that its disk does not write", told).await;
    let status = words(&cluster.run("status", &[]));
    println!("{status}");
    let left = |now: &Topology| {
        let mut healthy = now.members().filter(|(_, member)| member.healthy);
        healthy.all(|(_, member)| member.id != instance.id)
            && now.primary.as_ref().is_some_and(|primary| primary.id != instance.id)
    };
    cluster.until("the others go on without it", left).await;
    writer.goes_on(50, SOON).await;
    cluster.disk().thaw();
    let after = cluster.whole().await;
    nothing_is_lost(writer).await;
    Some((cluster, instance, after.generation.0 - before.generation.0))
}

#[tokio::test]
async fn of_the_primary_that_hangs_costs_it_its_office() {
    let Some((cluster, former, generations)) = hangs(Role::Primary).await else { return };
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
    assert_eq!(cluster.with_role(Role::Async).id, former.id, "it follows again");
}

#[tokio::test]
async fn of_the_sync_that_hangs_costs_it_its_place() {
    let Some((cluster, _, generations)) = hangs(Role::Sync).await else { return };
    assert_eq!(generations, 1);
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-1", "the primary stays");
}

#[tokio::test]
async fn of_an_async_that_hangs_is_nobodys_concern() {
    let Some((_cluster, _, generations)) = hangs(Role::Async).await else { return };
    assert_eq!(generations, 0);
}

/// Nobody could do anything about it: a server that hangs is worth more than none. (A primary has no
/// lease then, neither the store's nor the sync's, and is fenced as any other.)
#[tokio::test]
async fn of_a_standby_while_the_store_is_away_ends_nothing_before_that_is_back() {
    if !DiskKind::Freezable.is_allowed() {
        return;
    }
    let (cluster, last, before) = with_disk(Role::Async).await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(20, SOON).await;
    let (_, member) =
        before.members().find(|(_, member)| member.id == last.id).expect("it is there");
    let address = member.http.clone().expect("it has a controller");
    let measured = async |name: &str, least: f64| {
        eventually(name, SOON, async || {
            let page = page_of(&address).map_err(|error| error.to_string())?;
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            if value >= Some(least) { Ok(()) } else { Err(format!("{value:?}")) }
        })
        .await;
    };
    let postmaster = last.postmaster();
    assert!(postmaster.is_some(), "its server runs");
    let away = Hidden::hide(&cluster);
    measured("dugong_session_renewals_failed_total", 10.0).await;
    cluster.disk().freeze();

    // Two strikes, and many more looks.
    measured("dugong_storage_probe_seconds{disk=\"wal\"}", 6.0).await;
    assert_eq!(last.postmaster(), postmaster, "its server is left alone");
    writer.goes_on(50, SOON).await;

    away.put_back();
    cluster.until("it is ended, and says why", |now| says(now, &last, "does not write")).await;
    cluster.disk().thaw();
    let after = cluster.whole().await;
    assert_eq!(after.generation, before.generation, "the others have not noticed");
    nothing_is_lost(writer).await;
}
