//! Waiting for a condition with a deadline: the only place that sleeps.

use std::time::Duration;

use tokio::time::Instant;

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(30);

/// Looks again and again until `look` finds something; panics with `what` after `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let not_yet = match look().await {
            Ok(found) => return found,
            Err(not_yet) => not_yet,
        };
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}; last seen: {not_yet}");
        tokio::time::sleep(PAUSE).await;
    }
}
