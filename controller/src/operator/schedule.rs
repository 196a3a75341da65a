//! `--at TIME`: something that is done later, by a command that waits.

use std::time::{Duration, SystemTime};

use dugong_topology::units;

/// The clock may be set, and a machine may sleep: it is read again this often.
const LOOK: Duration = Duration::from_secs(1);

/// When to do something, as a person writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// By the clock of the machine on which the command runs.
    At(SystemTime),
    After(Duration),
}

/// Reads `2026-12-01T03:00:00Z`, or `+90min`.
///
/// # Errors
///
/// It is neither, in words.
pub fn parse(text: &str) -> Result<When, String> {
    if let Some(duration) = text.strip_prefix('+') {
        return units::parse_duration(duration).map(When::After);
    }
    humantime::parse_rfc3339(text).map(When::At).map_err(|error| {
        format!("{error}: write a time in UTC as 2026-12-01T03:00:00Z, or as +90min from now")
    })
}

impl When {
    /// The moment itself, seen from now.
    ///
    /// # Errors
    ///
    /// It is over, in words.
    pub fn moment(self, now: SystemTime) -> Result<SystemTime, String> {
        match self {
            Self::After(duration) => Ok(now + duration),
            Self::At(moment) if moment >= now => Ok(moment),
            Self::At(moment) => Err(format!(
                "{} is over: it is {} now",
                humantime::format_rfc3339_seconds(moment),
                humantime::format_rfc3339_seconds(now)
            )),
        }
    }
}

/// Waits until a moment has come.
pub async fn wait_until(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_in_utc_or_a_while_from_now() {
        let now = humantime::parse_rfc3339("2026-12-01T02:00:00Z").unwrap();
        #[rustfmt::skip]
        let cases = [
            ("2026-12-01T03:00:00Z",      Ok("2026-12-01T03:00:00Z")),
            ("+90min",                    Ok("2026-12-01T03:30:00Z")),
            ("2026-12-01T01:00:00Z",      Err("2026-12-01T01:00:00Z is over: it is 2026-12-01T02:00:00Z now")),
            ("03:00",                     Err("write a time in UTC as 2026-12-01T03:00:00Z, or as +90min from now")),
            ("2026-12-01T03:00:00+02:00", Err("write a time in UTC")),
            ("+90",                       Err("unit")),
        ];
        for (text, expected) in cases {
            let moment = parse(text).and_then(|when| when.moment(now));
            let told = moment.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            match (told, expected) {
                (Ok(told), Ok(expected)) => assert_eq!(told, expected, "{text}"),
                (Err(told), Err(expected)) => assert!(told.contains(expected), "{text}: {told}"),
                (told, expected) => panic!("{text}: {told:?} is not {expected:?}"),
            }
        }
    }
}
