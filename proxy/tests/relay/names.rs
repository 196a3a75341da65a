//! Controllers and instances that are found by name, while what the names stand for changes.

use dugong_topology::{Address, Topology};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::controller::{Controller, cluster};
use crate::eventually::{eventually, soon};
use crate::fake_server::{STARTUP, WELCOME, client_that_sends, expect};
use crate::name_server::NameServer;
use crate::postgres::{server_behind, shared_pair};
use crate::proxy::Proxy;

const SERVICE: &str = "_dugong._tcp.main.dugong.test";

async fn has_sources(proxy: &Proxy, found: usize, connected: usize) {
    eventually(&format!("{connected} of {found} sources are connected"), || async {
        let sources = proxy.health().await["sources"].clone();
        sources["found"] == found && sources["connected"] == connected
    })
    .await;
}

fn lookups(name: &str, outcome: &str) -> String {
    format!("dugong_proxy_name_lookups_total{{name=\"{name}\",outcome=\"{outcome}\"}}")
}

/// A cluster whose primary is at a name.
fn at(generation: u64, revision: u64, host: &str, port: u16) -> Topology {
    let mut topology = cluster(generation, revision, (1, port), &[]);
    let address = Address { host: host.to_owned(), port };
    topology.primary.as_mut().unwrap().address = Some(address);
    topology
}

#[tokio::test]
async fn controllers_come_and_go_with_the_records_of_their_service() {
    let dns = NameServer::start().await;
    let [a, b, c] =
        [Controller::start().await, Controller::start().await, Controller::start().await];
    for controller in [&a, &b, &c] {
        controller.publish(cluster(1, 1, (1, 1), &[]));
    }
    dns.host("a.dugong.test", &["127.0.0.1"]).await;
    // Two addresses are two sources, and nobody listens at the second one.
    dns.host("b.dugong.test", &["127.0.0.1", "127.0.0.2"]).await;
    dns.host("c.dugong.test", &["127.0.0.1"]).await;
    dns.service(SERVICE, &[("a.dugong.test", a.port), ("b.dugong.test", b.port)]).await;
    let url = format!("srv+http://{SERVICE}");
    let proxy = Proxy::start(&["--controller", &url, "--resolver", &dns.address()]);
    has_sources(&proxy, 3, 2).await;
    proxy.believes(1, 1).await;

    let all = [("a.dugong.test", a.port), ("b.dugong.test", b.port), ("c.dugong.test", c.port)];
    dns.service(SERVICE, &all).await;
    has_sources(&proxy, 4, 3).await;
    dns.service(SERVICE, &all[2..]).await;
    has_sources(&proxy, 1, 1).await;
    c.publish(cluster(1, 2, (1, 1), &[]));
    proxy.believes(1, 2).await;

    let ended = format!("topology from http://b.dugong.test:{} at 127.0.0.2: not named", b.port);
    assert!(proxy.log().contains(&ended));
    let untouched =
        format!("topology from http://c.dugong.test:{} at 127.0.0.1: connected", c.port);
    assert_eq!(proxy.log().matches(&untouched).count(), 1, "and it stayed so");

    // A service without records removes nobody.
    dns.service(SERVICE, &[]).await;
    let absent = lookups(SERVICE, "absent");
    eventually("the answer is known", || async { proxy.metric(&absent).await >= Some(1.0) }).await;
    has_sources(&proxy, 1, 1).await;
}

#[tokio::test]
async fn while_the_name_servers_are_away_the_last_answers_count() {
    let pair = shared_pair();
    let mut dns = NameServer::start().await;
    let controller = Controller::start().await;
    dns.host("controller.dugong.test", &["127.0.0.1"]).await;
    // Nobody listens at the first one.
    dns.host("pg-1.dugong.test", &["127.0.0.1", "127.0.0.0"]).await;
    let url = format!("http://controller.dugong.test:{}", controller.port);
    let proxy = Proxy::start(&["--controller", &url, "--resolver", &dns.address()]);
    controller.publish(at(1, 1, "pg-1.dugong.test", pair.first.port));
    proxy.believes(1, 1).await;
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");

    dns.go_away().await;
    let failed = lookups("pg-1.dugong.test", "failed");
    eventually("look-ups fail, and nobody notices", || async {
        assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");
        proxy.metric(&failed).await >= Some(2.0)
    })
    .await;
    has_sources(&proxy, 1, 1).await;
    let complaint = "the name pg-1.dugong.test could not be looked up";
    assert_eq!(proxy.log().matches(complaint).count(), 1, "however often it was tried");

    // What it stands for by now is not what it stood for.
    dns.host("pg-1.dugong.test", &["127.0.0.9"]).await;
    dns.come_back().await;
    assert!(dns.is_there());
    eventually("the new address is known", || async {
        // Whoever connects asks for the name; nobody is served at the new address.
        let _asks = client_that_sends(proxy.write_port, STARTUP).await;
        proxy.log().contains("the name pg-1.dugong.test stands for 127.0.0.9")
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_holds_clients_until_it_does() {
    let pair = shared_pair();
    let dns = NameServer::start().await;
    let controller = Controller::start().await;
    let url = format!("http://later.dugong.test:{}", controller.port);
    let proxy = Proxy::start(&["--controller", &url, "--resolver", &dns.address()]);
    let waiting = tokio::spawn(server_behind(proxy.write_port));
    proxy.holds(1).await;
    let absent = lookups("later.dugong.test", "absent");
    eventually("it is asked for", || async { proxy.metric(&absent).await >= Some(2.0) }).await;
    let complaint = "the name later.dugong.test has no address";
    assert_eq!(proxy.log().matches(complaint).count(), 1, "{}", proxy.log());

    controller.publish(at(1, 1, "pg-1.dugong.test", pair.first.port));
    dns.host("later.dugong.test", &["127.0.0.1"]).await;
    proxy.believes(1, 1).await;
    let absent = lookups("pg-1.dugong.test", "absent");
    eventually("it is asked for", || async { proxy.metric(&absent).await >= Some(1.0) }).await;
    assert!(!waiting.is_finished());
    dns.host("pg-1.dugong.test", &["127.0.0.1"]).await;
    assert_eq!(soon("the client proceeds", waiting).await.unwrap().unwrap(), "pg-1");
    let answers = "dugong_proxy_name_answers{name=\"pg-1.dugong.test\"}";
    assert_eq!(proxy.metric(answers).await, Some(1.0));
}

#[tokio::test]
async fn an_instance_may_have_an_ipv6_address_only() {
    let dns = NameServer::start().await;
    let server = TcpListener::bind("[::1]:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    dns.host("pg-6.dugong.test", &["::1"]).await;
    let address = format!("pg-6.dugong.test:{port}");
    let proxy = Proxy::start(&["--primary", &address, "--resolver", &dns.address()]);
    let mut client = client_that_sends(proxy.write_port, STARTUP).await;
    let (mut session, _) = soon("a connection by IPv6", server.accept()).await.unwrap();
    session.write_all(WELCOME).await.unwrap();
    expect(&mut client, WELCOME).await;
}

#[tokio::test]
async fn one_cluster_may_be_named_in_every_way_at_once() {
    let pair = shared_pair();
    let dns = NameServer::start().await;
    let controller = Controller::start().await;
    dns.host("a.dugong.test", &["127.0.0.1"]).await;
    dns.service(SERVICE, &[("a.dugong.test", controller.port), ("gone.dugong.test", 1)]).await;
    let service = format!("srv+http://{SERVICE}");
    let host = format!("http://a.dugong.test:{}", controller.port);
    let mut flags = vec!["--controller", &service, "--controller", &host];
    let (plain, resolver) = (controller.url(), dns.address());
    flags.extend(["--controller", &plain, "--resolver", &resolver]);
    let proxy = Proxy::start(&flags);
    controller.publish(cluster(1, 1, (1, pair.first.port), &[]));
    // The service and the host name the same one: a source is not there twice.
    has_sources(&proxy, 2, 2).await;
    assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-1");
}
