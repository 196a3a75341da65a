//! Clients take every connection that a server has.

use dugong_tests::connect;
use dugong_topology::Role;

use crate::{SOON, nothing_is_lost, words, written_to};

/// The controller keeps connections for itself: it sees, and it acts.
#[tokio::test]
async fn clients_that_take_every_connection_cost_nobody_an_office_and_keep_nobody_from_another() {
    let (cluster, writer) = written_to().await;
    let before = cluster.whole().await;
    let mut crowd = Vec::new();
    let refusal = loop {
        match connect(&cluster.dsn(&[])).await {
            Ok(client) => crowd.push(client),
            Err(refusal) => break refusal,
        }
        assert!(crowd.len() < 1000, "nobody is refused");
    };
    println!("{} clients, then: {refusal}", crowd.len());
    let of_the_server = ["too many clients already", "connection slots are reserved"];
    assert!(of_the_server.iter().any(|words| refusal.contains(words)), "{refusal}");
    writer.goes_on(20, SOON).await;
    let status = words(&cluster.run("status", &[]));
    assert!(status.contains("writes are accepted"), "{status}");

    // The clients go on meanwhile.
    let mut command = tokio::process::Command::from(cluster.command("switchover"));
    let output = command.output().await.expect("dugong can be started");

    assert!(output.status.success(), "{}", words(&output));
    writer.goes_on(20, SOON).await;
    let after = cluster.whole().await;
    assert_eq!(after.generation.0, before.generation.0 + 1, "nothing but the switchover");
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
    drop(crowd);
    nothing_is_lost(writer).await;
}
