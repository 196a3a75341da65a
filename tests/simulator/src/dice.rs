//! Chance, decided by one seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): tiny, fast, and the same on every machine for ever,
/// so that a seed in an old report still tells the same story.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice whose every throw follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(crate) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `low..high`; `low` where the range is empty.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.throw() % high.saturating_sub(low).max(1)
    }

    /// True in `percent` of a hundred throws.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.throw() % 100 < percent
    }

    /// An index below `len`, which is not 0.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.throw() % len as u64).expect("below a usize")
    }
}
