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
    /// How many data directories that have forked, or the WAL by which they did, are kept beside
    /// the data. Default 1; at most 100.
    pub keep_diverged: usize,
}

/// Whoever wants to keep more of them moves them away.
const KEEP_MAX: usize = 100;

/// What the section may say, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRepair {
    #[serde(with = "units::duration")]
    rewind_timeout: Duration,
    keep_diverged: usize,
}

impl Default for RawRepair {
    fn default() -> Self {
        Self { rewind_timeout: Duration::from_secs(30 * 60), keep_diverged: 1 }
    }
}

impl RawRepair {
    pub(super) fn checked(self) -> Result<RepairConfig, ConfigProblem> {
        let Self { rewind_timeout, keep_diverged } = self;
        // A day is more than any rewind is worth: a copy has a known end.
        let (shortest, longest) = (Duration::ZERO, Duration::from_secs(24 * 3600));
        if rewind_timeout > longest {
            let (key, value) = ("repair.rewind_timeout", rewind_timeout);
            return Err(ConfigProblem::OutOfRange { key, value, shortest, longest });
        }
        if keep_diverged > KEEP_MAX {
            return Err(ConfigProblem::KeepDiverged { value: keep_diverged, most: KEEP_MAX });
        }
        let rewind_timeout = (!rewind_timeout.is_zero()).then_some(rewind_timeout);
        Ok(RepairConfig { rewind_timeout, keep_diverged })
    }
}

impl Default for RepairConfig {
    fn default() -> Self {
        let RawRepair { rewind_timeout, keep_diverged } = RawRepair::default();
        Self { rewind_timeout: Some(rewind_timeout), keep_diverged }
    }
}
