//! One run of pgbench: what it does, and what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::account::{self, Account};

/// Transactions whose latency is written down in one run; more are drawn from.
const SAMPLES: f64 = 20_000.0;

/// What pgbench does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) script: Script,
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    pub(crate) connections: Connections,
    pub(crate) encryption: Encryption,
}

/// Whether clients want TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    None,
    Tls,
}

/// What a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// One row by its key.
    Select,
    /// Seven statements that write.
    TpcbLike,
    /// Ten of `Select`, sent before the first answer is read.
    Pipeline,
    /// A hundred rows of 500 bytes.
    Wide,
}

impl Script {
    /// What a transaction counts for.
    pub(crate) fn queries(self) -> u32 {
        match self {
            Self::Select | Self::TpcbLike | Self::Wide => 1,
            Self::Pipeline => PIPELINED,
        }
    }
}

/// Statements of a pipeline.
const PIPELINED: u32 = 10;

const WIDE: &str = "select repeat('x', 500) from generate_series(1, 100);\n";

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// How long a connection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    Kept,
    OnePerTransaction,
}

/// When it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Time(Duration),
    /// When each client has done so many transactions; no latencies are written down.
    Each(u32),
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) transactions: f64,
    /// Transactions per second, connecting not counted unless each connects.
    pub(crate) rate: f64,
    /// Latencies of transactions in microseconds, in order of size; all, or drawn at random.
    pub(crate) latencies: Vec<u32>,
}

/// Where pgbench finds what it needs.
pub(crate) struct Pgbench {
    pub(crate) bin: PathBuf,
    /// For its logs and scripts.
    pub(crate) folder: PathBuf,
}

impl Pgbench {
    /// Runs it at `port`. `expected_rate` only says how many latencies are drawn.
    pub(crate) fn run(
        &self,
        load: &Load,
        port: u16,
        until: Until,
        expected_rate: f64,
    ) -> anyhow::Result<Outcome> {
        let prefix = self.folder.join("latency");
        let mut command = account::command(self.bin.join("pgbench"), Account::Own)?;
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-n"]);
        command.args(["-M", load.protocol.name(), "-c", &load.clients.to_string(), "-j", "1"]);
        match until {
            Until::Time(time) => {
                command.args(["-T", &time.as_secs().max(1).to_string()]);
                command.args(["--log", "--log-prefix"]).arg(&prefix);
                let share = SAMPLES / (expected_rate * time.as_secs_f64()).max(1.0);
                if share < 1.0 {
                    command.arg(format!("--sampling-rate={share:.4}"));
                }
            }
            Until::Each(transactions) => {
                command.args(["-t", &transactions.to_string()]);
            }
        }
        match load.script {
            Script::Select => command.arg("-S"),
            Script::TpcbLike => command.args(["-b", "tpcb-like"]),
            Script::Pipeline => command.arg("-f").arg(self.script(&pipeline())?),
            Script::Wide => command.arg("-f").arg(self.script(WIDE)?),
        };
        match load.connections {
            Connections::Kept => (),
            Connections::OnePerTransaction => {
                command.arg("-C");
            }
        }
        let mode = match load.encryption {
            Encryption::None => "disable",
            Encryption::Tls => "require",
        };
        command.arg("postgres").env("PGSSLMODE", mode).env("PGGSSENCMODE", "disable");
        let output = command.stdin(Stdio::null()).output().context("pgbench cannot be started")?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench: {}: {}", output.status, words.trim());
        let said = String::from_utf8_lossy(&output.stdout);
        let latencies = take_latencies(&prefix)?;
        read_outcome(&said, latencies).with_context(|| format!("pgbench said:\n{said}"))
    }

    fn script(&self, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.folder.join("script.sql");
        fs::write(&file, text)?;
        Ok(file)
    }
}

fn read_outcome(said: &str, latencies: Vec<u32>) -> anyhow::Result<Outcome> {
    let number = |before: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(before));
        let word = rest.and_then(|rest| rest.split([' ', '/']).next());
        word.and_then(|word| word.parse::<f64>().ok()).with_context(|| format!("no '{before}'"))
    };
    let transactions = number("number of transactions actually processed: ")?;
    Ok(Outcome { transactions, rate: number("tps = ")?, latencies })
}

/// Reads the logs, which are named by the prefix and pgbench's pid, and removes them.
fn take_latencies(prefix: &Path) -> anyhow::Result<Vec<u32>> {
    let folder = prefix.parent().context("a prefix is in a folder")?;
    let mut start = prefix.file_name().context("a prefix has a name")?.to_os_string();
    start.push(".");
    let mut latencies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&*start.to_string_lossy()) {
            // client, transaction, latency in microseconds, script, seconds, microseconds
            let content = fs::read_to_string(&path)?;
            let words = content.lines().filter_map(|line| line.split(' ').nth(2));
            latencies.extend(words.filter_map(|word| word.parse::<u32>().ok()));
            fs::remove_file(&path)?;
        }
    }
    latencies.sort_unstable();
    Ok(latencies)
}

fn pipeline() -> String {
    let select = "select abalance from pgbench_accounts where aid = :aid;\n";
    let selects = select.repeat(PIPELINED as usize);
    format!("\\set aid random(1, 100000)\n\\startpipeline\n{selects}\\endpipeline\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let said = "transaction type: <builtin: select only>\n\
                    number of transactions actually processed: 1204/1300\n\
                    tps = 602.25 (without initial connection time)\n";
        let outcome = read_outcome(said, vec![1, 2]).expect("it is complete");
        assert_eq!((outcome.transactions, outcome.rate), (1204.0, 602.25));
        assert!(read_outcome("pgbench (15.1)\n", Vec::new()).is_err());
    }
}
