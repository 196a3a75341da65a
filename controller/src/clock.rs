//! The local monotonic clock: the only one that the protocol's times are taken from.

use std::time::SystemTime;

use dugong_machine::Time;
use rustix::time::{ClockId, clock_gettime};

/// Reads `CLOCK_BOOTTIME`: it never steps back, and goes on while the machine is suspended, so a
/// lease does not outlive a suspension.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The time now.
    pub fn now(self) -> Time {
        let time = clock_gettime(ClockId::Boottime);
        // Neither is ever negative on this clock.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Time(seconds * 1000 + nanos / 1_000_000)
    }
}

/// Milliseconds since 1970, for people to read; 0 on a clock that was never set.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_boot_and_never_goes_back() {
        let first = Clock.now();
        assert!(first > Time(0));
        assert!(Clock.now() >= first);
    }
}
