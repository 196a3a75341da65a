//! How far the read address was behind: measured, not judged.
//!
//! A read lacks the rows that were acknowledged before it was called and are newer than what it saw
//! of their writer. It is behind by as many writes, and by the age of the oldest of them: so old at
//! least is the state that it saw.
//!
//! **Invariant:** 0 means that nothing acknowledged was missing, not that the read address is the
//! primary.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::history::{Action, ClientId, Glance, History, Moment};
use super::outcome::Outcome;
use super::report::as_milliseconds;

/// How old what was read at the read address was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Staleness {
    /// Reads that got an answer.
    pub reads: usize,
    /// Those that lacked an acknowledged row.
    pub behind: usize,
    pub median: Lag,
    pub percentile_90: Lag,
    pub percentile_99: Lag,
    pub maximum: Lag,
    /// When the read was called that lacked the oldest row.
    pub maximum_at: Option<Moment>,
}

/// How far behind; each number by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    #[serde(serialize_with = "as_milliseconds")]
    pub ms: Duration,
    pub writes: usize,
}

/// Measures every read of the read address; none where there is no such address.
#[must_use]
pub fn measure(history: &History) -> Option<Staleness> {
    let glances = history.glances.as_ref()?;
    let acknowledged = acknowledged(history);
    let lags: Vec<Lag> = glances.iter().map(|glance| lag(glance, &acknowledged)).collect();
    let mut times: Vec<Duration> = lags.iter().map(|lag| lag.ms).collect();
    let mut writes: Vec<usize> = lags.iter().map(|lag| lag.writes).collect();
    times.sort_unstable();
    writes.sort_unstable();
    let at = |percent| Lag { ms: rank(&times, percent), writes: rank(&writes, percent) };
    let worst = glances.iter().zip(&lags).filter(|(_, lag)| lag.writes > 0);
    Some(Staleness {
        reads: lags.len(),
        behind: lags.iter().filter(|lag| lag.writes > 0).count(),
        median: at(50),
        percentile_90: at(90),
        percentile_99: at(99),
        maximum: at(100),
        maximum_at: worst.max_by_key(|(_, lag)| lag.ms).map(|(glance, _)| glance.called),
    })
}

/// Acknowledged rows of each writer: number and when, both ascending.
fn acknowledged(history: &History) -> BTreeMap<ClientId, Vec<(u64, Moment)>> {
    let mut rows: BTreeMap<ClientId, Vec<(u64, Moment)>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Action::Append(row), Outcome::Acknowledged) = (&operation.action, operation.outcome)
        {
            rows.entry(row.writer).or_default().push((row.number, operation.returned));
        }
    }
    rows.values_mut().for_each(|rows| rows.sort_unstable());
    rows
}

fn lag(glance: &Glance, acknowledged: &BTreeMap<ClientId, Vec<(u64, Moment)>>) -> Lag {
    let mut lag = Lag::default();
    for (writer, rows) in acknowledged {
        let saw = glance.tips.iter().find(|tip| tip.writer == *writer).map_or(0, |tip| tip.number);
        let first = rows.partition_point(|&(number, _)| number <= saw);
        let end = rows.partition_point(|&(_, at)| at < glance.called);
        if let Some(lacking) = rows.get(first..end).filter(|lacking| !lacking.is_empty()) {
            lag.writes += lacking.len();
            lag.ms = lag.ms.max(glance.called.since(lacking[0].1));
        }
    }
    lag
}

/// The nearest rank: of 200 sorted values, 99 percent is the 198th. Zero where there is none.
fn rank<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::history::{Operation, Row};

    fn row(number: u64) -> Row {
        Row { writer: ClientId(0), number }
    }

    fn history(glances: &[(u64, u64)]) -> History {
        let mut history = History::new(std::time::SystemTime::UNIX_EPOCH);
        // Row n is acknowledged at n * 10 ms.
        for number in 1..=5 {
            let at = Moment(number * 10_000_000);
            history.operations.push(Operation {
                client: ClientId(0),
                called: Moment(at.0 - 1),
                returned: at,
                action: Action::Append(row(number)),
                outcome: Outcome::Acknowledged,
            });
        }
        let glance = |&(ms, saw): &(u64, u64)| Glance {
            called: Moment(ms * 1_000_000),
            returned: Moment(ms * 1_000_000 + 1),
            tips: if saw == 0 { vec![] } else { vec![row(saw)] },
        };
        history.glances = Some(glances.iter().map(glance).collect());
        history
    }

    #[test]
    fn a_read_is_as_old_as_the_oldest_row_that_it_lacks() {
        #[rustfmt::skip]
        let cases = [
            // what is so                       called, saw, ms, writes
            ("nothing was acknowledged yet",    5,      0,   0,  0),
            ("it saw everything",               55,     5,   0,  0),
            ("it saw more than acknowledged",   25,     3,   0,  0),
            ("one row is lacking",              55,     4,   5,  1),
            ("all of them are",                 55,     0,   45, 5),
            ("later ones do not count",         35,     1,   15, 2),
        ];
        for (what, called, saw, ms, writes) in cases {
            let found = measure(&history(&[(called, saw)])).unwrap();
            let expected = Lag { ms: Duration::from_millis(ms), writes };
            assert_eq!(found.maximum, expected, "{what}");
            assert_eq!(found.behind, usize::from(writes > 0), "{what}");
        }
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let sorted: Vec<usize> = (1..=200).collect();
        assert_eq!([50, 90, 99, 100].map(|percent| rank(&sorted, percent)), [100, 180, 198, 200]);
        assert_eq!([50, 100].map(|percent| rank(&[7], percent)), [7, 7]);
        assert_eq!(rank::<usize>(&[], 50), 0);
    }

    #[test]
    fn without_a_read_address_nothing_is_measured() {
        let mut history = history(&[]);
        assert_eq!(measure(&history).unwrap().reads, 0);
        history.glances = None;
        assert_eq!(measure(&history), None);
    }
}
