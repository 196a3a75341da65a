//! Ordinary life: queries, bulk, cancel, reads in turn, and the pages over HTTP.

use dugong_topology::Phase;
use tokio::io::AsyncWriteExt;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::controller::{Controller, cluster};
use crate::eventually::{eventually, soon};
use crate::fake_server::{FakeServer, STARTUP, WELCOME, client_that_sends, expect, rest};
use crate::postgres::{client, server_behind, shared_pair};
use crate::proxy::Proxy;

fn fixed(primary: u16, replica: u16) -> Proxy {
    let (primary, replica) = (format!("127.0.0.1:{primary}"), format!("127.0.0.1:{replica}"));
    Proxy::start(&["--primary", &primary, "--replica", &replica])
}

#[tokio::test]
async fn each_port_leads_to_its_server() {
    let pair = shared_pair();
    let proxy = fixed(pair.first.port, pair.second.port);
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");
    assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-2");
}

#[tokio::test]
async fn a_wrong_password_is_the_servers_answer() {
    let pair = shared_pair();
    let proxy = fixed(pair.first.port, pair.second.port);
    let mut config = client(proxy.write_port);
    let error = config.password("wrong").connect(NoTls).await.map(|_| ()).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn much_data_arrives_whole_both_ways() {
    let pair = shared_pair();
    let proxy = fixed(pair.first.port, pair.second.port);
    let (client, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client
        .query("select repeat(md5(i::text), 100) from generate_series(1, 5000) i", &[])
        .await
        .unwrap();
    let bytes: usize = rows.iter().map(|row| row.get::<_, &str>(0).len()).sum();
    assert_eq!(bytes, 5000 * 3200);
    let sent = "x".repeat(20 << 20);
    let length: i32 = client.query_one("select length($1::text)", &[&sent]).await.unwrap().get(0);
    assert_eq!(usize::try_from(length).unwrap(), sent.len());
    drop(client);
    connection.await.unwrap().unwrap();
    let counted = |direction| {
        format!("dugong_proxy_bytes_total{{listener=\"write\",direction=\"{direction}\"}}")
    };
    assert!(proxy.metric(&counted("to_client")).await.unwrap() > 16e6);
    assert!(proxy.metric(&counted("to_server")).await.unwrap() > 20e6);
}

#[tokio::test]
async fn a_cancel_request_reaches_the_query() {
    let pair = shared_pair();
    let proxy = fixed(pair.first.port, pair.second.port);
    let (client, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let token = client.cancel_token();
    let cancel = async {
        // Before the query runs, a cancel would hit nothing.
        let running =
            "select count(*) > 0 from pg_stat_activity where query like 'select pg_sleep%'";
        let (observer, watching) =
            crate::postgres::client(pair.first.port).connect(NoTls).await.unwrap();
        let watching = tokio::spawn(watching);
        eventually("the query runs", || async {
            observer.query_one(running, &[]).await.unwrap().get(0)
        })
        .await;
        drop(observer);
        watching.await.unwrap().unwrap();
        token.cancel_query(NoTls).await.unwrap();
    };
    let query = soon("the query ends", client.batch_execute("select pg_sleep(600)"));
    let (result, ()) = tokio::join!(query, cancel);
    assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    let forwarded = "dugong_proxy_cancels_total{outcome=\"forwarded\"}";
    eventually("the request is counted", || async { proxy.metric(forwarded).await == Some(1.0) })
        .await;
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cancel_request_goes_where_its_key_came_from_and_nowhere_else() {
    let server = FakeServer::start().await;
    let address = format!("127.0.0.1:{}", server.port);
    let proxy = Proxy::start(&["--primary", &address]);
    let mut session = client_that_sends(proxy.write_port, STARTUP).await;
    let (mut served, packet) = server.accept().await;
    assert_eq!(packet, STARTUP, "the startup packet arrives as it was sent");
    served.write_all(WELCOME).await.unwrap();
    expect(&mut session, WELCOME).await;

    let unknown = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x08\x01\x02\x03\x04";
    drop(client_that_sends(proxy.write_port, unknown).await);
    eventually("the unknown key is dropped", || async {
        let dropped = "dugong_proxy_cancels_total{outcome=\"unknown_key\"}";
        proxy.metric(dropped).await == Some(1.0)
    })
    .await;

    let known = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04";
    let mut canceller = client_that_sends(proxy.read_port, known).await;
    let (cancelled, packet) = server.accept().await;
    assert_eq!(packet, known, "the first connection after the session's is the known key's");
    drop(cancelled);
    assert_eq!(rest(&mut canceller).await, "");
}

#[tokio::test]
async fn reads_go_to_standbys_that_are_fit() {
    let pair = shared_pair();
    let (one, two) = (pair.first.port, pair.second.port);
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url(), "--max-lag", "100"]);
    let mut topology = cluster(1, 1, (3, one), &[(1, one), (2, two)]);
    controller.publish(topology.clone());
    proxy.believes(1, 1).await;
    assert!(server_behind(proxy.read_port).await.is_ok());

    topology.asyncs[0].lag_bytes = Some(101);
    topology.revision.0 = 2;
    controller.publish(topology);
    proxy.believes(1, 2).await;
    for _ in 0..3 {
        assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-2");
    }
}

#[tokio::test]
async fn readers_go_to_a_near_standby_while_it_can_take_them() {
    let pair = shared_pair();
    let (one, two) = (pair.first.port, pair.second.port);
    let controller = Controller::start().await;
    let url = controller.url();
    let flags = ["--controller", &url, "--read-near", "pg-2", "--read-weight", "pg-12=3"];
    let proxy = Proxy::start(&flags);
    let mut topology = cluster(1, 1, (3, one), &[(1, one), (2, two)]);
    controller.publish(topology.clone());
    proxy.believes(1, 1).await;
    for _ in 0..8 {
        assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-2");
    }

    let misspelt = "read_near or read_weights names pg-12, which is no instance of this cluster";
    eventually("it is told", || async { proxy.log().contains(misspelt) }).await;

    topology.asyncs[1].healthy = false;
    topology.revision.0 = 2;
    controller.publish(topology);
    proxy.believes(1, 2).await;
    assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-1");
}

#[tokio::test]
async fn without_a_fit_standby_reads_go_to_the_primary_or_are_refused() {
    let pair = shared_pair();
    let controller = Controller::start().await;
    let url = controller.url();
    let falling_back = Proxy::start(&["--controller", &url]);
    let refusing = Proxy::start(&["--controller", &url, "--read-fallback", "refuse"]);
    controller.publish(cluster(1, 1, (1, pair.first.port), &[]));
    falling_back.believes(1, 1).await;
    refusing.believes(1, 1).await;
    assert_eq!(server_behind(falling_back.read_port).await.unwrap(), "pg-1");
    let error = server_behind(refusing.read_port).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW));
}

#[tokio::test]
async fn the_pages_over_http_say_what_the_proxy_knows() {
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    assert_eq!(proxy.get("/health").await.0, 503, "no topology is known");
    assert_eq!(proxy.get("/v1/topology").await.0, 503);
    assert_eq!(proxy.get("/elsewhere").await.0, 404);

    let mut topology = cluster(3, 42, (1, 1), &[]);
    topology.phase = Phase::CatchingUp;
    controller.publish(topology.clone());
    proxy.believes(3, 42).await;
    topology.revision.0 = 43;
    controller.publish(topology.clone());
    proxy.believes(3, 43).await;
    let (status, body) = proxy.get("/v1/topology").await;
    let mut believed: dugong_topology::Topology = serde_json::from_str(&body).unwrap();
    believed.published_at_ms = None;
    assert_eq!((status, believed), (200, topology));

    let health = proxy.health().await;
    assert_eq!(health["phase"], "catching_up");
    assert_eq!(
        health["sources"],
        serde_json::json!({ "configured": 1, "found": 1, "connected": 1 })
    );
    let address = format!("127.0.0.1:{}", proxy.read_port);
    assert_eq!(health["listeners"]["read"]["address"], address);

    assert_eq!(proxy.metric("dugong_proxy_topology_generation").await, Some(3.0));
    assert_eq!(proxy.metric("dugong_proxy_topology_age_seconds_count").await, Some(1.0));
    let (_, text) = proxy.get("/metrics").await;
    for metric in dugong_proxy::metrics::TABLE {
        let described = format!("# HELP {} {}", metric.name, metric.help);
        // Histograms, and what is by reason, outcome, name or instance, appear with their first event.
        let late = ["hold_seconds", "rejected", "sessions_ended", "cancels", "name_", "left_out"];
        if !late.iter().any(|name| metric.name.contains(name)) {
            assert!(text.contains(&described), "{described}\n{text}");
        }
    }
}
