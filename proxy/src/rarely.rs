//! Log lines at a bounded rate: for what a peer can cause as often as it likes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Lets one through per interval, and counts the others.
#[derive(Debug)]
pub struct Rarely {
    born: Instant,
    interval: Duration,
    /// Milliseconds after `born` from which the next one is let through.
    next_ms: AtomicU64,
    left_out: AtomicU64,
}

impl Rarely {
    /// At most one per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            born: Instant::now(),
            interval,
            next_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many were left out since the last one that was let through; none: leave this one out.
    pub fn now(&self) -> Option<u64> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.born.elapsed());
        let next = self.next_ms.load(Relaxed);
        let later = now.saturating_add(millis(self.interval));
        let mine =
            now >= next && self.next_ms.compare_exchange(next, later, Relaxed, Relaxed).is_ok();
        if mine {
            Some(self.left_out.swap(0, Relaxed))
        } else {
            self.left_out.fetch_add(1, Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_through_and_the_others_are_counted() {
        let rarely = Rarely::new(Duration::from_secs(3600));
        assert_eq!(rarely.now(), Some(0));
        assert_eq!(rarely.now(), None);
        assert_eq!(rarely.now(), None);
        let always = Rarely::new(Duration::ZERO);
        assert_eq!(always.now(), Some(0));
        assert_eq!(always.now(), Some(0));
    }
}
