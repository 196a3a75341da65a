//! `lab`: runs the partition laboratory.
//!
//! Exit status: 0 where every promise was held, 1 where one was broken or the laboratory failed, 3
//! where there can be no laboratory on this machine (`skipped 1`).
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, Subcommand};
use dugong_lab::measure::{self, What};
use dugong_lab::papers::Wire;
use dugong_lab::partition::{self, Options};
use dugong_lab::plan::{Plan, Programs, StorePlace, reachable};
use dugong_lab::say::Voice;
use dugong_lab::trial::Trial;
use dugong_lab::{logs, namespace};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// The exit status of a laboratory that cannot be made here.
const SKIPPED: u8 = 3;

/// Clusters on hosts of their own, in network namespaces, and what breaks between them.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the laboratory's files are made; kept where something went wrong.
    #[arg(long, global = true, default_value = "/tmp")]
    dir: PathBuf,
    /// Keep the files in any case.
    #[arg(long, global = true)]
    keep: bool,
    /// Proxies, each on a host of its own.
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    proxies: u8,
    /// Instances.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    machines: u8,
    /// What is encrypted between hosts, and verified
    #[arg(long, global = true, value_enum, default_value_t = Wire::Mixed)]
    wire: Wire,
    /// Where the store is.
    #[arg(long, global = true, value_enum)]
    store: Option<StorePlace>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws faults from a seed for a given time while checkers run
    Partition {
        #[arg(long, default_value_t = 180)]
        seconds: u64,
        /// Default: any, and printed.
        #[arg(long)]
        seed: Option<u64>,
        /// The longest from the last heal to an acknowledged write.
        #[arg(long, default_value_t = 60)]
        recover_within: u64,
        #[arg(long, default_value_t = 4)]
        writers: usize,
        /// Let commits wait for nobody, so that the checkers have something to find.
        #[arg(long)]
        sabotage: bool,
    },
    /// Measures how long one fault is felt
    Measure {
        #[arg(value_enum)]
        what: What,
        #[arg(long, default_value_t = 1)]
        times: usize,
        /// How long the fault lasts. Default: 15 s, or 60 s for what should not be felt at all.
        #[arg(long)]
        seconds: Option<u64>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let voice = Voice::new();
    if let Err(why) = namespace::able() {
        voice.say(format!("skipped 1: {why}"));
        return ExitCode::from(SKIPPED);
    }
    let ran = tokio::select! {
        ran = run(&arguments, voice) => ran,
        // What is dropped here removes every host with everything on it.
        signal = told_to_end() => Err(anyhow::anyhow!("ended by {signal}")),
    };
    match ran {
        Ok(Outcome::Held) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::FAILURE,
        Err(error) => {
            voice.say(format!("the laboratory failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether every promise was held.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Held,
    Broken,
}

async fn run(arguments: &Arguments, voice: Voice) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new()
        .prefix("dugong-lab-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(&arguments.dir)
        .with_context(|| arguments.dir.display().to_string())?;
    let mut files = Files { folder: Some(folder), keep: arguments.keep, voice };
    let programs = programs(files.path())?;
    let place = match &arguments.command {
        Command::Partition { .. } => StorePlace::Beside,
        Command::Measure { what, .. } => what.place(),
    };
    let plan = Plan {
        machines: arguments.machines.into(),
        store: arguments.store.unwrap_or(place),
        proxies: arguments.proxies.into(),
        wire: arguments.wire,
    };
    let outcome = act(&arguments.command, plan, &programs, files.path(), voice).await;
    match &outcome {
        Ok(Outcome::Held) => {}
        Ok(Outcome::Broken) | Err(_) => {
            files.keep = true;
            logs::show_ends(files.path(), voice);
        }
    }
    outcome
}

async fn act(
    command: &Command,
    plan: Plan,
    programs: &Programs,
    root: &Path,
    voice: Voice,
) -> anyhow::Result<Outcome> {
    match command {
        Command::Partition { seconds, seed, recover_within, writers, sabotage } => {
            let options = Options {
                seed: seed.unwrap_or_else(any_seed),
                time: Duration::from_secs(*seconds),
                writers: *writers,
                recover_within: Duration::from_secs(*recover_within),
            };
            voice.say(format!("seed {}, {seconds} s, {plan:?}", options.seed));
            let mut trial = Trial::begin(plan, programs, root).await?;
            voice.say(format!("whole: {}", trial.status()));
            if *sabotage {
                trial.sabotage().await?;
                voice.say("sabotaged: commits wait for nobody");
            }
            let summary = partition::run(&mut trial, options, voice).await?;
            for oddity in trial.cluster.oddities() {
                voice.say(format!("ended by itself: {oddity}"));
            }
            for broken in &summary.broken {
                voice.say(format!("BROKEN: {broken}"));
            }
            voice.say(summary.to_string());
            Ok(if summary.held() { Outcome::Held } else { Outcome::Broken })
        }
        Command::Measure { what, times, seconds } => {
            let mut trial = Trial::begin(plan, programs, root).await?;
            voice.say(format!("whole: {}", trial.status()));
            let lasts = seconds.map_or_else(|| what.lasts(), Duration::from_secs);
            measure::run(&mut trial, *what, *times, lasts, voice).await?;
            Ok(Outcome::Held)
        }
    }
}

/// The files of a laboratory: removed at its end, unless they may be of use.
struct Files {
    folder: Option<TempDir>,
    keep: bool,
    voice: Voice,
}

impl Files {
    fn path(&self) -> &Path {
        self.folder.as_ref().map_or_else(|| Path::new(""), TempDir::path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take().filter(|_| self.keep) {
            self.voice.say(format!("everything is kept in {}", folder.keep().display()));
        }
    }
}

/// Those of this checkout, beside this program; and etcd.
fn programs(root: &Path) -> anyhow::Result<Programs> {
    let own = std::env::current_exe()?;
    let beside = own.parent().context("a program lies in a directory")?;
    let built = |name: &str| {
        let program = beside.join(name);
        anyhow::ensure!(
            program.exists(),
            "{} is missing: build it with `cargo build --bins`",
            program.display()
        );
        reachable(&program, root)
    };
    Ok(Programs {
        controller: built("dugong-controller")?,
        proxy: built("dugong-proxy")?,
        etcd: PathBuf::from("etcd"),
    })
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 10 ^ now.as_secs()
}

async fn told_to_end() -> &'static str {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
