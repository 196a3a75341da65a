//! Time as the machine knows it: an argument, never a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds of the local monotonic clock (one that goes on while the machine is suspended).
///
/// Comparable within one controller process only; no clock is ever compared across machines.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// Later than any other.
    pub const NEVER: Self = Self(u64::MAX);

    /// This time and `span` more.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Whether `span` has passed since `earlier`.
    pub fn is_past(self, earlier: Self, span: Duration) -> bool {
        self >= earlier.after(span)
    }

    /// How long ago `earlier` was; zero where it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
