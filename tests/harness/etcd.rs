//! A private etcd of one or more members, on loopback.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::eventually::eventually;
use crate::ports::free_port;
use crate::processes::{Pid, kill};

/// The longest that a member may take to answer on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Running members; ended, and their data removed, when it is dropped.
#[derive(Debug)]
pub struct Etcd {
    directory: TempDir,
    members: Vec<Member>,
    /// What every member is started with, beside its addresses.
    arguments: Vec<String>,
    scheme: &'static str,
}

#[derive(Debug)]
struct Member {
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Etcd {
    /// So many members, answering.
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, "http", &[]).await
    }

    /// The same with TLS for clients or whatever else `arguments` say.
    pub async fn start_with(members: usize, scheme: &'static str, arguments: &[String]) -> Self {
        let directory = tempfile::Builder::new().prefix("dugong-etcd-").tempdir();
        let member = |_| Member { client_port: free_port(), peer_port: free_port(), process: None };
        let members = (0..members).map(member).collect();
        let arguments = arguments.to_vec();
        let directory = directory.expect("a directory can be made");
        let mut etcd = Self { directory, members, arguments, scheme };
        for place in 0..etcd.members.len() {
            etcd.restart(place);
        }
        for place in 0..etcd.members.len() {
            etcd.is_up(place).await;
        }
        etcd
    }

    /// Where clients connect to, one URL for each member.
    pub fn endpoints(&self) -> Vec<String> {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme, member.client_port);
        self.members.iter().map(url).collect()
    }

    /// The process of a member.
    pub fn pid(&self, place: usize) -> Pid {
        self.members[place].process.as_ref().expect("it runs").id()
    }

    /// SIGKILL.
    pub fn kill(&mut self, place: usize) {
        end(&mut self.members[place]);
    }

    /// Starts a member that was killed; its data is kept. Does not wait until it answers.
    pub fn restart(&mut self, place: usize) {
        let process = self.command(place).spawn().expect("etcd is installed");
        self.members[place].process = Some(process);
    }

    /// Waits until a member answers its clients.
    pub async fn is_up(&self, place: usize) {
        let port = self.members[place].client_port;
        eventually(&format!("etcd member {place} listens"), UP_WITHIN, async || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        })
        .await;
    }

    fn command(&self, place: usize) -> Command {
        let member = &self.members[place];
        let name = |place: usize| format!("m{place}");
        let peer = |member: &Member| format!("http://127.0.0.1:{}", member.peer_port);
        let all = self.members.iter().enumerate();
        let cluster: Vec<_> = all.map(|(n, one)| format!("{}={}", name(n), peer(one))).collect();
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.client_port);
        let log = log_of(self.directory.path(), place);
        let mut command = Command::new("etcd");
        command
            .arg(format!("--name={}", name(place)))
            .arg(format!("--data-dir={}", self.directory.path().join(name(place)).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={}", peer(member)))
            .arg(format!("--initial-advertise-peer-urls={}", peer(member)))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .args(["--initial-cluster-state=new", "--logger=zap"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            end(member);
        }
        if std::thread::panicking() {
            for place in 0..self.members.len() {
                let path = self.directory.path().join(format!("m{place}.log"));
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                println!("---- the end of etcd member {place}'s log");
                lines.iter().rev().for_each(|line| println!("{line}"));
            }
        }
    }
}

fn end(member: &mut Member) {
    if let Some(mut process) = member.process.take() {
        kill(process.id());
        // Killed: it ends whatever it does.
        let _ = process.wait();
    }
}

fn log_of(directory: &Path, place: usize) -> File {
    let path = directory.join(format!("m{place}.log"));
    File::options().create(true).append(true).open(path).expect("a log can be written")
}
