//! pgBackRest itself: an archive that goes on over a failover, and a cluster restored from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use dugong_tests::{Cluster, binary, connect, eventually, kill};
use dugong_topology::{Generation, Role};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::{SOON, words};

/// A repository of pgBackRest's in a folder of its own, with one stanza.
struct Repository {
    folder: TempDir,
}

impl Repository {
    fn make() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("dugong-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory can be made");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nspool-path={}\nstart-fast=y\n\
             log-level-console=info\n[global:archive-push]\nlog-level-console=warn\n",
            at("repo"),
            at("log"),
            at("lock"),
            at("spool")
        );
        std::fs::write(folder.path().join("pgbackrest.conf"), text).expect("it can be written");
        if rustix::process::geteuid().is_root() {
            // As whom `dugong up` lets PostgreSQL run.
            let chown = Command::new("chown").arg("postgres").arg(folder.path()).status();
            assert!(chown.expect("chown can be run").success());
        }
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("pgbackrest.conf")
    }

    /// A command line, but for `pg1-path` and the command itself.
    fn line(&self) -> String {
        format!("pgbackrest --config={} --stanza=main", self.config().display())
    }

    /// Whether this pgBackRest knows that version of PostgreSQL: then there is a stanza.
    fn is_created(&self, cluster: &Cluster) -> bool {
        match self.try_run(cluster, &["stanza-create"]) {
            Ok(_) => true,
            Err(said) if said.contains("is this version of PostgreSQL supported?") => {
                println!("skipped: this pgBackRest is older than this PostgreSQL: {said}");
                false
            }
            Err(said) => panic!("stanza-create: {said}"),
        }
    }

    fn run(&self, cluster: &Cluster, arguments: &[&str]) -> String {
        self.try_run(cluster, arguments).unwrap_or_else(|said| panic!("{arguments:?}: {said}"))
    }

    /// Runs pgBackRest beside the primary, to its end. What it said.
    fn try_run(&self, cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
        let primary = cluster.with_role(Role::Primary);
        let data = primary.data();
        let port = std::fs::read_to_string(data.join("postmaster.pid")).expect("the server runs");
        let port = port.lines().nth(3).expect("it says its port").to_owned();
        let run = data.with_file_name("run");
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]);
            command.arg("pgbackrest");
            command
        } else {
            Command::new("pgbackrest")
        };
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command.arg(option("config", &self.config())).arg("--stanza=main").args(arguments);
        if arguments[0] != "info" {
            command.arg(option("pg1-path", &data)).arg(option("pg1-socket-path", &run));
            command.arg(format!("--pg1-port={port}")).arg("--pg1-user=postgres");
        }
        let output = command.current_dir("/tmp").output().expect("pgbackrest can be run");
        let said = words(&output);
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// What is known of the stanza.
    fn info(&self, cluster: &Cluster) -> serde_json::Value {
        let said = self.run(cluster, &["info", "--output=json", "--log-level-console=off"]);
        let info: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
        info[0].clone()
    }
}

async fn client(cluster: &Cluster) -> Client {
    connect(&cluster.dsn(&[])).await.expect("the cluster accepts a connection")
}

/// Waits until a client can write, and writes so many further rows.
async fn write(cluster: &Cluster, rows: u32) {
    eventually("writes go on", SOON, async || {
        let client = connect(&cluster.dsn(&[])).await?;
        client
            .batch_execute("create table if not exists t (n serial)")
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let client = client(cluster).await;
    for _ in 0..rows {
        client.batch_execute("insert into t default values").await.expect("it is written");
    }
}

async fn count(cluster: &Cluster) -> i64 {
    let row = client(cluster).await.query_one("select count(*) from t", &[]).await;
    row.expect("the rows are there").get(0)
}

fn set(cluster: &Cluster, assignments: &[&str]) {
    let mut command = Command::new(binary("dugong"));
    command.args(["config", "set"]).args(assignments).env("DUGONG_DIR", cluster.dir());
    let output = command.output().expect("dugong can be started");
    assert!(output.status.success(), "{}", words(&output));
}

#[tokio::test]
async fn an_archive_goes_on_over_a_failover_and_restores_a_point_in_time() {
    let repository = Repository::make();
    let cluster = Cluster::start().await;
    // Each instance archives from where it is: the server works in its data directory.
    let push = format!("{} --pg1-path=\"$PWD\" archive-push %p", repository.line());
    set(&cluster, &["archive_mode=on", &format!("archive_command={push}")]);
    let restarted = cluster.run("restart", &["--pending"]);
    assert!(restarted.status.success(), "{}", words(&restarted));
    cluster.whole().await;
    if !repository.is_created(&cluster) {
        return;
    }
    repository.run(&cluster, &["check"]);
    write(&cluster, 5).await;
    repository.run(&cluster, &["backup", "--type=full"]);
    write(&cluster, 5).await;

    let before = cluster.topology().expect("it shows its topology").generation;
    kill(cluster.with_role(Role::Primary).postmaster().expect("the server runs"));
    cluster.until("the sync took over", |topology| topology.generation > before).await;
    cluster.whole().await;
    write(&cluster, 5).await;
    let now = "select clock_timestamp()::text";
    let row = client(&cluster).await.query_one(now, &[]).await.expect("it has a clock");
    let noon: String = row.get(0);
    write(&cluster, 5).await;
    // It switches to the next file of WAL, and waits until that before it is in the archive.
    repository.run(&cluster, &["check"]);
    let info = repository.info(&cluster);
    assert_eq!(info["status"]["code"], 0, "{info:#}");
    let newest = info["archive"][0]["max"].as_str().expect("there is an archive").to_owned();
    assert_ne!(&newest[..8], "00000001", "from the new primary's timeline: {info:#}");

    let restore = format!(
        "{} --pg1-path=$DUGONG_DATA --type=time --target='{noon}' restore",
        repository.line()
    );
    let restore = format!("bootstrap.command={restore}");
    let arguments = ["--set", "bootstrap.method=command", "--set", &restore];
    let restored = Cluster::begin_with(&arguments);
    let whole = restored.whole().await;
    assert_eq!(whole.generation, Generation(1), "it is a new cluster");
    assert_eq!(count(&restored).await, 15, "neither more nor less than at {noon}");
    write(&restored, 5).await;
    assert_eq!((count(&restored).await, count(&cluster).await), (20, 20));

    // The archive is still the former cluster's.
    repository.run(&cluster, &["check"]);
    let row = client(&restored).await.query_one("show archive_mode", &[]).await;
    assert_eq!(row.expect("it is known").get::<_, &str>(0), "off");
    let before = restored.topology().expect("it shows its topology").generation;
    kill(restored.with_role(Role::Primary).postmaster().expect("the server runs"));
    restored.until("its sync takes over", |topology| topology.generation > before).await;
    restored.whole().await;
    assert_eq!(count(&restored).await, 20);
}
