//! From nothing to writes, and what the command says on the way.

use std::process::Command;

use dugong_tests::{Cluster, connect, eventually};
use dugong_topology::{Generation, Role};

use crate::SOON;

#[tokio::test]
async fn one_command_makes_a_cluster_of_three() {
    let cluster = Cluster::start().await;
    let topology = cluster.topology().unwrap();
    assert_eq!(topology.generation, Generation(1));
    let ids: Vec<_> = topology.members().map(|(role, m)| (role, m.id.to_string())).collect();
    assert_eq!(
        ids,
        [
            (Some(Role::Primary), "pg-1".to_owned()),
            (Some(Role::Sync), "pg-2".to_owned()),
            (Some(Role::Async), "pg-3".to_owned()),
        ]
    );

    let client = connect(&cluster.dsn(&[])).await.unwrap();
    client.batch_execute("create table t(n int); insert into t values (7)").await.unwrap();
    let checksums = client.query_one("show data_checksums", &[]).await.unwrap();
    assert_eq!(checksums.get::<_, &str>(0), "on");

    // The read address leads to a standby, which has the row before long.
    let dsn = cluster.dsn(&["--read"]);
    eventually("the read address shows the row", SOON, async || {
        let client = connect(&dsn).await?;
        let row = client.query_one("select n, pg_is_in_recovery() from t", &[]).await;
        let row = row.map_err(|error| error.to_string())?;
        // The primary answers only while no standby is known to be near enough.
        if row.get::<_, bool>(1) { Ok(()) } else { Err("the primary answered".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn the_connection_string_works_as_it_is() {
    let cluster = Cluster::start().await;
    let psql = Command::new("psql")
        .args([&cluster.dsn(&[]), "--no-psqlrc", "--tuples-only", "--command", "select 6 * 7"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout).trim(), "42", "{psql:?}");

    let dsn = cluster.dsn(&[]);
    for arguments in [&["--initialize", "--quiet"][..], &["--client=4", "--time=3"]] {
        let pgbench = Command::new("pgbench").args(arguments).arg(&dsn).output().unwrap();
        assert!(pgbench.status.success(), "{pgbench:?}");
    }
}

#[tokio::test]
async fn status_is_a_table_for_people_and_a_document_for_programs() {
    let cluster = Cluster::start().await;
    let table = cluster.run("status", &[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for word in ["pg-1", "pg-2", "pg-3", "primary", "sync", "async", "streaming"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }

    let primary = cluster.topology().unwrap().primary.unwrap();
    let url = format!("http://{}", primary.http.unwrap());
    let direct = Command::new(dugong_tests::binary("dugong"))
        .args(["status", "--json", "--controller", &url])
        .output()
        .unwrap();
    let document: dugong_topology::Topology = serde_json::from_slice(&direct.stdout).unwrap();
    assert_eq!(document.primary.unwrap().id, primary.id);
}

#[tokio::test]
async fn a_second_up_on_a_running_cluster_is_refused() {
    let cluster = Cluster::start().await;
    let again = cluster.run("up", &[]);
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(1), "{words}");
    assert!(words.contains("already runs") || words.contains("already running"), "{words}");
    assert!(words.contains(&cluster.launcher().to_string()), "it names the pid: {words}");
}
