//! Measurements: always beside a floor or a peer in the same run, always as ratios.
//!
//! The machines are shared and noisy, so an absolute time says little; a ratio within one run
//! says more, and the spread says how much.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

mod failover;
mod floor;
mod report;
mod servers;

use clap::{Parser, Subcommand};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Options::parse().bench {
        Bench::Failover(options) => failover::run(&options).await,
    }
}
