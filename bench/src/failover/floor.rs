//! The floor: how long writes pause in a bare chain when somebody acts at once.
//!
//! The primary is killed, its sync is promoted at the same moment with its own sync named already,
//! and the clock stops at the first write that the new sync acknowledged. No controller that must
//! first notice, agree and lead clients elsewhere can be faster.
//!
//! [`under_load`]: the same while clients write; [`handed_over`]: for a planned change under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use dugong_tests::crowd::{self, Crowd};
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

/// Measures once how long `clients` pause, who know at once where and when to connect again.
pub(crate) async fn under_load(clients: usize) -> anyhow::Result<Duration> {
    let chain = Chain::start().await?;
    let (heir, crowd) = heir_and_crowd(&chain, clients).await?;
    let victim = chain.postmaster(0)?;
    let begun = Instant::now();
    kill(victim);
    let (promoted, ()) = tokio::join!(promote(&heir, begun), crowd.rests());
    promoted?;
    go_on(&chain, crowd, begun).await
}

/// The same for a planned change: `clients` pause between two transactions each, the primary stops in
/// order with a checkpoint just behind it, and its sync is promoted in that moment.
pub(crate) async fn handed_over(clients: usize) -> anyhow::Result<Duration> {
    let chain = Chain::start().await?;
    let (heir, crowd) = heir_and_crowd(&chain, clients).await?;
    let primary = connect(&chain.dsn(0)).await.map_err(anyhow::Error::msg)?;
    primary.batch_execute("checkpoint").await?;
    drop(primary);
    let victim = chain.postmaster(0)?;
    let begun = Instant::now();
    crowd.rests().await;
    stop_fast(victim);
    while chain.postmaster(0).is_ok() {
        tokio::time::sleep(PAUSE).await;
        (begun.elapsed() < LIMIT).then_some(()).context("the primary does not stop")?;
    }
    promote(&heir, begun).await?;
    go_on(&chain, crowd, begun).await
}

/// A connection to the sync, and `clients` that are at it.
async fn heir_and_crowd(chain: &Chain, clients: usize) -> anyhow::Result<(Client, Crowd)> {
    let words = anyhow::Error::msg;
    let primary = connect(&chain.dsn(0)).await.map_err(words)?;
    primary.batch_execute("create table floor(n int)").await?;
    primary.batch_execute("create role application superuser login password 'floor'").await?;
    let heir = connect(&chain.dsn(1)).await.map_err(words)?;
    let crowd = Crowd::start(&chain.application_dsn(0), clients).await;
    crowd.works().await;
    Ok((heir, crowd))
}

/// The clients go on at the former sync; how long they have paused since, and nothing is lost.
async fn go_on(chain: &Chain, crowd: Crowd, begun: Instant) -> anyhow::Result<Duration> {
    crowd.is_led_to(&chain.application_dsn(1));
    crowd.works().await;
    let end = Instant::now();
    let told = crowd.ends().await;
    let lost = crowd::lost(&chain.dsn(1), &told).await;
    ensure!(lost.is_empty(), "a bare chain lost {lost:?}");
    Ok(crowd::longest_pause(&told, begun, end))
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
