//! Until when a kept server may live. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dugong_machine::Time;

/// How long a server waits for its next controller. A primary's lease ends long before.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What a server's life depends on, beside its controller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Term {
    /// A standby, which nobody could take for the primary.
    Free,
    /// A primary, or one that may become it at any moment: the end of its leases.
    Until(Time),
}

/// The controller, as its connection shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    /// It runs, or is paused: that cannot be told.
    There,
    /// It went in order, and another one is to come.
    Changing { since: Time },
    /// It died, or gave its server up.
    Gone,
}

/// Why a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    LeaseEnded,
    NobodyCame,
    ControllerGone,
}

/// When the server ends unless a further word comes; none: never.
pub(super) fn end_of(term: Term, controller: Controller) -> Option<(Time, Why)> {
    let lease = match term {
        Term::Free => None,
        Term::Until(end) => Some((end, Why::LeaseEnded)),
    };
    let patience = match controller {
        Controller::There => None,
        Controller::Changing { since } => Some((since.after(KEPT_FOR), Why::NobodyCame)),
        Controller::Gone => Some((Time(0), Why::ControllerGone)),
    };
    [lease, patience].into_iter().flatten().min_by_key(|(end, _)| *end)
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaseEnded => {
                "its lease of the office has ended without a word of its controller"
            }
            Self::NobodyCame => "no new controller has come",
            Self::ControllerGone => "its controller is gone",
        })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Until(Time(millis)) => write!(f, "{millis}"),
        }
    }
}

impl FromStr for Term {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "free" => Ok(Self::Free),
            millis => millis.parse().map(|millis| Self::Until(Time(millis))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_lives_as_long_as_its_lease_and_its_controller() {
        use Controller::{Changing, Gone, There};
        use Term::{Free, Until};
        use Why::{ControllerGone, LeaseEnded, NobodyCame};
        let changing = Changing { since: Time(1_000) };
        #[rustfmt::skip]
        let cases = [
            // what is so                          term                controller  ends
            ("a standby that is looked after",     Free,               There,      None),
            ("a primary that is looked after",     Until(Time(5_000)), There,      Some((Time(5_000), LeaseEnded))),
            ("a standby between two controllers",  Free,               changing,   Some((Time(61_000), NobodyCame))),
            ("a primary between two controllers",  Until(Time(5_000)), changing,   Some((Time(5_000), LeaseEnded))),
            ("a lease never makes that longer",    Until(Time(90_000)), changing,  Some((Time(61_000), NobodyCame))),
            ("a standby's controller is gone",     Free,               Gone,       Some((Time(0), ControllerGone))),
            ("a primary's controller is gone",     Until(Time(5_000)), Gone,       Some((Time(0), ControllerGone))),
        ];
        for (what, term, controller, expected) in cases {
            assert_eq!(end_of(term, controller), expected, "{what}");
        }
    }

    #[test]
    fn a_term_is_read_as_it_was_written() {
        for term in [Term::Free, Term::Until(Time(0)), Term::Until(Time(u64::MAX))] {
            assert_eq!(term.to_string().parse(), Ok(term));
        }
        assert!("for ever".parse::<Term>().is_err());
    }
}
