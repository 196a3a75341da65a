//! How far data has come that is being made anew.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far data has come that an instance makes anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Making {
    pub way: Way,
    /// What has been brought so far.
    pub done_bytes: u64,
    /// All that is to be brought; none: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// At the pace so far; none: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// By what data is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Of another instance's, from nothing.
    Copy,
    /// Of what is there.
    Rewind,
    /// A copy that is complete is compared with what its source said about it.
    Verify,
    /// One that this program does not know.
    #[serde(other)]
    Other,
}

impl Way {
    /// The name in the document, and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Rewind => "rewind",
            Self::Verify => "verify",
            Self::Other => "other",
        }
    }
}

impl Making {
    /// Nothing has been brought yet.
    pub fn begun(way: Way) -> Self {
        Self { way, done_bytes: 0, total_bytes: None, seconds_left: None }
    }

    /// In percent, rounded down; none: not known yet.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        let percent = u128::from(self.done_bytes) * 100 / u128::from(total);
        Some(u64::try_from(percent).map_or(100, |percent| percent.min(100)))
    }
}

/// `copy: 120 of 400 MB, 30 %, 12 s left`.
impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes >> 20;
        if self.way == Way::Verify && self.total_bytes.is_none() {
            return f.write_str("verifying the copy");
        }
        write!(f, "{}: {}", self.way.as_str(), megabytes(self.done_bytes))?;
        if let (Some(total), Some(percent)) = (self.total_bytes, self.percent()) {
            write!(f, " of {} MB, {percent} %", megabytes(total))?;
        } else {
            f.write_str(" MB")?;
        }
        match self.seconds_left {
            Some(seconds) => write!(f, ", {seconds} s left"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line_for_people() {
        let begun = Making::begun(Way::Rewind);
        assert_eq!(begun.to_string(), "rewind: 0 MB");
        assert_eq!(Making::begun(Way::Verify).to_string(), "verifying the copy");
        let later = Making {
            way: Way::Copy,
            done_bytes: 120 << 20,
            total_bytes: Some(400 << 20),
            seconds_left: Some(12),
        };
        assert_eq!(later.to_string(), "copy: 120 of 400 MB, 30 %, 12 s left");
        let more = Making { done_bytes: 500 << 20, ..later };
        assert_eq!(more.percent(), Some(100), "a source grows meanwhile");
        assert_eq!(Making { total_bytes: Some(0), ..later }.percent(), None);
    }

    #[test]
    fn a_way_of_tomorrow_is_read_too() {
        let told = r#"{"way":"by pigeon","done_bytes":1,"feathers":2}"#;
        let making: Making = serde_json::from_str(told).unwrap();
        assert_eq!((making.way, making.total_bytes), (Way::Other, None));
    }
}
