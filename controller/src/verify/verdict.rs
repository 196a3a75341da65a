//! The judgement of one history.
//!
//! [`judge`] collects what each question found; [`Verdict::charges`] says which promises are broken
//! and [`Verdict::open`] what could not be decided. One charge convicts. Only who has neither
//! charges nor open questions is acquitted.

use std::collections::BTreeMap;

use serde::Serialize;

use super::durability::{self, Durability, Rows};
use super::freshness::{self, Freshness};
use super::history::{History, Moment};
use super::linearizability::{self, Linearizability};
use super::outcome::{Cause, Outcome};
use super::pauses::{self, Pause};
use super::staleness::{self, Staleness};

/// How many times all that is there is read in the end.
pub const LOOKS: usize = 3;

/// The one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// Everything that was looked at held, and all of it could be looked at.
    Acquitted,
    /// A promise is broken.
    Convicted,
    /// No promise is known to be broken, and not everything could be looked at.
    NotDecided,
}

/// What became of the writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Writes {
    pub acknowledged: u64,
    pub refused: BTreeMap<Cause, u64>,
    pub unknown: BTreeMap<Cause, u64>,
}

/// Everything that one history proves.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    ruling: Ruling,
    /// Promises that are broken, a sentence each.
    pub charges: Vec<String>,
    /// What could not be decided, and why, a sentence each.
    pub open: Vec<String>,
    /// When the run began, as RFC 3339 has it.
    pub began: String,
    /// How long it was, in nanoseconds.
    pub lasted: Moment,
    pub writes: Writes,
    /// Reads at the write address without an answer.
    pub failed_reads: BTreeMap<Cause, u64>,
    pub failed_connects: BTreeMap<Cause, u64>,
    pub failed_glances: BTreeMap<Cause, u64>,
    pub durability: Durability,
    pub freshness: Freshness,
    pub linearizability: Linearizability,
    /// Of the read address; none: there is no such address.
    pub staleness: Option<Staleness>,
    /// The longest times without an acknowledged write.
    pub pauses: Vec<Pause>,
}

/// Judges a history. Pure: equal histories have equal verdicts.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict {
        ruling: Ruling::NotDecided,
        charges: Vec::new(),
        open: Vec::new(),
        began: humantime::format_rfc3339_millis(history.began).to_string(),
        lasted: history.ended,
        writes: writes(history),
        failed_reads: history.failed_reads.clone(),
        failed_connects: history.failed_connects.clone(),
        failed_glances: history.failed_glances.clone(),
        durability: durability::examine(history),
        freshness: freshness::examine(history),
        linearizability: linearizability::examine(history),
        staleness: staleness::measure(history),
        pauses: pauses::measure(history),
    };
    verdict.charges = charges(&verdict);
    verdict.open = open(history, &verdict);
    verdict.ruling = match (verdict.charges.is_empty(), verdict.open.is_empty()) {
        (false, _) => Ruling::Convicted,
        (true, true) => Ruling::Acquitted,
        (true, false) => Ruling::NotDecided,
    };
    verdict
}

impl Verdict {
    #[must_use]
    pub fn ruling(&self) -> Ruling {
        self.ruling
    }
}

fn writes(history: &History) -> Writes {
    let mut writes = Writes::default();
    for operation in history.operations.iter().filter(|operation| operation.action.is_write()) {
        match operation.outcome {
            Outcome::Acknowledged => writes.acknowledged += 1,
            Outcome::Refused(cause) => *writes.refused.entry(cause).or_default() += 1,
            Outcome::Unknown(cause) => *writes.unknown.entry(cause).or_default() += 1,
        }
    }
    writes
}

fn charges(verdict: &Verdict) -> Vec<String> {
    let mut charges = Vec::new();
    let Durability {
        lost, vanished, vanished_from_read_address, refused_but_there, invented, ..
    } = &verdict.durability;
    let mut charge = |rows: &Rows, one: &str, many: &str| {
        if let Some((row, at)) = rows.first.first() {
            let what = if rows.count == 1 { one } else { many };
            charges.push(format!("{} {what} (first: row {row} at {at})", rows.count));
        }
    };
    charge(lost, "acknowledged row is lost", "acknowledged rows are lost");
    charge(
        vanished,
        "row that was read at the write address has vanished",
        "rows that were read at the write address have vanished",
    );
    charge(
        vanished_from_read_address,
        "row that was read at the read address has vanished",
        "rows that were read at the read address have vanished",
    );
    charge(
        refused_but_there,
        "row whose write was refused is there",
        "rows whose write was refused are there",
    );
    charge(invented, "row is there that nobody wrote", "rows are there that nobody wrote");
    let Freshness { stale, reads, worst } = &verdict.freshness;
    if let Some(worst) = worst {
        charges.push(format!(
            "{stale} of {reads} reads at the write address were stale (worst: at {}, row {} had \
             been there for {} ms)",
            worst.called,
            worst.lacks,
            worst.for_ms.as_millis()
        ));
    }
    let Linearizability { violated, registers, .. } = verdict.linearizability;
    if violated > 0 {
        charges.push(format!("{violated} of {registers} registers are not linearizable"));
    }
    charges
}

fn open(history: &History, verdict: &Verdict) -> Vec<String> {
    let mut open = Vec::new();
    if history.looks.len() < LOOKS {
        let why = history.unreachable.as_deref().unwrap_or("nobody looked");
        open.push(format!(
            "what is there in the end was read {} of {LOOKS} times: {why}",
            history.looks.len()
        ));
    }
    if verdict.durability.acknowledged == 0 && !history.looks.is_empty() {
        open.push("not a single row was acknowledged: nothing is proven".to_owned());
    }
    if verdict.freshness.reads == 0 {
        open.push("not a single read at the write address was answered".to_owned());
    }
    if verdict.staleness.as_ref().is_some_and(|staleness| staleness.reads == 0) {
        open.push("not a single read at the read address was answered".to_owned());
    }
    let undecided = verdict.linearizability.undecided;
    if undecided > 0 {
        open.push(format!("{undecided} registers have too many orders to try them all"));
    }
    if let Some(at) = history.full {
        open.push(format!("the record was full at {at}: nothing was done after that"));
    }
    open
}

#[cfg(test)]
mod tests;
