//! One writer, one reader, and what the reader has to see.

use super::*;
use crate::verify::history::Operation;
use crate::verify::outcome::Cause;

const WRITER: ClientId = ClientId(0);

fn operation(called: u64, returned: u64, action: Action, outcome: Outcome) -> Operation {
    let (called, returned) = (Moment(called), Moment(returned));
    Operation { client: WRITER, called, returned, action, outcome }
}

fn append(called: u64, returned: u64, number: u64, outcome: Outcome) -> Operation {
    operation(called, returned, Action::Append(Row { writer: WRITER, number }), outcome)
}

fn read(called: u64, returned: u64, number: u64) -> Operation {
    let tips = if number == 0 { vec![] } else { vec![Row { writer: WRITER, number }] };
    operation(called, returned, Action::Tips(tips), Outcome::Acknowledged)
}

#[test]
fn a_read_sees_what_was_certain_before_it_was_called() {
    let done = Outcome::Acknowledged;
    let doubt = Outcome::Unknown(Cause::Silence);
    #[rustfmt::skip]
    let cases = [
        ("it sees the row",                 vec![append(1, 2, 1, done), read(3, 4, 1)],                     0),
        ("it lacks the row",                vec![append(1, 2, 1, done), read(3, 4, 0)],                     1),
        ("the row is written meanwhile",    vec![append(1, 4, 1, done), read(3, 5, 0)],                     0),
        ("the row is of unknown outcome",   vec![append(1, 2, 1, doubt), read(3, 4, 0)],                    0),
        ("but somebody has read it",        vec![append(1, 9, 1, doubt), read(2, 3, 1), read(4, 5, 0)],     1),
        ("somebody reads it meanwhile",     vec![append(1, 9, 1, doubt), read(2, 5, 1), read(4, 6, 0)],     0),
        ("it sees an older row only",       vec![append(1, 2, 1, done), append(3, 4, 2, done), read(5, 6, 1)], 1),
        ("it sees a newer row",             vec![append(1, 2, 1, done), append(3, 9, 2, doubt), read(5, 6, 2)], 0),
        ("the next one is refused",         vec![append(1, 2, 1, done), append(3, 4, 2, Outcome::Refused(Cause::Ended)), read(5, 6, 1)], 0),
    ];
    for (what, operations, stale) in cases {
        let mut history = History::new(std::time::SystemTime::UNIX_EPOCH);
        history.operations = operations;
        let found = examine(&history);
        assert_eq!(found.stale, stale, "{what}");
        assert_eq!(found.worst.is_some(), stale > 0, "{what}");
    }
}

#[test]
fn the_worst_read_is_the_one_that_lacked_the_oldest_row() {
    let mut history = History::new(std::time::SystemTime::UNIX_EPOCH);
    let done = Outcome::Acknowledged;
    history.operations =
        vec![append(1, 2, 1, done), read(10, 11, 0), read(30, 31, 0), read(20, 21, 0)];
    let found = examine(&history);
    assert_eq!(found.stale, 3);
    let worst = found.worst.unwrap();
    assert_eq!((worst.called, worst.lacks.number), (Moment(30), 1));
    assert_eq!(worst.for_ms, Duration::from_nanos(28));
}
