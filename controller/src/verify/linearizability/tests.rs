//! Tables, a comparison with brute force, and histories of a true register.

use std::collections::BTreeSet;

use super::search::{Answer, Effect, Step, search, search_within};
use super::shrink::shrink;
use crate::verify::history::{Moment, Value};
use crate::verify::recorder::dice::Dice;

const NEVER: u64 = 0;

fn step(called: u64, returned: u64, effect: Effect) -> Step {
    // 0: no answer.
    let returned = (returned > 0).then_some(Moment(returned));
    Step { client: None, called: Moment(called), returned, effect }
}

fn read(called: u64, returned: u64, value: u64) -> Step {
    step(called, returned, Effect::Read(Value(value)))
}

fn write(called: u64, returned: u64, value: u64) -> Step {
    step(called, returned, Effect::Write(Value(value)))
}

fn swap(called: u64, returned: u64, old: u64, new: u64) -> Step {
    step(called, returned, Effect::Swap { old: Value(old), new: Value(new) })
}

#[test]
fn an_order_is_found_where_there_is_one() {
    let good = Answer::Linearizable;
    let bad = |at| Answer::Violated { at: Moment(at) };
    #[rustfmt::skip]
    let cases = [
        ("nothing happened",                vec![], good),
        ("never written",                   vec![read(1, 2, NEVER)], good),
        ("a value from nowhere",            vec![read(1, 2, 5)], bad(2)),
        ("read after write",                vec![write(1, 2, 5), read(3, 4, 5)], good),
        ("a stale read",                    vec![write(1, 2, 5), read(3, 4, NEVER)], bad(4)),
        ("a read beside a write: old",      vec![write(1, 4, 5), read(2, 3, NEVER)], good),
        ("a read beside a write: new",      vec![write(1, 4, 5), read(2, 3, 5)], good),
        ("returned as the other began",     vec![write(1, 2, 5), read(2, 3, NEVER)], good),
        ("new, then old",                   vec![write(1, 9, 5), read(2, 3, 5), read(4, 5, NEVER)], bad(5)),
        ("read before it was written",      vec![read(1, 2, 5), write(3, 4, 5)], bad(2)),
        ("two writes, either may be last",  vec![write(1, 4, 5), write(2, 3, 6), read(5, 6, 5)], good),
        ("but not both",                    vec![write(1, 4, 5), write(2, 3, 6), read(5, 6, 5), read(7, 8, 6)], bad(8)),
        ("unknown, and never seen",         vec![write(1, 2, 5), write(3, 0, 6), read(4, 5, 5)], good),
        ("unknown, and seen late",          vec![write(1, 0, 5), read(2, 3, NEVER), read(8, 9, 5)], good),
        ("unknown, seen, and gone",         vec![write(1, 0, 5), read(2, 3, 5), read(4, 5, NEVER)], bad(5)),
        ("exchanged",                       vec![write(1, 2, 5), swap(3, 4, 5, 6), read(5, 6, 6)], good),
        ("exchanged what was not there",    vec![write(1, 2, 5), swap(3, 4, 4, 6)], bad(4)),
        ("two exchanged the same",          vec![write(1, 2, 5), swap(3, 6, 5, 6), swap(4, 7, 5, 7)], bad(7)),
        ("one of them perhaps",             vec![write(1, 2, 5), swap(3, 6, 5, 6), swap(4, 0, 5, 7)], good),
        ("an exchange of an unknown write", vec![write(1, 0, 5), swap(3, 4, 5, 6), read(5, 6, 6)], good),
        ("an unknown one of an unknown",    vec![write(1, 0, 5), swap(3, 0, 5, 6), read(7, 8, 6)], good),
        ("that was called too late",        vec![swap(3, 0, 5, 6), read(4, 5, 6), write(6, 0, 5)], bad(5)),
    ];
    for (what, steps, expected) in cases {
        assert_eq!(search(&steps), expected, "{what}");
        assert_eq!(by_force(&steps), expected == good, "{what}, tried one by one");
    }
}

/// Whether there is an order, by trying them all.
fn by_force(steps: &[Step]) -> bool {
    fn goes_on(left: &[Step], value: Value) -> bool {
        if left.iter().all(|step| step.returned.is_none()) {
            return true;
        }
        (0..left.len()).any(|index| {
            let next = &left[index];
            let first = left
                .iter()
                .all(|other| other.returned.is_none_or(|returned| returned >= next.called));
            let value = match next.effect {
                Effect::Read(seen) => (seen == value).then_some(value),
                Effect::Write(new) => Some(new),
                Effect::Swap { old, new } => (old == value).then_some(new),
            };
            let rest = || [&left[..index], &left[index + 1..]].concat();
            first && value.is_some_and(|value| goes_on(&rest(), value))
        })
    }
    goes_on(steps, Value::NEVER_WRITTEN)
}

/// What clients of a true register saw: each operation happens at one instant of its span.
fn true_history(dice: &mut Dice, clients: u64, steps: u64) -> Vec<Step> {
    struct Open {
        called: u64,
        happens: u64,
        returned: u64,
        kind: u64,
        old: u64,
        new: u64,
    }
    let mut all = Vec::new();
    let mut free = vec![1; usize::try_from(clients).unwrap()];
    for new in 1..=steps {
        let client = usize::try_from(dice.below(clients)).unwrap();
        let called = free[client] + dice.below(5);
        let happens = called + dice.below(20);
        let returned = happens + 1 + dice.below(10);
        free[client] = returned + 1;
        let kind = dice.below(10);
        // Sometimes what it expects is right, sometimes it is long gone.
        all.push(Open { called, happens, returned, kind, old: dice.below(new), new });
    }
    all.sort_by_key(|open| (open.happens, open.new));
    let mut value = NEVER;
    let mut found = Vec::new();
    for open in all {
        let Open { called, mut returned, kind, old, new, .. } = open;
        let answered = dice.below(6) > 0;
        if !answered {
            returned = 0;
        }
        match kind {
            0..4 if answered => found.push(read(called, returned, value)),
            // Unknown: it has happened, or not.
            4..8 => {
                if answered || dice.below(2) == 0 {
                    value = new;
                }
                found.push(write(called, returned, new));
            }
            8..10 if old == value => {
                if answered || dice.below(2) == 0 {
                    value = new;
                }
                found.push(swap(called, returned, old, new));
            }
            8..10 if answered => found.push(read(called, returned, value)),
            8..10 => found.push(swap(called, returned, old, new)),
            _ => (),
        }
    }
    found
}

#[test]
fn a_true_register_is_always_acquitted() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed, 0);
        let clients = 1 + dice.below(8);
        let steps = true_history(&mut dice, clients, 150);
        assert_eq!(search(&steps), Answer::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_read_of_what_was_overwritten_is_always_convicted() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed, 1);
        let mut steps = true_history(&mut dice, 4, 100);
        // Two writes, one after the other, and a read of the first after both: no order has that.
        let end = steps.iter().map(|step| step.called.max(step.returned.unwrap_or_default()));
        let end = end.max().unwrap().0;
        steps.push(write(end + 1, end + 2, 1001));
        steps.push(write(end + 3, end + 4, 1002));
        steps.push(read(end + 5, end + 6, 1001));
        let at = Moment(end + 6);
        assert_eq!(search(&steps), Answer::Violated { at }, "seed {seed}");
        let few = shrink(&steps, at);
        assert_eq!(few.len(), 3, "seed {seed}: {few:?}");
        assert!(!by_force(&few), "seed {seed}");
    }
}

#[test]
fn small_histories_are_judged_as_by_trying_every_order() {
    let mut both = BTreeSet::new();
    for seed in 0..4_000 {
        let mut dice = Dice::new(seed, 2);
        let count = 2 + dice.below(6);
        let mut steps = true_history(&mut dice, 3, count);
        // Bent: one read sees any of the values.
        let reads: Vec<usize> = (0..steps.len())
            .filter(|index| matches!(steps[*index].effect, Effect::Read(_)))
            .collect();
        if !reads.is_empty() {
            let bent = reads[usize::try_from(dice.below(reads.len() as u64)).unwrap()];
            steps[bent].effect = Effect::Read(Value(dice.below(count + 1)));
        }
        let expected = by_force(&steps);
        let found = search(&steps);
        assert_eq!(found == Answer::Linearizable, expected, "seed {seed}: {steps:?}");
        if let Answer::Violated { at } = found {
            let few = shrink(&steps, at);
            assert!(!by_force(&few), "seed {seed}: what is left is guilty, too: {few:?}");
            assert!(few.len() <= steps.len(), "seed {seed}");
        }
        both.insert(expected);
    }
    assert_eq!(both.len(), 2, "good ones and bad ones");
}

#[test]
fn what_would_take_too_long_is_not_decided() {
    // Each exchange of an unknown write may have found it before or after any other.
    let mut steps: Vec<Step> = (1..=24).map(|value| write(1, 100, value)).collect();
    steps.extend((1..=24).map(|value| swap(1, 100, value, 100 + value)));
    steps.push(read(2, 99, 999));
    steps.push(write(1, 0, 999));
    assert_eq!(search_within(&steps, 20_000), Answer::NotDecided);
    // More at once than there is room for.
    let steps: Vec<Step> = (1..=200).map(|value| write(1, 100, value)).collect();
    assert_eq!(search(&steps), Answer::NotDecided);
}
