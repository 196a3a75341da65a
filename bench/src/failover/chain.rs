//! Bare PostgreSQL servers, without any controller: what the floor stands on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use dugong_controller::postgres::find_bin;
use dugong_tests::{Pid, connect, eventually, free_port, kill};
use tempfile::TempDir;

use crate::account::{self, Account};

/// The longest that one step of making a server may take.
const SOON: Duration = Duration::from_secs(60);

/// A bare chain of three: `a` is primary, `b` its sync, `c` follows `b`.
pub(crate) struct Chain {
    directory: TempDir,
    bin: PathBuf,
    pub(crate) ports: [u16; 3],
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Chain {
    /// Makes and starts the chain; returns once every standby streams.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (bin, _version) = find_bin(None)?;
        let directory = account::folder("floor-")?;
        let chain = Self { directory, bin, ports: [(); 3].map(|()| free_port()) };
        chain.make_primary()?;
        chain.up(0)?;
        for at in [1, 2] {
            chain.make_standby(at)?;
            chain.up(at)?;
        }
        for (upstream, downstream) in [(0, 1), (1, 2)] {
            chain.streams(upstream, downstream).await;
        }
        Ok(chain)
    }

    /// A connection string of one of the servers.
    pub(crate) fn dsn(&self, at: usize) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.ports[at])
    }

    /// The same for an application, which proves a password as any of Dugong's does.
    pub(crate) fn application_dsn(&self, at: usize) -> String {
        let port = self.ports[at];
        format!("host=127.0.0.1 port={port} user=application password=floor dbname=postgres")
    }

    /// The pid of one of the servers.
    pub(crate) fn postmaster(&self, at: usize) -> anyhow::Result<Pid> {
        let file = self.data(at).join("postmaster.pid");
        let content = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        content.lines().next().context("postmaster.pid is empty")?.parse().context("no pid")
    }

    fn data(&self, at: usize) -> PathBuf {
        self.directory.path().join(NAMES[at])
    }

    fn make_primary(&self) -> anyhow::Result<()> {
        let data = self.data(0);
        self.tool("initdb", &["-D", text(&data)?, "-A", "trust", "-U", "postgres", "-k", "-N"])?;
        let hba = data.join("pg_hba.conf");
        let others = fs::read_to_string(&hba)?;
        fs::write(&hba, format!("host all application 127.0.0.1/32 scram-sha-256\n{others}"))?;
        self.configure(0, "")
    }

    fn make_standby(&self, at: usize) -> anyhow::Result<()> {
        let (data, from) = (self.data(at), self.ports[at - 1].to_string());
        let source = ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-c", "fast"];
        self.tool("pg_basebackup", &[&["-D", text(&data)?][..], &source[..]].concat())?;
        fs::write(data.join("standby.signal"), "")?;
        account::give(&data.join("standby.signal"))?;
        let name = NAMES[at];
        self.configure(
            at,
            &format!(
                "primary_conninfo = 'host=127.0.0.1 port={from} user=postgres application_name={name}'"
            ),
        )
    }

    /// Each waits for its right neighbour once it is primary; the last one has none.
    fn configure(&self, at: usize, more: &str) -> anyhow::Result<()> {
        let names = NAMES.get(at + 1).map(|next| format!("\"{next}\"")).unwrap_or_default();
        let file = self.data(at).join("postgresql.conf");
        let before = fs::read_to_string(&file)?;
        let own = before.split("# the floor\n").next().unwrap_or_default();
        let port = self.ports[at];
        let settings = format!(
            "{own}# the floor\nport = {port}\nlisten_addresses = '127.0.0.1'\n\
             unix_socket_directories = ''\nwal_retrieve_retry_interval = 100ms\n\
             wal_receiver_status_interval = 1s\nsynchronous_standby_names = '{names}'\n{more}\n"
        );
        fs::write(&file, settings)?;
        Ok(())
    }

    fn up(&self, at: usize) -> anyhow::Result<()> {
        let data = self.data(at);
        let log = self.directory.path().join(format!("{}.log", NAMES[at]));
        self.tool("pg_ctl", &["-D", text(&data)?, "-l", text(&log)?, "-w", "start"])
    }

    async fn streams(&self, upstream: usize, downstream: usize) {
        let query = "select count(*) from pg_stat_replication \
                     where application_name = $1 and state = 'streaming'";
        eventually(&format!("{} streams", NAMES[downstream]), SOON, async || {
            let client = connect(&self.dsn(upstream)).await?;
            let row = client.query_one(query, &[&NAMES[downstream]]).await;
            let count: i64 = row.map_err(|error| error.to_string())?.get(0);
            if count == 1 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }

    /// Runs one of PostgreSQL's programs, as the user `postgres` when this is root.
    fn tool(&self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = account::command(self.bin.join(name), Account::Server)?;
        let command = command.args(arguments).current_dir("/").stdin(Stdio::null());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{name} {arguments:?}: {status}");
        Ok(())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for at in 0..NAMES.len() {
            // A server that was killed, or never started, needs no end.
            if let Ok(pid) = self.postmaster(at)
                && Path::new(&format!("/proc/{pid}")).exists()
            {
                kill(pid);
            }
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}
