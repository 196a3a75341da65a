//! The world's own time, and the clocks that instances see instead.

use std::fmt;
use std::time::Duration;

use dugong_machine::Time;

/// Microseconds since the world began. Nobody in it can see this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and `span` more.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0 + micros(span))
    }

    /// How long ago `earlier` was.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("a span of this world is far below 584,000 years")
}

/// A clock that runs a little wrong. It never jumps: the one that the controllers use counts on
/// while a machine sleeps, and nobody can set it.
#[derive(Clone, Debug)]
pub struct Clock {
    set_at: Moment,
    /// What it showed then, in its own microseconds.
    showed: u64,
    /// Its microseconds in a million of the world's.
    rate: u64,
}

impl Clock {
    /// A clock that shows `showed` at the beginning.
    pub fn new(showed: Duration) -> Self {
        Self { set_at: Moment::default(), showed: micros(showed), rate: 1_000_000 }
    }

    /// What it shows.
    pub fn at(&self, now: Moment) -> Time {
        Time(self.micros_at(now) / 1_000)
    }

    /// The first moment, `now` at the earliest, at which it shows at least `time`.
    pub fn when(&self, now: Moment, time: Time) -> Moment {
        let missing = (time.0 * 1_000).saturating_sub(self.micros_at(now));
        Moment(now.0 + (missing * 1_000_000).div_ceil(self.rate))
    }

    /// From now on it counts `rate` microseconds in a million.
    pub fn drift(&mut self, now: Moment, rate: u64) {
        self.showed = self.micros_at(now);
        self.set_at = now;
        self.rate = rate;
    }

    fn micros_at(&self, now: Moment) -> u64 {
        self.showed + (now.0 - self.set_at.0) * self.rate / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_goes_on_from_what_it_showed() {
        let at = |seconds| Moment::default().after(Duration::from_secs(seconds));
        let mut clock = Clock::new(Duration::from_secs(100));
        assert_eq!(clock.at(at(1)), Time(101_000));
        clock.drift(at(1), 1_040_000);
        assert_eq!(clock.at(at(1)), Time(101_000));
        assert_eq!(clock.at(at(11)), Time(111_400));
        assert_eq!(clock.when(at(1), Time(111_400)), at(11));
        assert_eq!(clock.when(at(11), Time(5)), at(11), "long past");
    }
}
