//! One row, and what may have become of it.

use super::*;
use crate::verify::history::{ClientId, Glance, Look};
use crate::verify::outcome::Cause;

const ROW: Row = Row { writer: ClientId(1), number: 7 };
const ACKNOWLEDGED: Option<Outcome> = Some(Outcome::Acknowledged);
const REFUSED: Option<Outcome> = Some(Outcome::Refused(Cause::Ended));
const UNKNOWN: Option<Outcome> = Some(Outcome::Unknown(Cause::Ended));

#[derive(Clone, Copy, PartialEq)]
enum SeenAt {
    Nowhere,
    Writing,
    Reading,
}

fn history(outcome: Option<Outcome>, read: SeenAt, looks: &[usize]) -> History {
    let mut history = History::new(std::time::SystemTime::UNIX_EPOCH);
    let client = ClientId(1);
    let operation = |action, outcome| {
        let (called, returned) = (Moment(1), Moment(2));
        Operation { client, called, returned, action, outcome }
    };
    history.operations.extend(outcome.map(|outcome| operation(Action::Append(ROW), outcome)));
    match read {
        SeenAt::Nowhere => (),
        SeenAt::Writing => {
            history.operations.push(operation(Action::Tips(vec![ROW]), Outcome::Acknowledged));
        }
        SeenAt::Reading => {
            let (called, returned) = (Moment(3), Moment(4));
            history.glances = Some(vec![Glance { called, returned, tips: vec![ROW] }]);
        }
    }
    for count in looks {
        history.looks.push(Look { rows: vec![ROW; *count], ..Look::default() });
    }
    history
}

#[test]
fn a_row_is_charged_by_what_was_told_and_seen() {
    use SeenAt::{Nowhere, Reading, Writing};
    // lost, vanished, vanished from the read address, refused but there, invented
    #[rustfmt::skip]
    let cases = [
        ("acknowledged and there",        ACKNOWLEDGED, Nowhere, [1, 1], [0, 0, 0, 0, 0]),
        ("acknowledged and lost",         ACKNOWLEDGED, Nowhere, [0, 0], [1, 0, 0, 0, 0]),
        ("there, then not",               ACKNOWLEDGED, Nowhere, [1, 0], [1, 1, 0, 0, 0]),
        ("not there, then there",         ACKNOWLEDGED, Nowhere, [0, 1], [1, 0, 0, 0, 0]),
        ("unknown and there",             UNKNOWN,      Nowhere, [1, 1], [0, 0, 0, 0, 0]),
        ("unknown and not there",         UNKNOWN,      Nowhere, [0, 0], [0, 0, 0, 0, 0]),
        ("unknown and there late",        UNKNOWN,      Nowhere, [0, 1], [0, 0, 0, 0, 0]),
        ("unknown, there, then not",      UNKNOWN,      Nowhere, [1, 0], [0, 1, 0, 0, 0]),
        ("unknown, read, and not there",  UNKNOWN,      Writing, [0, 0], [0, 1, 0, 0, 0]),
        ("unknown, read elsewhere, gone", UNKNOWN,      Reading,  [0, 0], [0, 0, 1, 0, 0]),
        ("unknown, read, and there",      UNKNOWN,      Writing, [1, 1], [0, 0, 0, 0, 0]),
        ("acknowledged, read, and gone",  ACKNOWLEDGED, Writing, [0, 0], [1, 1, 0, 0, 0]),
        ("refused and not there",         REFUSED,      Nowhere, [0, 0], [0, 0, 0, 0, 0]),
        ("refused and there",             REFUSED,      Nowhere, [0, 1], [0, 0, 0, 1, 0]),
        ("refused, read, and gone",       REFUSED,      Writing, [0, 0], [0, 1, 0, 1, 0]),
        ("never tried and there",         None,         Nowhere, [1, 1], [0, 0, 0, 0, 1]),
        ("never tried and read",          None,         Reading,  [1, 1], [0, 0, 0, 0, 1]),
        ("never there",                   None,         Nowhere, [0, 0], [0, 0, 0, 0, 0]),
    ];
    for (what, outcome, read, looks, expected) in cases {
        let found = examine(&history(outcome, read, &looks));
        let Durability { lost, vanished, refused_but_there, invented, .. } = found;
        let elsewhere = found.vanished_from_read_address;
        let found = [lost, vanished, elsewhere, refused_but_there, invented].map(|rows| rows.count);
        assert_eq!(found, expected, "{what}");
    }
}
