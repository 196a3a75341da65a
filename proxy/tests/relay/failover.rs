//! What sessions are told when the topology or their server changes.

use dugong_topology::{Phase, Topology};
use tokio::io::AsyncWriteExt;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::controller::{Controller, cluster};
use crate::eventually::{eventually, soon};
use crate::fake_server::{FakeServer, expect, fatal, rest};
use crate::postgres::{client, server_behind, shared_pair};
use crate::proxy::Proxy;

/// A proxy that believes what its one controller has published.
async fn following(topology: Topology) -> (Controller, Proxy) {
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    let (generation, revision) = (topology.generation.0, topology.revision.0);
    controller.publish(topology);
    proxy.believes(generation, revision).await;
    (controller, proxy)
}

#[tokio::test]
async fn a_change_of_primary_ends_old_sessions_and_leads_new_ones() {
    let pair = shared_pair();
    let (one, two) = ((1, pair.first.port), (2, pair.second.port));
    let (controller, proxy) = following(cluster(3, 1, one, &[two])).await;

    let (idle, idle_connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let idle_connection = tokio::spawn(idle_connection);
    let (busy, busy_connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let busy_connection = tokio::spawn(busy_connection);
    let query = tokio::spawn(async move { busy.batch_execute("select pg_sleep(600)").await });

    // The same primary in a new generation, and a pause of writes: sessions are kept.
    let mut kept = cluster(4, 2, one, &[]);
    kept.phase = Phase::CatchingUp;
    controller.publish(kept);
    proxy.believes(4, 2).await;
    idle.batch_execute("select 1").await.unwrap();

    controller.publish(cluster(5, 3, two, &[one]));
    let of_idle = soon("the session ends", idle_connection).await.unwrap().unwrap_err();
    // The driver hands the error to the query that waits.
    let of_busy = soon("the query ends", query).await.unwrap().unwrap_err();
    assert!(soon("the session ends", busy_connection).await.unwrap().is_err());
    for error in [of_idle, of_busy] {
        let told = error.as_db_error().unwrap();
        assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN);
        assert_eq!(
            told.message(),
            "terminating connection: the primary changed from pg-1 to pg-2 (generation 5)"
        );
        assert!(told.hint().is_some());
    }
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-2");
    assert_eq!(proxy.metric("dugong_proxy_failovers_total").await, Some(1.0));
    let ended = "dugong_proxy_sessions_ended_total{listener=\"write\",reason=\"topology\"}";
    eventually("the ended sessions are counted", || async {
        proxy.metric(ended).await == Some(2.0)
    })
    .await;
}

#[tokio::test]
async fn an_old_topology_and_another_clusters_change_nothing() {
    let pair = shared_pair();
    let (one, two) = ((1, pair.first.port), (2, pair.second.port));
    let (fresh, stale) = (Controller::start().await, Controller::start().await);
    let proxy = Proxy::start(&["--controller", &fresh.url(), "--controller", &stale.url()]);
    fresh.publish(cluster(4, 1, two, &[one]));
    proxy.believes(4, 1).await;

    let counted =
        |outcome| format!("dugong_proxy_topology_documents_total{{outcome=\"{outcome}\"}}");
    stale.publish(cluster(3, 999, one, &[two]));
    eventually("the old document came", || async {
        proxy.metric(&counted("not_newer")).await == Some(1.0)
    })
    .await;
    let mut foreign = cluster(9, 999, one, &[two]);
    foreign.cluster = "another".to_owned();
    stale.publish(foreign);
    eventually("the foreign document came", || async {
        proxy.metric(&counted("other_cluster")).await == Some(1.0)
    })
    .await;
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-2");
    assert_eq!(proxy.health().await["generation"], 4);
    assert!(proxy.log().contains("tells of the cluster \"another\""));
}

#[tokio::test]
async fn the_last_topology_stays_while_no_controller_answers() {
    let pair = shared_pair();
    let controller = Controller::start().await;
    let port = controller.port;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    controller.publish(cluster(3, 1, (1, pair.first.port), &[]));
    proxy.believes(3, 1).await;
    // Its open stream ends with the runtime's task; new connections are refused.
    drop(controller);
    eventually("the proxy has no source", || async {
        proxy.health().await["sources"]["connected"] == 0
    })
    .await;
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");

    let again = Controller::start_on(port).await;
    again.publish(cluster(4, 2, (2, pair.second.port), &[]));
    proxy.believes(4, 2).await;
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-2");
}

#[tokio::test]
async fn a_read_session_stays_through_illness_and_leaves_a_new_primary() {
    let pair = shared_pair();
    let (one, two) = ((1, pair.first.port), (2, pair.second.port));
    let (controller, proxy) = following(cluster(3, 1, one, &[two])).await;
    let (reader, connection) = client(proxy.read_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);

    let mut ill = cluster(3, 2, one, &[two]);
    ill.asyncs[0].healthy = false;
    ill.asyncs[0].lag_bytes = None;
    controller.publish(ill);
    proxy.believes(3, 2).await;
    reader.batch_execute("select 1").await.unwrap();

    controller.publish(cluster(4, 3, two, &[one]));
    let error = soon("the session ends", connection).await.unwrap().unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN);
    assert_eq!(told.message(), "terminating connection: pg-2 became the primary (generation 4)");
}

/// A session on a server that a test plays.
async fn session() -> (Proxy, tokio::net::TcpStream, tokio::net::TcpStream) {
    let server = FakeServer::start().await;
    let proxy = Proxy::start(&["--primary", &format!("127.0.0.1:{}", server.port)]);
    let (client, served) = server.welcome(proxy.write_port).await;
    (proxy, client, served)
}

#[tokio::test]
async fn a_lost_server_is_told_between_two_messages() {
    let (_proxy, mut client, served) = session().await;
    drop(served);
    let told = rest(&mut client).await;
    assert!(told.contains("|C57P01|Mthe connection to primary was lost|"), "{told}");
}

#[tokio::test]
async fn nothing_is_said_in_the_middle_of_a_message() {
    let (_proxy, mut client, mut served) = session().await;
    served.write_all(b"D\0\0\0\x10half").await.unwrap();
    drop(served);
    assert_eq!(rest(&mut client).await, "D|||\u{10}half");
}

#[tokio::test]
async fn a_server_that_said_goodbye_is_not_spoken_after() {
    let (_proxy, mut client, mut served) = session().await;
    let goodbye = fatal("57P01", "terminating connection due to administrator command");
    served.write_all(&goodbye).await.unwrap();
    drop(served);
    expect(&mut client, &goodbye).await;
    assert_eq!(rest(&mut client).await, "");
}
