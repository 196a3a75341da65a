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
mod proof;
mod replication;
mod server;
mod store;
mod supervisor;
mod trouble;
mod world;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use dugong_simulator::Bug;
use stateright::{Checker, CheckerBuilder, Expectation, HasDiscoveries, Model, Path};

use crate::cluster::{Cluster, Grain, Scope, Step};
use crate::proof::PROOFS;
use crate::trouble::Fault;
use crate::world::World;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// What takes time of its own, between a controller and the store
    #[arg(long, value_enum, default_value_t = Grain::Coarse)]
    grain: Grain,
    /// Stop after so many minutes, with what was explored until then
    #[arg(long)]
    minutes: Option<u64>,
    /// Only these faults, each in the words of `--list-faults`
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,
    /// The first fault is one of these
    #[arg(long, value_name = "FAULT")]
    first: Vec<String>,
    /// One exploration for each first fault: takes less memory, and `--first` goes on with the rest
    #[arg(long)]
    one_by_one: bool,
    /// Every fault there is
    #[arg(long)]
    list_faults: bool,
    /// With known mistakes, which have to be found: see `simulate --list-bugs`
    #[arg(long, value_name = "NAME")]
    bug: Vec<String>,
    /// Make known mistakes, one after the other, and see that each is found
    #[arg(long)]
    prove: bool,
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
    let size = usize::from(arguments.instances);
    if arguments.list_faults {
        for fault in Fault::all(size) {
            writeln!(io::stdout(), "{fault}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.prove {
        return prove(arguments.threads);
    }
    let bug = |name: &String| {
        Bug::named(name).with_context(|| {
            format!("no bug has the name {name:?}; `simulate --list-bugs` names them")
        })
    };
    let only = |words: &String| {
        Fault::all(size).into_iter().find(|fault| fault.to_string() == *words).with_context(|| {
            format!("there is no fault {words:?}; `modelcheck --list-faults` names them")
        })
    };
    let or = |chosen: &[String], all: Vec<Fault>| {
        let named = chosen.iter().map(only).collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok(if named.is_empty() { all } else { named })
    };
    let kinds = or(&arguments.only, Fault::all(size))?;
    let first = or(&arguments.first, kinds.clone())?;
    let scope = Scope {
        size,
        faults: arguments.faults,
        span: arguments.span,
        writes: arguments.writes,
        grain: arguments.grain,
        kinds,
        first,
        bugs: arguments.bug.iter().map(bug).collect::<anyhow::Result<_>>()?,
    };
    if !arguments.one_by_one {
        return Ok(explore_scope(scope, arguments)?.0);
    }
    let mut all = Explored::default();
    for (done, fault) in scope.first.iter().enumerate() {
        writeln!(io::stdout(), "{} of {}: first {fault}", done + 1, scope.first.len())?;
        let part = Scope { first: vec![*fault], ..scope.clone() };
        let (code, explored) = explore_scope(part, arguments)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        all = all.and(explored);
    }
    writeln!(io::stdout(), "all of them: {all}")?;
    Ok(ExitCode::SUCCESS)
}

/// How much was explored.
#[derive(Clone, Copy, Default)]
struct Explored {
    states: usize,
    different: usize,
    deepest: usize,
    time: Duration,
}

impl Explored {
    fn by(checker: &impl Checker<Cluster>, begun: Instant) -> Self {
        Self {
            states: checker.state_count(),
            different: checker.unique_state_count(),
            deepest: checker.max_depth(),
            time: begun.elapsed(),
        }
    }

    /// Two explorations, neither of which knows the other's states.
    fn and(self, other: Self) -> Self {
        Self {
            states: self.states + other.states,
            different: self.different + other.different,
            deepest: self.deepest.max(other.deepest),
            time: self.time + other.time,
        }
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, different, deepest, time } = self;
        let seconds = time.as_secs();
        write!(
            f,
            "{states} states, {different} of them different, at most {deepest} steps deep, in \
             {seconds} s"
        )
    }
}

fn explore_scope(scope: Scope, arguments: &Arguments) -> anyhow::Result<(ExitCode, Explored)> {
    let mut builder = checker_of(scope, arguments.threads)?;
    if let Some(minutes) = arguments.minutes {
        builder = builder.timeout(Duration::from_secs(minutes * 60));
    }
    if arguments.breadth_first { watch(&builder.spawn_bfs()) } else { watch(&builder.spawn_dfs()) }
}

/// Explores from the whole cluster on, until something is wrong.
fn checker_of(scope: Scope, threads: usize) -> anyhow::Result<CheckerBuilder<Cluster>> {
    let cluster = Cluster::of(scope).map_err(|world| {
        anyhow::anyhow!("a cluster without faults does not become whole: {world:#?}")
    })?;
    Ok(cluster.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures))
}

/// Makes each known mistake; status 1 if one is not found.
fn prove(threads: usize) -> anyhow::Result<ExitCode> {
    let mut missed = false;
    for proof in PROOFS {
        let checker = checker_of(proof.scope(), threads)?.spawn_bfs().join();
        let found = checker.discoveries();
        let broken = checker.model().properties().into_iter().find(|of| {
            matches!(of.expectation, Expectation::Always) && found.contains_key(of.name)
        });
        let name = proof.bugs.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(" with ");
        let states = checker.unique_state_count();
        let mut out = io::stdout();
        match broken {
            Some(promise) => {
                writeln!(out, "{name}: found in {states} states: not so: {}", promise.name)?;
            }
            None => {
                missed = true;
                writeln!(out, "{name}: NOT FOUND in {states} states")?;
            }
        }
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows how far it is, then how it ended.
fn watch(checker: &impl Checker<Cluster>) -> anyhow::Result<(ExitCode, Explored)> {
    let begun = Instant::now();
    let mut told = begun;
    while !checker.is_done() {
        thread::sleep(Duration::from_millis(20));
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            writeln!(io::stdout(), "{}", Explored::by(checker, begun))?;
        }
    }
    let explored = Explored::by(checker, begun);
    let mut out = io::stdout();
    writeln!(out, "{explored}")?;
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
                // One fault alone may well come to nothing.
                broken |= checker.model().has_every_fault();
                writeln!(out, "never: {}", property.name)?;
            }
            (Expectation::Always, None) => writeln!(out, "always: {}", property.name)?,
            (Expectation::Sometimes | Expectation::Eventually, _) => {
                writeln!(out, "sometimes: {}", property.name)?;
            }
        }
    }
    Ok((if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }, explored))
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
