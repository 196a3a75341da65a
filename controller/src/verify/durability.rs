//! Whether rows stay: those that were acknowledged, and those that anybody has read.
//!
//! **Invariant:** a row is charged by what clients were told and saw, and by the last looks. An
//! unknown outcome is never a charge by itself: such a row may be there or not, but once somebody has
//! read it, it has to stay.
//!
//! Source: `controller/PROTOCOL.md`, "The model of correctness", 1 and 4.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::history::{Action, History, Moment, Operation, Row};
use super::outcome::Outcome;

/// How many rows of a kind are named.
const NAMED_MAX: usize = 10;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Durability {
    pub acknowledged: usize,
    /// Rows there in the last look.
    pub there: usize,
    /// Acknowledged, and missing in one of the last looks.
    pub lost: Rows,
    /// Read at the write address, and missing in a later one of the last looks.
    pub vanished: Rows,
    /// The same of the read address.
    pub vanished_from_read_address: Rows,
    /// Refused for certain, and there.
    pub refused_but_there: Rows,
    /// There, though nobody has ever tried to write it.
    pub invented: Rows,
    /// Outcome unknown, and there: no charge.
    pub unknown_there: usize,
    /// Outcome unknown, and not there: no charge.
    pub unknown_missing: usize,
}

/// Rows that something is wrong with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    pub count: usize,
    /// The first of them, and when they were acknowledged, read or refused.
    pub first: Vec<(Row, Moment)>,
}

impl Rows {
    fn add(&mut self, row: Row, at: Moment) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push((row, at));
        }
    }
}

/// Judges every row of a run. Without a last look there is nothing to hold it against.
#[must_use]
pub fn examine(history: &History) -> Durability {
    let acknowledged = history.operations.iter().filter(|operation| is_kept(operation)).count();
    let mut found = Durability { acknowledged, ..Durability::default() };
    let Some(last) = history.looks.last() else {
        return found;
    };
    let rows_of = |look: usize| history.looks[look].rows.iter().copied().collect::<BTreeSet<Row>>();
    let looks: Vec<BTreeSet<Row>> = (0..history.looks.len()).map(rows_of).collect();
    let missing = |row: Row| looks.iter().any(|look| !look.contains(&row));
    let present = |row: Row| looks.iter().any(|look| look.contains(&row));
    let seen = Seen::of(history);

    let mut tried = BTreeSet::new();
    for operation in &history.operations {
        let Action::Append(row) = operation.action else {
            continue;
        };
        tried.insert(row);
        match operation.outcome {
            Outcome::Acknowledged => {
                if missing(row) {
                    found.lost.add(row, operation.returned);
                }
            }
            Outcome::Refused(_) => {
                if present(row) || seen.anywhere(row) {
                    found.refused_but_there.add(row, operation.returned);
                }
            }
            Outcome::Unknown(_) if present(row) => found.unknown_there += 1,
            Outcome::Unknown(_) => found.unknown_missing += 1,
        }
    }
    for (row, at) in &seen.at_write {
        if missing(*row) {
            found.vanished.add(*row, *at);
        }
    }
    for (index, look) in looks.iter().enumerate() {
        let later = looks.iter().skip(index + 1);
        let gone = look.iter().filter(|row| later.clone().any(|look| !look.contains(row)));
        // What was read before is counted already.
        for row in gone.filter(|row| !seen.at_write.contains_key(row)) {
            found.vanished.add(*row, history.looks[index].returned);
        }
    }
    for (row, at) in &seen.at_read {
        if missing(*row) {
            found.vanished_from_read_address.add(*row, *at);
        }
    }
    let there = looks.iter().flatten().chain(seen.at_write.keys()).chain(seen.at_read.keys());
    for row in there.collect::<BTreeSet<_>>().difference(&tried.iter().collect()) {
        found.invented.add(**row, last.returned);
    }
    found.there = last.rows.len();
    found
}

/// Whether it is a row that is promised to stay.
fn is_kept(operation: &Operation) -> bool {
    matches!(operation.action, Action::Append(_)) && operation.outcome == Outcome::Acknowledged
}

/// Rows that anybody has read while it ran, and when first.
#[derive(Default)]
struct Seen {
    at_write: BTreeMap<Row, Moment>,
    at_read: BTreeMap<Row, Moment>,
}

impl Seen {
    fn of(history: &History) -> Self {
        let mut seen = Self::default();
        for operation in &history.operations {
            if let Action::Tips(rows) = &operation.action {
                note(&mut seen.at_write, rows, operation.returned);
            }
        }
        for glance in history.glances.iter().flatten() {
            note(&mut seen.at_read, &glance.tips, glance.returned);
        }
        seen
    }

    fn anywhere(&self, row: Row) -> bool {
        self.at_write.contains_key(&row) || self.at_read.contains_key(&row)
    }
}

fn note(seen: &mut BTreeMap<Row, Moment>, rows: &[Row], at: Moment) {
    for row in rows {
        let first = seen.entry(*row).or_insert(at);
        *first = at.min(*first);
    }
}

#[cfg(test)]
mod tests;
