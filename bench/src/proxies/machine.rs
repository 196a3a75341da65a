//! Where a run took place, and which programs took part.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use crate::proxies::contenders::Stage;
use crate::proxies::postgres::Postgres;

/// What a figure means nothing without, as names and values.
pub(crate) struct Machine {
    pub(crate) facts: Vec<(&'static str, String)>,
    /// Of the run, as `2026-11-26`.
    pub(crate) date: String,
    /// A short name for files.
    pub(crate) name: String,
}

impl Machine {
    pub(crate) fn look(postgres: &Postgres, stage: &Stage) -> Self {
        let cores = available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
        let processor = line_of("/proc/cpuinfo", "model name");
        let system = rustix::system::uname();
        let word = |word: &std::ffi::CStr| word.to_string_lossy().into_owned();
        let (kernel, machine) = (word(system.release()), word(system.machine()));
        let name = format!("{cores}-cores-{machine}");
        let facts = vec![
            ("processor", processor.unwrap_or_default()),
            ("cores", cores),
            ("memory", line_of("/proc/meminfo", "MemTotal").unwrap_or_default()),
            ("kernel", format!("Linux {kernel} {machine}")),
            ("TCP congestion control", congestion_control()),
            ("descriptors of a process", (stage.connections * 2).to_string()),
            ("PostgreSQL", said(&postgres.bin.join("postgres"), "--version")),
            ("pgbench", said(&postgres.bin.join("pgbench"), "--version")),
            ("HAProxy", said(Path::new("haproxy"), "-v")),
            ("PgBouncer", said(Path::new("pgbouncer"), "--version")),
            ("ours", commit()),
        ];
        Self { facts, date: said(Path::new("date"), "+%F"), name }
    }
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let content = fs::read_to_string(file).ok()?;
    let line = content.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// Some pace what they send by timers, which everybody pays for.
fn congestion_control() -> String {
    let file = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    file.map_or_else(|error| format!("unknown: {error}"), |name| name.trim().to_owned())
}

/// The first line that a program says; what is not installed says so in the result.
fn said(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let words = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    words.map_or_else(
        |error| format!("unknown: {error}"),
        |words| words.lines().next().unwrap_or_default().to_owned(),
    )
}

/// The commit of this checkout, and whether there is more than that.
fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let mut git = Command::new("git");
    git.args(["-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]);
    let output = git.output().ok().filter(|output| output.status.success());
    let words = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    words.map_or_else(|| "unknown".to_owned(), |words| format!("commit {}", words.trim()))
}
