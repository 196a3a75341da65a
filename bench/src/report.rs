//! Figures: minimum, median, maximum; never one number.

use std::fmt;
use std::time::Duration;

/// Several measurements of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    /// One more measurement.
    pub(crate) fn add(&mut self, measured: Duration) {
        self.0.push(measured);
        self.0.sort();
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one; of an even number the upper of the two in the middle.
    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The largest.
    pub(crate) fn worst(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.0.first().copied().unwrap_or_default();
        let [least, median, worst] = [least, self.median(), self.worst()].map(|d| d.as_secs_f64());
        let count = self.count();
        write!(f, "median {median:.3} s, from {least:.3} to {worst:.3} s, {count} times")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_knows_its_middle_and_its_worst() {
        let mut spread = Spread::default();
        for millis in [30, 10, 20] {
            spread.add(Duration::from_millis(millis));
        }
        assert_eq!(spread.median(), Duration::from_millis(20));
        assert_eq!(spread.worst(), Duration::from_millis(30));
    }
}
