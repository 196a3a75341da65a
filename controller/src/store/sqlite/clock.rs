//! When a session ends: a clock that all processes of the machine share, and that nobody sets.
//!
//! Source: clock_gettime(2), `CLOCK_BOOTTIME`: monotonic, and goes on while the machine is
//! suspended. It begins anew with each boot, so a time means something only beside its boot id.

use std::time::Duration;

use dugong_machine::Time;

use super::trouble::Trouble;
use crate::clock;

/// Milliseconds since the machine was booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BootTime(pub(super) i64);

/// The machine's clock, and which boot it counts from.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) boot_id: String,
}

impl Clock {
    pub(super) fn new() -> Result<Self, Trouble> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|error| Trouble::BootId { error })?;
        Ok(Self { boot_id: boot_id.trim().to_owned() })
    }

    pub(super) fn now(&self) -> BootTime {
        let Time(millis) = clock::Clock.now();
        BootTime(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

impl BootTime {
    /// When a session ends that was renewed now.
    pub(super) fn after(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        // One more, since `now` was rounded down: the holder may count from the very moment.
        Self(self.0.saturating_add(span).saturating_add(1))
    }

    /// How long it takes from `now` until this time; zero where it has passed.
    pub(super) fn since(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0))
    }
}
