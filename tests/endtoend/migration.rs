//! From a single PostgreSQL that is written to, to a cluster that has followed it.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dugong_tests::{Cluster, connect, eventually, free_port, kill, postgres_bin};
use dugong_topology::Topology;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{SOON, answered, words};

/// A PostgreSQL without a controller, with the application's role and database.
struct Old {
    /// Removed with it.
    _folder: TempDir,
    port: u16,
    server: Child,
}

impl Old {
    async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("dugong-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory can be made");
        if rustix::process::geteuid().is_root() {
            let chown = Command::new("chown").arg("postgres").arg(folder.path()).status();
            assert!(chown.expect("chown can be run").success());
        }
        let (data, port) = (folder.path().join("main"), free_port());
        let made = program("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .expect("initdb can be run");
        assert!(made.status.success(), "{}", words(&made));
        let server = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", &format!("port={port}"), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &format!("unix_socket_directories={}", folder.path().display())])
            .args(["-c", "fsync=off"])
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres can be run");
        let old = Self { _folder: folder, port, server };
        let client = eventually("it takes connections", SOON, async || {
            connect(&old.dsn("postgres", "postgres")).await
        })
        .await;
        for statement in ["create role app login", "create database app owner app"] {
            client.batch_execute(statement).await.expect("it takes writes");
        }
        old
    }

    fn dsn(&self, user: &str, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname={database}", self.port)
    }

    /// As `pg_ctl stop -m fast` does.
    fn stop(&mut self) {
        let pid = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::INT).expect("it runs");
        assert!(self.server.wait().expect("it is a child").success());
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let stopped = self.server.try_wait().is_ok_and(|status| status.is_some());
        if !stopped {
            // A test has failed; the rest of it goes with its postmaster.
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }
}

/// One of PostgreSQL's, as a user that it takes.
fn program(name: &str) -> Command {
    let path = postgres_bin().join(name);
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(path);
    command.current_dir("/tmp");
    command
}

/// Writes 1, 2, 3 … until the server is gone; the last that was acknowledged, and when.
async fn write_until_it_is_gone(dsn: String) -> (i64, Instant) {
    let client = connect(&dsn).await.expect("it takes connections");
    client.batch_execute("create table numbers (n bigint)").await.expect("it takes writes");
    let (mut number, mut at) = (0, Instant::now());
    let insert = "insert into numbers values ($1)";
    while client.execute(insert, &[&(number + 1)]).await.is_ok() {
        (number, at) = (number + 1, Instant::now());
    }
    (number, at)
}

/// The process there that sends to whoever follows, once that has caught up.
async fn follower(operator: &Client) -> Option<i32> {
    let sql = "select pid from pg_stat_replication where state = 'streaming'";
    let row = operator.query_opt(sql, &[]).await.expect("it answers");
    row.map(|row| row.get(0))
}

fn note(topology: &Topology, id: &str) -> String {
    let mut members = topology.newcomers.iter();
    let member = members.find(|member| member.id.as_str() == id);
    member.and_then(|member| member.note.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_primary_that_is_written_to_becomes_a_cluster_with_a_short_switch() {
    let old = Old::start().await;
    let writing = tokio::spawn(write_until_it_is_gone(old.dsn("app", "app")));
    let primary = format!("bootstrap.primary=host=127.0.0.1 port={} user=postgres", old.port);
    let cluster = Cluster::begin_with(&["--set", "bootstrap.method=follow", "--set", &primary]);
    let follows = format!("follows 127.0.0.1:{}, ", old.port);
    cluster.until("it follows", |topology| note(topology, "pg-1").contains(&follows)).await;
    let page = words(&cluster.run("status", &[]));
    for expected in [&follows, " s behind", "pg-2: waiting for the first instance to begin"] {
        assert!(page.contains(expected), "{expected:?} in\n{page}");
    }

    // While it runs nothing is done, whatever is said.
    let check = cluster.run("migrate", &["--check"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(words(&check).contains("it runs, and may take writes"), "{}", words(&check));
    let unconfirmed = answered(&cluster, "migrate", &["--even-if-behind"], "man\n");
    assert!(words(&unconfirmed).contains("not confirmed"), "{}", words(&unconfirmed));
    for (arguments, typed) in [(&[][..], ""), (&["--even-if-behind"], "main\n")] {
        let refused = answered(&cluster, "migrate", arguments, typed);
        assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
        assert!(words(&refused).contains("nothing has changed"), "{}", words(&refused));
    }

    // Whoever looks after it is killed, and the next one goes on.
    let operator = connect(&old.dsn("postgres", "postgres")).await.expect("it takes connections");
    let before = follower(&operator).await.expect("it is followed");
    let first = cluster.topology().expect("it shows").newcomers.remove(0).id;
    kill(cluster.instance(&first).controller().expect("it runs"));
    eventually("another one follows", SOON, async || match follower(&operator).await {
        Some(now) if now != before => Ok(()),
        now => Err(format!("{now:?} of {before}")),
    })
    .await;
    drop(operator);

    switch(&cluster, old, writing).await;
    cluster.whole().await;
    let again = cluster.run("migrate", &["--check"]);
    assert!(words(&again).contains("has begun already"), "{}", words(&again));
}

/// Large data is a long wait for the copy that becomes the sync's; a single node waits for none.
#[tokio::test]
async fn one_node_takes_writes_as_soon_as_the_primary_that_it_followed_has_stopped() {
    let old = Old::start().await;
    let writing = tokio::spawn(write_until_it_is_gone(old.dsn("app", "app")));
    let primary = format!("bootstrap.primary=host=127.0.0.1 port={} user=postgres", old.port);
    let follow = ["--one-node", "--set", "bootstrap.method=follow", "--set", &primary];
    let mut cluster = Cluster::begin_with(&follow);
    let follows = format!("follows 127.0.0.1:{}, ", old.port);
    cluster.until("it follows", |topology| note(topology, "pg-1").contains(&follows)).await;
    switch(&cluster, old, writing).await;

    cluster.stop().await;
    cluster.resume_with(&["--instances", "3"]);
    assert!(!cluster.whole().await.one_node);
}

/// Stops the primary while it is written to, and switches; every row must be there.
async fn switch(cluster: &Cluster, mut old: Old, writing: JoinHandle<(i64, Instant)>) {
    let mut migrate = cluster.command("migrate");
    migrate.args(["--wait", "2min"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let migrate = migrate.spawn().expect("dugong can be started");
    old.stop();
    let (last, at) = writing.await.expect("it does not panic");
    let dsn = cluster.dsn(&[]);
    let first = eventually("writes go on", SOON * 2, async || {
        let client = connect(&dsn).await?;
        let insert = "insert into numbers values (0)";
        client.batch_execute(insert).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(Instant::now())
    })
    .await;
    let migrated = migrate.wait_with_output().expect("it ends");
    assert!(migrated.status.success(), "{}", words(&migrated));
    println!("{}", words(&migrated));
    let pause = first.duration_since(at);
    println!("{last} rows; {pause:?} from the last write there to the first one here");

    let client = connect(&dsn).await.expect("it takes connections");
    let sql = "select count(*), max(n) from numbers where n > 0";
    let row = client.query_one(sql, &[]).await.expect("the rows are there");
    let (count, most): (i64, i64) = (row.get(0), row.get(1));
    assert!(count == most && most >= last, "{count} rows up to {most}, {last} acknowledged");
}
