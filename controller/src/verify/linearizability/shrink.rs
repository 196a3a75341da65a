//! A proof that a person can check: of operations that contradict each other, the fewest.
//!
//! **Invariant:** what is taken out can be taken out of any history without making it worse: a read,
//! and a write whose value nobody needs. What is left is guilty only if the whole was.

use std::collections::BTreeSet;

use super::search::{Answer, Step, search};
use crate::verify::history::{Moment, Value};

/// The fewest of `steps`, which have no order from the moment `at` on, that have none either.
pub(super) fn shrink(steps: &[Step], at: Moment) -> Vec<Step> {
    let mut few: Vec<Step> = steps.iter().filter_map(|step| until(step, at)).collect();
    loop {
        let before = few.len();
        for index in (0..before).rev() {
            if may_go(&few, index) {
                let mut fewer = few.clone();
                fewer.remove(index);
                if guilty(&fewer) {
                    few = fewer;
                }
            }
        }
        // What needed a value has gone, perhaps: then the write of that value may go, too.
        if few.len() == before {
            return few;
        }
    }
}

/// What could be known of `step` at the moment `at`.
///
/// A read that was still open then may have seen what was written later, and an open exchange too.
fn until(step: &Step, at: Moment) -> Option<Step> {
    let mut step = step.clone();
    step.returned = step.returned.filter(|returned| *returned <= at);
    let of_use = step.returned.is_some() || step.effect.leaves().is_some();
    (step.called <= at && of_use).then_some(step)
}

fn guilty(steps: &[Step]) -> bool {
    matches!(search(steps), Answer::Violated { .. })
}

fn may_go(steps: &[Step], index: usize) -> bool {
    let needed: BTreeSet<Value> = steps.iter().filter_map(|step| step.effect.needs()).collect();
    steps[index].effect.leaves().is_none_or(|value| !needed.contains(&value))
}
