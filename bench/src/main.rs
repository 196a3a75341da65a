//! Measurements: always beside a floor or a peer in the same run, always as ratios.
//!
//! The machines are shared and noisy, so an absolute time says little; a ratio within one run
//! says more, and the spread says how much.
#![deny(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "results, and how far it is")]

mod account;
mod answer;
mod certificate;
mod counts;
mod failover;
mod limits;
mod proxies;
mod relay;
mod report;
mod switchover;
mod watchers;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures Dugong against what PostgreSQL itself can do, in the same run.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// How long writes pause when the primary is killed, beside a bare chain without a controller.
    Failover(failover::Options),
    /// How long writes pause in a planned switchover under load, beside the same floor.
    Switchover(switchover::Options),
    /// What a proxy costs: ours, its peers and floors, side by side.
    Proxies(proxies::Options),
    /// System calls and instructions of the proxy's hot path, compared with those recorded.
    Counts(counts::Options),
    /// A server for `proxies` that only greets.
    #[command(hide = true)]
    Answer(answer::Options),
    /// One floor of `proxies`.
    #[command(hide = true)]
    Relay(relay::Options),
    /// What watchers of the topology cost a controller, beside a server that only writes to them.
    Watchers(watchers::Options),
    /// The clients of `watchers`.
    #[command(hide = true)]
    FollowTopologies(watchers::Following),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse().bench).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dugong-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Failover(options) => unless_ended(failover::run(&options)).await,
        Bench::Switchover(options) => unless_ended(switchover::run(&options)).await,
        Bench::Proxies(options) => proxies::run(&options).await,
        Bench::Answer(options) => answer::run(&options).await,
        Bench::Counts(options) => counts::run(&options),
        Bench::Relay(options) => relay::run(&options),
        Bench::Watchers(options) => watchers::run(&options).await,
        Bench::FollowTopologies(following) => watchers::follow(&following).await,
    }
}

/// Servers that run in the background end with what measures them, a signal or not.
async fn unless_ended(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    tokio::select! {
        result = run => result,
        _ = terminated.recv() => bail!("ended by SIGTERM before it was done"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted before it was done"),
    }
}
