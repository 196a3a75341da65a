//! Durations and sizes as people write them in configuration files and on command lines: `30s`,
//! `250ms`, `64kB`.
//!
//! Used as `#[serde(with = "units::duration")]`, or [`parse_duration`] and [`parse_size`].

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

/// Reads `64kB` or `16MB` as PostgreSQL does, in bytes: each unit is 1024 of the one before. A number
/// without a unit is refused.
///
/// # Errors
///
/// A sentence that names the text and shows the form.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refused = || format!("{text:?} is no size: write 64kB, 16MB or 1GB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| refused())?;
    let unit: u64 = match &text[digits..] {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return Err(refused()),
    };
    number.checked_mul(unit).ok_or_else(refused)
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

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(parse_size("64kB"), Ok(65_536));
        assert_eq!(parse_size("1GB"), Ok(1 << 30));
        for text in ["", "64", "kB", "-1kB", "64KB", "64 kB", "1.5GB", "99999999999TB"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }
}
