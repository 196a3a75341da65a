//! `modelcheck`: explores every interleaving of a small cluster.
//!
//! Read `cluster` (what may happen, what must hold), `world` (what a state is), `trouble` (what goes
//! wrong); `store`, `server`, `supervisor`, `replication` and `controller` are the parts.
//!
//! **Invariant:** the machine is the production one, to the line.
//!
//! Source: PROTOCOL.md, "How it is checked".
#![forbid(unsafe_code)]

mod cluster;
mod controller;
mod replication;
mod server;
mod store;
mod supervisor;
mod trouble;
mod world;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use dugong_simulator::Bug;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::cluster::{Cluster, Grain, Scope, Step};
use crate::world::World;

/// Explores every interleaving of a small cluster, with the production state machine
///
/// Faults strike at any moment, and last for any number of seconds. Ends with status 1 at a state
/// in which a promise does not hold, and tells how it was reached.
#[derive(Parser)]
#[command(name = "modelcheck")]
struct Arguments {
    /// How many instances
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=6))]
    instances: u8,
    /// At most so many faults
    #[arg(long, default_value_t = 1)]
    faults: u8,
    /// Seconds of the cluster's time that are explored
    #[arg(long, default_value_t = 8, value_name = "SECONDS")]
    span: u32,
    /// At most so many writes of clients at any moment, beside one in every second
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
    writes: u8,
    /// Whether every controller reads the store at its own time
    #[arg(long, value_enum, default_value_t = Grain::Coarse)]
    grain: Grain,
    /// Stop after so many minutes, with what was explored until then
    #[arg(long)]
    minutes: Option<u64>,
    /// With a known mistake, which has to be found: see `simulate --list-bugs`
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// The shallow states first: takes more memory, finds the shortest way to a violation
    #[arg(long)]
    breadth_first: bool,
    /// Worker threads
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, |count| count.get()))]
    threads: usize,
}

fn main() -> ExitCode {
    match explore(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell, if that fails.
            let _ = writeln!(io::stderr(), "modelcheck: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn explore(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let bug = arguments.bug.as_deref().map(|name| {
        Bug::named(name).with_context(|| {
            format!("no bug has the name {name:?}; `simulate --list-bugs` names them")
        })
    });
    let scope = Scope {
        size: usize::from(arguments.instances),
        faults: arguments.faults,
        span: arguments.span,
        writes: arguments.writes,
        grain: arguments.grain,
        bug: bug.transpose()?,
    };
    let cluster = Cluster::of(scope).map_err(|world| {
        anyhow::anyhow!("a cluster without faults does not become whole: {world:#?}")
    })?;
    let mut builder =
        cluster.checker().threads(arguments.threads).finish_when(HasDiscoveries::AnyFailures);
    if let Some(minutes) = arguments.minutes {
        builder = builder.timeout(Duration::from_secs(minutes * 60));
    }
    if arguments.breadth_first { watch(&builder.spawn_bfs()) } else { watch(&builder.spawn_dfs()) }
}

/// Shows how far it is, then how it ended.
fn watch(checker: &impl Checker<Cluster>) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut told = begun;
    while !checker.is_done() {
        thread::sleep(Duration::from_millis(20));
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            progress(checker, begun)?;
        }
    }
    progress(checker, begun)?;
    let mut out = io::stdout();
    let mut broken = false;
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        let found = discoveries.get(property.name);
        match (property.expectation, found) {
            (Expectation::Always, Some(path)) => {
                broken = true;
                writeln!(out, "VIOLATION: not so: {}", property.name)?;
                tell(&mut out, path)?;
            }
            (Expectation::Sometimes, None) => {
                broken = true;
                writeln!(out, "VIOLATION: never: {}", property.name)?;
            }
            (Expectation::Always, None) => writeln!(out, "always: {}", property.name)?,
            (Expectation::Sometimes | Expectation::Eventually, _) => {
                writeln!(out, "sometimes: {}", property.name)?;
            }
        }
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn progress(checker: &impl Checker<Cluster>, begun: Instant) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{} states, {} of them different, at most {} steps deep, in {} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs()
    )
}

/// The way to a state.
fn tell(out: &mut impl io::Write, path: &Path<World, Step>) -> io::Result<()> {
    for (world, step) in path.clone().into_vec() {
        let record = world.store.record().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "  {:>3}s  {record}", world.now)?;
        if let Some(step) = step {
            writeln!(out, "        {step}")?;
        }
    }
    Ok(())
}
