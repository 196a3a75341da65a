//! What must be the same whichever engine moves the bytes, between real clients and real servers.

use tokio::io::AsyncWriteExt;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::controller::{Controller, cluster};
use crate::eventually::soon;
use crate::fake_server::{FakeServer, expect, fatal, rest};
use crate::postgres::{client, server_behind, shared_pair};
use crate::proxy::Proxy;

pub(crate) const ENGINES: [&str; 2] = ["epoll", "io_uring"];

#[tokio::test]
async fn queries_bulk_and_a_failover_go_the_same_way() {
    let pair = shared_pair();
    let (one, two) = ((1, pair.first.port), (2, pair.second.port));
    for engine in ENGINES {
        let controller = Controller::start().await;
        let flags = ["--controller", &controller.url(), "--relay-engine", engine];
        let proxy = Proxy::start(&flags);
        controller.publish(cluster(1, 1, one, &[two]));
        proxy.believes(1, 1).await;
        assert_eq!(proxy.health().await["relay"]["engine"], engine);

        let (client, connection) = client(proxy.write_port).connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let wide = "select repeat(md5(i::text), 100) from generate_series(1, 2000) i";
        let rows = client.query(wide, &[]).await.unwrap();
        let bytes: usize = rows.iter().map(|row| row.get::<_, &str>(0).len()).sum();
        assert_eq!(bytes, 2000 * 3200, "{engine}");
        let sent = "x".repeat(5 << 20);
        let length = client.query_one("select length($1::text)", &[&sent]).await.unwrap();
        assert_eq!(usize::try_from(length.get::<_, i32>(0)).unwrap(), sent.len(), "{engine}");

        controller.publish(cluster(2, 2, two, &[one]));
        let error = soon("the session ends", connection).await.unwrap().unwrap_err();
        let told = error.as_db_error().unwrap();
        assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN, "{engine}");
        assert_eq!(server_behind(proxy.write_port).await.unwrap(), "pg-2", "{engine}");
    }
}

#[tokio::test]
async fn a_last_word_is_said_between_two_messages_or_not_at_all() {
    for engine in ENGINES {
        let server = FakeServer::start().await;
        let address = format!("127.0.0.1:{}", server.port);
        let proxy = Proxy::start(&["--primary", &address, "--relay-engine", engine]);
        let lost = "|C57P01|Mthe connection to primary was lost|";
        let goodbye = fatal("57P01", "terminating connection due to administrator command");
        #[rustfmt::skip]
        let cases: [(&str, &[u8], Option<&str>); 4] = [
            ("after whole messages",    b"Z\0\0\0\x05I",                    Some(lost)),
            ("in a body",               b"D\0\0\0\x10half",                 None),
            ("in a header",             b"Z\0\0",                           None),
            ("after a goodbye",         &goodbye,                           None),
        ];
        for (what, said, expected) in cases {
            let (mut client, mut served) = server.welcome(proxy.write_port).await;
            served.write_all(said).await.unwrap();
            expect(&mut client, said).await;
            drop(served);
            let told = rest(&mut client).await;
            match expected {
                Some(expected) => assert!(told.contains(expected), "{engine}, {what}: {told}"),
                None => assert_eq!(told, "", "{engine}, {what}"),
            }
        }
    }
}
