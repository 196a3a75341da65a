//! Who has neither charges nor open questions is acquitted; nobody else.

use std::time::SystemTime;

use super::*;
use crate::verify::history::{Action, ClientId, Key, Look, Operation, Row, Value};

const ROW: Row = Row { writer: ClientId(0), number: 1 };

fn operation(called: u64, returned: u64, action: Action) -> Operation {
    let (client, outcome) = (ClientId(0), Outcome::Acknowledged);
    Operation { client, called: Moment(called), returned: Moment(returned), action, outcome }
}

/// A short run in which everything held.
fn good() -> History {
    let mut history = History::new(SystemTime::UNIX_EPOCH);
    let (key, value) = (Key(0), Value(1));
    history.operations = vec![
        operation(1, 2, Action::Append(ROW)),
        operation(3, 4, Action::Tips(vec![ROW])),
        operation(5, 6, Action::Write { key, value }),
    ];
    history.ended = Moment(7);
    for at in [10, 20, 30] {
        history.looks.push(Look {
            called: Moment(at),
            returned: Moment(at + 1),
            rows: vec![ROW],
            registers: [(key, value)].into(),
        });
    }
    history
}

/// Spoils a good run.
type Bend = fn(&mut History);

#[test]
fn what_was_not_looked_at_is_never_called_good() {
    #[rustfmt::skip]
    let cases: [(&str, Bend, Ruling, &str); 12] = [
        ("all is well",             |_| (),                                         Ruling::Acquitted, ""),
        ("a look is missing",       |history| history.looks.truncate(2),            Ruling::NotDecided, "2 of 3"),
        ("nobody looked",           |history| history.looks.clear(),                Ruling::NotDecided, "0 of 3"),
        ("nothing was recorded",    |history| history.operations.clear(),           Ruling::Convicted, "nobody wrote"),
        ("nothing was read",        |history| drop(history.operations.remove(1)),   Ruling::NotDecided, "read"),
        ("no row was appended",     |history| *history = nothing_appended(),        Ruling::NotDecided, "not a single row"),
        ("no glance was answered",  |history| history.glances = Some(vec![]),       Ruling::NotDecided, "read address"),
        ("the record was full",     |history| history.full = Some(Moment(5)),       Ruling::NotDecided, "full"),
        ("a row is lost",           |history| history.looks[1].rows.clear(),        Ruling::Convicted, "acknowledged row is lost"),
        ("a register is lost",      |history| history.looks[2].registers.clear(),   Ruling::Convicted, "1 of 1 registers"),
        ("a read was stale",        |history| history.operations[1].action = Action::Tips(vec![]), Ruling::Convicted, "stale"),
        ("lost, and a look missing", |history| { history.looks.truncate(1); history.looks[0].rows.clear(); }, Ruling::Convicted, "lost"),
    ];
    for (what, bend, ruling, words) in cases {
        let mut history = good();
        bend(&mut history);
        let verdict = judge(&history);
        assert_eq!(verdict.ruling(), ruling, "{what}: {}", verdict.text());
        assert!(verdict.text().contains(words), "{what}: {}", verdict.text());
        assert_eq!(verdict.charges.is_empty(), ruling != Ruling::Convicted, "{what}");
    }
}

fn nothing_appended() -> History {
    let mut history = good();
    history.operations.remove(0);
    history.operations[0].action = Action::Tips(vec![]);
    history.looks.iter_mut().for_each(|look| look.rows.clear());
    history
}

#[test]
fn a_verdict_is_written_with_units() {
    let json = serde_json::to_value(judge(&good())).unwrap();
    assert_eq!(json["ruling"], "acquitted");
    assert_eq!(json["writes"]["acknowledged"], 2);
    assert_eq!(json["began"], "1970-01-01T00:00:00.000Z");
    assert!(json["pauses"][0]["ms"].is_number());
}
