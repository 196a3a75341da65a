//! How many system calls a proxy needs for each query, counted by strace in a run of its own.
//!
//! Being traced slows a proxy down several times, so that it finds more to do each time it wakes:
//! where it works in batches, the true count is higher.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::account::{self, Account};
use crate::proxies::contenders::{Contender, Running};
use crate::proxies::pgbench::{Load, Pgbench, Until};
use crate::proxies::process::Process;

/// Transactions of all clients together in the longer of two runs.
const TRANSACTIONS: u32 = 8_000;

/// The longest that strace may take to get hold of it.
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) contender: Contender,
    pub(crate) workload: &'static str,
    /// For each unit.
    pub(crate) all: f64,
    /// The same by name, the most frequent first.
    pub(crate) by_name: Vec<(String, f64)>,
}

/// Counts while pgbench does `load`, and again while it does next to nothing, so that connecting,
/// preparing and leaving are not counted.
pub(crate) fn count(
    running: &Running,
    workload: &'static str,
    load: &Load,
    pgbench: &Pgbench,
) -> anyhow::Result<Calls> {
    let each = TRANSACTIONS / load.clients;
    let (few, few_units) = trace(running, load, Until::Each(1), pgbench)?;
    let (many, many_units) = trace(running, load, Until::Each(1 + each), pgbench)?;
    let mut by_name: Vec<_> = many
        .into_iter()
        .map(|(name, count)| {
            let before = few.get(&name).copied().unwrap_or_default();
            (name, (count - before).max(0.0) / (many_units - few_units))
        })
        .collect();
    by_name.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let all = by_name.iter().map(|(_, count)| count).sum();
    Ok(Calls { contender: running.contender, workload, all, by_name })
}

/// Calls by name, and for how many units.
fn trace(
    running: &Running,
    load: &Load,
    until: Until,
    pgbench: &Pgbench,
) -> anyhow::Result<(BTreeMap<String, f64>, f64)> {
    let process = running.process.as_ref().context("nobody to trace")?;
    let trace = Trace::begin(process, &pgbench.folder.join("calls"))?;
    let outcome = pgbench.run(load, running.port, until, 1.0)?;
    Ok((trace.end()?, outcome.transactions * f64::from(load.script.queries())))
}

/// A process whose system calls are counted.
pub(crate) struct Trace {
    tracer: Process,
    summary: PathBuf,
}

impl Trace {
    /// Returns once every thread is traced; `summary` is a file for what strace says.
    pub(crate) fn begin(process: &Process, summary: &Path) -> anyhow::Result<Self> {
        Ok(Self { tracer: attach(process, summary)?, summary: summary.to_owned() })
    }

    /// Calls by name since it began.
    pub(crate) fn end(mut self) -> anyhow::Result<BTreeMap<String, f64>> {
        self.tracer.end_by(Signal::INT);
        let said = fs::read_to_string(&self.summary);
        let said = said.with_context(|| self.summary.display().to_string())?;
        read_summary(&said).with_context(|| format!("strace said:\n{said}"))
    }
}

fn attach(process: &Process, summary: &Path) -> anyhow::Result<Process> {
    let log = summary.with_extension("log");
    let mut command = account::command("strace", Account::Own)?;
    command.args(["-c", "-f", "-q", "-p", &process.pid().to_string(), "-o"]).arg(summary);
    let mut tracer = Process::start("strace", command, &log)?;
    let deadline = Instant::now() + ATTACHED_WITHIN;
    while !is_traced(process.pid())? {
        tracer.still_runs(&log)?;
        ensure!(Instant::now() < deadline, "strace is not attached within {ATTACHED_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(tracer)
}

fn is_traced(pid: u32) -> anyhow::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls by name, from the table that ends with the line of the total.
fn read_summary(said: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut counted = BTreeMap::new();
    for line in said.lines() {
        // % time, seconds, usecs/call, calls, errors where there are some, syscall
        let words: Vec<_> = line.split_whitespace().collect();
        let [share, _, _, calls, .., name] = words.as_slice() else { continue };
        if let (Ok(_), Ok(calls)) = (share.parse::<f64>(), calls.parse::<f64>())
            && *name != "total"
        {
            counted.insert((*name).to_owned(), calls);
        }
    }
    ensure!(!counted.is_empty(), "no call was counted");
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_strace_is_understood() {
        let said = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n \
                    60.00    0.060000          10      6000           sendto\n \
                    40.00    0.040000           8      5000       100 recvfrom\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.100000           9     11000       100 total\n";
        let counted = read_summary(said).expect("it is complete");
        let expected = [("recvfrom".to_owned(), 5000.0), ("sendto".to_owned(), 6000.0)];
        assert_eq!(counted, BTreeMap::from(expected));
        assert!(read_summary("strace: attach: Operation not permitted\n").is_err());
    }
}
