//! How long writes pause when a primary is killed, beside the floor of the same run.

mod chain;
pub(crate) mod floor;

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use dugong_tests::{Cluster, Writer, kill, pause, resume};
use dugong_topology::Role;
use tokio::time::Instant;

use crate::report::Spread;

/// The longest that a failover may take before the run is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// How many times the primary's postmaster is killed, each time with a whole cluster.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// How many times a whole instance is lost: controller, server, and nobody to start them.
    #[arg(long, default_value_t = 3)]
    losses: u32,
    /// How many times the floor is measured, spread over the run.
    #[arg(long, default_value_t = 10)]
    floors: u32,
}

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Postmaster,
    Instance,
}

/// Kills, and reports.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let mut floors = Spread::default();
    let cluster = Cluster::start().await;
    let writer = Writer::start(&cluster.dsn(&[]), "numbers").await;
    writer.goes_on(100, LIMIT).await;

    let kills = std::iter::repeat_n(Loss::Postmaster, options.kills as usize);
    let losses = std::iter::repeat_n(Loss::Instance, options.losses as usize);
    let mut windows = Vec::new();
    for (number, loss) in kills.chain(losses).enumerate() {
        let every = (options.kills + options.losses).div_ceil(options.floors.max(1)).max(1);
        if number % every as usize == 0 && floors.count() < options.floors as usize {
            floors.add(floor::measure().await?);
        }
        let begun = Instant::now();
        lose(&cluster, loss, &writer).await;
        cluster.whole().await;
        windows.push((loss, begun, Instant::now()));
        println!("{} {loss:?}", number + 1);
    }
    let generation = cluster.whole().await.generation;
    let report = writer.stop().await;

    let (mut killed, mut lost) = (Spread::default(), Spread::default());
    for (loss, from, to) in windows {
        let pause = report.longest_pause_between(from, to);
        match loss {
            Loss::Postmaster => killed.add(pause),
            Loss::Instance => lost.add(pause),
        }
    }
    let ratio = |of: Duration| of.as_secs_f64() / floors.median().as_secs_f64();
    println!("\nlongest pause between two acknowledged writes, one writer, one row a commit");
    println!("floor              {floors}");
    println!("postmaster killed  {killed}");
    println!("                   median {:.2} x floor", ratio(killed.median()));
    println!("instance lost      {lost}");
    println!("generation {generation}; {} rows acknowledged", report.acknowledged);
    println!("{} doubted, {} lost", report.doubted, report.lost.len());
    println!("errors seen by the client: {:#?}", report.errors);
    ensure!(report.lost.is_empty(), "acknowledged rows are lost: {:?}", report.lost);
    Ok(())
}

async fn lose(cluster: &Cluster, loss: Loss, writer: &Writer) {
    let primary = cluster.with_role(Role::Primary);
    let postmaster = primary.postmaster().expect("the primary's server runs");
    match loss {
        Loss::Postmaster => {
            kill(postmaster);
            writer.goes_on(50, LIMIT).await;
        }
        Loss::Instance => {
            // Nobody starts it again before the others have gone on without it.
            pause(cluster.launcher());
            kill(primary.controller().expect("the primary's controller runs"));
            kill(postmaster);
            writer.goes_on(50, LIMIT).await;
            resume(cluster.launcher());
        }
    }
}
