//! Set-ups that keep their promises while they are broken.

use dugong_controller::verify::{Addresses, Options, Recorder, Ruling, judge};

use crate::eventually::{acknowledged, eventually, glances, more};
use crate::forwarder::Forwarder;
use crate::server::Server;

pub(crate) async fn record(write: &str, read: Option<&str>) -> Recorder {
    let addresses = Addresses::parse(write, read).unwrap();
    Recorder::start(addresses, Options { seed: 7, ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_and_comes_back_is_acquitted() {
    let mut server = Server::start(&[]).await;
    let recorder = record(&server.dsn(), Some(&server.dsn())).await;
    for _ in 0..3 {
        more(&recorder, 100, acknowledged).await;
        server.kill().await;
        server.resume().await;
    }
    more(&recorder, 100, acknowledged).await;
    let tables = recorder.tables();
    let verdict = judge(&recorder.finish().await.unwrap());

    assert_eq!(verdict.ruling(), Ruling::Acquitted, "{}", verdict.text());
    assert!(verdict.writes.acknowledged >= 400);
    let staleness = verdict.staleness.unwrap();
    assert!(staleness.reads > 0 && staleness.behind == 0, "it is its own read address");
    let there = format!("select to_regclass('{}') is null", tables[0]);
    assert_eq!(server.ask(&there).await, "t", "it cleans up");
    let schemas = "select count(*) from pg_namespace where nspname = 'dugong_verify'";
    assert_eq!(server.ask(schemas).await, "0", "it cleans up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_pair_is_acquitted() {
    let mut primary = Server::start(&["synchronous_standby_names=standby"]).await;
    let standby = primary.standby().await;
    let sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    eventually("commits wait for it", async || primary.ask(sync).await == "1").await;
    let address = Forwarder::to(primary.port).await;
    let recorder = record(&address.dsn(), Some(&standby.dsn())).await;
    more(&recorder, 200, acknowledged).await;
    more(&recorder, 20, glances).await;
    primary.kill().await;
    standby.promote().await;
    address.lead_to(standby.port);
    more(&recorder, 200, acknowledged).await;
    let verdict = judge(&recorder.finish().await.unwrap());

    assert_eq!(verdict.ruling(), Ruling::Acquitted, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_is_no_success() {
    let server = Server::start(&[]).await;
    let recorder = record(&server.dsn(), None).await;
    more(&recorder, 50, acknowledged).await;
    server.set("synchronous_standby_names = 'nobody'").await;
    // All four of them, for a standby or for the lock of one that does: then nothing is under way
    // that began before the name was in force.
    let waiting = "select count(*) from pg_stat_activity \
                   where wait_event = 'SyncRep' or wait_event_type = 'Lock'";
    eventually("every client waits", async || server.ask(waiting).await == "4").await;
    let before = recorder.progress();
    let goal = before.unknown + 20;
    eventually("20 waits are cancelled", async || {
        server.ask(CANCEL).await;
        recorder.progress().unknown >= goal
    })
    .await;
    assert_eq!(recorder.progress().acknowledged, before.acknowledged, "none was acknowledged");
    server.set("synchronous_standby_names = ''").await;
    more(&recorder, 50, acknowledged).await;
    let verdict = judge(&recorder.finish().await.unwrap());

    assert_eq!(verdict.ruling(), Ruling::Acquitted, "{}", verdict.text());
    let warned: u64 = verdict
        .writes
        .unknown
        .iter()
        .filter(|(cause, _)| cause.to_string() == "warning 01000 before success")
        .map(|(_, count)| count)
        .sum();
    assert!(warned >= 20, "{}", verdict.text());
    assert!(verdict.durability.unknown_there > 0, "{}", verdict.text());
}

/// Ends the wait of every commit.
pub(crate) const CANCEL: &str =
    "select count(pg_cancel_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
