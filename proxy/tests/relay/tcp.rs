//! Mode `tcp`: bytes pass through untouched, whatever they are.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::authority::{Authority, Validity};
use crate::controller::{Controller, cluster};
use crate::eventually::soon;
use crate::fake_server::{client_that_sends, expect, rest};
use crate::postgres::Postgres;
use crate::proxy::Proxy;
use crate::psql::psql;

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

#[tokio::test]
async fn tls_passes_through_to_the_server_and_its_certificate_is_what_clients_see() {
    let authority = Authority::new();
    authority.sign("server", "127.0.0.1", Validity::Current);
    let server = Postgres::start_with_tls("pg-1", &authority, "server");
    let primary = format!("127.0.0.1:{}", server.port);
    let verify = format!("sslmode=verify-full sslrootcert={}", authority.text("ca.crt"));
    for engine in ENGINES {
        let flags = ["--primary", &primary, "--mode", "tcp", "--relay-engine", engine];
        let proxy = Proxy::start(&flags);
        let version = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        let said = psql(proxy.write_port, &verify, version).await;
        assert!(said.good && said.text.contains("TLSv1.3"), "{engine}: {said:?}");
        let wide = "select sum(length(x)) from (select repeat('x', 1000) x from \
                    generate_series(1, 9000)) y";
        let said = psql(proxy.write_port, &verify, wide).await;
        assert!(said.good && said.text.contains("9000000"), "{engine}: {said:?}");
        let said = psql(proxy.write_port, "sslmode=disable", "select 'in clear'").await;
        assert!(said.good && said.text.contains("in clear"), "{engine}: {said:?}");
        // Nobody reads who said farewell: whose end is seen first is a race of the two.
        proxy.has_ended("write", 3).await;
        proxy.has_open("write", 0).await;
    }
}

#[tokio::test]
async fn clients_are_held_until_there_is_a_server_and_closed_without_a_word_when_it_changes() {
    let (old, new) = (listening().await, listening().await);
    let port = |socket: &tokio::net::TcpListener| socket.local_addr().unwrap().port();
    for engine in ENGINES {
        let controller = Controller::start().await;
        let url = controller.url();
        let flags = ["--controller", &url, "--mode", "tcp", "--relay-engine", engine];
        let proxy = Proxy::start(&flags);
        let mut client = client_that_sends(proxy.write_port, b"whatever this is").await;
        proxy.holds(1).await;
        controller.publish(cluster(1, 1, (1, port(&old)), &[(2, port(&new))]));
        let (mut served, _) = soon("a connection", old.accept()).await.unwrap();
        let mut asked = [0; 16];
        soon("the bytes", served.read_exact(&mut asked)).await.unwrap();
        assert_eq!(&asked, b"whatever this is", "{engine}");
        served.write_all(b"Z\0\0\0\x05I").await.unwrap();
        expect(&mut client, b"Z\0\0\0\x05I").await;

        controller.publish(cluster(2, 2, (2, port(&new)), &[(1, port(&old))]));
        assert_eq!(rest(&mut client).await, "", "{engine}: nobody knows what may be said");
        let _again = client_that_sends(proxy.write_port, b"x").await;
        soon("the next one goes elsewhere", new.accept()).await.unwrap();
    }
}

async fn listening() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
}
