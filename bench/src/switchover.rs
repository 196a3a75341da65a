//! How long writes pause in a switchover under load, beside three floors of the same run: of a bare
//! chain's promotion alone, of its promotion under the same load, and of its planned change under it.

use std::slice;

use anyhow::{Context, ensure};
use clap::Args;
use dugong_tests::Cluster;
use dugong_tests::crowd::{self, Crowd, Told};
use dugong_topology::{InstanceId, Role};
use tokio::time::Instant;

use crate::failover::floor;
use crate::report::Spread;

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// How many switchovers, each to the sync and with the default drain.
    #[arg(long, default_value_t = 10)]
    times: u32,
    /// How many clients have transactions of four statements without pause, through the proxy.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How many times each floor is measured, spread over the run, while the clients rest.
    #[arg(long, default_value_t = 10)]
    floors: u32,
}

/// One switchover.
struct Window {
    from: Instant,
    to: Instant,
    former: InstanceId,
    /// By the number of its making: neither copied nor rewound.
    same_data: bool,
}

/// Switches over, and reports.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let [mut idle, mut loaded, mut planned] = [(); 3].map(|()| Spread::default());
    let cluster = Cluster::start().await;
    cluster.whole().await;
    let crowd = Crowd::start(&cluster.dsn(&[]), options.clients).await;
    let every = options.times.div_ceil(options.floors.max(1)).max(1);
    let mut windows = Vec::new();
    for number in 0..options.times {
        if number % every == 0 {
            crowd.rests().await;
            idle.add(floor::measure().await?);
            loaded.add(floor::under_load(options.clients).await?);
            planned.add(floor::handed_over(options.clients).await?);
        }
        crowd.works().await;
        let window = switch(&cluster).await?;
        println!("{}: {} has handed over", number + 1, window.former);
        windows.push(window);
    }
    let told = crowd.ends().await;
    let lost = crowd::lost(&cluster.dsn(&[]), &told).await;
    let floors = [
        ("promotion floor, idle", &idle),
        ("promotion floor, under load", &loaded),
        ("bare planned change", &planned),
    ];
    report(options, &floors, &windows, &told);
    ensure!(lost.is_empty(), "acknowledged transactions are lost: {lost:?}");
    let broken: usize = told.iter().map(|told| told.broken.len()).sum();
    ensure!(broken == 0, "{broken} transactions were broken off in the middle");
    ensure!(windows.iter().all(|window| window.same_data), "a former primary was made anew");
    Ok(())
}

async fn switch(cluster: &Cluster) -> anyhow::Result<Window> {
    let former = cluster.with_role(Role::Primary);
    let made = former.making();
    let from = Instant::now();
    let mut command = tokio::process::Command::from(cluster.command("switchover"));
    let output = command.output().await.context("dugong can be started")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let topology = cluster.whole().await;
    let last = topology.asyncs.last().map(|member| &member.id);
    ensure!(last == Some(&former.id), "the former primary is not the last async: {last:?}");
    let same_data = former.making() == made;
    Ok(Window { from, to: Instant::now(), former: former.id, same_data })
}

fn report(options: &Options, floors: &[(&str, &Spread)], windows: &[Window], told: &[Told]) {
    let (mut anybody, mut slowest) = (Spread::default(), Spread::default());
    for Window { from, to, .. } in windows {
        anybody.add(crowd::longest_pause(told, *from, *to));
        let each = told.iter().map(|told| crowd::longest_pause(slice::from_ref(told), *from, *to));
        slowest.add(each.max().unwrap_or_default());
    }
    let acknowledged: usize = told.iter().map(|told| told.acknowledged.len()).sum();
    let (again, doubted, broken) = told.iter().fold((0, 0, 0), |(again, doubted, broken), told| {
        (again + told.connected_again, doubted + told.doubted, broken + told.broken.len())
    });
    println!("\nlongest pause between two acknowledged transactions, {} clients", options.clients);
    let line = |what: &str, of: &Spread| println!("{what:<28} {of}");
    for (what, floor) in floors {
        line(what, floor);
    }
    for (what, of) in [("of all clients", &anybody), ("of the slowest", &slowest)] {
        line(what, of);
        for (floor, time) in floors {
            let times = of.median().as_secs_f64() / time.median().as_secs_f64();
            println!("{:<28} {times:.2} x {floor}", "");
        }
    }
    println!("{acknowledged} transactions acknowledged, {doubted} of unknown outcome");
    println!("{again} times a client connected again, between two transactions");
    println!("{broken} transactions broken off in the middle: {:#?}", reasons(told));
}

fn reasons(told: &[Told]) -> Vec<&String> {
    let mut reasons: Vec<_> = told.iter().flat_map(|told| &told.broken).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons
}
