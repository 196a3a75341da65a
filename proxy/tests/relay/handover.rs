//! What clients notice of a primary that hands over, as planned: nothing that they have begun is
//! broken off.

use dugong_topology::{Phase, Topology};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::authority::{Authority, Validity};
use crate::controller::{Controller, cluster};
use crate::eventually::soon;
use crate::postgres::{Postgres, client};
use crate::proxy::Proxy;

type Connection = JoinHandle<Result<(), tokio_postgres::Error>>;

async fn connected(port: u16) -> (Client, Connection) {
    let (client, connection) = client(port).connect(NoTls).await.unwrap();
    (client, tokio::spawn(connection))
}

/// What the server answers. Without a prepared statement, which would be closed later: a last word
/// that comes then is the answer to that.
async fn answer(client: &Client, query: &str) -> String {
    let messages = client.simple_query(query).await.unwrap();
    let row = messages.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0)
    });
    row.unwrap().to_owned()
}

async fn told(connection: Connection, how: &str) {
    let error = soon("the session ends", connection).await.unwrap().unwrap_err();
    let told = error.as_db_error().unwrap();
    assert_eq!(told.code(), &SqlState::ADMIN_SHUTDOWN, "{how}");
    let expected =
        "terminating connection: pg-1 hands over to another primary, as planned (generation 1)";
    assert_eq!(told.message(), expected, "{how}");
    assert!(told.detail().unwrap().starts_with("No transaction was open"), "{how}");
}

#[tokio::test]
async fn a_client_leaves_a_primary_that_hands_over_between_two_transactions() {
    let authority = Authority::new();
    authority.sign("server", "127.0.0.1", Validity::Current);
    let server = Postgres::start_with_tls("pg-1", &authority, "server");
    let ways = [
        ["--relay-engine", "epoll", "--server-tls", "disable"],
        ["--relay-engine", "io_uring", "--server-tls", "disable"],
        ["--relay-engine", "epoll", "--server-tls", "require"],
    ];
    for way in ways {
        let how = way.join(" ");
        let controller = Controller::start().await;
        let proxy = Proxy::start(&[&["--controller", &controller.url()], &way[..]].concat());
        let open = |revision| cluster(1, revision, (1, server.port), &[]);
        controller.publish(open(1));
        proxy.believes(1, 1).await;
        let (_idle, idle_ends) = connected(proxy.write_port).await;
        let (inside, inside_ends) = connected(proxy.write_port).await;
        let (waiting, waiting_ends) = connected(proxy.write_port).await;
        let (late, late_ends) = connected(proxy.write_port).await;
        inside.batch_execute("begin; select pg_advisory_xact_lock(1)").await.unwrap();
        late.batch_execute("begin").await.unwrap();
        let waits = tokio::spawn(async move {
            let asked = "select 7 from pg_advisory_xact_lock(1)";
            (answer(&waiting, asked).await, waiting)
        });
        let wait = "select from pg_locks where locktype = 'advisory' and not granted";
        while late.query(wait, &[]).await.unwrap().is_empty() {}

        controller.publish(Topology { phase: Phase::HandingOver, ..open(2) });
        proxy.believes(1, 2).await;

        told(idle_ends, &how).await;
        assert_eq!(answer(&inside, "select 5").await, "5", "{how}");
        inside.batch_execute("commit").await.unwrap();
        told(inside_ends, &how).await;
        let (answered, _waiting) = soon("the answer comes", waits).await.unwrap();
        assert_eq!(answered, "7", "{how}");
        told(waiting_ends, &how).await;
        let next = tokio::spawn(connected(proxy.write_port));
        proxy.holds(1).await;

        // It is rolled back: whoever is still there stays.
        controller.publish(open(3));
        let (_next, next_ends) = soon("it is served", next).await.unwrap();
        proxy.believes(1, 3).await;
        late.batch_execute("commit").await.unwrap();
        late.batch_execute("select 1").await.unwrap();
        assert!(!late_ends.is_finished() && !next_ends.is_finished(), "{how}");
    }
}
