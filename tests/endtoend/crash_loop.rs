//! A server dies at each of its starts, until the cause is gone.

use std::fs;

use dugong_tests::kill;
use dugong_topology::Role;

use crate::{SOON, nothing_is_lost, says, words, written_to};

/// As an operator's `ALTER SYSTEM` on this one instance leaves it, for a library that was removed since.
const LIBRARY: &str = "shared_preload_libraries = 'no_such_library'\n";

#[tokio::test]
async fn of_a_standby_is_told_with_its_cause_and_ends_with_it() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let last = cluster.with_role(Role::Async);
    let data = last.unchanged_file();
    let file = last.data().join("postgresql.auto.conf");
    let was = fs::read_to_string(&file).expect("there is such a file");
    fs::write(&file, was.clone() + LIBRARY).expect("it can be written");
    kill(last.postmaster().expect("the server runs"));

    let cause = "could not access file \"no_such_library\"";
    cluster.until("it names the cause", |now| says(now, &last, cause)).await;
    let starts = || {
        let log = fs::read_to_string(last.data().with_file_name("postgres.log"));
        log.expect("a server has a log").matches(cause).count()
    };
    let tried = starts();
    cluster.until("it is tried again and again", |_| starts() > tried + 3).await;
    let status = words(&cluster.run("status", &[]));
    assert!(status.contains("the server ended by itself: FATAL:  could not access"), "{status}");
    writer.goes_on(50, SOON).await;
    let now = cluster.topology().expect("the cluster shows its topology");
    assert_eq!(now.generation, before.generation, "nobody else has noticed");

    fs::write(&file, was).expect("it can be written");
    cluster.whole().await;
    assert_eq!(last.unchanged_file(), data, "it went on with what it has");
    nothing_is_lost(writer).await;
}
