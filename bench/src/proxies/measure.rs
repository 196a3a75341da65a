//! One measurement: one workload through one contender.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use crate::proxies::contenders::Running;
use crate::proxies::pgbench::{Connections, Load, Pgbench, Until};
use crate::proxies::wire::Client;
use crate::proxies::workloads::{Unit, Work, Workload};

/// What a slow reader takes at once, and how long it then waits: 10 MB a second.
const SLOW_BYTES: u64 = 100_000;
const SLOW_PAUSE: Duration = Duration::from_millis(10);

/// What one measurement says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Units per second.
    pub(crate) rate: f64,
    /// Processor time of the contender per unit, in microseconds; none for `direct`, and where it
    /// did something else beside.
    pub(crate) processor_us: Option<f64>,
    /// In microseconds; none where nobody waits for single answers.
    pub(crate) latency: Option<Latency>,
}

/// Of single transactions, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Does `workload` through `running` for about `time`.
pub(crate) fn measure(
    workload: &Workload,
    running: &Running,
    pgbench: &Pgbench,
    time: Duration,
) -> anyhow::Result<Measured> {
    let before = spent(running)?;
    let done = match workload.work {
        Work::Pgbench(load) => pgbench_alone(&load, workload.unit, running, pgbench, time),
        Work::BesideSlowReader(load) => beside(running.port, Pace::Slow, || {
            pgbench_alone(&load, workload.unit, running, pgbench, time)
        }),
        Work::BesideBulk(load) => beside(running.port, Pace::Fast, || {
            pgbench_alone(&load, workload.unit, running, pgbench, time)
        }),
        Work::CopyOut { row_bytes, rows } => copy_out(running.port, row_bytes, rows),
        Work::CopyIn { row_bytes, rows } => copy_in(running.port, row_bytes, rows),
    };
    let done = done.with_context(|| format!("{} through {}", workload.name, running.contender))?;
    let after = spent(running)?;
    let processor_us = before
        .zip(after)
        .filter(|_| workload.work.is_alone())
        .map(|(before, after)| after.saturating_sub(before).as_secs_f64() * 1e6 / done.units);
    Ok(Measured { rate: done.rate, processor_us, latency: done.latency })
}

/// What was done, before processor time is known.
struct Done {
    units: f64,
    rate: f64,
    latency: Option<Latency>,
}

fn spent(running: &Running) -> anyhow::Result<Option<Duration>> {
    running.process.as_ref().map(|process| process.processor_time()).transpose()
}

fn pgbench_alone(
    load: &Load,
    unit: Unit,
    running: &Running,
    pgbench: &Pgbench,
    time: Duration,
) -> anyhow::Result<Done> {
    // Only for how many latencies are written down: more where connections are kept.
    let expected_rate = match (load.connections, unit) {
        (Connections::Kept, Unit::Query) => 15_000.0,
        _ => 1_000.0,
    };
    let outcome = pgbench.run(load, running.port, Until::Time(time), expected_rate)?;
    ensure!(outcome.transactions > 0.0, "not one transaction within {time:?}");
    let each = f64::from(load.script.queries());
    let at = |share: f64| quantile(&outcome.latencies, share);
    let latency = at(0.5).zip(at(0.99)).map(|(p50, p99)| Latency { p50, p99 });
    Ok(Done { units: outcome.transactions * each, rate: outcome.rate * each, latency })
}

/// The value below which `share` of them lie; none of none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index of a list that is in memory"
)]
fn quantile(sorted: &[u32], share: f64) -> Option<f64> {
    let index = ((sorted.len() as f64) * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map(|value| f64::from(*value))
}

fn copy_out(port: u16, row_bytes: usize, rows: usize) -> anyhow::Result<Done> {
    let mut client = Client::connect(port)?;
    let begun = Instant::now();
    let bytes = client.query(&bulk(row_bytes, rows))?;
    ensure!(bytes >= (row_bytes * rows) as u64, "{bytes} bytes are not all");
    Ok(megabytes(bytes, begun.elapsed()))
}

fn bulk(row_bytes: usize, rows: usize) -> String {
    format!("copy (select repeat('x', {row_bytes}) from generate_series(1, {rows})) to stdout")
}

fn copy_in(port: u16, row_bytes: usize, rows: usize) -> anyhow::Result<Done> {
    let mut client = Client::connect(port)?;
    client.query("create unlogged table if not exists sink(line text)")?;
    let row = [&vec![b'x'; row_bytes][..], b"\n"].concat();
    let together = 8;
    let begun = Instant::now();
    client.send(b'Q', b"copy sink from stdin where false\0")?;
    let answer = client.next()?;
    ensure!(answer.kind == b'G', "no CopyInResponse but {:?}", char::from(answer.kind));
    for _ in 0..rows / together {
        client.send_each(b'd', &row, together)?;
    }
    client.send(b'c', &[])?;
    client.until_ready()?;
    Ok(megabytes((row.len() * rows) as u64, begun.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
fn megabytes(bytes: u64, time: Duration) -> Done {
    let units = bytes as f64 / 1e6;
    Done { units, rate: units / time.as_secs_f64(), latency: None }
}

/// How the client beside reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Slow,
    Fast,
}

/// Does `work` while one more client reads rows that it has asked for.
fn beside(
    port: u16,
    pace: Pace,
    work: impl FnOnce() -> anyhow::Result<Done>,
) -> anyhow::Result<Done> {
    let mut client = Client::connect(port)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> std::io::Result<()> {
            while !over.load(Ordering::Relaxed) {
                client.send(b'Q', &[bulk(8000, 60_000).as_bytes(), b"\0"].concat())?;
                read(&mut client, pace, &over)?;
            }
            Ok(())
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| anyhow!("the reader beside panicked"))?;
        read.context("the reader beside")?;
        done
    })
}

/// Reads to the end of the answer, or until all is over.
fn read(client: &mut Client, pace: Pace, over: &AtomicBool) -> std::io::Result<()> {
    let mut since_pause = 0;
    while !over.load(Ordering::Relaxed) {
        let message = client.next()?;
        since_pause += message.bytes;
        if message.kind == b'Z' {
            return Ok(());
        }
        if pace == Pace::Slow && since_pause >= SLOW_BYTES {
            thread::sleep(SLOW_PAUSE);
            since_pause = 0;
        }
    }
    Ok(())
}
