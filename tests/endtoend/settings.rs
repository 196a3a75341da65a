//! The settings of the cluster: what is refused, where they hold, and restarts one after the other.

use std::process::Output;

use dugong_tests::{Cluster, Instance, Writer, binary, connect, eventually, kill};
use dugong_topology::Role;

use crate::{SOON, direct_dsn, nothing_is_lost, written_to};

/// Runs `dugong ARGUMENTS` while writers go on.
async fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary("dugong"));
    command.args(arguments).env("DUGONG_DIR", cluster.dir());
    command.env("VISUAL", "").env("EDITOR", "sed -i -e s/7MB/9MB/");
    let output = command.output().await.expect("dugong can be started");
    println!("dugong {arguments:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    output
}

pub(crate) async fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = run(cluster, arguments).await;
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

async fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = run(cluster, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all(cluster: &Cluster) -> [Instance; 3] {
    ["pg-1", "pg-2", "pg-3"].map(|id| cluster.instance(&id.parse().expect("an id")))
}

/// The value that the server of that instance has.
async fn value(cluster: &Cluster, instance: &Instance, name: &str) -> Result<String, String> {
    let dsn = direct_dsn(cluster, instance);
    let client = connect(&dsn).await?;
    let row = client.query_one(&format!("show {name}"), &[]).await;
    Ok(row.map_err(|error| error.to_string())?.get(0))
}

/// Waits until the server of that instance has the value.
async fn has(cluster: &Cluster, instance: &Instance, name: &str, wanted: &str) {
    eventually(&format!("{}: {name} = {wanted}", instance.id), SOON, async || {
        let found = value(cluster, instance, name).await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

pub(crate) async fn all_have(cluster: &Cluster, name: &str, value: &str) {
    for instance in all(cluster) {
        has(cluster, &instance, name, value).await;
    }
}

#[tokio::test]
async fn a_setting_holds_on_every_instance_and_after_a_failover() {
    let cluster = Cluster::start().await;
    let said = done(&cluster, &["config", "show"]).await;
    assert!(said.contains("a quarter of 512MB of memory"), "{said}");
    assert!(!said.contains("pending") && said.contains("as the cluster began"), "{said}");
    all_have(&cluster, "shared_buffers", "128MB").await;
    all_have(&cluster, "effective_cache_size", "384MB").await;

    let said = done(&cluster, &["config", "set", "work_mem=7MB", "my.own=it's"]).await;
    assert!(said.contains("work_mem: not set -> '7MB'"), "{said}");
    assert!(said.contains("every instance has it"), "{said}");
    for instance in all(&cluster) {
        assert_eq!(value(&cluster, &instance, "work_mem").await.as_deref(), Ok("7MB"), "at once");
        assert_eq!(value(&cluster, &instance, "my.own").await.as_deref(), Ok("it's"), "at once");
    }

    #[rustfmt::skip]
    let cases = [
        ("synchronous_commit=off",     "it decides which commits survive a failover"),
        ("hot_standby_feedback=off",   "reads on standbys are not to be cancelled"),
        ("work_men=8MB",               "did you mean work_mem?"),
        ("include=/etc/passwd",        "has no setting include"),
        ("block_size=4096",            "cannot be changed"),
        ("work_mem=12 parsecs",        "Valid units for this parameter"),
        ("max_connections=0",          "outside the valid range"),
        ("log_min_messages=perhaps",    "Available values"),
        ("superuser_reserved_connections=200", "must be less than"),
        ("shared_preload_libraries=no_such_library", "could not access file"),
        ("max_wal_senders=1",          "must be at least"),
    ];
    for (assignment, why) in cases {
        let said = refused(&cluster, &["config", "set", assignment]).await;
        assert!(said.contains(why), "{assignment}: {said}");
    }
    let said = done(&cluster, &["config", "set", "--dry-run", "work_mem=8MB"]).await;
    assert!(said.contains("nothing was written"), "{said}");
    all_have(&cluster, "work_mem", "7MB").await;

    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    cluster.until("the sync took over", |topology| topology.generation.0 > 1).await;
    cluster.whole().await;
    all_have(&cluster, "work_mem", "7MB").await;

    let said = done(&cluster, &["config", "edit"]).await;
    assert!(said.contains("work_mem: '7MB' -> '9MB'"), "{said}");
    all_have(&cluster, "work_mem", "9MB").await;
    let said = done(&cluster, &["config", "unset", "work_mem"]).await;
    assert!(said.contains("work_mem: '9MB' -> not set"), "{said}");
    all_have(&cluster, "work_mem", "4MB").await;
    let said = done(&cluster, &["config", "show", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
    let values = &shown["settings"]["values"];
    assert_eq!((&values["my.own"], values.get("work_mem")), (&"it's".into(), None), "{shown}");
    let why = &shown["settings"]["why"];
    assert!(why["shared_buffers"].is_string() && why.get("my.own").is_none(), "{shown}");
    assert_eq!(shown["instances"].as_array().map(Vec::len), Some(3), "{shown}");
}

#[tokio::test]
async fn what_is_set_survives_an_end_of_everything() {
    let mut cluster = Cluster::start().await;
    done(&cluster, &["config", "set", "work_mem=7MB"]).await;
    cluster.stop().await;
    for instance in all(&cluster) {
        let kept = instance.data().parent().expect("a folder").join("settings.json");
        let kept = std::fs::read_to_string(kept).expect("it is kept beside the data");
        assert!(kept.contains("7MB"), "{kept}");
    }
    cluster.resume();
    cluster.whole().await;
    all_have(&cluster, "work_mem", "7MB").await;
}

#[tokio::test]
async fn max_connections_is_raised_and_lowered_without_a_lost_write() {
    let (cluster, writer) = written_to().await;
    let said = done(&cluster, &["config", "set", "max_connections=230"]).await;
    assert!(said.contains("needs a restart") && said.contains("dugong restart"), "{said}");
    all_have(&cluster, "max_connections", "200").await;
    let said = done(&cluster, &["config", "show"]).await;
    assert!(said.contains("pg-1: pending, pg-2: pending, pg-3: pending"), "{said}");

    let said = done(&cluster, &["status"]).await;
    assert!(said.contains("pg-3: max_connections waits for `dugong restart"), "{said}");

    let said = done(&cluster, &["restart", "--all"]).await;

    let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
    assert!(place("pg-3: restarting") < place("pg-2: restarting"), "{said}");
    assert!(place("pg-2: restarting") < place("asked pg-1 to hand over"), "{said}");
    all_have(&cluster, "max_connections", "230").await;
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2");
    let said = done(&cluster, &["restart", "--pending"]).await;
    assert!(said.contains("nothing to do"), "{said}");
    writer.goes_on(50, SOON).await;

    done(&cluster, &["config", "set", "max_connections=150"]).await;
    let said = refused(&cluster, &["restart", "--pending", "--primary", "switchover"]).await;
    assert!(said.contains("only in place"), "{said}");
    let said = done(&cluster, &["restart", "--pending"]).await;

    let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
    assert!(place("pg-2: restarting in place") < place("pg-1: restarting"), "{said}");
    all_have(&cluster, "max_connections", "150").await;
    assert_eq!(cluster.with_role(Role::Primary).id.as_str(), "pg-2", "it kept its office");
    assert!(cluster.whole().await.frozen.is_none(), "the freeze is taken back");
    nothing_is_lost(writer).await;
}

/// Whatever the order, each server starts, and replays what comes.
#[tokio::test]
async fn no_server_fails_for_the_order_of_restarts() {
    let cluster = Cluster::start().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    done(&cluster, &["config", "set", "max_connections=230"]).await;

    done(&cluster, &["restart", "pg-1", "--primary", "in-place"]).await;

    has(&cluster, &cluster.instance(&"pg-1".parse().expect("an id")), "max_connections", "230")
        .await;
    all_have(&cluster, "max_connections", "230").await;
    cluster.whole().await;

    done(&cluster, &["config", "set", "max_connections=150"]).await;
    let standby = cluster.with_role(Role::Async);
    let said = done(&cluster, &["restart", standby.id.as_str()]).await;
    assert_eq!(said.matches("restarting").count(), 1, "{said}");
    has(&cluster, &standby, "max_connections", "230").await;
    let said = done(&cluster, &["config", "show"]).await;
    assert!(said.contains("pg-1: pending, pg-2: pending, pg-3: pending"), "{said}");
    nothing_is_lost(writer).await;
}

/// What no program can know before a start costs one standby, and nobody a write.
#[tokio::test]
async fn a_server_that_cannot_start_ends_the_restarts_and_comes_back_by_another_value() {
    let (cluster, writer) = written_to().await;
    done(&cluster, &["config", "set", "shared_buffers=7TB"]).await;

    let output = run(&cluster, &["restart", "--pending", "--wait", "5s"]).await;

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("pg-3: restarting"), "{said}");
    assert!(said.contains("pg-3 did not come back within 5s"), "{said}");
    assert!(said.contains("could not map anonymous shared memory"), "{said}");
    assert!(!said.contains("pg-2: restarting"), "{said}");
    for id in ["pg-1", "pg-2"] {
        let instance = cluster.instance(&id.parse().expect("an id"));
        has(&cluster, &instance, "shared_buffers", "128MB").await;
    }
    writer.goes_on(50, SOON).await;

    done(&cluster, &["config", "set", "shared_buffers=96MB"]).await;
    cluster.whole().await;
    done(&cluster, &["restart", "--pending"]).await;
    all_have(&cluster, "shared_buffers", "96MB").await;
    nothing_is_lost(writer).await;
}
