//! The cluster's passwords are exchanged while it is written to, and whatever dies meanwhile.

use std::os::unix::fs::MetadataExt;
use std::process::{Output, Stdio};

use dugong_tests::{Cluster, Instance, Writer, binary, connect, eventually, kill, pause, resume};
use dugong_topology::Role;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{SOON, direct_dsn, kill_all_of, nothing_is_lost, words, written_to};

fn command(cluster: &Cluster, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(binary("dugong"));
    command.arg("rotate-credentials").args(arguments).env("DUGONG_DIR", cluster.dir());
    command
}

/// `dugong rotate-credentials …`, while writers go on.
async fn rotate(cluster: &Cluster, arguments: &[&str]) -> Output {
    let output = command(cluster, arguments).output().await.expect("dugong can be started");
    println!("{}", words(&output));
    output
}

async fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = rotate(cluster, arguments).await;
    assert!(output.status.success(), "{output:?}");
    words(&output)
}

/// Starts it, and kills it once it says this.
async fn killed_at(cluster: &Cluster, says: &str) {
    let mut command = command(cluster, &[]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("dugong can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it has one")).lines();
    loop {
        let line = lines.next_line().await.expect("it can be read").expect("it says that");
        println!("{line}");
        if line.contains(says) {
            break;
        }
    }
    child.kill().await.expect("a child can be killed");
}

/// What the controllers' file says.
fn file(cluster: &Cluster) -> Value {
    let path = cluster.dir().join("credentials.json");
    let mode = std::fs::metadata(&path).expect("it is there").mode() & 0o777;
    assert_eq!(mode, 0o600, "nobody else may read it");
    serde_json::from_slice(&std::fs::read(path).expect("it can be read")).expect("it is JSON")
}

/// Whether the instance's own server lets that login in.
async fn lets_in(cluster: &Cluster, instance: &Instance, login: &Value) -> Result<(), String> {
    let word = |key: &str| login[key].as_str().expect("a login has it").to_owned();
    let address = direct_dsn(cluster, instance);
    let address =
        address.split(' ').filter(|it| it.starts_with("host=") || it.starts_with("port="));
    let address = address.collect::<Vec<_>>().join(" ");
    let dsn =
        format!("{address} user={} password={} dbname=postgres", word("name"), word("password"));
    connect(&dsn).await.map(drop)
}

fn all(cluster: &Cluster) -> [Instance; 3] {
    ["pg-1", "pg-2", "pg-3"].map(|id| cluster.instance(&id.parse().expect("an id")))
}

/// The logins of `kind` in `now` are let in everywhere, those in `before` nowhere.
async fn only_the_new_are_let_in(cluster: &Cluster, kind: &str, before: &Value, now: &Value) {
    assert_ne!(before[kind]["password"], now[kind]["password"], "{kind}");
    for instance in all(cluster) {
        eventually(&format!("{}: the new {kind} login", instance.id), SOON, async || {
            lets_in(cluster, &instance, &now[kind]).await
        })
        .await;
        let refused = lets_in(cluster, &instance, &before[kind]).await;
        assert!(refused.is_err(), "{}: the former {kind} login is let in", instance.id);
    }
}

#[tokio::test]
async fn passwords_are_exchanged_without_a_failed_write_and_all_goes_on_with_the_new_ones() {
    let (mut cluster, writer) = written_to().await;
    let first = file(&cluster);

    let said = done(&cluster, &[]).await;

    for step in ["pg-2 has them", "pg-3 lets them in", "pg-3 uses them", "done:"] {
        assert!(said.contains(step), "{step}: {said}");
    }
    writer.goes_on(50, SOON).await;
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new(), "no write has failed");
    let second = file(&cluster);
    assert_eq!(second["replication"]["name"], "dugong_replication_b");
    assert_eq!(second["exchange"], Value::Null, "it has its end");
    for kind in ["replication", "lookup"] {
        only_the_new_are_let_in(&cluster, kind, &first, &second).await;
    }
    for kind in ["superuser", "application"] {
        assert_eq!(first[kind], second[kind], "not asked for");
    }

    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    cluster.until("the sync took over", |topology| topology.generation.0 > 1).await;
    cluster.whole().await;
    let last = cluster.with_role(Role::Async);
    let copied = cluster.run("reinit", &[last.id.as_str(), "--yes"]);
    assert!(copied.status.success(), "{copied:?}");
    cluster.whole().await;
    nothing_is_lost(writer).await;

    cluster.stop().await;
    cluster.resume();
    cluster.whole().await;
    only_the_new_are_let_in(&cluster, "replication", &first, &second).await;
}

#[tokio::test]
async fn all_four_are_exchanged_and_sessions_go_on() {
    let (cluster, writer) = written_to().await;
    let first = file(&cluster);
    let session = connect(&cluster.dsn(&[])).await.expect("the application is let in");
    let said = done(&cluster, &["--all-roles", "--keep-former"]).await;
    assert!(said.contains("stopped, as asked"), "{said}");
    for instance in all(&cluster) {
        for login in ["superuser", "replication", "lookup", "application"] {
            let let_in = lets_in(&cluster, &instance, &first[login]).await;
            let_in.unwrap_or_else(|why| panic!("{}: the former {login}: {why}", instance.id));
        }
    }

    let said = done(&cluster, &["--all-roles"]).await;

    assert!(said.contains("going on with the exchange"), "{said}");
    let second = file(&cluster);
    for kind in ["superuser", "replication", "lookup", "application"] {
        only_the_new_are_let_in(&cluster, kind, &first, &second).await;
    }
    session.batch_execute("select 1").await.expect("a session goes on");
    // By the superuser's new password.
    let frozen = cluster.run("freeze", &["--why", "to see whether that is heard"]);
    assert!(frozen.status.success(), "{frozen:?}");
    assert!(cluster.run("unfreeze", &[]).status.success());
    writer.goes_on(20, SOON).await;

    done(&cluster, &[]).await;
    let third = file(&cluster);
    assert_eq!(third["replication"]["name"], "dugong_replication", "they take turns");
    only_the_new_are_let_in(&cluster, "replication", &second, &third).await;
    writer.goes_on(20, SOON).await;
}

#[tokio::test]
async fn what_was_interrupted_is_brought_to_its_end_whatever_died_meanwhile() {
    let (cluster, writer) = written_to().await;
    let first = file(&cluster);
    killed_at(&cluster, "pg-3 has them").await;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    cluster.until("the sync took over", |topology| topology.generation.0 > 1).await;
    cluster.whole().await;
    killed_at(&cluster, "the primary has made their roles").await;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    cluster.until("the sync took over", |topology| topology.generation.0 > 2).await;
    cluster.whole().await;
    for instance in all(&cluster) {
        let let_in = lets_in(&cluster, &instance, &first["replication"]).await;
        let_in.unwrap_or_else(|why| panic!("{}: {why}", instance.id));
    }
    killed_at(&cluster, "uses them").await;
    // Whoever is at work has to go on without the primary, too.
    kill_all_of(&cluster.with_role(Role::Primary));

    let said = eventually("the exchange has its end", SOON, async || {
        let output = rotate(&cluster, &[]).await;
        if output.status.success() { Ok(words(&output)) } else { Err(words(&output)) }
    })
    .await;

    assert!(said.contains("going on with the exchange"), "{said}");
    cluster.whole().await;
    let second = file(&cluster);
    only_the_new_are_let_in(&cluster, "replication", &first, &second).await;
    writer.goes_on(20, SOON).await;
    nothing_is_lost(writer).await;
}

#[tokio::test]
async fn where_an_instance_is_away_nothing_is_taken_away() {
    let (cluster, writer) = written_to().await;
    let first = file(&cluster);
    let last = cluster.with_role(Role::Async);
    let controller = last.controller().expect("it runs");
    pause(controller);
    let refused = rotate(&cluster, &[]).await;
    resume(controller);

    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = words(&refused);
    assert!(said.contains(last.id.as_str()) && said.contains("nothing was taken away"), "{said}");
    let now = file(&cluster);
    assert_eq!(now["replication"], first["replication"]);
    cluster.whole().await;
    done(&cluster, &[]).await;
    writer.goes_on(20, SOON).await;
    let report = nothing_is_lost(writer).await;
    assert_eq!(report.errors, Vec::<String>::new(), "no write has failed");
}
