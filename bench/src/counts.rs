//! What the proxy needs for one query, counted and not timed: system calls and instructions.
//!
//! A time says nothing on a machine that is shared, and a test that asserts one fails by itself
//! sooner or later. Counts of the same work are nearly the same everywhere, so a change that makes
//! the hot path longer is seen when it is made. They are compared with those in `counts.json`, each
//! within [`Kind::most`]; `--record` writes that file anew.
//!
//! Behind the proxy stands a server that only greets ([`crate::answer`]), before it one thread
//! that asks and waits: nothing depends on how fast anybody is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use dugong_tests::free_port;
use rustix::process::Signal;

use crate::account::{self, Account};
use crate::proxies::calls::Trace;
use crate::proxies::contenders::{Program, arguments};
use crate::proxies::idle::Greeter;
use crate::proxies::process::Process;
use crate::proxies::wire::{self, Client};
use crate::relay::Engine;

/// What is looked at.
#[derive(Args)]
pub(crate) struct Options {
    /// Our proxy, built already [default: builds the one of this checkout]
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
    /// Write down what is counted, instead of comparing with it
    #[arg(long)]
    record: bool,
}

/// What a count is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Calls,
    Instructions,
}

impl Kind {
    /// The most that is let pass.
    ///
    /// A quarter of a call: one more for each message is more than that, while which clients of a
    /// crowd come together is less. Instructions differ by a tenth from one compiler to the next,
    /// and by a fifth from run to run on a machine that is busy.
    fn most(self, recorded: f64) -> f64 {
        match self {
            Self::Calls => recorded + 0.25,
            Self::Instructions => recorded * 1.3,
        }
    }
}

/// One thing that was counted.
struct Count {
    name: String,
    kind: Kind,
    found: f64,
}

/// Turns that are counted, each of one query by each client.
const TURNS: usize = 400;

/// Clients of a crowd, who ask together and then read their answers.
const CROWD: usize = 32;

/// Rows of an answer with many small messages.
const ROWS: usize = 2_000;

/// Queries of the longer of two runs whose difference is taken: so many that starting and ending,
/// which differ by two million instructions, are next to nothing.
const QUERIES: usize = 20_000;

/// Answers of [`ROWS`] rows, for the same reason.
const ANSWERS: usize = 300;

/// How often it is counted before it is believed: what the proxy does beside is only ever added.
const ATTEMPTS: usize = 3;

/// Counts, and compares or records.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let program = Program::find(options.proxy.as_deref())?;
    let folder = account::folder("bench-counts-")?;
    let greeter = Greeter::start(folder.path())?;
    let counter = Counter { program, server: greeter.port, folder: folder.path() };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.json");
    let mut counts = counter.all()?;
    if options.record {
        return record(&file, &counts);
    }
    let recorded = read(&file)?;
    for _ in 1..ATTEMPTS {
        if more(&recorded, &counts)?.is_empty() {
            break;
        }
        println!("more than recorded: counted again, and the least of each is taken");
        for (count, again) in counts.iter_mut().zip(counter.all()?) {
            count.found = count.found.min(again.found);
        }
    }
    compare(&recorded, &counts)
}

struct Counter<'a> {
    program: Program,
    server: u16,
    folder: &'a Path,
}

impl Counter<'_> {
    fn all(&self) -> anyhow::Result<Vec<Count>> {
        let mut counts = Vec::new();
        for engine in [Engine::Epoll, Engine::Uring] {
            if engine == Engine::Uring && !crate::relay::uring_is_there() {
                println!("io_uring is not there, or not allowed: nothing is counted of it");
                continue;
            }
            self.calls(engine, &mut counts)?;
        }
        self.instructions(&mut counts)?;
        Ok(counts)
    }

    fn calls(&self, engine: Engine, counts: &mut Vec<Count>) -> anyhow::Result<()> {
        let (port, log) = (free_port(), self.folder.join("proxy.log"));
        let mut command = account::command(&self.program.path, Account::Own)?;
        command.args(arguments(&self.program, engine, port, self.server));
        let mut process = Process::start("dugong-proxy", command, &log)?;
        wire::until_it_answers(port, || process.still_runs(&log))?;
        for (clients, who) in [(1, "one client"), (CROWD, "a crowd of 32")] {
            let mut crowd = Crowd::connect(port, clients)?;
            let trace = Trace::begin(&process, &self.folder.join("calls"))?;
            crowd.ask(TURNS).with_context(|| format!("{} and {who}", engine.name()))?;
            let calls: f64 = trace.end()?.values().sum();
            let name = format!("system calls of a query, {}, {who}", engine.name());
            let found = calls / per(TURNS * clients);
            counts.push(Count { name, kind: Kind::Calls, found });
        }
        Ok(())
    }

    /// By epoll: valgrind does not know io_uring.
    fn instructions(&self, counts: &mut Vec<Count>) -> anyhow::Result<()> {
        let few = self.instructions_of(|client| repeat(client, "select 1", 10))?;
        let many = self.instructions_of(|client| repeat(client, "select 1", 10 + QUERIES))?;
        let name = "instructions of a query, epoll".to_owned();
        let found = (many - few) / per(QUERIES);
        counts.push(Count { name, kind: Kind::Instructions, found });

        let rows = format!("rows {ROWS}");
        let many = self.instructions_of(|client| {
            repeat(client, "select 1", 10)?;
            repeat(client, &rows, ANSWERS)
        })?;
        let name = "instructions of a row of 100 bytes, epoll".to_owned();
        let found = (many - few) / per(ANSWERS * ROWS);
        counts.push(Count { name, kind: Kind::Instructions, found });
        Ok(())
    }

    /// From start to end of a proxy that serves one client, in user space.
    fn instructions_of(
        &self,
        work: impl FnOnce(&mut Client) -> std::io::Result<()>,
    ) -> anyhow::Result<f64> {
        let (port, log) = (free_port(), self.folder.join("valgrind.log"));
        let counted = self.folder.join("cachegrind.out");
        let mut command = account::command("valgrind", Account::Own)?;
        let out = format!("--cachegrind-out-file={}", counted.display());
        // Callgrind, which would say more, loses its way among signals (3.19).
        command.args(["--tool=cachegrind", "--cache-sim=no", &out]);
        command.arg(&self.program.path);
        command.args(arguments(&self.program, Engine::Epoll, port, self.server));
        let mut process = Process::start("valgrind", command, &log)?;
        wire::until_it_answers(port, || process.still_runs(&log))?;
        let mut client = Client::connect(port).context("under valgrind")?;
        work(&mut client).context("under valgrind")?;
        drop(client);
        process.end_by(Signal::TERM);
        let said = fs::read_to_string(&counted).context("valgrind wrote nothing")?;
        fs::remove_file(&counted)?;
        read_instructions(&said)
    }
}

/// The line of the total: `summary: 123456`.
fn read_instructions(said: &str) -> anyhow::Result<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("summary:"));
    line.context("valgrind wrote no total")?.trim().parse().context("the total is no number")
}

fn repeat(client: &mut Client, sql: &str, times: usize) -> std::io::Result<()> {
    for _ in 0..times {
        client.query(sql)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn per(count: usize) -> f64 {
    count as f64
}

/// Clients that ask together.
struct Crowd(Vec<Client>);

impl Crowd {
    fn connect(port: u16, clients: usize) -> anyhow::Result<Self> {
        let mut crowd =
            Self((0..clients).map(|_| Client::connect(port)).collect::<Result<_, _>>()?);
        crowd.ask(1)?;
        Ok(crowd)
    }

    fn ask(&mut self, turns: usize) -> std::io::Result<()> {
        for _ in 0..turns {
            for client in &mut self.0 {
                client.send(b'Q', b"select 1\0")?;
            }
            for client in &mut self.0 {
                client.until_ready()?;
            }
        }
        Ok(())
    }
}

fn record(file: &Path, counts: &[Count]) -> anyhow::Result<()> {
    let found: BTreeMap<_, _> =
        counts.iter().map(|count| (&count.name, (count.found * 100.0).round() / 100.0)).collect();
    fs::write(file, serde_json::to_string_pretty(&found)? + "\n")
        .with_context(|| file.display().to_string())?;
    println!("recorded in {}:\n{found:#?}", file.display());
    Ok(())
}

/// What is recorded, by name.
type Recorded = BTreeMap<String, f64>;

fn read(file: &Path) -> anyhow::Result<Recorded> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("{} is not there: {ANEW}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not understood: {ANEW}", file.display()))
}

/// What is more than is let pass, in words.
fn more(recorded: &Recorded, counts: &[Count]) -> anyhow::Result<Vec<String>> {
    let mut more = Vec::new();
    for Count { name, kind, found } in counts {
        let Some(before) = recorded.get(name) else { bail!("'{name}' is not recorded: {ANEW}") };
        let most = kind.most(*before);
        if *found > most {
            more.push(format!("{name}: {found:.2}, recorded {before:.2}, at most {most:.2}"));
        }
    }
    Ok(more)
}

fn compare(recorded: &Recorded, counts: &[Count]) -> anyhow::Result<()> {
    for Count { name, kind, found } in counts {
        let before = recorded.get(name).copied().unwrap_or_default();
        let most = kind.most(before);
        println!("{name}: {found:.2}, recorded {before:.2}, at most {most:.2}");
    }
    let more = more(recorded, counts)?;
    ensure!(
        more.is_empty(),
        "the hot path has become longer:\n  {}\nIf that has a reason that is worth it, {ANEW}",
        more.join("\n  ")
    );
    Ok(())
}

/// What to do about it.
const ANEW: &str = "record it: cargo run --release -p dugong-bench -- counts --record, \
                    and commit bench/counts.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_more_is_seen_and_a_wobble_is_not() {
        let recorded = BTreeMap::from([("calls".to_owned(), 2.0), ("work".to_owned(), 100.0)]);
        #[rustfmt::skip]
        let cases = [
            ("the same",             2.0,  100.0, 0),
            ("less",                 1.0,   10.0, 0),
            ("a wobble",             2.2,  125.0, 0),
            ("a call a query more",  3.0,  100.0, 1),
            ("both",                 3.0,  200.0, 2),
        ];
        for (what, calls, work, expected) in cases {
            let count = |name: &str, kind, found| Count { name: name.to_owned(), kind, found };
            let counts =
                [count("calls", Kind::Calls, calls), count("work", Kind::Instructions, work)];
            let more = more(&recorded, &counts).expect("all are recorded");
            assert_eq!(more.len(), expected, "{what}: {more:?}");
        }
        let unknown = Count { name: "else".to_owned(), kind: Kind::Calls, found: 0.0 };
        assert!(more(&recorded, &[unknown]).is_err(), "what is not recorded does not pass");
    }
}
