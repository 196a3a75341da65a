//! What breaks, when, and for how long: rounds of faults, drawn from a seed.
//!
//! A round is one fault or two that overlap. After a round everything is healed, and the next one
//! waits until the cluster takes writes again: how long that takes is not the nemesis's business,
//! so a seed names the same rounds on every machine.
//!
//! **Invariant:** a round follows from the seed, its number and the [`Plan`] alone.

use std::time::Duration;

use crate::fault::{Fault, Victim, Way};
use crate::plan::{Plan, StorePlace};

/// Faults that strike together, or nearly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Quiet time before it.
    pub calm: Duration,
    pub strikes: Vec<Strike>,
}

/// One fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// After the beginning of the round.
    pub after: Duration,
    pub fault: Fault,
    pub lasts: Duration,
}

/// Draws rounds, without end.
#[derive(Clone, Debug)]
pub struct Nemesis {
    plan: Plan,
    seed: u64,
    round: u64,
}

impl Nemesis {
    /// The nemesis of a seed.
    pub fn new(seed: u64, plan: Plan) -> Self {
        Self { plan, seed, round: 0 }
    }

    /// The next round.
    pub fn draw(&mut self) -> Round {
        self.round += 1;
        // Each round has dice of its own: what one draws does not move the later ones.
        let mut dice = Dice(self.seed ^ self.round.wrapping_mul(0xA076_1D64_78BD_642F));
        let mut strikes = vec![self.strike(&mut dice, Duration::ZERO)];
        if dice.chance(35) {
            let after = dice.millis(0, 3_000);
            strikes.push(self.strike(&mut dice, after));
        }
        Round { calm: dice.millis(200, 2_000), strikes }
    }

    fn strike(&self, dice: &mut Dice, after: Duration) -> Strike {
        let fault = self.fault(dice);
        // Some end before the leases do, most outlast them, a few outlast what TCP and clients wait.
        let lasts = match dice.below(100) {
            0..7 => dice.millis(10_000, 25_000),
            _ => dice.millis(500, 9_000),
        };
        Strike { after, fault, lasts }
    }

    fn fault(&self, dice: &mut Dice) -> Fault {
        let store_is_reached = self.plan.store != StorePlace::File;
        let victim = self.machine(dice);
        loop {
            match dice.below(100) {
                0..18 => {
                    let (a, b) = (victim, self.anybody(dice));
                    if a != b {
                        return Fault::CutPair { a, b, way: dice.way() };
                    }
                }
                18..34 => return Fault::CutOff { victim: self.anybody(dice), way: dice.way() },
                34..44 => return Fault::Split { side: self.side(dice) },
                44..50 if store_is_reached => return Fault::CutFromStore { victim },
                50..54 if store_is_reached => {
                    let other =
                        if victim == Victim::Primary { Victim::Sync } else { Victim::Primary };
                    return Fault::CutFromStoreAnd { victim, other };
                }
                54..62 => {
                    return Fault::Slow { victim: self.anybody(dice), by: dice.millis(5, 400) };
                }
                62..67 => {
                    let percent = u8::try_from(dice.between(2, 30)).unwrap_or(u8::MAX);
                    return Fault::Lossy { victim: self.anybody(dice), percent };
                }
                67..80 => return Fault::Drop { victim: self.anybody(dice) },
                80..92 => return Fault::Pause { victim: self.anybody(dice) },
                92..96 if store_is_reached => {
                    return Fault::StoreMemberKilled { member: dice.index(3) };
                }
                96..100 if store_is_reached => return Fault::StoreDown,
                _ => {}
            }
        }
    }

    /// Mostly those whose loss is felt.
    fn machine(&self, dice: &mut Dice) -> Victim {
        match dice.below(100) {
            0..40 => Victim::Primary,
            40..65 => Victim::Sync,
            _ => Victim::Machine(dice.index(self.plan.machines)),
        }
    }

    fn anybody(&self, dice: &mut Dice) -> Victim {
        let apart = self.plan.store == StorePlace::Apart;
        match dice.below(100) {
            0..10 if self.plan.proxies > 0 => Victim::Proxy(dice.index(self.plan.proxies)),
            10..25 if apart => Victim::StoreMember(dice.index(3)),
            _ => self.machine(dice),
        }
    }

    /// One or two machines, and about half of everything else.
    fn side(&self, dice: &mut Dice) -> Vec<Victim> {
        let mut side = vec![self.machine(dice)];
        let second = Victim::Machine(dice.index(self.plan.machines));
        if dice.chance(50) && second != side[0] {
            side.push(second);
        }
        if self.plan.store == StorePlace::Apart {
            side.extend((0..3).filter(|_| dice.chance(50)).map(Victim::StoreMember));
        }
        side.extend((0..self.plan.proxies).filter(|_| dice.chance(50)).map(Victim::Proxy));
        side
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same on every machine for ever, so that a seed in
/// an old report still tells the same story.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.throw() % limit
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    fn way(&mut self) -> Way {
        match self.below(4) {
            0 => Way::Forth,
            1 => Way::Back,
            _ => Way::Both,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::papers::Wire;
    use std::collections::BTreeMap;

    use super::*;
    use crate::fault::KINDS;

    fn rounds(seed: u64, plan: Plan, count: usize) -> Vec<Round> {
        let mut nemesis = Nemesis::new(seed, plan);
        (0..count).map(|_| nemesis.draw()).collect()
    }

    const PLAN: Plan =
        Plan { machines: 3, store: StorePlace::Apart, proxies: 2, wire: Wire::Clear };

    #[test]
    fn a_seed_names_one_story() {
        assert_eq!(rounds(7, PLAN, 100), rounds(7, PLAN, 100));
        assert_ne!(rounds(7, PLAN, 100), rounds(8, PLAN, 100));
    }

    #[test]
    fn every_kind_comes_and_some_come_together() {
        let rounds = rounds(1, PLAN, 2_000);
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for strike in rounds.iter().flat_map(|round| &round.strikes) {
            *count.entry(strike.fault.kind()).or_default() += 1;
            assert!(strike.lasts <= Duration::from_secs(25));
        }
        assert!(KINDS.iter().all(|kind| count.get(kind).is_some_and(|n| *n > 20)), "{count:?}");
        let double = rounds.iter().filter(|round| round.strikes.len() == 2).count();
        assert!((500..900).contains(&double), "{double} of 2000 rounds");
    }

    #[test]
    fn a_store_in_a_file_has_no_faults_of_its_own() {
        let plan = Plan { store: StorePlace::File, ..PLAN };
        for strike in rounds(1, plan, 2_000).iter().flat_map(|round| &round.strikes) {
            assert!(!strike.fault.kind().contains("store"), "{}", strike.fault);
        }
    }

    #[test]
    fn half_an_hour_holds_a_hundred_and_fifty_faults() {
        // With ten seconds for each recovery.
        let rounds = rounds(3, PLAN, 1_000);
        let of = |round: &Round| {
            let last = round.strikes.iter().map(|strike| strike.after + strike.lasts).max();
            round.calm + last.unwrap_or_default() + Duration::from_secs(5)
        };
        let total: Duration = rounds.iter().map(of).sum();
        let faults: usize = rounds.iter().map(|round| round.strikes.len()).sum();
        let each = total / u32::try_from(faults).unwrap();
        assert!(each < Duration::from_secs(12), "one fault in {each:?}");
    }
}
