//! What it costs that everybody passes through a proxy: ours, its peers, and floors, side by side.
//!
//! Everything runs on loopback, in front of one PostgreSQL, in one run: rounds, in each of which
//! every contender does every workload, in an order that rotates. So a figure is a ratio to
//! `direct` of the same round, or the processor time of the proxy's own process: on a machine that
//! is shared, that is the one to trust.
//!
//! Read [`contenders`] and [`workloads`] first: who, and what. [`measure`] is one measurement,
//! [`results`] what all of them come to.

pub(crate) mod calls;
pub(crate) mod contenders;
mod crowd;
mod files;
mod goals;
pub(crate) mod idle;
mod machine;
mod measure;
mod pgbench;
mod plots;
mod postgres;
pub(crate) mod process;
mod results;
mod tables;
pub(crate) mod wire;
mod workloads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;

use crate::limits::raise_file_limit;
use crate::proxies::contenders::{Contender, Programs, Running, Stage};
use crate::proxies::files::Run;
use crate::proxies::machine::Machine;
use crate::proxies::pgbench::Pgbench;
use crate::proxies::postgres::Postgres;
use crate::proxies::results::{Results, Sample};
use crate::proxies::workloads::{Work, Workload};

/// Two for each connection of the largest crowd, and some.
const DESCRIPTORS: u64 = 20_000;

/// Descriptors of a proxy that are no connection's.
const SPARE: u64 = 100;

/// What `--quick` looks at.
const QUICK: [&str; 5] = ["select-1", "select-8", "select-32", "connect-8", "copy-out"];

/// Who stands for all in `--quick`.
const QUICK_FIELD: [&str; 7] = [
    "direct",
    "floor-epoll-1",
    "floor-uring-1",
    "haproxy-1",
    "pgbouncer-session",
    "dugong-session",
    "before-session",
];

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// A look of two minutes: the most telling workloads and contenders
    #[arg(long)]
    quick: bool,
    /// Only workloads (`calls`, `idle` and `failover` among them) whose names begin so; a list with commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Only contenders whose names begin so, and `direct`; a list with commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    contenders: Vec<String>,
    /// Our proxy, built already [default: builds the one of this checkout]
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
    /// Another one of ours to compare with, as the contenders `before-…`
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// A folder for the results [default: one of bench/results, when everything is measured]
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// How many times each is measured [default: 3; 2 with --quick]
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one measurement with pgbench takes, in seconds [default: 2; 1 with --quick]
    #[arg(long)]
    seconds: Option<u64>,
}

/// What can be chosen beside the workloads of the rounds.
const CALLS: &str = "calls";
const IDLE: &str = "idle";
const FAILOVER: &str = "failover";

/// Where system calls are counted.
const CALLS_OF: [&str; 2] = ["select-1", "select-32"];

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 3 }).max(1)
    }

    /// Whether something beside the rounds is asked for.
    fn counts(&self) -> bool {
        [CALLS, IDLE, FAILOVER].into_iter().any(|name| self.wants(name))
    }

    fn wants(&self, name: &str) -> bool {
        match (self.only.is_empty(), self.quick) {
            (true, quick) => !quick,
            (false, _) => self.only.iter().any(|word| name.starts_with(word)),
        }
    }

    /// Where the results are written; nowhere unless everything was measured, or it is said.
    fn into(&self, machine: &Machine) -> Option<PathBuf> {
        let everything = self.only.is_empty() && self.contenders.is_empty() && !self.quick;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let own = folder.join(format!("{}-{}", machine.date, machine.name));
        self.into.clone().or_else(|| everything.then_some(own))
    }

    fn workloads(&self) -> Vec<&'static Workload> {
        let quick = QUICK.map(str::to_owned);
        let wanted = match (self.only.is_empty(), self.quick) {
            (true, true) => &quick[..],
            _ => &self.only,
        };
        chosen(workloads::ALL.iter(), |workload| workload.name.to_owned(), wanted)
    }

    fn field(&self, ours: &Programs) -> Vec<Contender> {
        let quick = QUICK_FIELD.map(str::to_owned);
        let wanted = match (self.contenders.is_empty(), self.quick) {
            (true, true) => &quick[..],
            _ => &self.contenders,
        };
        let mut field = chosen(Contender::all(ours), Contender::to_string, wanted);
        if !field.contains(&Contender::Direct) {
            field.insert(0, Contender::Direct);
        }
        field
    }
}

/// Those whose names begin with one of the words; all of them without any word.
fn chosen<T>(
    all: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> String,
    words: &[String],
) -> Vec<T> {
    let wanted =
        |item: &T| words.is_empty() || words.iter().any(|word| name(item).starts_with(word));
    all.into_iter().filter(wanted).collect()
}

/// Measures, and reports.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let connections = raise_file_limit(DESCRIPTORS)?.saturating_sub(SPARE) / 2;
    let programs = Programs::find(options.proxy.as_deref(), options.before.as_deref())?;
    let (workloads, field) = (options.workloads(), options.field(&programs));
    ensure!(!workloads.is_empty() || options.counts(), "nothing begins with {:?}", options.only);
    let postgres = Postgres::start()?;
    let (folder, certificate) = (postgres.folder().to_owned(), postgres.certificate.clone());
    let stage = Stage { programs, folder, certificate, connections };
    let machine = Machine::look(&postgres, &stage);
    let start = |contender: &Contender| stage.start(*contender, postgres.port);
    let running = field.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let pgbench = Pgbench { bin: postgres.bin.clone(), folder: stage.folder.clone() };

    let mut results = Results::default();
    measure_rounds(options, &workloads, &running, &pgbench, &mut results)?;
    if options.wants(CALLS) {
        count_calls(&running, &pgbench, &mut results)?;
    }
    if options.wants(IDLE) {
        for contender in field.iter().copied().filter(|contender| idle::takes(*contender)) {
            eprintln!("idle connections of {contender}");
            let idle = results.or_failure(idle::measure(contender, &stage));
            results.idle.extend(idle.into_iter().flatten());
        }
    }
    if options.wants(FAILOVER) {
        let who = field.iter().copied().filter(|contender| contender.has_failovers());
        for contender in (0..options.rounds()).flat_map(|_| who.clone()) {
            eprintln!("a failover with a crowd: {contender}");
            let crowd = crowd::measure(contender, &stage).await;
            let crowd = results.or_failure(crowd);
            results.crowds.extend(crowd);
        }
    }
    let run = Run {
        machine: &machine,
        workloads: &workloads,
        field: &field,
        results: &results,
        how: how(),
    };
    println!("{}", run.tables());
    if let Some(folder) = options.into(&machine) {
        run.write(&folder)?;
        println!("written to {}", folder.display());
    }
    Ok(())
}

/// The command line, less the names of files, which mean nothing elsewhere.
fn how() -> String {
    let mut words = vec!["dugong-bench".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--into" => drop(arguments.next()),
            "--proxy" | "--before" => {
                drop(arguments.next());
                words.push(format!("{argument} FILE"));
            }
            _ => words.push(argument),
        }
    }
    words.join(" ")
}

fn measure_rounds(
    options: &Options,
    workloads: &[&'static Workload],
    running: &[Running],
    pgbench: &Pgbench,
    results: &mut Results,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let rounds = options.rounds();
    let seconds = options.seconds.unwrap_or(if options.quick { 1 } else { 2 });
    for round in 0..rounds {
        for workload in workloads {
            let (past, number) = (begun.elapsed().as_secs(), round + 1);
            eprint!("{past:>4} s  round {number} of {rounds}  {}", workload.name);
            for running in rotated(running, round, workload) {
                eprint!(".");
                let time = Duration::from_secs(seconds * workload.times());
                let measured = measure::measure(workload, running, pgbench, time);
                let Some(measured) = results.or_failure(measured) else { continue };
                let (workload, contender) = (workload.name, running.contender);
                results.samples.push(Sample { workload, contender, round, measured });
            }
            eprintln!();
        }
    }
    Ok(())
}

/// System calls of everybody at the workloads that the goals are about.
fn count_calls(
    running: &[Running],
    pgbench: &Pgbench,
    results: &mut Results,
) -> anyhow::Result<()> {
    for workload in workloads::ALL.iter().filter(|workload| CALLS_OF.contains(&workload.name)) {
        let Work::Pgbench(load) = workload.work else { continue };
        let traced = running.iter().filter(|running| running.process.is_some());
        for running in traced.filter(|running| workload.takes(running.contender)) {
            eprintln!("system calls of {}, {}", running.contender, workload.name);
            let counted = calls::count(running, workload.name, &load, pgbench);
            let counted = results.or_failure(counted);
            results.calls.extend(counted);
        }
    }
    Ok(())
}

/// Those that take part, each round beginning with another one.
fn rotated<'a>(
    running: &'a [Running],
    round: usize,
    workload: &Workload,
) -> impl Iterator<Item = &'a Running> {
    let mut taking: Vec<_> =
        running.iter().filter(|running| workload.takes(running.contender)).collect();
    let count = taking.len().max(1);
    taking.rotate_left((round * count.div_ceil(3)) % count);
    taking.into_iter()
}
