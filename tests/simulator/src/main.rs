//! `simulate`: the command line of the simulator.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use dugong_simulator::{
    BUGS, Bug, Campaign, Fault, Known, Report, Scenario, Story, Totals, Violation, run, shrunk,
};

/// Runs whole clusters in virtual time, with faults drawn from a seed, and checks that no
/// acknowledged write is lost, that there is one writer, that reads are fresh, and that the cluster
/// heals itself.
///
/// Ends with status 1 at the first broken promise, and prints the seed that shows it and the
/// smallest scenario that could be found. The same seed always tells the same story.
#[derive(Parser)]
#[command(name = "simulate", version)]
struct Options {
    /// How many runs, from the first seed on
    #[arg(long, default_value_t = 1_000, conflicts_with = "seed")]
    runs: u64,
    /// The first seed; every run takes the next one
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first_seed: u64,
    /// One run, with this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Tell the story of the run, event by event
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Make this mistake on purpose: see --list-bugs
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// List the mistakes that can be made on purpose, and the rules that they break
    #[arg(long)]
    list_bugs: bool,
    /// Make every mistake in turn: how many runs does it take to find it? Ends with status 1 if one
    /// is not found within --runs
    #[arg(long, conflicts_with_all = ["seed", "bug"])]
    prove: bool,
    /// How many runs at once [default: one on each core]
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("simulate: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn simulate(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if options.list_bugs {
        for Known { name, rule, what, .. } in BUGS {
            writeln!(out, "{name:<22} {rule:<7} {what}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let threads = options.threads.map_or_else(cores, usize::from);
    if options.prove {
        return prove(&mut out, options, threads);
    }
    let bug = match &options.bug {
        None => None,
        Some(name) => Some(Bug::named(name).with_context(|| {
            format!("no bug has the name {name:?}; `simulate --list-bugs` names them")
        })?),
    };
    if let Some(seed) = options.seed {
        return one_run(&mut out, seed, bug, options.trace);
    }
    if options.runs == 0 {
        bail!("--runs 0 would run nothing");
    }
    let campaign = Campaign { first_seed: options.first_seed, runs: options.runs, bug, threads };
    let begun = Instant::now();
    let progress = Progress::new(options.runs);
    let report = campaign.go(|totals| progress.show(totals));
    progress.end();
    write!(out, "{}", summary(&report.totals, begun.elapsed()))?;
    let Report { failed: Some((seed, violation)), .. } = report else {
        writeln!(out, "no violation")?;
        return Ok(ExitCode::SUCCESS);
    };
    tell_failure(&mut out, seed, bug, &violation)?;
    Ok(ExitCode::FAILURE)
}

/// The proof that the checks can fail.
fn prove(out: &mut impl Write, options: &Options, threads: usize) -> anyhow::Result<ExitCode> {
    let mut missed = 0;
    for Known { bug, name, rule, .. } in BUGS {
        let campaign = Campaign {
            first_seed: options.first_seed,
            runs: options.runs,
            bug: Some(*bug),
            threads,
        };
        let report = campaign.go(|_| ());
        match report.failed {
            Some((seed, violation)) => {
                let runs = seed - options.first_seed + 1;
                writeln!(out, "{name:<22} {rule:<7} found after {runs:>6} runs: {violation}")?;
            }
            None => {
                missed += 1;
                writeln!(out, "{name:<22} {rule:<7} NOT found in {} runs", options.runs)?;
            }
        }
    }
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn one_run(
    out: &mut impl Write,
    seed: u64,
    bug: Option<Bug>,
    trace: bool,
) -> anyhow::Result<ExitCode> {
    let story = if trace { Story::Kept } else { Story::Untold };
    let outcome = run(&Scenario::draw(seed), bug, story);
    for line in &outcome.story {
        writeln!(out, "{line}")?;
    }
    let Some(violation) = outcome.violation else {
        let counts = &outcome.counts;
        writeln!(
            out,
            "seed {seed}: no violation; {} writes acknowledged, {} reads, {} generations, \
             writable {:?} after the last fault",
            counts.acknowledged, counts.reads, counts.generations, counts.writable_after
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    if trace {
        writeln!(out, "seed {seed}: {violation}")?;
    } else {
        tell_failure(out, seed, bug, &violation)?;
    }
    Ok(ExitCode::FAILURE)
}

fn tell_failure(
    out: &mut impl Write,
    seed: u64,
    bug: Option<Bug>,
    violation: &Violation,
) -> anyhow::Result<()> {
    writeln!(out, "VIOLATION in the run of seed {seed}: {violation}")?;
    let small = shrunk(&Scenario::draw(seed), bug);
    writeln!(out, "the smallest scenario that was found, of {} instances:", small.size)?;
    for (at, fault) in &small.faults {
        writeln!(out, "  {at}  {fault}")?;
    }
    writeln!(out, "its story:")?;
    for line in run(&small, bug, Story::Kept).story {
        writeln!(out, "  {line}")?;
    }
    let bug = bug.map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
    writeln!(out, "replay: simulate --seed {seed} --trace{bug}")?;
    Ok(())
}

fn summary(totals: &Totals, took: Duration) -> String {
    let hours = totals.simulated.as_secs_f64() / 3_600.0;
    let kinds = totals.faults.iter().enumerate().filter(|(_, count)| **count > 0);
    let names = Fault::names();
    let faults: Vec<String> =
        kinds.map(|(kind, count)| format!("{} {count}", names[kind])).collect();
    format!(
        "{} runs in {:.0?}, {hours:.1} simulated hours, {} steps of the machine\n\
         {} generations, {} takeovers, {} switchovers, {} writes acknowledged ({} of unknown fate), {} reads\n\
         longest time to writable after the last fault {:?} (seed {})\n\
         faults: {}\n",
        totals.runs,
        took,
        totals.steps,
        totals.generations,
        totals.takeovers,
        totals.switchovers,
        totals.acknowledged,
        totals.unknown,
        totals.reads,
        totals.slowest.0,
        totals.slowest.1,
        faults.join(", "),
    )
}

/// A line that is written over and over on a terminal, and every half a minute elsewhere.
struct Progress {
    runs: u64,
    begun: Instant,
    shown: Mutex<Instant>,
}

impl Progress {
    fn new(runs: u64) -> Self {
        let now = Instant::now();
        Self { runs, begun: now, shown: Mutex::new(now) }
    }

    fn show(&self, totals: &Totals) {
        let every =
            Duration::from_millis(if std::io::stderr().is_terminal() { 200 } else { 30_000 });
        let Ok(mut shown) = self.shown.try_lock() else { return };
        if shown.elapsed() < every {
            return;
        }
        *shown = Instant::now();
        let left = self.begun.elapsed().as_secs_f64() / totals.runs as f64
            * (self.runs - totals.runs) as f64;
        let line = format!(
            "{} of {} runs, {} takeovers, no violation; about {left:.0} s left",
            totals.runs, self.runs, totals.takeovers
        );
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}"); // Nobody reads it: no harm.
        } else {
            say(&line);
        }
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K"); // Nobody reads it: no harm.
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // Nobody reads it: no harm.
}
