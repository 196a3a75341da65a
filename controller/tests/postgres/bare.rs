//! A PostgreSQL as somebody has it, without a controller.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dugong_controller::config::Origin;
use dugong_controller::credentials::Credentials;
use dugong_controller::postgres::{Settings, find_bin};
use dugong_tests::{chosen_postgres, eventually, free_port};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::instance::Instance;
use crate::processes::server_processes;

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// A PostgreSQL as somebody has it, with an archive of its WAL.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) fn make() -> Self {
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let server = Self { folder, port: free_port(), process: None };
        std::fs::create_dir(server.path("archive")).unwrap();
        let arguments = ["--username=postgres", "--auth=trust", "--no-sync", "-D"];
        run(program("initdb").args(arguments).arg(server.data()));
        let settings = format!(
            "archive_mode = on\narchive_command = 'cp %p {}/%f'\nwork_mem = '9MB'\n\
             synchronous_standby_names = ''\nfsync = off\nmax_connections = 300\n",
            server.path("archive").display()
        );
        append(&server.data().join("postgresql.conf"), &settings);
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("main")
    }

    pub(crate) async fn start(&mut self) -> Client {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&mut self, arguments: &[&str]) -> Client {
        let child = program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=", "-c", &format!("port={}", self.port)])
            .args(["-c", &format!("unix_socket_directories={}", self.folder.path().display())])
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(child);
        self.client().await
    }

    /// A connection, as soon as it takes one.
    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = eventually("it takes connections", SOON, async || {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.folder.path()).port(self.port);
            config.user("postgres").dbname("postgres");
            config.connect(NoTls).await.map_err(|error| error.to_string())
        })
        .await;
        tokio::spawn(connection);
        client
    }

    pub(crate) fn back_up(&self) {
        run(program("pg_basebackup")
            .args(["--checkpoint=fast", "--wal-method=none", "--username=postgres", "-D"])
            .arg(self.path("backup"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string()]));
    }

    /// Ends it, in order, and everything that it wrote is in its archive.
    pub(crate) fn stop(&mut self) {
        run(program("pg_ctl").args(["stop", "--mode=fast", "--wait", "-D"]).arg(self.data()));
        self.process.take().unwrap().wait().unwrap();
    }

    /// Ends it at once, all of its processes.
    pub(crate) fn kill(&mut self) {
        let mut child = self.process.take().unwrap();
        let pids = server_processes(&self.data().canonicalize().unwrap());
        for pid in pids {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            // An error: it went with the others.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
    }

    /// What restores the backup, up to the named point.
    pub(crate) fn restore_to(&self, point: &str) -> String {
        format!(
            "cp -a {}/. $DUGONG_DATA && touch $DUGONG_DATA/recovery.signal && \
             cat >> $DUGONG_DATA/postgresql.auto.conf <<END\n\
             restore_command = 'cp {}/%f %p'\n\
             recovery_target_name = '{point}'\n\
             END\n",
            self.path("backup").display(),
            self.path("archive").display()
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // A test has failed; the rest of it goes with its postmaster.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn program(name: &str) -> Command {
    let (bin, _) = find_bin(chosen_postgres().as_deref()).unwrap();
    Command::new(bin.join(name))
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

pub(crate) fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, before + text).unwrap();
}

/// An instance whose cluster begins by that.
pub(crate) async fn beginning_by(origin: Origin) -> Instance {
    let credentials = Credentials::generate().unwrap();
    let told = |settings: &mut Settings| settings.origin = origin;
    Instance::on_machine("pg-1", &credentials, told).await
}

pub(crate) async fn shown(client: &Client, setting: &str) -> String {
    client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0)
}

pub(crate) async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}
