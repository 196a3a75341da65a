//! Clients that come by TLS.

use std::sync::Arc;
use std::time::Instant;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{Authority, Validity};
use crate::eventually::{eventually, soon};
use crate::fake_server::{
    FakeServer, STARTUP, TLS_REQUEST, WELCOME, client_that_sends, expect, rest,
};
use crate::postgres::{client, shared_pair};
use crate::proxy::{self, Proxy};
use crate::psql::psql;

const ALPN: &[u8] = b"postgresql";

/// An authority with a certificate `proxy` for this machine.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("proxy", "127.0.0.1", Validity::Current);
    authority
}

/// A proxy with that certificate, before one server.
fn start(authority: &Authority, server: u16, flags: &[&str]) -> Proxy {
    let primary = format!("127.0.0.1:{server}");
    let (cert, key) = (authority.text("proxy.crt"), authority.text("proxy.key"));
    let files = ["--primary", &primary, "--tls-cert", &cert, "--tls-key", &key];
    Proxy::start(&[&files, flags].concat())
}

/// A client that speaks TLS at once.
async fn direct(
    port: u16,
    config: rustls::ClientConfig,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// Everything up to the end, as text.
async fn all(mut stream: TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    soon("the end", stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).replace('\0', "|")
}

#[tokio::test]
async fn each_port_encrypts_as_it_is_told_and_psql_verifies_it() {
    let pair = shared_pair();
    let (ours, theirs) = (authority(), Authority::new());
    let [ca, wrong] = [&ours, &theirs].map(|a| format!("sslrootcert={}", a.text("ca.crt")));
    let full = format!("sslmode=verify-full {ca}");
    let stranger = format!("sslmode=verify-ca {wrong}");
    let (plain, tls) = ("unencrypted", "TLSv1.3");
    #[rustfmt::skip]
    let cases = [
        // the port     psql                what it says
        ("disable",     "sslmode=disable",  plain),
        ("disable",     "sslmode=prefer",   plain),
        ("disable",     "sslmode=require",  "server does not support SSL"),
        ("allow",       "sslmode=disable",  plain),
        ("allow",       "sslmode=prefer",   tls),
        ("allow",       &full,              tls),
        ("allow",       &stranger,          "certificate verify failed"),
        ("require",     "sslmode=disable",  "FATAL:  this port takes encrypted connections only"),
        ("require",     "sslmode=allow",    tls), // comes again after the refusal
        ("require",     &full,              tls),
    ];
    for (rule, words, expected) in cases {
        let flags = ["--write-tls", rule, "--read-tls", "disable"];
        let proxy = start(&ours, pair.first.port, &flags);
        let said = psql(proxy.write_port, words, "\\conninfo").await;
        let line = match said.text.contains("SSL connection (protocol: TLSv1.3") {
            _ if !said.good => said.text.clone(),
            true => tls.to_owned(),
            false => plain.to_owned(),
        };
        assert!(line.contains(expected), "{rule}, {words}: {said:?}");
        let other = psql(proxy.read_port, "sslmode=require", "select 1").await;
        assert!(other.text.contains("does not support SSL"), "the read port has its own rule");
    }
}

#[tokio::test]
async fn much_data_arrives_whole_both_ways_by_direct_tls() {
    let pair = shared_pair();
    let ours = authority();
    let proxy = start(&ours, pair.first.port, &[]);
    let stream = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
    let (client, connection) = client(proxy.write_port).connect_raw(stream, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = "select repeat(md5(i::text), 100) from generate_series(1, 2000) i";
    let rows = client.query(rows, &[]).await.unwrap();
    let bytes: usize = rows.iter().map(|row| row.get::<_, &str>(0).len()).sum();
    assert_eq!(bytes, 2000 * 3200);
    let sent = "x".repeat(8 << 20);
    let length: i32 = client.query_one("select length($1::text)", &[&sent]).await.unwrap().get(0);
    assert_eq!(usize::try_from(length).unwrap(), sent.len());
    drop(client);
    connection.await.unwrap().unwrap();
    let ended = "dugong_proxy_sessions_ended_total{listener=\"write\",reason=\"client\"}";
    eventually("the session has ended", async || proxy.metric(ended).await == Some(1.0)).await;
}

#[tokio::test]
async fn direct_tls_needs_the_application_protocol() {
    let ours = authority();
    let proxy = start(&ours, 1, &[]);
    let nameless = direct(proxy.write_port, ours.client(&[])).await.unwrap();
    let told = all(nameless).await;
    assert!(told.contains("C08P01|Mdirect TLS needs the application protocol"), "{told}");
    let foreign = direct(proxy.write_port, ours.client(&[b"h2"])).await.unwrap_err();
    assert!(foreign.to_string().contains("NoApplicationProtocol"), "{foreign}");
    let closed = start(&ours, 1, &["--write-tls", "disable"]);
    let mut client = client_that_sends(closed.write_port, b"\x16\x03\x01\x02\x00\x01").await;
    let told = rest(&mut client).await;
    assert!(told.contains("C08P01|MTLS is not offered at this port"), "{told}");
}

#[tokio::test]
async fn nothing_unencrypted_is_taken_for_what_comes_by_tls() {
    let server = FakeServer::start().await;
    let ours = authority();
    let proxy = start(&ours, server.port, &["--handshake-timeout", "2s"]);
    // In one piece: what a man in the middle would put in front of the client's own words.
    let injected = [TLS_REQUEST, STARTUP].concat();
    let mut client = client_that_sends(proxy.write_port, &injected).await;
    let told = rest(&mut client).await;
    assert!(told.contains("bytes came unencrypted after the request for encryption"), "{told}");
    // In two: then TLS itself does not take them.
    let mut client = client_that_sends(proxy.write_port, TLS_REQUEST).await;
    expect(&mut client, b"S").await;
    client.write_all(STARTUP).await.unwrap();
    let told = rest(&mut client).await;
    assert!(!told.contains("C08P01"), "no words in clear: {told}");
    // The only one that ever comes to the server is one that is encrypted from its first byte on.
    let mut good = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
    good.write_all(STARTUP).await.unwrap();
    let (mut served, packet) = server.accept().await;
    assert_eq!(packet, STARTUP);
    served.write_all(WELCOME).await.unwrap();
    let mut heard = vec![0; WELCOME.len()];
    soon("the welcome", good.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, WELCOME);
    let refused =
        |reason| format!("dugong_proxy_rejected_total{{listener=\"write\",reason=\"{reason}\"}}");
    assert_eq!(proxy.metric(&refused("no_startup")).await, Some(1.0));
    assert_eq!(proxy.metric(&refused("tls")).await, Some(1.0));
}

#[tokio::test]
async fn encryption_is_begun_once() {
    let ours = authority();
    let proxy = start(&ours, 1, &[]);
    for again in [TLS_REQUEST, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"] {
        let mut client = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
        client.write_all(again).await.unwrap();
        let told = all(client).await;
        assert!(told.contains("C08P01|Mencryption was asked for twice"), "{told}");
    }
}

#[tokio::test]
async fn exchanged_certificates_are_served_and_bad_ones_are_not_taken() {
    let server = FakeServer::start().await;
    let ours = authority();
    let proxy = start(&ours, server.port, &[]);
    let served = async || {
        let stream = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = ours.certificate("proxy.crt");
    assert_eq!(served().await, first);
    let mut session = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
    session.write_all(STARTUP).await.unwrap();
    let (mut behind, _) = server.accept().await;

    // A certificate without its key: nothing of it is taken.
    let key = ours.read("proxy.key");
    ours.sign("proxy", "127.0.0.1", Validity::Current);
    let second = ours.read("proxy.key");
    ours.write("proxy.key", &key);
    let refused =
        "are not taken, and what they held before stays in use: tls_cert and tls_key cannot";
    eventually(refused, async || proxy.log().contains(refused)).await;
    assert_eq!(served().await, first);

    ours.write("proxy.key", &second);
    eventually("the new one is served", async || served().await == ours.certificate("proxy.crt"))
        .await;
    behind.write_all(WELCOME).await.unwrap();
    let mut heard = vec![0; WELCOME.len()];
    soon("the session goes on", session.read_exact(&mut heard)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_comes_again_resumes_its_session() {
    let ours = authority();
    let proxy = start(&ours, 1, &[]);
    let config = ours.client(&[ALPN]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut stream = direct(proxy.write_port, config.clone()).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        // What is no packet is answered; the ticket comes before that.
        stream.write_all(&[0xff; 8]).await.unwrap();
        assert!(all(stream).await.contains("the first packet claims"));
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn clients_may_need_a_certificate() {
    let pair = shared_pair();
    let (ours, clients) = (authority(), Authority::new());
    clients.sign("app", "app.example", Validity::Current);
    clients.sign("old", "app.example", Validity::Expired);
    ours.sign("app", "app.example", Validity::Current);
    let ca = clients.text("ca.crt");
    let proxy = start(&ours, pair.first.port, &["--tls-client-ca", &ca]);
    let with = |authority: &Authority, name: &str| {
        let [cert, key] = ["crt", "key"].map(|end| authority.text(&format!("{name}.{end}")));
        format!("sslmode=require sslcert={cert} sslkey={key}")
    };
    #[rustfmt::skip]
    let cases = [
        (with(&clients, "app"),         "1\n"),
        (with(&clients, "old"),         "expired"),
        (with(&ours, "app"),            "unknown ca"),
        ("sslmode=require".to_owned(),  "certificate required"),
        ("sslmode=disable".to_owned(),  "encrypted connections only"),
    ];
    for (words, expected) in cases {
        let said = psql(proxy.write_port, &words, "select 1").await;
        assert!(said.text.contains(expected), "{words}: {said:?}");
        assert_eq!(said.good, expected == "1\n", "{words}: {said:?}");
    }
}

#[tokio::test]
async fn silent_clients_hold_up_nobody_and_are_cut_off() {
    let server = FakeServer::start().await;
    let ours = authority();
    let proxy = start(&ours, server.port, &["--handshake-timeout", "3s"]);
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(client_that_sends(proxy.write_port, TLS_REQUEST).await);
    }
    for client in &mut silent {
        expect(client, b"S").await;
    }
    proxy.has_open("write", 256).await;
    let begin = Instant::now();
    let mut good = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
    good.write_all(STARTUP).await.unwrap();
    server.accept().await;
    // None of the silent ones has been cut off: nobody waited for that.
    assert_eq!(proxy.health().await["listeners"]["write"]["open"], 257, "{:?}", begin.elapsed());
    for client in &mut silent {
        assert_eq!(rest(client).await, "", "TLS has no word for impatience");
    }
    let cut = "dugong_proxy_rejected_total{listener=\"write\",reason=\"handshake_timeout\"}";
    eventually("each is counted", async || proxy.metric(cut).await == Some(256.0)).await;
}

#[tokio::test]
async fn a_held_client_that_leaves_by_tls_makes_room() {
    let ours = authority();
    let proxy = start(&ours, 1, &[]);
    let mut client = direct(proxy.write_port, ours.client(&[ALPN])).await.unwrap();
    client.write_all(STARTUP).await.unwrap();
    proxy.holds(1).await;
    client.shutdown().await.unwrap();
    proxy.holds(0).await;
}

#[test]
fn files_are_checked_with_the_configuration() {
    let ours = authority();
    ours.write("empty.crt", "");
    let [cert, key, empty] = ["proxy.crt", "proxy.key", "empty.crt"].map(|file| ours.text(file));
    ours.sign("other", "127.0.0.1", Validity::Current);
    let other = ours.text("other.key");
    #[rustfmt::skip]
    let cases = [
        (cert.as_str(),  key.as_str(),   0, ""),
        ("/nowhere",     &key,           2, "tls_cert: /nowhere cannot be read"),
        (&empty,         &key,           2, "empty.crt holds no certificate in PEM"),
        (&cert,          &cert,          2, "proxy.crt holds no private key in PEM"),
        (&cert,          &other,         2, "tls_cert and tls_key cannot be used together"),
    ];
    for (cert, key, status, sentence) in cases {
        let flags = ["--primary", "a:1", "--check-config", "--tls-cert", cert, "--tls-key", key];
        let (code, _, stderr) = proxy::run(&flags);
        assert_eq!(code, Some(status), "{stderr}");
        assert!(stderr.contains(sentence), "{stderr}");
    }
}
