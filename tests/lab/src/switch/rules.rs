//! What happens to packets, for each pair of hosts and each direction.

use std::collections::BTreeMap;
use std::time::Duration;

/// A host's number in the switch.
pub type Port = usize;

/// How one direction between two hosts is disturbed. The default is: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// How many causes cut it; 0: it is not cut. Faults overlap, and each heals for itself.
    pub cuts: u32,
    /// Each packet arrives this much later.
    pub delay: Duration,
    /// Of 100 packets this many are lost.
    pub loss_percent: u8,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered { after: Duration },
    Dropped,
}

/// Every disturbed direction; what is not named is not disturbed.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    links: BTreeMap<(Port, Port), Link>,
}

impl Rules {
    /// The direction from one host to another, to be changed.
    pub fn link(&mut self, from: Port, to: Port) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    /// Whether nothing gets through in this direction.
    pub fn is_cut(&self, from: Port, to: Port) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cuts > 0)
    }

    /// What becomes of the packet that is the `number`th of all.
    pub fn fate(&self, from: Port, to: Port, number: u64) -> Fate {
        let Some(link) = self.links.get(&(from, to)) else {
            return Fate::Delivered { after: Duration::ZERO };
        };
        if link.cuts > 0 || chance(number) < link.loss_percent {
            return Fate::Dropped;
        }
        Fate::Delivered { after: link.delay }
    }
}

/// 0 to 99, evenly, and without a pattern that a protocol's retries could fall into step with.
fn chance(number: u64) -> u8 {
    // The finalizer of SplitMix64.
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    u8::try_from((z ^ (z >> 31)) % 100).expect("below 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_has_a_direction_and_ends_with_its_last_cause() {
        let mut rules = Rules::default();
        rules.link(0, 1).cuts += 1;
        rules.link(0, 1).cuts += 1;
        assert_eq!(rules.fate(0, 1, 7), Fate::Dropped);
        assert_eq!(rules.fate(1, 0, 7), Fate::Delivered { after: Duration::ZERO });
        rules.link(0, 1).cuts -= 1;
        assert!(rules.is_cut(0, 1));
        rules.link(0, 1).cuts -= 1;
        assert_eq!(rules.fate(0, 1, 7), Fate::Delivered { after: Duration::ZERO });
    }

    #[test]
    fn loss_takes_its_share() {
        let mut rules = Rules::default();
        rules.link(0, 1).loss_percent = 20;
        let lost = (0..10_000).filter(|number| rules.fate(0, 1, *number) == Fate::Dropped).count();
        assert!((1_800..2_200).contains(&lost), "{lost} of 10000");
    }
}
