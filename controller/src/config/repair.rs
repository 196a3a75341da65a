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
    /// How much a copy may bring each second. None: as much as comes; the default.
    pub copy_max_rate: Option<CopyRate>,
    /// How many data directories that have forked, or the WAL by which they did, are kept beside
    /// the data. Default 1; at most 100.
    pub keep_diverged: usize,
    /// What becomes of a standby whose pages are damaged. Default: it is copied anew.
    pub damaged: OnDamage,
}

/// What becomes of a standby whose pages fail their checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDamage {
    /// It is copied anew by itself, once it is an async.
    #[default]
    Copy,
    /// It is only told.
    Report,
}

/// Bytes per second; from 32 kB to 1 GB, as `pg_basebackup` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRate(u64);

impl CopyRate {
    /// `50MB`: each second.
    ///
    /// # Errors
    ///
    /// It is no size, or out of range.
    pub fn parse(text: &str) -> Result<Self, ConfigProblem> {
        let bytes = units::parse_size(text).ok();
        let allowed = bytes.filter(|bytes| (32 << 10..=1 << 30).contains(bytes));
        allowed.map(Self).ok_or_else(|| ConfigProblem::CopyMaxRate { value: text.to_owned() })
    }

    /// In kilobytes per second, of 1024 bytes; rounded down.
    pub fn kilobytes(self) -> u64 {
        self.0 >> 10
    }
}

/// Whoever wants to keep more of them moves them away.
const KEEP_MAX: usize = 100;

/// What the section may say, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRepair {
    #[serde(with = "units::duration")]
    rewind_timeout: Duration,
    copy_max_rate: Option<String>,
    keep_diverged: usize,
    damaged: OnDamage,
}

impl Default for RawRepair {
    fn default() -> Self {
        let rewind_timeout = Duration::from_secs(30 * 60);
        let damaged = OnDamage::Copy;
        Self { rewind_timeout, copy_max_rate: None, keep_diverged: 1, damaged }
    }
}

impl RawRepair {
    pub(super) fn checked(self) -> Result<RepairConfig, ConfigProblem> {
        let Self { rewind_timeout, copy_max_rate, keep_diverged, damaged } = self;
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
        let copy_max_rate = copy_max_rate.as_deref().map(CopyRate::parse).transpose()?;
        Ok(RepairConfig { rewind_timeout, copy_max_rate, keep_diverged, damaged })
    }
}

impl Default for RepairConfig {
    fn default() -> Self {
        let RawRepair { rewind_timeout, keep_diverged, damaged, .. } = RawRepair::default();
        Self { rewind_timeout: Some(rewind_timeout), copy_max_rate: None, keep_diverged, damaged }
    }
}
