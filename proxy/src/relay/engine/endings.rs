//! How many of the sessions that end are parted with in a turn.
//!
//! When a server dies, all of its sessions end at the same moment. To hear of one's end costs little, to
//! part with it ten times as much; and the kernel tells of those who go on in between. So where many end, all
//! are heard first, and parted with once those who go on wait for nothing.
//!
//! **Invariant:** whoever ends is parted with in the end, however busy the others are.

/// Fewer than these are no crowd: a few of them go in each turn.
const CROWD: usize = 64;
const FEW: usize = 8;

/// Of a crowd, so many in a turn.
const MANY: usize = 32;

/// From so many events on that a turn has brought, there may be more of them.
const BUSY_EVENTS: usize = 16;

/// Turns that a crowd is put off for, at most: enough to hear of some thousands.
const PUT_OFF_MAX: u32 = 512;

#[derive(Debug, Default)]
pub(super) struct Endings {
    put_off: u32,
}

impl Endings {
    /// How many may go, of so many that end, after a turn that has brought so many events.
    pub(super) fn due(&mut self, ending: usize, events: usize) -> usize {
        if ending < CROWD {
            self.put_off = 0;
            return FEW;
        }
        if events < BUSY_EVENTS || self.put_off == PUT_OFF_MAX {
            return MANY;
        }
        self.put_off += 1;
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_ends_lets_the_others_go_first() {
        let mut endings = Endings::default();
        #[rustfmt::skip]
        let cases = [
            // what is so                           ending  events  due
            ("one ends, among few",                 1,      1,      FEW),
            ("one ends, among many that go on",     1,      200,    FEW),
            ("many end, and more is heard of",      64,     16,     0),
            ("many end, and all were heard",        5_000,  15,     MANY),
            ("somebody is heard again",             4_968,  16,     0),
            ("few are left",                        63,     16,     FEW),
        ];
        for (what, ending, events, due) in cases {
            assert_eq!(endings.due(ending, events), due, "{what}");
        }
    }

    #[test]
    fn a_crowd_is_parted_with_however_busy_the_others_are() {
        let mut endings = Endings::default();
        let mut ending = 5_000;
        let mut turns = 0;
        while ending > 0 {
            ending -= endings.due(ending, 256).min(ending);
            turns += 1;
            assert!(turns < 1_000, "{ending} are left");
        }
    }
}
