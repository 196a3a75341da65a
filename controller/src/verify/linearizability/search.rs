//! The search for an order of one register's operations that explains what was seen.
//!
//! Operations are called and return in the order of time. A [`Configuration`] is one way in which it
//! may have gone so far: the register's value, and which of the open operations have taken effect.
//! When an operation returns without having taken effect, every way in which it may do so just now
//! is tried, with as many open ones before it as that needs ("just-in-time linearization"); equal
//! configurations are one. No configuration left: there is no order.
//!
//! Three things keep the set of configurations small, none of them changes the answer:
//! a read takes effect as soon as its value is there (it changes nothing, so that no later
//! moment can be better); an unknown write whose value nobody ever saw is left out (an order that
//! has it explains no more than the same order without it); operations that have returned are
//! forgotten.
//!
//! **Invariant:** the answer is exact, or [`Answer::NotDecided`].
//!
//! Source: Wing and Gong, "Testing and verifying concurrent objects", 1993; Lowe, "Testing for
//! linearizability", 2017, sections 4 (memoisation) and 5 (just-in-time).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::verify::history::{ClientId, Moment, Value};

/// Operations that may be open at once: the width of a mask.
const OPEN_MAX: usize = 128;

/// Configurations that one register may cost in total; about a second.
const WORK_MAX: usize = 1_000_000;

/// One operation on the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// None: the last look.
    pub client: Option<ClientId>,
    pub called: Moment,
    /// None: its outcome is unknown, and it may take effect at any time, or never.
    pub returned: Option<Moment>,
    pub effect: Effect,
}

/// What an operation does at the one instant at which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Read(Value),
    Write(Value),
    /// Happens only where `old` is the value.
    Swap {
        old: Value,
        new: Value,
    },
}

impl Effect {
    /// The value afterwards; none where it cannot happen.
    fn on(self, value: Value) -> Option<Value> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap { old, new } => (old == value).then_some(new),
        }
    }

    /// The value that it needs to find.
    pub(super) fn needs(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Swap { old: value, .. } => Some(value),
            Self::Write(_) => None,
        }
    }

    /// The value that it leaves.
    pub(super) fn leaves(self) -> Option<Value> {
        match self {
            Self::Read(_) => None,
            Self::Write(value) | Self::Swap { new: value, .. } => Some(value),
        }
    }
}

impl Step {
    /// For people: who did what, from when to when.
    pub(super) fn words(&self) -> String {
        let who = self
            .client
            .map_or_else(|| "the last look".to_owned(), |client| format!("client {}", client.0));
        let what = match self.effect {
            Effect::Read(Value::NEVER_WRITTEN) => "found it never written".to_owned(),
            Effect::Read(value) => format!("read {}", value.0),
            Effect::Write(value) => format!("wrote {}", value.0),
            Effect::Swap { old, new } => format!("replaced {} by {}", old.0, new.0),
        };
        match self.returned {
            Some(returned) => format!("{} to {returned}: {who} {what}", self.called),
            None => format!("{} on, no answer yet: {who} {what}", self.called),
        }
    }
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Linearizable,
    /// No order explains the answer that came at this moment, whatever came after.
    Violated {
        at: Moment,
    },
    /// A bound was reached.
    NotDecided,
}

/// One way in which it may have gone so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    value: Value,
    /// Slots of the open operations that have taken effect.
    done: u128,
}

/// Calls before returns of the same moment: then they overlap, and nothing follows from the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Call,
    Return,
}

/// Whether one register that was never written before behaved.
#[must_use]
pub fn search(steps: &[Step]) -> Answer {
    search_within(steps, WORK_MAX)
}

/// The same, for at most `work` configurations.
pub(super) fn search_within(steps: &[Step], work: usize) -> Answer {
    let steps = relevant(steps);
    let mut edges = Vec::with_capacity(2 * steps.len());
    for (index, step) in steps.iter().enumerate() {
        edges.push((step.called, Edge::Call, index));
        edges.extend(step.returned.map(|returned| (returned, Edge::Return, index)));
    }
    edges.sort_unstable();

    let mut search = Search::new(work);
    for (at, edge, index) in edges {
        let goes_on = match edge {
            Edge::Call => search.call(index, steps[index].effect),
            Edge::Return => search.finish(index),
        };
        match goes_on {
            None => return Answer::NotDecided,
            Some(()) if search.configurations.is_empty() => return Answer::Violated { at },
            Some(()) => (),
        }
    }
    Answer::Linearizable
}

/// Without the unknown writes whose values nobody ever saw, again and again: an unknown exchange
/// that is left out has seen nothing either.
fn relevant(steps: &[Step]) -> Vec<&Step> {
    let mut steps: Vec<&Step> = steps.iter().collect();
    loop {
        let needed: BTreeSet<Value> = steps.iter().filter_map(|step| step.effect.needs()).collect();
        let before = steps.len();
        steps.retain(|step| {
            step.returned.is_some()
                || step.effect.leaves().is_some_and(|value| needed.contains(&value))
        });
        if steps.len() == before {
            return steps;
        }
    }
}

/// Everything that may have happened up to now.
struct Search {
    configurations: HashSet<Configuration>,
    /// Slot and effect of each open operation.
    open: BTreeMap<usize, (usize, Effect)>,
    free: Vec<usize>,
    work_left: usize,
}

impl Search {
    fn new(work_left: usize) -> Self {
        let start = Configuration { value: Value::NEVER_WRITTEN, done: 0 };
        Self {
            configurations: HashSet::from([start]),
            open: BTreeMap::new(),
            free: (0..OPEN_MAX).rev().collect(),
            work_left,
        }
    }

    /// An operation begins. None: too many are open.
    fn call(&mut self, index: usize, effect: Effect) -> Option<()> {
        let slot = self.free.pop()?;
        self.open.insert(index, (slot, effect));
        if let Effect::Read(_) = effect {
            let before = std::mem::take(&mut self.configurations);
            self.work_left = self.work_left.checked_sub(before.len())?;
            let settled = before.into_iter().map(|configuration| self.settled(configuration));
            self.configurations = settled.collect();
        }
        Some(())
    }

    /// An operation has returned: only configurations in which it has taken effect are left.
    /// None: that would take too long.
    fn finish(&mut self, index: usize) -> Option<()> {
        let (slot, _) = *self.open.get(&index)?;
        let mut left = HashSet::new();
        let mut seen: HashSet<Configuration> = HashSet::new();
        let mut todo: Vec<Configuration> = self.configurations.drain().collect();
        while let Some(configuration) = todo.pop() {
            if !seen.insert(configuration) {
                continue;
            }
            self.work_left = self.work_left.checked_sub(1)?;
            if has(configuration.done, slot) {
                left.insert(Configuration {
                    done: configuration.done & !bit(slot),
                    ..configuration
                });
                continue;
            }
            for &(slot, effect) in self.open.values() {
                if has(configuration.done, slot) {
                    continue;
                }
                if let Some(value) = effect.on(configuration.value) {
                    let done = configuration.done | bit(slot);
                    todo.push(self.settled(Configuration { value, done }));
                }
            }
        }
        self.open.remove(&index);
        self.free.push(slot);
        self.configurations = left;
        Some(())
    }

    /// With every open read of the present value done.
    fn settled(&self, mut configuration: Configuration) -> Configuration {
        for &(slot, effect) in self.open.values() {
            if effect == Effect::Read(configuration.value) {
                configuration.done |= bit(slot);
            }
        }
        configuration
    }
}

fn bit(slot: usize) -> u128 {
    1 << slot
}

fn has(done: u128, slot: usize) -> bool {
    done & bit(slot) != 0
}
