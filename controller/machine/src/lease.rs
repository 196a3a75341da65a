//! The two leases: until when a primary may serve, and from when on its sync may be sure.
//!
//! A primary serves while at least one of the two is alive; its sync takes over only when both are
//! dead. No clock is compared with another one: each side measures a span on its own clock, and
//! whoever could do harm by being early waits longer, or whoever could by being late stops sooner,
//! by [`RATE_MARGIN`].
//!
//! Source: PROTOCOL.md, "The two leases".

use std::time::Duration;

use crate::time::Time;

/// A tenth: how much longer the sync waits than the primary serves on the link, and how much sooner
/// the primary gives up its session than the store does: two clocks that differ by less than
/// 10 % in rate cannot make a lease look dead too early. Crystals are within 0.02 %; the rest is
/// for virtual machines.
const RATE_MARGIN: u32 = 10;

/// What a primary knows about its leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leases {
    /// The store's session, counted from before the renewal was sent.
    pub session_until: Time,
    /// The synchronous link, counted from before the confirmed commit was begun.
    pub link_until: Time,
}

impl Leases {
    /// Whether a primary may serve.
    pub fn alive_at(&self, now: Time) -> bool {
        now < self.end()
    }

    /// The end of the one that lives longer.
    pub fn end(&self) -> Time {
        self.session_until.max(self.link_until)
    }

    /// Whether the store ever took a word of this controller: from then on it refuses what an
    /// earlier one may still have declared.
    pub(crate) fn is_known_to_the_store(&self) -> bool {
        self.session_until > Time(0)
    }

    /// The store renewed the session by a request that was begun at `begun`. The store measures
    /// the time to live on its own clock, which may be the faster one.
    pub(crate) fn renewed(&mut self, begun: Time, session_ttl: Duration) {
        let safe = session_ttl - session_ttl / RATE_MARGIN;
        self.session_until = self.session_until.max(begun.after(safe));
    }

    /// A commit that was begun at `begun` came back through the sync.
    pub(crate) fn link_confirmed(&mut self, begun: Time, link_ttl: Duration) {
        self.link_until = self.link_until.max(begun.after(link_ttl));
    }
}

/// Whether the primary's link lease is dead for certain, as its sync sees it: nothing has come
/// through the link since `quiet_since`.
pub(crate) fn link_is_dead(now: Time, quiet_since: Time, link_ttl: Duration) -> bool {
    now.is_past(quiet_since, link_ttl + link_ttl / RATE_MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_serves_while_one_lease_is_alive() {
        #[rustfmt::skip]
        let cases = [
            // session link  serves
            (      101, 101, true),
            (      101, 100, true),
            (      100, 101, true),
            (      100, 100, false),
        ];
        for (session_until, link_until, serves) in cases {
            let leases =
                Leases { session_until: Time(session_until), link_until: Time(link_until) };
            assert_eq!(leases.alive_at(Time(100)), serves, "{leases:?}");
        }
    }

    #[test]
    fn a_primary_gives_up_its_session_before_the_store_does() {
        let mut leases = Leases::default();
        leases.renewed(Time(1_000), Duration::from_secs(3));
        assert!(leases.alive_at(Time(3_699)));
        assert!(!leases.alive_at(Time(3_700)));
    }

    #[test]
    fn the_sync_waits_longer_than_the_primary_serves() {
        let ttl = Duration::from_secs(2);
        let mut leases = Leases::default();
        leases.link_confirmed(Time(1_000), ttl);
        assert!(!leases.alive_at(Time(3_000)));
        assert!(!link_is_dead(Time(3_000), Time(1_000), ttl));
        assert!(link_is_dead(Time(3_200), Time(1_000), ttl));
    }
}
