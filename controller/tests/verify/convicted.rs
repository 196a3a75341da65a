//! Set-ups that promise more than they keep.

use dugong_controller::verify::{Recorder, Ruling, Verdict, judge};

use crate::acquitted::{CANCEL, record};
use crate::eventually::{acknowledged, eventually, glances, more, reads, unknown};
use crate::forwarder::Forwarder;
use crate::server::Server;

async fn convicted(recorder: Recorder) -> Verdict {
    let verdict = judge(&recorder.finish().await.unwrap());
    assert_eq!(verdict.ruling(), Ruling::Convicted, "{}", verdict.text());
    verdict
}

/// From now on the standby receives nothing.
async fn cut_off(primary: &Server, standby: &Server) {
    standby.set("primary_conninfo = ''").await;
    let streams = "select count(*) from pg_stat_replication";
    eventually("the stream has ended", async || primary.ask(streams).await == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_pair_is_convicted() {
    let mut primary = Server::start(&[]).await;
    let standby = primary.standby().await;
    let address = Forwarder::to(primary.port).await;
    let recorder = record(&address.dsn(), None).await;
    more(&recorder, 50, acknowledged).await;
    cut_off(&primary, &standby).await;
    more(&recorder, 100, acknowledged).await;
    primary.kill().await;
    standby.promote().await;
    address.lead_to(standby.port);
    more(&recorder, 50, acknowledged).await;
    let verdict = convicted(recorder).await;

    assert!(verdict.durability.lost.count > 0, "{}", verdict.text());
    assert!(verdict.linearizability.violated > 0, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_without_synchronous_commit_is_convicted() {
    let mut server = Server::start(&["synchronous_commit=off", "wal_writer_delay=10s"]).await;
    let recorder = record(&server.dsn(), None).await;
    more(&recorder, 50, acknowledged).await;
    // From now on WAL leaves the shared memory only when 8 MB of it are full.
    server.freeze_writers();
    more(&recorder, 100, acknowledged).await;
    server.kill().await;
    server.resume().await;
    more(&recorder, 50, acknowledged).await;
    let verdict = convicted(recorder).await;

    assert!(verdict.durability.lost.count > 0, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_after_a_cancelled_wait_and_vanished_is_convicted() {
    let mut primary = Server::start(&["synchronous_standby_names=standby"]).await;
    let standby = primary.standby().await;
    let sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    eventually("commits wait for it", async || primary.ask(sync).await == "1").await;
    let address = Forwarder::to(primary.port).await;
    let recorder = record(&address.dsn(), None).await;
    more(&recorder, 50, acknowledged).await;
    cut_off(&primary, &standby).await;
    let goal = (unknown(&recorder.progress()) + 20, reads(&recorder.progress()) + 200);
    eventually("cancelled writes are read", async || {
        primary.ask(CANCEL).await;
        let progress = recorder.progress();
        progress.unknown >= goal.0 && progress.reads >= goal.1
    })
    .await;
    primary.kill().await;
    standby.promote().await;
    address.lead_to(standby.port);
    more(&recorder, 50, acknowledged).await;
    let verdict = convicted(recorder).await;

    assert_eq!(verdict.durability.lost.count, 0, "none was acknowledged: {}", verdict.text());
    assert!(verdict.durability.vanished.count > 0, "{}", verdict.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_at_the_write_address_is_convicted() {
    let primary = Server::start(&[]).await;
    let standby = primary.standby().await;
    let address = Forwarder::to(primary.port).await;
    let recorder = record(&address.dsn(), Some(&standby.dsn())).await;
    more(&recorder, 50, acknowledged).await;
    standby.ask("select pg_wal_replay_pause()").await;
    let state = "select pg_get_wal_replay_pause_state()";
    eventually("the replay is paused", async || standby.ask(state).await == "paused").await;
    more(&recorder, 100, acknowledged).await;
    more(&recorder, 20, glances).await;
    address.lead_to(standby.port);
    more(&recorder, 100, reads).await;
    address.lead_to(primary.port);
    more(&recorder, 50, acknowledged).await;
    let verdict = convicted(recorder).await;

    assert_eq!(verdict.durability.lost.count, 0, "{}", verdict.text());
    assert!(verdict.freshness.stale > 0, "{}", verdict.text());
    assert!(verdict.linearizability.violated > 0, "{}", verdict.text());
    let staleness = verdict.staleness.as_ref().unwrap();
    assert!(staleness.behind > 0 && staleness.maximum.writes > 0, "{}", verdict.text());
    assert!(!staleness.maximum.ms.is_zero(), "{}", verdict.text());
}
