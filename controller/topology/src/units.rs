//! Durations as people write them in configuration files and on command lines: `30s`, `250ms`.
//!
//! Used as `#[serde(with = "units::duration")]`, or [`parse_duration`] on a command line.

use std::time::Duration;

/// Reads `250ms`, `30s`, `1m 30s`. A number without a unit is refused.
///
/// # Errors
///
/// A sentence that names the text and shows the form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no duration ({error}): write 250ms, 30s or 5min"))
}

/// For `#[serde(with = …)]` on a [`Duration`].
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the duration as text.
    ///
    /// # Errors
    ///
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    /// Reads a duration from text.
    ///
    /// # Errors
    ///
    /// A text that is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "30", "s", "-1s", "30 parsecs"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
