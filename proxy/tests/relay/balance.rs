//! Which standby a client of the read port gets.

use std::collections::BTreeMap;

use dugong_tests::free_port;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::controller::{Controller, cluster};
use crate::eventually::eventually;
use crate::postgres::{client, server_behind, shared_pair};
use crate::proxy::Proxy;

/// A client that stays, and the server that it is led to.
async fn stays(port: u16) -> (Client, String) {
    let (client, connection) = client(port).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    // A prepared statement would be closed later, which is one more question.
    let answer = client.simple_query("show cluster_name").await.unwrap();
    let name = answer.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    });
    (client, name.unwrap())
}

/// So many clients that stay, by their server.
async fn crowd(port: u16, clients: usize) -> BTreeMap<String, Vec<Client>> {
    let mut crowd: BTreeMap<String, Vec<Client>> = BTreeMap::new();
    for _ in 0..clients {
        let (client, server) = stays(port).await;
        crowd.entry(server).or_default().push(client);
    }
    crowd
}

#[tokio::test]
async fn clients_go_where_fewer_wait_and_then_where_fewer_are() {
    let pair = shared_pair();
    let (one, two) = (pair.first.port, pair.second.port);
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    controller.publish(cluster(1, 1, (3, one), &[(1, one), (2, two)]));
    proxy.believes(1, 1).await;

    let at_rest = crowd(proxy.read_port, 6).await;
    assert_eq!(at_rest["pg-1"].len(), 3);
    assert_eq!(at_rest["pg-2"].len(), 3);

    let busy = &at_rest["pg-1"][0];
    let (waiting, watching) = (busy.cancel_token(), &at_rest["pg-1"][1]);
    let query = busy.batch_execute("select pg_sleep(600)");
    let meanwhile = async {
        let running = "select count(*) > 0 from pg_stat_activity where query like 'select pg_sl%'";
        eventually("the query runs", || async {
            watching.query_one(running, &[]).await.unwrap().get(0)
        })
        .await;
        let late = crowd(proxy.read_port, 4).await;
        waiting.cancel_query(NoTls).await.unwrap();
        late
    };
    let (cancelled, late) = tokio::join!(query, meanwhile);
    assert!(cancelled.is_err());
    // The error is sent before the server is ready again, which is what ends the waiting.
    busy.batch_execute("select 1").await.unwrap();
    assert_eq!(late.keys().collect::<Vec<_>>(), ["pg-2"], "somebody waits at pg-1");
    let after = crowd(proxy.read_port, 4).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), ["pg-1"], "nobody waits, and pg-1 has fewer");
}

#[tokio::test]
async fn a_standby_that_refuses_is_left_out_for_a_while() {
    let pair = shared_pair();
    let controller = Controller::start().await;
    let proxy = Proxy::start(&["--controller", &controller.url()]);
    let standbys = [(1, free_port()), (2, pair.second.port)];
    controller.publish(cluster(1, 1, (3, pair.first.port), &standbys));
    proxy.believes(1, 1).await;
    let left_out = || proxy.metric("dugong_proxy_replicas_left_out_total{instance=\"pg-1\"}");
    eventually("pg-1 is tried", || async {
        assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-2");
        left_out().await.is_some()
    })
    .await;
    for _ in 0..20 {
        assert_eq!(server_behind(proxy.read_port).await.unwrap(), "pg-2");
    }
    // Each try was the last one for a while, however long all of this took.
    let tries = proxy.metric("dugong_proxy_connect_failures_total{listener=\"read\"}").await;
    assert_eq!(tries, left_out().await);
}
