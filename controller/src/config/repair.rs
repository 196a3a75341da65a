//! `[repair]`: how data is made anew that has forked, is lost, or was never there.

use std::time::Duration;

use dugong_topology::units;
use serde::Deserialize;

use super::error::ConfigProblem;

/// `[repair]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairConfig {
    /// The longest that a rewind may take before a copy is made instead. Default 30 min. None:
    /// always a copy; `rewind_timeout = "0s"`.
    pub rewind_timeout: Option<Duration>,
}

/// What the section may say, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRepair {
    #[serde(with = "units::duration")]
    rewind_timeout: Duration,
}

impl Default for RawRepair {
    fn default() -> Self {
        Self { rewind_timeout: Duration::from_secs(30 * 60) }
    }
}

impl RawRepair {
    pub(super) fn checked(self) -> Result<RepairConfig, ConfigProblem> {
        let Self { rewind_timeout } = self;
        // A day is more than any rewind is worth: a copy has a known end.
        let (shortest, longest) = (Duration::ZERO, Duration::from_secs(24 * 3600));
        if rewind_timeout > longest {
            let (key, value) = ("repair.rewind_timeout", rewind_timeout);
            return Err(ConfigProblem::OutOfRange { key, value, shortest, longest });
        }
        Ok(RepairConfig { rewind_timeout: (!rewind_timeout.is_zero()).then_some(rewind_timeout) })
    }
}

impl Default for RepairConfig {
    fn default() -> Self {
        let RawRepair { rewind_timeout } = RawRepair::default();
        Self { rewind_timeout: Some(rewind_timeout) }
    }
}
