//! Clients that come while nobody can serve them.

use std::time::Duration;

use dugong_tests::free_port;
use dugong_topology::Phase;
use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;

use crate::controller::{Controller, cluster};
use crate::eventually::{eventually, soon};
use crate::fake_server::{FakeServer, STARTUP, WELCOME, client_that_sends, expect, fatal, rest};
use crate::postgres::{Postgres, server_behind, shared_pair};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_client_waits_while_the_cluster_catches_up_and_then_proceeds() {
    let pair = shared_pair();
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    let mut topology = cluster(1, 1, (1, pair.first.port), &[]);
    topology.phase = Phase::CatchingUp;
    controller.publish(topology.clone());
    proxy.believes(1, 1).await;

    let waiting = tokio::spawn(server_behind(proxy.write_port));
    proxy.holds(1).await;
    assert!(!waiting.is_finished());
    topology.phase = Phase::ReadWrite;
    topology.revision.0 = 2;
    controller.publish(topology);
    assert_eq!(soon("the client proceeds", waiting).await.unwrap().unwrap(), "pg-1");
    proxy.holds(0).await;
    let count = "dugong_proxy_hold_seconds_count{listener=\"write\"}";
    assert_eq!(proxy.metric(count).await, Some(1.0));
}

#[tokio::test]
async fn a_hold_ends_with_a_reason() {
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url(), "--hold-timeout", "200ms"]);
    let error = server_behind(proxy.write_port).await.unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::CANNOT_CONNECT_NOW);
    assert!(told.message().contains("no controller has told the topology yet"), "{told}");

    let mut topology = cluster(1, 1, (1, 1), &[]);
    topology.phase = Phase::CatchingUp;
    topology.waiting = Some("pg-2 has 5 MB to copy".to_owned());
    controller.publish(topology);
    proxy.believes(1, 1).await;
    let error = server_behind(proxy.write_port).await.unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(told.message(), "no primary took writes within 200ms: pg-2 has 5 MB to copy");
    let refused = "dugong_proxy_rejected_total{listener=\"write\",reason=\"hold_timeout\"}";
    assert_eq!(proxy.metric(refused).await, Some(2.0));
}

#[tokio::test]
async fn no_more_clients_wait_than_may_and_one_that_leaves_makes_room() {
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url(), "--max-held", "1"]);
    let first = client_that_sends(proxy.write_port, STARTUP).await;
    proxy.holds(1).await;
    let mut second = client_that_sends(proxy.write_port, STARTUP).await;
    let told = rest(&mut second).await;
    assert!(told.contains("|C53300|"), "{told}");
    drop(first);
    proxy.holds(0).await;
    let _third = client_that_sends(proxy.write_port, STARTUP).await;
    proxy.holds(1).await;
}

#[tokio::test]
async fn a_server_that_is_not_up_yet_is_tried_again_and_the_client_notices_nothing() {
    let server = FakeServer::start().await;
    let proxy = Proxy::start(&["--primary", &format!("127.0.0.1:{}", server.port)]);
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;

    let (mut starting, _) = server.accept().await;
    starting.write_all(&fatal("57P03", "the database system is starting up")).await.unwrap();
    drop(starting);
    let (crashing, _) = server.accept().await;
    drop(crashing);
    let (mut up, packet) = server.accept().await;
    assert_eq!(packet, STARTUP);
    up.write_all(WELCOME).await.unwrap();
    expect(&mut client, WELCOME).await;
}

#[tokio::test]
async fn a_refusal_for_good_is_passed_on() {
    let server = FakeServer::start().await;
    let proxy = Proxy::start(&["--primary", &format!("127.0.0.1:{}", server.port)]);
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;
    let (mut refusing, _) = server.accept().await;
    let refusal = fatal("28000", "no such role");
    refusing.write_all(&refusal).await.unwrap();
    drop(refusing);
    expect(&mut client, &refusal).await;
    assert_eq!(rest(&mut client).await, "", "and nothing is added to it");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_when_the_topology_moves_on() {
    let (frozen, alive) = (FakeServer::start().await, FakeServer::start().await);
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    controller.publish(cluster(1, 1, (1, frozen.port), &[(2, alive.port)]));
    proxy.believes(1, 1).await;
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;
    let (_silent, _) = frozen.accept().await;

    controller.publish(cluster(2, 2, (2, alive.port), &[]));
    let (mut up, _) = alive.accept().await;
    up.write_all(WELCOME).await.unwrap();
    expect(&mut client, WELCOME).await;
}

#[tokio::test]
async fn a_client_waits_for_a_real_server_to_start() {
    let port = free_port();
    let proxy = Proxy::start(&["--primary", &format!("127.0.0.1:{port}")]);
    let waiting = tokio::spawn(server_behind(proxy.write_port));
    proxy.holds(1).await;
    let server = tokio::task::spawn_blocking(move || Postgres::start_on("late", port));
    assert_eq!(soon("the client proceeds", waiting).await.unwrap().unwrap(), "late");
    drop(server.await.unwrap());
}

#[tokio::test]
async fn a_client_that_may_not_wait_still_gets_one_try() {
    let pair = shared_pair();
    let address = format!("127.0.0.1:{}", pair.first.port);
    let proxy = Proxy::start(&["--primary", &address, "--hold-timeout", "0s"]);
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");
}

#[tokio::test]
async fn the_end_of_a_hold_is_not_put_off_by_failing_tries() {
    let server = FakeServer::start().await;
    let address = format!("127.0.0.1:{}", server.port);
    let proxy = Proxy::start(&["--primary", &address, "--hold-timeout", "300ms"]);
    let began = std::time::Instant::now();
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;
    let refuse_all = async {
        loop {
            drop(server.accept().await);
        }
    };
    let told = tokio::select! {
        told = rest(&mut client) => told,
        () = refuse_all => unreachable!("it refuses for ever"),
    };
    assert!(told.contains("|C57P03|"), "{told}");
    assert!(told.contains("did not answer"), "{told}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let tries = "dugong_proxy_connect_failures_total{listener=\"write\"}";
    eventually("the tries are counted", || async { proxy.metric(tries).await > Some(1.0) }).await;
}
