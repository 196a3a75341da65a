//! Real PostgreSQL servers in temporary directories, each killed and removed when it is dropped.
//!
//! PostgreSQL refuses to run as root: then it runs as the user `postgres`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use dugong_controller::postgres::find_bin;
use dugong_tests::{chosen_postgres, free_port};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::eventually::{LIMIT, eventually};

pub(crate) struct Server {
    pub(crate) port: u16,
    directory: TempDir,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A new one with these settings, ready for connections.
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let mut server = Self::prepared(settings);
        let output = program("initdb")
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D"])
            .arg(server.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server.resume().await;
        server
    }

    /// A standby of this one, which streams, by the name `standby`.
    pub(crate) async fn standby(&self) -> Self {
        let mut standby = Self::prepared(&[]);
        let output = program("pg_basebackup")
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "-D"])
            .arg(standby.data())
            .args(["--no-sync", "-d", &format!("{} application_name=standby", dsn(self.port))])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        standby.resume().await;
        let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
        eventually("the standby streams", async || self.ask(streams).await == "1").await;
        standby
    }

    fn prepared(settings: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        if let Some((uid, gid)) = postgres_user() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { port: free_port(), directory, settings, child: None }
    }

    /// Starts it as it is, and waits until it lets clients in.
    pub(crate) async fn resume(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = program("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        command.args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "wal_buffers=8MB"]);
        command.args(["-c", "wal_retrieve_retry_interval=100ms"]);
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting.as_str()]));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        eventually("the server answers", async || self.try_ask("select 1").await.is_ok()).await;
    }

    /// SIGKILL to every process of it, so that none can do anything after another one is gone.
    pub(crate) async fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let postmaster = Pid::from_child(&child);
        signal(postmaster, Signal::STOP); // It starts no more of them.
        let children = children_of(child.id());
        for (pid, _) in &children {
            signal(*pid, Signal::STOP);
        }
        for pid in children.iter().map(|(pid, _)| *pid).chain([postmaster]) {
            signal(pid, Signal::KILL);
        }
        child.wait().unwrap();
        eventually("every process is gone", async || {
            children.iter().all(|(pid, _)| is_gone(pid.as_raw_pid().cast_unsigned()))
        })
        .await;
    }

    /// Stops what would write WAL behind the clients' backs. Only [`Self::kill`] ends it then.
    pub(crate) fn freeze_writers(&self) {
        let names = ["walwriter", "background writer", "checkpointer"];
        let frozen = children_of(self.child.as_ref().unwrap().id())
            .into_iter()
            .filter(|(_, title)| names.iter().any(|name| title.contains(name)))
            .map(|(pid, _)| signal(pid, Signal::STOP))
            .count();
        assert_eq!(frozen, names.len());
    }

    /// The first value of the answer to one statement.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    async fn try_ask(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let dsn = dsn(self.port);
        let connecting = tokio_postgres::connect(&dsn, NoTls);
        let (client, connection) = tokio::time::timeout(LIMIT, connecting).await.unwrap()?;
        let connection = tokio::spawn(connection);
        let answered = tokio::time::timeout(LIMIT, client.simple_query(sql)).await.unwrap();
        drop(client);
        // Ended by the drop; what there was to say was said.
        let _ = connection.await;
        let value = answered?.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            SimpleQueryMessage::CommandComplete(_) | _ => None,
        });
        Ok(value.unwrap_or_default())
    }

    /// From now on it speaks TLS, and with clients from a network nothing else.
    pub(crate) async fn encrypt(&mut self, certificate: &str, key: &str) {
        for (file, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = postgres_user() {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        self.set("ssl = on").await;
        eventually("it speaks TLS", async || self.ask("show ssl").await == "on").await;
        let hba = "hostssl all all 127.0.0.1/32 trust\n";
        fs::write(self.data().join("pg_hba.conf"), hba).unwrap();
        self.ask("select pg_reload_conf()").await;
    }

    /// Changes a setting without a restart.
    pub(crate) async fn set(&self, setting: &str) {
        self.ask(&format!("alter system set {setting}")).await;
        self.ask("select pg_reload_conf()").await;
    }

    pub(crate) async fn promote(&self) {
        assert_eq!(self.ask("select pg_promote()").await, "t");
    }

    pub(crate) fn dsn(&self) -> String {
        dsn(self.port)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

#[expect(clippy::print_stderr, reason = "why a test failed may be in the server's log")]
impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        if let Some(mut child) = self.child.take() {
            for (pid, _) in children_of(child.id()) {
                signal(pid, Signal::CONT);
            }
            // An immediate shutdown: nobody needs the data.
            signal(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

pub(crate) fn dsn(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
}

fn program(name: &str) -> Command {
    let (bin, _) = find_bin(chosen_postgres().as_deref()).unwrap();
    let mut command = Command::new(bin.join(name));
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").env_remove("PGDATA").current_dir("/");
    command
}

/// The user and group that PostgreSQL runs as; none where it can be ours.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    Some((id("-u"), id("-g")))
}

/// Processes that `parent` has started, and what they call themselves.
fn children_of(parent: u32) -> Vec<(Pid, String)> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == format!("PPid:\t{parent}")) {
            let title = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            children.push((Pid::from_raw(pid).unwrap(), title));
        }
    }
    children
}

/// Whether a process has ended, reaped or not.
fn is_gone(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.lines().any(|line| line.starts_with("State:\tZ"))
}

fn signal(pid: Pid, signal: Signal) {
    // A process that has ended meanwhile needs no signal.
    let _ = kill_process(pid, signal);
}
