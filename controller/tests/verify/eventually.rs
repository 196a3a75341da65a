//! Waiting for a condition with a deadline: the only place that sleeps.

use std::time::Duration;

use dugong_controller::verify::Recorder;
use dugong_controller::verify::recorder::Progress;
use tokio::time::Instant;

/// The longest that anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds it so.
pub(crate) async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !look().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `more` further things of a kind were recorded.
pub(crate) async fn more(recorder: &Recorder, more: u64, of: fn(&Progress) -> u64) {
    let goal = of(&recorder.progress()) + more;
    eventually(&format!("{goal} of them"), async || of(&recorder.progress()) >= goal).await;
}

pub(crate) fn acknowledged(progress: &Progress) -> u64 {
    progress.acknowledged
}

pub(crate) fn unknown(progress: &Progress) -> u64 {
    progress.unknown
}

pub(crate) fn reads(progress: &Progress) -> u64 {
    progress.reads
}

pub(crate) fn glances(progress: &Progress) -> u64 {
    progress.glances
}
