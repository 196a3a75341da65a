//! Whether registers behaved as if each operation had happened at one instant.
//!
//! [`examine`] sorts a run's operations by register and asks [`search`] about each; a register that
//! was found guilty is made small by [`shrink`], so that a person can check the proof by eye.
//!
//! A write whose outcome is unknown may take effect at any time after it was called, or never.
//! Reads of the last looks are reads like any other: a lost write shows there at the latest.
//!
//! **Invariant:** each register is judged by itself. Linearizability is local: a history is
//! linearizable if and only if the history of each register is.
//!
//! Source: Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects",
//! 1990 (theorem 1: locality).

pub mod search;
mod shrink;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use self::search::{Answer, Effect, Step};
use super::history::{Action, History, Key, Moment, Value};
use super::outcome::Outcome;

/// How many guilty registers are shown in full.
const SHOWN_MAX: usize = 5;

/// What became of the registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Linearizability {
    /// Registers that anybody asked for.
    pub registers: usize,
    /// Operations on them that count.
    pub operations: usize,
    /// Registers without any order that explains what was seen.
    pub violated: usize,
    /// Registers whose search would have taken too long. They are not called good.
    pub undecided: usize,
    /// Of the first violated ones: the fewest operations that contradict each other.
    pub proofs: Vec<Proof>,
}

/// Operations that no order explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub register: Key,
    /// In the order of their calls, in words.
    pub operations: Vec<String>,
    /// When the first answer came that contradicts the others.
    pub at: Moment,
}

/// Judges every register of a run.
#[must_use]
pub fn examine(history: &History) -> Linearizability {
    let mut found = Linearizability::default();
    for (key, steps) in by_register(history) {
        found.registers += 1;
        found.operations += steps.len();
        match search::search(&steps) {
            Answer::Linearizable => (),
            Answer::NotDecided => found.undecided += 1,
            Answer::Violated { at } => {
                found.violated += 1;
                if found.proofs.len() < SHOWN_MAX {
                    found.proofs.push(proof(key, &steps, at));
                }
            }
        }
    }
    found
}

fn proof(register: Key, steps: &[Step], at: Moment) -> Proof {
    let mut few = shrink::shrink(steps, at);
    few.sort_by_key(|step| step.called);
    Proof { register, operations: few.iter().map(Step::words).collect(), at }
}

/// The steps of each register, in no particular order.
fn by_register(history: &History) -> BTreeMap<Key, Vec<Step>> {
    let mut found: BTreeMap<Key, Vec<Step>> = BTreeMap::new();
    for operation in &history.operations {
        let (key, effect) = match operation.action {
            Action::Read { key, value } => (key, Effect::Read(value)),
            Action::Write { key, value } => (key, Effect::Write(value)),
            Action::Swap { key, old, new } => (key, Effect::Swap { old, new }),
            Action::Append(_) | Action::Tips(_) => continue,
        };
        let returned = match operation.outcome {
            Outcome::Acknowledged => Some(operation.returned),
            Outcome::Unknown(_) => None,
            // It never happened; were its value read, that would be a value from nowhere.
            Outcome::Refused(_) => continue,
        };
        let client = Some(operation.client);
        let step = Step { client, called: operation.called, returned, effect };
        found.entry(key).or_default().push(step);
    }
    let keys: BTreeSet<Key> = found.keys().copied().collect();
    for look in &history.looks {
        for &key in &keys {
            let value = look.registers.get(&key).copied().unwrap_or(Value::NEVER_WRITTEN);
            let (called, returned) = (look.called, Some(look.returned));
            let step = Step { client: None, called, returned, effect: Effect::Read(value) };
            found.entry(key).or_default().push(step);
        }
    }
    found
}

#[cfg(test)]
mod tests;
