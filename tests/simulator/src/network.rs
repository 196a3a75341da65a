//! The network: delays, cuts, and what becomes of messages on the way.
//!
//! Each pair of places has a few channels, and a channel keeps its order, as TCP does. Nothing is
//! ever corrupted. A cut has one direction; what is sent into it is lost, or comes when it heals.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dice::Dice;
use crate::moment::Moment;

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// An instance, by its number.
    Instance(usize),
    Store,
    Proxy(usize),
}

/// Messages of one kind keep their order between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Sessions and presences.
    Session,
    Declarations,
    Watch,
    Wal,
    Topology,
    /// One connection of one client.
    Client(usize),
}

/// A set of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u32);

impl Places {
    pub const ALL: Self = Self(u32::MAX);

    /// Any set: each place is in it or not by a bit of `chance`.
    pub(crate) fn drawn(chance: u64) -> Self {
        Self(u32::try_from(chance & u64::from(u32::MAX)).expect("it has 32 bits"))
    }

    pub(crate) fn just(places: &[Place]) -> Self {
        Self(places.iter().map(|place| Self::bit(*place)).fold(0, |all, bit| all | bit))
    }

    #[must_use]
    pub(crate) fn others(self) -> Self {
        Self(!self.0)
    }

    pub(crate) fn contains(self, place: Place) -> bool {
        self.0 & Self::bit(place) != 0
    }

    fn bit(place: Place) -> u32 {
        match place {
            Place::Store => 1,
            Place::Proxy(number) => 1 << (1 + number),
            Place::Instance(node) => 1 << (8 + node),
        }
    }
}

/// One direction that is cut.
#[derive(Clone, Debug)]
pub struct Cut {
    pub from: Places,
    pub to: Places,
    pub until: Moment,
    pub fate: Fate,
}

/// What becomes of messages that are sent into a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    /// They are sent again until the cut heals.
    Late,
}

#[derive(Debug, Default)]
pub struct Network {
    cuts: Vec<Cut>,
    /// Until when everything takes this many times as long.
    slow: Option<(Moment, u64)>,
    /// The last arrival of each channel.
    arrivals: BTreeMap<(Place, Place, Channel), Moment>,
}

impl Network {
    pub fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    pub fn slow_down(&mut self, until: Moment, factor: u64) {
        self.slow = Some((until, factor));
    }

    pub(crate) fn is_cut(&self, now: Moment) -> bool {
        self.cuts.iter().any(|cut| cut.until > now)
    }

    /// When a message that is sent now arrives; none: never.
    pub(crate) fn arrival(
        &mut self,
        dice: &mut Dice,
        now: Moment,
        (from, to): (Place, Place),
        channel: Channel,
    ) -> Option<Moment> {
        self.cuts.retain(|cut| cut.until > now);
        let mut leaves = now;
        for cut in &self.cuts {
            let cuts_it = cut.from.contains(from) && cut.to.contains(to);
            match cut.fate {
                Fate::Lost if cuts_it => return None,
                Fate::Late if cuts_it => leaves = leaves.max(cut.until),
                Fate::Lost | Fate::Late => (),
            }
        }
        let usual = dice.between(80, 900);
        let rarely = if dice.chance(2) { dice.between(1_000, 60_000) } else { 0 };
        let factor = self.slow.filter(|(until, _)| *until > now).map_or(1, |(_, factor)| factor);
        let arrives = leaves.after(Duration::from_micros((usual + rarely) * factor));
        let last = self.arrivals.entry((from, to, channel)).or_default();
        *last = arrives.max(Moment(last.0 + 1));
        Some(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: (Place, Place) = (Place::Instance(0), Place::Store);

    #[test]
    fn a_channel_keeps_its_order() {
        let (mut network, mut dice) = (Network::default(), Dice::new(7));
        let mut send = |now| network.arrival(&mut dice, Moment(now), PAIR, Channel::Wal).unwrap();
        let arrivals: Vec<_> = (0..1_000).map(&mut send).collect();
        assert!(arrivals.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_cut_has_one_direction_and_an_end() {
        let (mut network, mut dice) = (Network::default(), Dice::new(7));
        let until = Moment(1_000_000);
        let cut = |fate| Cut { from: Places::just(&[PAIR.0]), to: Places::ALL, until, fate };
        network.cut(cut(Fate::Late));
        let mut send = |network: &mut Network, now, pair| {
            network.arrival(&mut dice, Moment(now), pair, Channel::Session)
        };
        assert!(send(&mut network, 5, PAIR).unwrap() > until, "late");
        assert!(send(&mut network, 5, (PAIR.1, PAIR.0)).unwrap() < until, "the other direction");
        network.cut(cut(Fate::Lost));
        assert_eq!(send(&mut network, 5, PAIR), None, "lost");
        assert!(send(&mut network, until.0, PAIR).is_some(), "healed");
    }
}
