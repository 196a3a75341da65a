//! The way in and out of clients in clear, by both engines.

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::controller::{Controller, cluster};
use crate::engines::ENGINES;
use crate::eventually::{eventually, soon};
use crate::fake_server::{
    FakeServer, STARTUP, TLS_REQUEST, WELCOME, client_that_sends, expect, rest,
};
use crate::proxy::Proxy;

/// Query, and what ends its answer.
const QUERY: &[u8] = b"Q\0\0\0\x06x\0";
const READY: &[u8] = b"Z\0\0\0\x05I";

const TERMINATE: &[u8] = b"X\0\0\0\x04";

async fn server_and_proxy(engine: &str) -> (FakeServer, Proxy) {
    let server = FakeServer::start().await;
    let address = format!("127.0.0.1:{}", server.port);
    let proxy = Proxy::start(&["--primary", &address, "--relay-engine", engine]);
    (server, proxy)
}

#[tokio::test]
async fn a_startup_packet_in_pieces_comes_whole_and_what_follows_it_stays_behind_it() {
    for engine in ENGINES {
        let (server, proxy) = server_and_proxy(engine).await;
        let mut client = client_that_sends(proxy.write_port, TLS_REQUEST).await;
        expect(&mut client, b"N").await;
        client.set_nodelay(true).unwrap();
        for byte in STARTUP {
            client.write_all(&[*byte]).await.unwrap();
        }
        // Of a client that does not wait for the welcome.
        client.write_all(QUERY).await.unwrap();
        let (mut served, packet) = server.accept().await;
        assert_eq!(packet, STARTUP, "{engine}");
        served.write_all(WELCOME).await.unwrap();
        expect(&mut served, QUERY).await;
        expect(&mut client, WELCOME).await;
    }
}

#[tokio::test]
async fn who_leaves_before_the_servers_first_word_takes_the_servers_connection_along() {
    for engine in ENGINES {
        let (server, proxy) = server_and_proxy(engine).await;
        let client = client_that_sends(proxy.write_port, STARTUP).await;
        let (mut silent, _) = server.accept().await;
        drop(client);
        assert_eq!(rest(&mut silent).await, "", "{engine}");
        let open = "dugong_proxy_connections_open{listener=\"write\"}";
        eventually("nobody is there", || async { proxy.metric(open).await == Some(0.0) }).await;
        let left = "dugong_proxy_rejected_total{listener=\"write\",reason=\"client_lost\"}";
        assert_eq!(proxy.metric(left).await, Some(1.0), "{engine}");
    }
}

#[tokio::test]
async fn who_says_farewell_is_parted_with_at_once_and_its_server_is_told() {
    for engine in ENGINES {
        let (server, proxy) = server_and_proxy(engine).await;
        let (mut client, mut served) = server.welcome(proxy.write_port).await;
        client.write_all(TERMINATE).await.unwrap();
        // Neither side has closed: the proxy does.
        assert_eq!(rest(&mut served).await.as_bytes(), b"X|||\x04", "{engine}");
        assert_eq!(rest(&mut client).await, "", "{engine}");
        proxy.has_ended("write", 1).await;
    }
}

#[tokio::test]
async fn a_farewell_behind_a_question_waits_for_the_answer() {
    for engine in ENGINES {
        let (server, proxy) = server_and_proxy(engine).await;
        let (mut client, mut served) = server.welcome(proxy.write_port).await;
        client.write_all(&[QUERY, TERMINATE].concat()).await.unwrap();
        expect(&mut served, &[QUERY, TERMINATE].concat()).await;
        served.write_all(READY).await.unwrap();
        expect(&mut client, READY).await;
        drop(served);
        soon("the connection ends", rest(&mut client)).await;
    }
}

/// More than are accepted in a turn, and more than may call a primary at once.
#[tokio::test]
async fn a_crowd_that_comes_at_once_is_let_in_whole() {
    const CROWD: usize = 300;
    for engine in ENGINES {
        let (server, proxy) = server_and_proxy(engine).await;
        let port = proxy.write_port;
        let mut clients = JoinSet::new();
        for _ in 0..CROWD {
            clients.spawn(async move {
                let mut client = client_that_sends(port, STARTUP).await;
                expect(&mut client, WELCOME).await;
                client
            });
        }
        let mut served = Vec::new();
        for _ in 0..CROWD {
            let (mut one, _) = server.accept().await;
            one.write_all(WELCOME).await.unwrap();
            served.push(one);
        }
        let clients = soon("all are welcomed", clients.join_all()).await;
        assert_eq!(clients.len(), CROWD, "{engine}");
    }
}

#[tokio::test]
async fn who_is_on_the_way_to_a_server_that_hands_over_is_led_to_the_next() {
    for engine in ENGINES {
        let (former, next) = (FakeServer::start().await, FakeServer::start().await);
        let controller = Controller::start().await;
        let proxy = Proxy::start(&["--controller", &controller.url(), "--relay-engine", engine]);
        controller.publish(cluster(1, 1, (1, former.port), &[(2, next.port)]));
        proxy.believes(1, 1).await;
        let mut client = client_that_sends(proxy.write_port, STARTUP).await;
        let (mut silent, _) = former.accept().await;
        controller.publish(cluster(2, 2, (2, next.port), &[(1, former.port)]));
        let (mut up, packet) = next.accept().await;
        assert_eq!(packet, STARTUP, "{engine}");
        assert_eq!(rest(&mut silent).await, "", "{engine}");
        up.write_all(WELCOME).await.unwrap();
        expect(&mut client, WELCOME).await;
    }
}
