//! The proxy's own binary, on ports of its choice; stopped when dropped, its log shown if a test fails.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::eventually::{LIMIT, eventually, soon};

pub(crate) struct Proxy {
    pub(crate) write_port: u16,
    pub(crate) read_port: u16,
    pub(crate) http_port: u16,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Proxy {
    /// Starts it with these flags, and waits until it is ready.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut child = command()
            .args(["--write-port", "0", "--read-port", "0", "--http-port", "0"])
            .args(["--log-level", "debug"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let kept = Arc::clone(&log);
        // Ends with the process, whose standard error it reads.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, ports)) = line.split_once("ready: ") {
                    // Nobody listens once the first such line was seen.
                    let _ = ready.send(ports.to_owned());
                }
            }
        });
        let mut proxy = Self { write_port: 0, read_port: 0, http_port: 0, child, log };
        let line = is_ready.recv_timeout(LIMIT).expect("the proxy becomes ready");
        let ports: Vec<u16> = line
            .split(", ")
            .map(|part| part.rsplit(':').next().unwrap().parse().unwrap())
            .collect();
        [proxy.write_port, proxy.read_port, proxy.http_port] = ports.try_into().unwrap();
        proxy
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Lets it have so many open files from now on.
    pub(crate) fn limit_files(&self, files: u64) {
        let limit = Rlimit { current: Some(files), maximum: Some(files) };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    /// Lets it open so many more.
    pub(crate) fn leave_files(&self, more: usize) {
        let open = self.files();
        // The limit is not of how many, but of their numbers; the lowest that is free is taken.
        let last = (0..).filter(|number| !open.contains(number)).take(more).last();
        self.limit_files(last.map_or(0, |last| last + 1));
    }

    /// The numbers of the files that it has open.
    pub(crate) fn files(&self) -> BTreeSet<u64> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let number = |file: std::fs::DirEntry| file.file_name().to_str().unwrap().parse().unwrap();
        folder.map(|file| number(file.unwrap())).collect()
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the proxy ends", || {
            status = self.child.try_wait().unwrap();
            std::future::ready(status.is_some())
        })
        .await;
        status.unwrap()
    }

    /// Status and body of an HTTP request.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let request = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).await.unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = soon("an HTTP answer", request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) async fn health(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/health").await.1).unwrap()
    }

    /// The value of one metric, written as in a scrape: `name{label="value"}`.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// Waits until so many sessions of a port have ended, whatever the reasons.
    pub(crate) async fn has_ended(&self, port: &str, sessions: u64) {
        let series = format!("dugong_proxy_sessions_ended_total{{listener=\"{port}\",");
        eventually(&format!("{sessions} sessions have ended"), || async {
            let (_, text) = self.get("/metrics").await;
            let lines = text.lines().filter(|line| line.starts_with(&series));
            let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            counts.sum::<u64>() == sessions
        })
        .await;
    }

    /// Waits until so many connections of a port are accepted.
    pub(crate) async fn has_open(&self, port: &str, connections: u64) {
        eventually(&format!("{connections} connections are open"), || async {
            self.health().await["listeners"][port]["open"] == connections
        })
        .await;
    }

    /// Waits until so many clients of the write port are held.
    pub(crate) async fn holds(&self, clients: u64) {
        eventually(&format!("{clients} clients are held"), || async {
            self.health().await["listeners"]["write"]["held"] == clients
        })
        .await;
    }

    /// Waits until the proxy uses a topology of this generation and revision.
    pub(crate) async fn believes(&self, generation: u64, revision: u64) {
        eventually(&format!("g{generation} r{revision} is believed"), || async {
            let health = self.health().await;
            health["generation"] == generation && health["revision"] == revision
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
        }
    }
}

/// Runs it to its end: exit status, standard output, standard error.
pub(crate) fn run(flags: &[&str]) -> (Option<i32>, String, String) {
    run_with(flags, None)
}

/// The same, with a variable in its environment.
pub(crate) fn run_with(
    flags: &[&str],
    variable: Option<(&str, &str)>,
) -> (Option<i32>, String, String) {
    let output = command().args(flags).envs(variable).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dugong-proxy"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}
