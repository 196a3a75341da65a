//! Whether reads at the write address saw every row that was there before they began.
//!
//! A read returns the newest row of each writer. It has to be at least as new as the newest one that
//! was acknowledged, or read by somebody, before the read was called.
//!
//! **Invariant:** only what had *returned* before the read was *called* is asked of it.
//!
//! Source: `controller/PROTOCOL.md`, "The model of correctness", 3.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::history::{Action, ClientId, History, Moment, Row};
use super::outcome::Outcome;
use super::report::as_milliseconds;

/// What the reads at the write address saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Reads that got an answer.
    pub reads: usize,
    /// Those that lacked a row.
    pub stale: usize,
    /// The one that lacked the oldest row.
    pub worst: Option<StaleRead>,
}

/// A read that lacked a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaleRead {
    pub reader: ClientId,
    pub called: Moment,
    /// The newest row of its writer that was certainly there, and not seen.
    pub lacks: Row,
    /// For how long that had been certain.
    #[serde(serialize_with = "as_milliseconds")]
    pub for_ms: Duration,
}

/// Judges every read of rows at the write address.
#[must_use]
pub fn examine(history: &History) -> Freshness {
    let certain = Certain::of(history);
    let mut found = Freshness::default();
    for operation in &history.operations {
        let Action::Tips(tips) = &operation.action else {
            continue;
        };
        found.reads += 1;
        let lacking = certain.writers().filter_map(|writer| {
            let (at, number) = certain.newest_before(writer, operation.called)?;
            let saw = tips.iter().find(|tip| tip.writer == writer).map_or(0, |tip| tip.number);
            (saw < number).then_some((at, Row { writer, number }))
        });
        let Some((at, lacks)) = lacking.min() else {
            continue;
        };
        found.stale += 1;
        let for_ms = operation.called.since(at);
        if found.worst.as_ref().is_none_or(|worst| worst.for_ms < for_ms) {
            let (reader, called) = (operation.client, operation.called);
            found.worst = Some(StaleRead { reader, called, lacks, for_ms });
        }
    }
    found
}

/// Since when which row of each writer was certainly there.
struct Certain(BTreeMap<ClientId, Vec<(Moment, u64)>>);

impl Certain {
    /// By what was acknowledged and by what was read.
    fn of(history: &History) -> Self {
        let mut facts: BTreeMap<ClientId, Vec<(Moment, u64)>> = BTreeMap::new();
        for operation in &history.operations {
            let rows = match (&operation.action, operation.outcome) {
                (Action::Append(row), Outcome::Acknowledged) => std::slice::from_ref(row),
                (Action::Tips(rows), _) => rows,
                (Action::Append(_) | Action::Read { .. }, _)
                | (Action::Write { .. } | Action::Swap { .. }, _) => &[],
            };
            for row in rows {
                facts.entry(row.writer).or_default().push((operation.returned, row.number));
            }
        }
        for rows in facts.values_mut() {
            rows.sort_unstable();
            // Only what is newer than everything before it: moments and numbers both grow.
            let mut newest = 0;
            rows.retain(|&(_, number)| {
                let newer = number > newest;
                newest = newest.max(number);
                newer
            });
        }
        Self(facts)
    }

    fn writers(&self) -> impl Iterator<Item = ClientId> {
        self.0.keys().copied()
    }

    fn newest_before(&self, writer: ClientId, moment: Moment) -> Option<(Moment, u64)> {
        let rows = self.0.get(&writer)?;
        rows[..rows.partition_point(|&(at, _)| at < moment)].last().copied()
    }
}

#[cfg(test)]
mod tests;
