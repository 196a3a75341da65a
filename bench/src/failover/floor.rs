//! The floor: how long writes pause in a bare chain when somebody acts at once.
//!
//! The primary is killed, its sync is promoted at the same moment with its own sync named already,
//! and the clock stops at the first write that the new sync acknowledged. No controller that must
//! first notice, agree and lead clients elsewhere can be faster.
//!
//! [`under_load`]: the same while clients write; [`handed_over`]: for a planned change under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use dugong_tests::crowd::{self, Crowd, Told};
use dugong_tests::{connect, kill, stop_fast};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::failover::chain::Chain;

/// How long after a refused write the next one is tried.
const PAUSE: Duration = Duration::from_millis(2);

/// Nobody waits longer than this for a promotion.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures it once, on a chain of its own.
pub(crate) async fn measure() -> anyhow::Result<Duration> {
    let chain = Chain::start().await?;
    let words = anyhow::Error::msg;
    let primary = connect(&chain.dsn(0)).await.map_err(words)?;
    primary.batch_execute("create table floor(n int)").await?;
    let heir = connect(&chain.dsn(1)).await.map_err(words)?;
    for n in 0..100 {
        primary.batch_execute(&format!("insert into floor values ({n})")).await?;
    }
    let victim = chain.postmaster(0)?;
    let begun = Instant::now();
    kill(victim);
    promote(&heir, begun).await?;
    Ok(begun.elapsed())
}

/// Measures it once, from the last that any of `clients` was acknowledged. Once the primary is dead they
/// rest: who looks for another one is in nobody's way here.
pub(crate) async fn under_load(clients: usize) -> anyhow::Result<Duration> {
    let chain = Chain::start().await?;
    let (heir, crowd) = heir_and_crowd(&chain, clients).await?;
    let victim = chain.postmaster(0)?;
    let begun = Instant::now();
    kill(victim);
    let promoted = async {
        promote(&heir, begun).await?;
        anyhow::Ok(Instant::now())
    };
    let (promoted, ()) = tokio::join!(promoted, crowd.rests());
    pause(&chain, &crowd.ends().await, promoted?).await
}

/// Measures a planned change once: `clients` end between two transactions each, the primary stops in
/// order with a checkpoint just behind it, and its sync is promoted in that moment.
pub(crate) async fn handed_over(clients: usize) -> anyhow::Result<Duration> {
    let chain = Chain::start().await?;
    let (heir, crowd) = heir_and_crowd(&chain, clients).await?;
    let primary = connect(&chain.dsn(0)).await.map_err(anyhow::Error::msg)?;
    primary.batch_execute("checkpoint").await?;
    drop(primary);
    let victim = chain.postmaster(0)?;
    let begun = Instant::now();
    let told = crowd.ends().await;
    stop_fast(victim);
    while chain.postmaster(0).is_ok() {
        tokio::time::sleep(PAUSE).await;
        (begun.elapsed() < LIMIT).then_some(()).context("the primary does not stop")?;
    }
    promote(&heir, begun).await?;
    pause(&chain, &told, Instant::now()).await
}

/// A connection to the sync, and `clients` that are at it.
async fn heir_and_crowd(chain: &Chain, clients: usize) -> anyhow::Result<(Client, Crowd)> {
    let words = anyhow::Error::msg;
    let primary = connect(&chain.dsn(0)).await.map_err(words)?;
    primary.batch_execute("create table floor(n int)").await?;
    let heir = connect(&chain.dsn(1)).await.map_err(words)?;
    let crowd = Crowd::start(&chain.dsn(0), clients).await;
    crowd.works().await;
    Ok((heir, crowd))
}

/// From the last that a client was acknowledged to `end`; nothing is lost.
async fn pause(chain: &Chain, told: &[Told], end: Instant) -> anyhow::Result<Duration> {
    let last = told.iter().filter_map(|told| told.acknowledged.last()).map(|(_, at)| *at).max();
    let lost = crowd::lost(&chain.dsn(1), told).await;
    ensure!(lost.is_empty(), "a bare chain lost {lost:?}");
    Ok(end - last.context("nothing was acknowledged")?)
}

/// Returns once a write was acknowledged by the next sync.
async fn promote(heir: &Client, begun: Instant) -> anyhow::Result<()> {
    heir.batch_execute("select pg_promote(false)").await?;
    while heir.batch_execute("insert into floor values (0)").await.is_err() {
        tokio::time::sleep(PAUSE).await;
        (begun.elapsed() < LIMIT).then_some(()).context("the promotion does not end")?;
    }
    Ok(())
}
