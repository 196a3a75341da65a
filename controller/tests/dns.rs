//! The name server, asked over real sockets by the resolvers that people use: dig, hickory's and
//! glibc's.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dugong_controller::publish::Published;
use dugong_controller::publish::dns::{NameServer, Zone};
use dugong_topology::{Address, Generation, Member, Phase, Revision, Topology};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const ZONE: &str = "dugong.test";

fn member(name: &str, host: &str) -> Member {
    Member {
        id: name.parse().unwrap(),
        address: Some(Address { host: host.to_owned(), port: 5432 }),
        healthy: true,
        position: None,
        http: Some(Address { host: host.to_owned(), port: 8008 }),
        state: "running".to_owned(),
        upstream: None,
        lag_bytes: None,
        lag_seconds: None,
        making: None,
        note: None,
    }
}

/// A primary, a sync, and as many asyncs.
fn cluster(asyncs: u8) -> Topology {
    Topology {
        generation: Generation(3),
        phase: Phase::ReadWrite,
        primary: Some(member("pg-1", "10.0.0.1")),
        sync: Some(member("pg-2", "10.0.0.2")),
        asyncs: (3..3 + asyncs)
            .map(|n| member(&format!("pg-{n}"), &format!("10.0.0.{n}")))
            .collect(),
        ..Topology::unformed("main".to_owned(), Revision(42))
    }
}

fn published(topology: Topology) -> Option<Arc<Published>> {
    Some(Arc::new(Published::new(topology, None).unwrap()))
}

type Publisher = watch::Sender<Option<Arc<Published>>>;

/// A name server on this machine; it ends with the test's runtime.
async fn serve_at(ip: Ipv4Addr, port: u16, topology: Option<Topology>) -> Publisher {
    let (publisher, topologies) = watch::channel(topology.and_then(published));
    let zone = Zone::new(ZONE, "main", 1).unwrap();
    let listen = Address { host: ip.to_string(), port };
    let server = NameServer::bind(&listen, zone).await.unwrap();
    tokio::spawn(server.serve(topologies));
    publisher
}

async fn serve(topology: Option<Topology>) -> (u16, Publisher) {
    let port = dugong_tests::free_port();
    (port, serve_at(Ipv4Addr::LOCALHOST, port, topology).await)
}

/// What a program says on standard output; it must succeed.
async fn output(mut command: Command) -> String {
    let said = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let trouble = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{}: {text}{trouble}", said.status);
    text
}

/// What dig says, with one space for each run of spaces within a line.
async fn dig(port: u16, arguments: &str) -> String {
    let mut command = Command::new("dig");
    // First, or a person's own options are read before.
    command.arg("-r");
    command.args(["@127.0.0.1", "-p", &port.to_string(), "+tries=2", "+timeout=5"]);
    command.args(arguments.split_whitespace());
    let said = output(command).await;
    let lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_is_answered() {
    let (port, _publisher) = serve(Some(cluster(1))).await;
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &[&str]); 13] = [
        // asked                                          it says                                  and not
        ("primary.main.dugong.test A",                    &["status: NOERROR", "flags: qr aa rd;", " 1 IN A 10.0.0.1", "recursion requested but not available", "EDNS: version: 0"], &[]),
        ("primary.main.dugong.test A +norec +noedns",     &["flags: qr aa;", " A 10.0.0.1"],     &["EDNS", "WARNING"]),
        ("primary.main.dugong.test A +tcp",               &[" A 10.0.0.1", "(TCP)"],             &[]),
        ("PriMary.MAIN.dugong.TEST A",                    &["PriMary.MAIN.dugong.TEST. 1 IN A 10.0.0.1"], &[]),
        ("primary.main.dugong.test AAAA",                 &["status: NOERROR", "ANSWER: 0", "IN SOA controller.main.dugong.test. hostmaster.dugong.test. 42 "], &[]),
        ("nobody.main.dugong.test A",                     &["status: NXDOMAIN", " 1 IN SOA "], &[]),
        ("www.example.com A",                             &["status: REFUSED"],                    &["flags: qr aa", "SOA"]),
        ("dugong.test NS +tcp",                           &["NS pg-1.main.dugong.test.", "NS pg-3.main.dugong.test.", "ADDITIONAL: 4"], &[]),
        ("dugong.test AXFR",                              &["Transfer failed"],                    &["10.0.0.1"]),
        ("_postgresql._tcp.replica.main.dugong.test SRV", &["SRV 0 10 5432 pg-2.main.dugong.test.", "pg-3.main.dugong.test. 1 IN A 10.0.0.3"], &["pg-1"]),
        ("_dugong._tcp.main.dugong.test SRV",             &["SRV 0 10 8008 pg-1.main.dugong.test."], &[]),
        ("primary.main.dugong.test A +edns=1 +noednsnegotiation", &["status: BADVERS"],            &[]),
        ("primary.main.dugong.test A +opcode=notify",     &["status: NOTIMP"],                     &[]),
    ];
    for (arguments, words, others) in cases {
        let said = dig(port, arguments).await;
        for word in words {
            assert!(said.contains(word), "{arguments}: no {word:?} in {said}");
        }
        for word in others {
            assert!(!said.contains(word), "{arguments}: {word:?} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_asked_again_over_tcp() {
    let (port, _publisher) = serve(Some(cluster(60))).await;
    let name = "_postgresql._tcp.replica.main.dugong.test SRV";
    let cut = dig(port, &format!("{name} +ignore")).await;
    assert!(cut.contains("flags: qr aa tc rd;") && cut.contains("ANSWER: 0"), "{cut}");
    let whole = dig(port, name).await;
    assert!(whole.contains("Truncated, retrying in TCP mode"), "{whole}");
    assert!(whole.contains("ANSWER: 61"), "{whole}");
    let plain = dig(port, "replica.main.dugong.test A +noedns +ignore").await;
    assert!(plain.contains(" tc ") && plain.contains("ANSWER: 0"), "{plain}");
    let short = dig(port, "controller.main.dugong.test A +noedns +short").await;
    assert_eq!(short.lines().filter(|line| line.starts_with("10.0.0.")).count(), 62, "{short}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_the_next_answer() {
    let (port, publisher) = serve(None).await;
    let ask = || dig(port, "primary.main.dugong.test A +noall +comments +answer");
    assert!(ask().await.contains("status: SERVFAIL"));
    publisher.send_replace(published(Topology::unformed("main".to_owned(), Revision(1))));
    let vacant = ask().await;
    assert!(vacant.contains("status: NOERROR") && vacant.contains("ANSWER: 0"), "{vacant}");
    publisher.send_replace(published(cluster(0)));
    assert!(ask().await.contains("A 10.0.0.1"));
    let after = Topology { primary: Some(member("pg-2", "10.0.0.2")), sync: None, ..cluster(0) };
    publisher.send_replace(published(after));
    let after = ask().await;
    assert!(after.contains("A 10.0.0.2") && !after.contains("10.0.0.1"), "{after}");
}

/// hickory's resolver, told of one server.
fn resolver(port: u16) -> TokioResolver {
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    udp.port = port;
    tcp.port = port;
    let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![udp, tcp]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = true;
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hickorys_resolver_is_answered() {
    let (port, _publisher) = serve(Some(cluster(40))).await;
    let resolver = resolver(port);
    let found = resolver.lookup_ip("primary.main.dugong.test.").await.unwrap();
    assert_eq!(found.iter().collect::<Vec<_>>(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    // More than UDP carries.
    let name = "_postgresql._tcp.replica.main.dugong.test.";
    let servers = resolver.lookup(name, RecordType::SRV).await.unwrap();
    let is_srv = |data: &RData| matches!(data, RData::SRV(srv) if srv.port == 5432);
    let count = servers.answers().iter().filter(|record| is_srv(&record.data)).count();
    assert_eq!(count, 41);
    let error = resolver.lookup_ip("nobody.main.dugong.test.").await.unwrap_err();
    assert!(error.is_nx_domain(), "{error}");
    let vacant = resolver.lookup("primary.main.dugong.test.", RecordType::AAAA).await.unwrap_err();
    assert!(vacant.is_no_records_found() && !vacant.is_nx_domain(), "{vacant}");
}

/// glibc knows no port but 53 and no file but its own, so both are given to it: an address of
/// 127.0.0.0/8 that nobody else uses, and a file bound over the other in a mount namespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn glibcs_resolver_is_answered() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may listen on port 53 and have a mount namespace");
        return;
    }
    let ip = Ipv4Addr::new(127, 83, 67, 53);
    let _publisher = serve_at(ip, 53, Some(cluster(60))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {ip}\noptions timeout:5 attempts:2\n")).unwrap();
    let ask = async |name: &str| getent(&file, name).await;
    let primary = ask("primary.main.dugong.test").await;
    assert!(primary.starts_with("10.0.0.1 "), "{primary}");
    // 61 addresses are more than 512 bytes: glibc asks again over TCP.
    let replicas = ask("Replica.Main.Dugong.Test").await;
    assert_eq!(replicas.lines().filter(|line| line.contains("STREAM")).count(), 61, "{replicas}");
    let nobody = ask("nobody.main.dugong.test").await;
    assert_eq!(nobody, "");
}

/// What `getent ahosts` says; nothing where there is no such name.
async fn getent(resolv_conf: &Path, name: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$1\" /etc/resolv.conf && { getent ahosts \"$2\" || [ $? = 2 ]; }");
    command.arg("sh").arg(resolv_conf).arg(name);
    output(command).await
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_one_sentence() {
    let (port, _publisher) = serve(None).await;
    let zone = Zone::new(ZONE, "main", 1).unwrap();
    let refusal = NameServer::bind(&Address::loopback(port), zone).await.unwrap_err().to_string();
    assert_eq!(
        refusal,
        format!(
            "cannot listen on 127.0.0.1:{port} for DNS (UDP): Address already in use (os error \
             98); end what uses the port, or change [dns] listen"
        )
    );
}

#[tokio::test]
async fn what_comes_over_tcp_in_pieces_or_without_sense_ends_nothing() {
    let (port, _publisher) = serve(Some(cluster(1))).await;
    // A question of 12 bytes without any query, cut into single bytes: a format error.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in [0, 12, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] {
        stream.write_all(&[byte]).await.unwrap();
    }
    let mut response = [0; 14];
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!((response[..4].to_vec(), response[5] & 0x0F), (vec![0, 12, 7, 7], 1));
    // A length that nobody needs, and a connection that says nothing more: both are left.
    for wrong in [&[0xFF, 0xFF][..], &[0, 12, 1]] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(wrong).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest));
        ended.await.expect("left in time").unwrap();
        assert_eq!(rest, b"");
    }
    assert!(dig(port, "primary.main.dugong.test A +tcp").await.contains("10.0.0.1"));
}
