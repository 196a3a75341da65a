//! Real PostgreSQL servers in temporary directories, each stopped and removed when it is dropped.
//!
//! PostgreSQL refuses to run as root: then it runs as the user `postgres`.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use dugong_tests::{free_port, postgres_bin};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Config, NoTls};

use crate::authority::Authority;
use crate::eventually::LIMIT;

pub(crate) const PASSWORD: &str = "a secret of these tests";

/// One server, ready for connections. Its `cluster_name` says which it is.
pub(crate) struct Postgres {
    pub(crate) port: u16,
    child: Child,
    directory: TempDir,
}

impl Postgres {
    /// Starts a server on a free port.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_on(name, free_port())
    }

    /// Starts a server that speaks TLS, with a certificate that an authority has signed.
    pub(crate) fn start_with_tls(name: &str, authority: &Authority, file: &str) -> Self {
        let files = ["crt", "key"].map(|end| authority.read(&format!("{file}.{end}")));
        Self::start_with(name, free_port(), Some(files))
    }

    /// Starts a server, and waits until it answers.
    pub(crate) fn start_on(name: &str, port: u16) -> Self {
        Self::start_with(name, port, None)
    }

    fn start_with(name: &str, port: u16, tls: Option<[String; 2]>) -> Self {
        let directory = TempDir::new().unwrap();
        if let Some((uid, gid)) = postgres_user() {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = directory.path().join("data");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, PASSWORD).unwrap();
        let output = program("initdb")
            .args(["--auth=scram-sha-256", "--username=postgres", "--no-sync", "--encoding=UTF8"])
            .arg(format!("--pwfile={}", secret.display()))
            .arg(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut postgres = program("postgres");
        if let Some(files) = tls {
            for (file, text) in ["server.crt", "server.key"].into_iter().zip(files) {
                let path = data.join(file);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                if let Some((uid, gid)) = postgres_user() {
                    chown(&path, Some(uid), Some(gid)).unwrap();
                }
            }
            postgres.args(["-c", "ssl=on"]);
        }
        let child = postgres
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
            .args(["-c", &format!("cluster_name={name}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { port, child, directory };
        server.wait_until_ready();
        server
    }

    /// The postmaster writes `ready` into its lock file.
    fn wait_until_ready(&mut self) {
        let begin = Instant::now();
        let lock = self.directory.path().join("data/postmaster.pid");
        loop {
            let content = std::fs::read_to_string(&lock).unwrap_or_default();
            if content.lines().nth(7).is_some_and(|status| status.trim() == "ready") {
                return;
            }
            let exited = self.child.try_wait().unwrap();
            if exited.is_some() || begin.elapsed() > LIMIT {
                panic!("PostgreSQL did not start ({exited:?}):\n{}", self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PostgreSQL on port {}:\n{}", self.port, self.log());
        }
        // An immediate shutdown: nobody needs the data. It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let _ = self.child.wait();
    }
}

/// Two servers, `pg-1` and `pg-2`, that tests share which do not stop them.
pub(crate) struct Pair {
    pub(crate) first: Postgres,
    pub(crate) second: Postgres,
}

/// The pair, started by whoever needs it first and stopped after whoever needs it last.
pub(crate) fn shared_pair() -> Arc<Pair> {
    static PAIR: Mutex<Weak<Pair>> = Mutex::new(Weak::new());
    let mut pair = PAIR.lock().unwrap_or_else(|broken| broken.into_inner());
    pair.upgrade().unwrap_or_else(|| {
        let started =
            Arc::new(Pair { first: Postgres::start("pg-1"), second: Postgres::start("pg-2") });
        *pair = Arc::downgrade(&started);
        started
    })
}

/// How a client connects by way of `port`.
pub(crate) fn client(port: u16) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").password(PASSWORD).dbname("postgres");
    config
}

/// The name of the server that a new connection by way of `port` leads to.
pub(crate) async fn server_behind(port: u16) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = client(port).connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one("show cluster_name", &[]).await?;
    drop(client);
    connection.await.unwrap()?;
    Ok(row.get(0))
}

fn program(name: &str) -> Command {
    let mut command = Command::new(postgres_bin().join(name));
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").env_remove("PGDATA");
    command.current_dir("/");
    command
}

/// The user and group that PostgreSQL runs as; none where it can be ours.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}
