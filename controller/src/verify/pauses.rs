//! The longest times without an acknowledged write: measured, not judged.
//!
//! **Invariant:** the run's beginning and end bound a pause, too: whoever ends in an outage is told
//! how long it was.

use std::time::Duration;

use serde::Serialize;

use super::history::{History, Moment};
use super::outcome::Outcome;
use super::report::as_milliseconds;

/// How many pauses are named.
const NAMED: usize = 5;

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    pub began: Moment,
    #[serde(serialize_with = "as_milliseconds")]
    pub ms: Duration,
}

/// The longest pauses of all clients together, the longest first.
#[must_use]
pub fn measure(history: &History) -> Vec<Pause> {
    let acknowledged = history.operations.iter().filter(|operation| {
        operation.action.is_write() && operation.outcome == Outcome::Acknowledged
    });
    // Answers that came while the clients were ending prove no pause.
    let returned = acknowledged.map(|operation| operation.returned);
    let mut moments: Vec<Moment> = returned.filter(|at| *at <= history.ended).collect();
    moments.push(Moment(0));
    moments.push(history.ended);
    moments.sort_unstable();
    let between = |pair: &[Moment]| Pause { began: pair[0], ms: pair[1].since(pair[0]) };
    let mut pauses: Vec<Pause> = moments.windows(2).map(between).collect();
    pauses.sort_by_key(|pause| (std::cmp::Reverse(pause.ms), pause.began));
    pauses.truncate(NAMED);
    pauses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::history::{Action, ClientId, Key, Operation, Row, Value};
    use crate::verify::outcome::Cause;

    fn operation(at: u64, action: Action, outcome: Outcome) -> Operation {
        let (client, called, returned) = (ClientId(0), Moment(at - 1), Moment(at));
        Operation { client, called, returned, action, outcome }
    }

    #[test]
    fn only_acknowledged_writes_end_a_pause() {
        let append = |number| Action::Append(Row { writer: ClientId(0), number });
        let read = Action::Read { key: Key(0), value: Value::NEVER_WRITTEN };
        let mut history = History::new(std::time::SystemTime::UNIX_EPOCH);
        history.ended = Moment(100);
        history.operations = vec![
            operation(50, append(2), Outcome::Acknowledged),
            operation(10, append(1), Outcome::Acknowledged),
            operation(30, read, Outcome::Acknowledged),
            operation(20, append(3), Outcome::Unknown(Cause::Silence)),
            operation(120, append(4), Outcome::Acknowledged),
        ];
        let found: Vec<(u64, u128)> =
            measure(&history).iter().map(|pause| (pause.began.0, pause.ms.as_nanos())).collect();
        assert_eq!(found, [(50, 50), (10, 40), (0, 10)]);
    }
}
