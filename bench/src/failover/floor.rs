//! The floor: how long writes pause in a bare chain when somebody acts at once.
//!
//! The primary is killed, its sync is promoted at the same moment with its own sync named already,
//! and the clock stops at the first write that the new sync acknowledged. No controller that must
//! first notice, agree and lead clients elsewhere can be faster.

use std::time::Duration;

use anyhow::Context;
use dugong_tests::{connect, kill};
use tokio::time::Instant;

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
    heir.batch_execute("select pg_promote(false)").await?;
    while heir.batch_execute("insert into floor values (0)").await.is_err() {
        tokio::time::sleep(PAUSE).await;
        (begun.elapsed() < LIMIT).then_some(()).context("the promotion does not end")?;
    }
    Ok(begun.elapsed())
}
