//! The one PostgreSQL behind every contender.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use dugong_controller::postgres::find_bin;
use dugong_tests::free_port;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::account::{self, Account};
use crate::certificate::Certificate;
use crate::proxies::process::Process;
use crate::proxies::wire;

/// What is set; the rest is as PostgreSQL comes.
///
/// Nothing that has to do with disks is measured, and nothing shall wake up in between.
pub(crate) const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 900
shared_buffers = 256MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
ssl = on
";

/// Rows of the tables of pgbench: this times 100,000 accounts.
const SCALE: &str = "10";

/// A running server, with the tables of pgbench.
pub(crate) struct Postgres {
    process: Process,
    pub(crate) bin: PathBuf,
    pub(crate) port: u16,
    /// That it shows to clients who want TLS.
    pub(crate) certificate: Certificate,
    /// Dropped after the process.
    folder: TempDir,
}

impl Postgres {
    /// Makes it and fills it.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (bin, _version) = find_bin(None)?;
        let (folder, port) = (account::folder("bench-postgres-")?, free_port());
        let data = folder.path().join("data");
        let mut initdb = account::command(bin.join("initdb"), Account::Server)?;
        initdb.args(["-A", "trust", "-U", "postgres", "-N", "-D"]).arg(&data);
        quietly(initdb.current_dir("/"))?;
        let certificate = Certificate::make(folder.path())?;
        let (cert, key) = (certificate.cert.display(), certificate.key.display());
        let settings = data.join("postgresql.conf");
        let before = fs::read_to_string(&settings)?;
        fs::write(
            &settings,
            format!(
                "{before}\n{SETTINGS}port = {port}\nssl_cert_file = '{cert}'\nssl_key_file = '{key}'\n"
            ),
        )?;

        let log = folder.path().join("log");
        let mut command = account::command(bin.join("postgres"), Account::Server)?;
        command.arg("-D").arg(&data).current_dir("/");
        let mut process = Process::start("postgres", command, &log)?;
        wire::until_it_answers(port, || process.still_runs(&log))?;

        let mut fill = account::command(bin.join("pgbench"), Account::Own)?;
        fill.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres"]);
        quietly(fill.args(["-i", "-q", "-s", SCALE, "postgres"]))?;
        Ok(Self { process, bin, port, certificate, folder })
    }

    /// A folder for whatever belongs to the run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its immediate shutdown, which leaves no shared memory behind, unlike a kill.
        self.process.end_by(Signal::QUIT);
    }
}

fn quietly(command: &mut std::process::Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().context("cannot be started")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {words}", output.status);
    Ok(())
}
