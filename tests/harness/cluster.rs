//! A whole cluster in a directory of its own, started as a user starts it: with `dugong up`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dugong_topology::{InstanceId, Phase, Role, Topology};
use tempfile::TempDir;

use crate::binaries::binary;
use crate::disk::{Disk, Kind as DiskKind};
use crate::eventually::eventually;
use crate::postgres::{chosen_postgres, postgres_of_version};
use crate::processes::{Pid, terminate};

/// The longest that a cluster may take to become whole on a busy machine.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// The longest that an orderly end may take.
const END_WITHIN: Duration = Duration::from_secs(90);

/// How much of each log is shown when a test has failed.
const LOG_TAIL_BYTES: usize = 6_000;

/// A running cluster; ended, and its directory removed, when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Before the directory, so that they are dropped before it.
    disks: Vec<Disk>,
    directory: TempDir,
    /// PostgreSQL's programs; none: those that `dugong up` finds by itself.
    postgres: Option<PathBuf>,
    /// Of the environment of whatever it starts.
    variables: Vec<(&'static str, OsString)>,
    up: Option<Child>,
}

/// One instance of a cluster under test.
#[derive(Debug)]
pub struct Instance {
    pub id: InstanceId,
    directory: PathBuf,
}

impl Cluster {
    /// Three instances, whole.
    pub async fn start() -> Self {
        let cluster = Self::begin();
        cluster.whole().await;
        cluster
    }

    /// The same with PostgreSQL of that major version; none where `.ci/versions` has not got it.
    pub async fn start_on_version(major: u32) -> Option<Self> {
        let mut cluster = Self::new();
        cluster.postgres = Some(postgres_of_version(&major.to_string(), cluster.directory.path())?);
        cluster.resume();
        cluster.whole().await;
        Some(cluster)
    }

    /// The same with PostgreSQL's programs in that directory.
    pub async fn start_on_programs(bin: &Path) -> Self {
        let mut cluster = Self::new();
        cluster.postgres = Some(bin.to_owned());
        cluster.resume();
        cluster.whole().await;
        cluster
    }

    /// A cluster whose `dugong up` has just been started.
    pub fn begin() -> Self {
        Self::begin_with(&[])
    }

    /// The same, with further arguments.
    pub fn begin_with(arguments: &[&str]) -> Self {
        let mut cluster = Self::new();
        cluster.resume_with(arguments);
        cluster
    }

    /// The same, for processes with further variables in their environment.
    pub fn begin_with_variables(variables: Vec<(&'static str, OsString)>) -> Self {
        let mut cluster = Self::new();
        cluster.variables = variables;
        cluster.resume();
        cluster
    }

    fn new() -> Self {
        // The user that PostgreSQL runs as must be able to reach the directory.
        let directory = tempfile::Builder::new()
            .prefix("dugong-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory can be made");
        Self {
            disks: Vec::new(),
            directory,
            variables: Vec::new(),
            postgres: chosen_postgres(),
            up: None,
        }
    }

    /// Starts `dugong up` again on the same directory.
    pub fn resume(&mut self) {
        self.resume_with(&[]);
    }

    /// Starts `dugong up` again on the same directory, with further arguments.
    pub fn resume_with(&mut self, arguments: &[&str]) {
        assert!(self.up.is_none(), "the cluster runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join(self.log_name()))
            .expect("a log can be opened");
        let mut command = self.command("up");
        if let Some(bin) = self.postgres.as_ref().filter(|_| !arguments.contains(&"--pg-bin")) {
            command.arg("--pg-bin").arg(bin);
        }
        let child = command
            .args(["--write-port", "0", "--read-port", "0", "--http-port", "0"])
            // Many clusters share the machine.
            .args(["--set", "postgres.memory=512MB"])
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("DUGONG_DIE_WITH_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("dugong up can be started");
        self.up = Some(child);
    }

    /// The directory of the cluster.
    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    /// The store that all controllers share.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store.db")
    }

    /// The launcher's pid.
    pub fn launcher(&self) -> Pid {
        self.up.as_ref().expect("the cluster runs").id()
    }

    /// `dugong SUBCOMMAND --dir …`, ready for further arguments.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary("dugong"));
        command.arg(subcommand).arg("--dir").arg(self.dir());
        command
    }

    /// Runs `dugong SUBCOMMAND --dir … ARGUMENTS` to its end.
    pub fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        self.command(subcommand).args(arguments).output().expect("dugong can be started")
    }

    /// The connection string of the write address, or with `--read` of the read address.
    pub fn dsn(&self, arguments: &[&str]) -> String {
        let output = self.run("dsn", arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "dugong dsn: {words}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What `dugong status --json` says.
    ///
    /// # Errors
    ///
    /// Why it says nothing.
    pub fn topology(&self) -> Result<Topology, String> {
        let output = self.run("status", &["--json"]);
        serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Waits until all three instances have a place in the chain and do what they should there,
    /// and the write address takes a connection.
    pub async fn whole(&self) -> Topology {
        let found = eventually("the cluster is whole", WHOLE_WITHIN, async || {
            let topology = self.topology()?;
            let standbys =
                topology.standbys().filter(|m| m.healthy && m.upstream.is_some()).count();
            let whole = topology.phase == Phase::ReadWrite
                && standbys == 2
                && topology.deposed.is_empty()
                && topology.newcomers.is_empty();
            if whole { Ok(topology) } else { Err(format!("{topology:#?}")) }
        });
        found.await
    }

    /// Waits until the topology is as `fits` says.
    pub async fn until(&self, what: &str, fits: impl Fn(&Topology) -> bool) -> Topology {
        let found = eventually(what, WHOLE_WITHIN, async || {
            let topology = self.topology()?;
            if fits(&topology) { Ok(topology) } else { Err(format!("{topology:#?}")) }
        });
        found.await
    }

    /// The instance that has `role` just now; the first one where there are several.
    pub fn with_role(&self, role: Role) -> Instance {
        let topology = self.topology().expect("the cluster shows its topology");
        let mut members = topology.members();
        let (_, member) =
            members.find(|(has, _)| *has == Some(role)).expect("an instance has the role");
        self.instance(&member.id)
    }

    /// The instance with that name.
    pub fn instance(&self, id: &InstanceId) -> Instance {
        Instance { id: id.clone(), directory: self.dir().join(id.as_str()) }
    }

    /// Stops everything in order, as Ctrl-C does.
    pub async fn stop(&mut self) {
        let child = self.up.take().expect("the cluster runs");
        terminate(child.id());
        let status = wait(child, END_WITHIN).unwrap_or_else(|| panic!("no end in {END_WITHIN:?}"));
        assert!(status.success(), "dugong up ended with {status}");
        assert_eq!(self.processes(), Vec::<String>::new(), "nothing runs on");
    }

    /// Moves the instance's directory to a disk of its own, while nothing runs.
    pub fn give_disk(&mut self, id: &InstanceId, kind: DiskKind) {
        assert!(self.up.is_none(), "the cluster runs");
        self.disks.push(Disk::below(&self.dir().join(id.as_str()), kind));
    }

    /// The disk that was given last.
    pub fn disk(&self) -> &Disk {
        self.disks.last().expect("a disk was given")
    }

    /// SIGKILL to the launcher, as an out-of-memory killer would send it.
    pub fn kill_launcher(&mut self) {
        let mut child = self.up.take().expect("the cluster runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Every process whose command line or working directory names the cluster's directory.
    pub fn processes(&self) -> Vec<String> {
        let directory = self.directory.path();
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc can be read").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let at = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let name = directory.to_string_lossy();
            if command.contains(&*name) || at.starts_with(directory) {
                found.push(format!("{pid} {command}"));
            }
        }
        found
    }

    fn log_name(&self) -> &'static str {
        "up.log"
    }

    fn show_logs(&self) {
        let mut logs = vec![self.directory.path().join(self.log_name())];
        logs.push(self.dir().join("proxy.log"));
        let instances = fs::read_dir(self.dir()).into_iter().flatten().flatten();
        for instance in instances.filter(|entry| entry.path().is_dir()) {
            logs.push(instance.path().join("controller.log"));
            logs.push(instance.path().join("postgres.log"));
        }
        for log in logs {
            let Ok(content) = fs::read(&log) else { continue };
            let tail = &content[content.len().saturating_sub(LOG_TAIL_BYTES)..];
            println!("==== {}\n{}", log.display(), String::from_utf8_lossy(tail));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.disks.iter().for_each(Disk::release);
        if std::thread::panicking() {
            self.show_logs();
        }
        if let Some(child) = self.up.take() {
            terminate(child.id());
            if wait(child, END_WITHIN).is_none() {
                println!("dugong up did not end within {END_WITHIN:?} and was killed");
            }
        }
    }
}

/// Waits for the end of a child; after `limit` kills it and returns none.
fn wait(mut child: Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a killed child ends");
    None
}

impl Instance {
    /// How often its data was made anew.
    pub fn making(&self) -> u64 {
        let text = fs::read(self.data().join("dugong.identity.json")).expect("it has data");
        let identity: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
        identity["making"].as_u64().expect("data knows its making")
    }

    /// A file that nobody changes, if there is data: a copy of the data has another one.
    pub fn unchanged_file(&self) -> Option<u64> {
        fs::metadata(self.data().join("base/1/2608")).ok().map(|file| file.ino())
    }

    /// The pid of the instance's PostgreSQL; none while it has no server.
    pub fn postmaster(&self) -> Option<Pid> {
        first_number(&self.data().join("postmaster.pid")).filter(|pid| is_running(*pid))
    }

    /// The postmaster and its children.
    pub fn server_processes(&self) -> Vec<Pid> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let entries = fs::read_dir("/proc").expect("/proc is there").map_while(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid == postmaster || parent_of(*pid) == Some(postmaster)).collect()
    }

    /// The server's process of that kind, as it calls itself: "walsender", "checkpointer".
    pub fn server_process(&self, kind: &str) -> Option<Pid> {
        self.server_processes().into_iter().find(|pid| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.starts_with("postgres:") && title.split([' ', '\0']).any(|word| word == kind)
        })
    }

    /// The pid of the instance's controller; none while it has none.
    pub fn controller(&self) -> Option<Pid> {
        first_number(&self.directory.join("controller.pid")).filter(|pid| is_running(*pid))
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }
}

fn first_number(path: &Path) -> Option<Pid> {
    fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may contain anything; the state comes next.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Zombies do not count.
fn is_running(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}
