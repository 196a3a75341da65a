//! Servers that are spoken to by TLS.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authority::{Authority, Validity};
use crate::eventually::{eventually, soon};
use crate::fake_server::{
    FakeServer, STARTUP, TLS_REQUEST, WELCOME, client_that_sends, expect, rest,
};
use crate::postgres::{Postgres, client};
use crate::proxy::Proxy;
use crate::psql::psql;

const VERSION: &str =
    "select coalesce(version, 'plain') from pg_stat_ssl where pid = pg_backend_pid()";

/// A proxy before one server; nobody waits for it long.
fn start(server: u16, flags: &[&str]) -> Proxy {
    let primary = format!("127.0.0.1:{server}");
    let all = [&["--primary", &primary, "--hold-timeout", "300ms"], flags].concat();
    Proxy::start(&all)
}

fn authority(host: &str) -> Authority {
    let authority = Authority::new();
    authority.sign("server", host, Validity::Current);
    authority
}

#[tokio::test]
async fn a_server_is_verified_as_far_as_the_mode_says() {
    let (right, elsewhere) = (authority("127.0.0.1"), authority("pg-1.example"));
    let here = Postgres::start_with_tls("pg-1", &right, "server");
    let moved = Postgres::start_with_tls("pg-2", &elsewhere, "server");
    let plain = Postgres::start("pg-3");
    let itself = Postgres::start_with_tls("pg-4", &right, "ca");
    let [trusted, foreign] = [&right, &elsewhere].map(|authority| authority.text("ca.crt"));
    let tls = "TLSv1.3";
    #[rustfmt::skip]
    let cases: [(&Postgres, &[&str], &str); 12] = [
        (&here,  &["--server-tls", "disable"],                              "plain"),
        (&here,  &["--server-tls", "prefer"],                               tls),
        (&plain, &["--server-tls", "prefer"],                               "plain"),
        (&plain, &["--server-tls", "require"],                              "it offers no TLS, and server_tls asks for it"),
        (&moved, &["--server-tls", "require"],                              tls),
        (&here,  &["--server-ca", &trusted],                                tls),
        (&here,  &["--server-tls", "verify-ca", "--server-ca", &trusted],   tls),
        (&here,  &["--server-tls", "verify-ca", "--server-ca", &foreign],   "signed by no authority of server_ca"),
        (&moved, &["--server-tls", "verify-ca", "--server-ca", &foreign],   tls),
        (&moved, &["--server-ca", &foreign],                                "its certificate is for another host: it is reached as 127.0.0.1"),
        (&moved, &["--server-ca", &trusted],                                "signed by no authority of server_ca"),
        (&itself, &["--server-ca", &trusted],                               "its certificate is an authority's own"),
    ];
    for (server, flags, expected) in cases {
        let proxy = start(server.port, flags);
        let said = psql(proxy.write_port, "sslmode=disable", VERSION).await;
        assert!(said.text.contains(expected), "{flags:?}: {said:?}");
        let served = expected == tls || expected == "plain";
        assert_eq!(said.good, served, "{flags:?}: {said:?}");
        if !served {
            assert!(said.text.contains("no primary took writes within 300ms: primary at 127."));
            assert!(proxy.log().contains(expected), "the operator is told, too: {}", proxy.log());
        }
    }
}

#[tokio::test]
async fn channel_binding_holds_where_the_certificate_is_the_servers_and_is_explained_elsewhere() {
    let authority = authority("127.0.0.1");
    authority.sign("proxy", "127.0.0.1", Validity::Current);
    let server = Postgres::start_with_tls("pg-1", &authority, "server");
    let plain = Postgres::start("pg-2");
    let ca = authority.text("ca.crt");
    let certified = |name: &str, server: &Postgres, flags: &[&str]| {
        let (cert, key) =
            (authority.text(&format!("{name}.crt")), authority.text(&format!("{name}.key")));
        start(server.port, &[&["--tls-cert", &cert, "--tls-key", &key], flags].concat())
    };
    let verified: [&str; 2] = ["--server-ca", &ca];
    let other = certified("proxy", &server, &verified);
    let same = certified("server", &server, &verified);
    let clear = certified("proxy", &plain, &[]);
    let good = "1\n";
    let libpq = "channel binding";
    #[rustfmt::skip]
    let cases = [
        // TLS on both sides, and the client sees another certificate than the proxy does
        (&other, "sslmode=require",                          "FATAL:  channel binding cannot reach through the proxy"),
        (&other, "sslmode=require channel_binding=disable",  good),
        (&other, "sslmode=require channel_binding=require",  libpq),
        (&other, "sslmode=disable",                          good),
        // the same certificate
        (&same,  "sslmode=require",                          good),
        (&same,  "sslmode=require channel_binding=require",  good),
        (&same,  "sslmode=require channel_binding=disable",  good),
        (&same,  "sslmode=disable",                          good),
        // nothing to bind to
        (&clear, "sslmode=require",                          good),
        (&clear, "sslmode=require channel_binding=require",  libpq),
    ];
    for (proxy, words, expected) in cases {
        let said = psql(proxy.write_port, words, "select 1").await;
        assert!(said.text.contains(expected), "{words}: {said:?}");
        assert_eq!(said.good, expected == good, "{words}: {said:?}");
        if said.text.contains("FATAL:  channel") {
            assert!(said.text.contains("HINT:  Connect with channel_binding=disable"), "{said:?}");
        }
    }
    let ended = "dugong_proxy_sessions_ended_total{listener=\"write\",reason=\"channel_binding\"}";
    eventually("it is counted", async || other.metric(ended).await == Some(1.0)).await;
}

#[tokio::test]
async fn a_cancel_request_goes_by_tls_as_well() {
    let authority = authority("127.0.0.1");
    let server = Postgres::start_with_tls("pg-1", &authority, "server");
    let proxy = start(server.port, &["--server-ca", &authority.text("ca.crt")]);
    let (session, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let token = session.cancel_token();
    let cancel = async {
        let running = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'";
        eventually("the query runs", async || {
            psql(server.port, "sslmode=require", running).await.text == "1\n"
        })
        .await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let query = soon("the query ends", session.batch_execute("select pg_sleep(600)"));
    let (result, ()) = tokio::join!(query, cancel);
    assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    drop(session);
    connection.await.unwrap().unwrap();
}

/// A server that takes the request for TLS, and shows a certificate.
async fn accept_tls(
    server: &FakeServer,
    authority: &Authority,
    file: &str,
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{file}.key"))).unwrap();
    let chain = vec![authority.certificate(&format!("{file}.crt"))];
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (mut stream, asked) = server.accept().await;
    assert_eq!(asked, TLS_REQUEST);
    stream.write_all(b"S").await.unwrap();
    soon("a handshake", TlsAcceptor::from(Arc::new(config)).accept(stream)).await
}

#[tokio::test]
async fn a_server_with_an_expired_certificate_is_told_of_and_taken_once_it_has_another_one() {
    let authority = authority("127.0.0.1");
    authority.sign("old", "127.0.0.1", Validity::Expired);
    let server = FakeServer::start().await;
    let (primary, ca) = (format!("127.0.0.1:{}", server.port), authority.text("ca.crt"));
    let proxy = Proxy::start(&["--primary", &primary, "--server-ca", &ca]);
    let mut held = client_that_sends(proxy.write_port, STARTUP).await;
    accept_tls(&server, &authority, "old").await.map(|_| ()).unwrap_err();
    let words = "no session on primary at 127.0.0.1";
    eventually("it is said", async || proxy.log().contains(words)).await;
    assert!(proxy.log().contains("its certificate has expired"), "{}", proxy.log());
    let mut good = accept_tls(&server, &authority, "server").await.unwrap();
    let mut packet = vec![0; STARTUP.len()];
    soon("the startup packet", good.read_exact(&mut packet)).await.unwrap();
    assert_eq!(packet, STARTUP);
    good.write_all(WELCOME).await.unwrap();
    expect(&mut held, WELCOME).await;
}

#[tokio::test]
async fn what_a_server_says_before_the_handshake_is_not_taken_for_what_comes_by_tls() {
    for mode in ["prefer", "require"] {
        let server = FakeServer::start().await;
        let proxy = start(server.port, &["--server-tls", mode]);
        let mut client = client_that_sends(proxy.write_port, STARTUP).await;
        let (mut stream, asked) = server.accept().await;
        assert_eq!(asked, TLS_REQUEST);
        // What a man in the middle would put in front of the server's own words.
        stream.write_all(&[b"S", WELCOME].concat()).await.unwrap();
        let told = rest(&mut client).await;
        assert!(told.contains("C57P03|Mno primary took writes"), "{told}");
        assert!(told.contains("what it says is no TLS"), "{told}");
    }
}
