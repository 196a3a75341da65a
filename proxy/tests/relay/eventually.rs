//! Waiting for conditions, with a deadline; the only place that sleeps.

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that anything in these tests may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let begin = Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {LIMIT:?}: {what}"),
    }
}
