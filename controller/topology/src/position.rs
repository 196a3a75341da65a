//! Places in the WAL, and when two of them may be compared.
//!
//! Source: PostgreSQL manual, "Continuous Archiving and Point-in-Time Recovery", "Timelines".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte offset in the WAL of one timeline. Text form as in PostgreSQL: `16/B374D848`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes of WAL lie between `other` and this place; 0 where `other` is ahead.
    pub fn bytes_after(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let word = |digits: &str| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(word(high)? << 32 | word(low)?)))
            .ok_or_else(|| LsnError { text: text.to_owned() })
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;

    fn try_from(text: String) -> Result<Self, LsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// A text that is no LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no LSN: two hexadecimal numbers of up to eight digits, as in 16/B374D848")]
pub struct LsnError {
    text: String,
}

/// PostgreSQL's number of one branch of the WAL; a promotion begins a new one. The first is 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the WAL. Deliberately not `Ord`: positions compare along one [`History`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

impl Position {
    /// The place `lsn` on `timeline`.
    pub fn new(timeline: TimelineId, lsn: Lsn) -> Self {
        Self { timeline, lsn }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.timeline, self.lsn)
    }
}

/// The branches that led to one timeline: each ancestor, and the LSN at which it was left.
///
/// PostgreSQL keeps it as `NNNNNNNN.history` beside the WAL. Timeline 1 has none: it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct History {
    /// The timeline whose history this is.
    pub timeline: TimelineId,
    /// Ancestors, oldest first, each with the end of its part.
    pub ancestors: Vec<Position>,
}

impl History {
    /// The history of a timeline without ancestors.
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of a `.history` file: a line is ancestor, switch point, reason.
    ///
    /// # Errors
    ///
    /// A switch point that is no LSN. Lines that are empty or comments are passed over, as
    /// PostgreSQL does.
    pub fn parse(timeline: TimelineId, content: &str) -> Result<Self, LsnError> {
        let mut ancestors = Vec::new();
        for line in content.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let refused = || LsnError { text: line.to_owned() };
            let ancestor = fields.next().and_then(|id| id.parse().ok()).ok_or_else(refused)?;
            let lsn = fields.next().ok_or_else(refused)?.parse()?;
            ancestors.push(Position::new(TimelineId(ancestor), lsn));
        }
        Ok(Self { timeline, ancestors })
    }

    /// Whether WAL that ends at `position` is a prefix of WAL on this history.
    ///
    /// On the timeline itself that is always so, as far as a history can tell: it has no end.
    pub fn contains(&self, position: Position) -> bool {
        position.timeline == self.timeline
            || self
                .ancestors
                .iter()
                .any(|left| left.timeline == position.timeline && position.lsn <= left.lsn)
    }

    /// Whether WAL on `branch` that ends at `lsn` is a prefix of WAL on this history for certain:
    /// this one left the timeline of it there or later, and both came to it the same way.
    ///
    /// More than [`History::contains`] says: not even two timelines of one number are mistaken for
    /// each other, unless they began at the same place.
    pub fn left_behind(&self, branch: &Self, lsn: Lsn) -> bool {
        let depth = branch.ancestors.len();
        self.ancestors.get(..depth) == Some(&branch.ancestors)
            && self
                .ancestors
                .get(depth)
                .is_some_and(|left| left.timeline == branch.timeline && lsn <= left.lsn)
    }

    /// The last place that this history and WAL on `branch` that ends at `lsn` have in common.
    pub fn parts_from(&self, branch: &Self, lsn: Lsn) -> Position {
        let parts = |history: &Self, end| {
            let last = Position::new(history.timeline, end);
            history.ancestors.iter().copied().chain([last]).collect::<Vec<_>>()
        };
        let both = parts(self, Lsn(u64::MAX)).into_iter().zip(parts(branch, lsn));
        let mut common = Position::new(TimelineId(1), Lsn(0));
        for (ours, theirs) in both {
            if ours.timeline != theirs.timeline {
                break;
            }
            common = Position::new(ours.timeline, ours.lsn.min(theirs.lsn));
            if ours.lsn != theirs.lsn {
                break;
            }
        }
        common
    }

    /// Whether WAL that ends at `lsn` on this history's timeline includes everything up to
    /// `target`.
    pub fn reaches(&self, lsn: Lsn, target: Position) -> bool {
        self.contains(target) && target.lsn <= lsn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_as_postgresql_reads_it() {
        #[rustfmt::skip]
        let cases = [
            ("0/0",             Some(0)),
            ("16/B374D848",     Some(0x16_B374_D848)),
            ("16",              None), // no slash
            ("/1",              None), // an empty word
            ("+1/0",            None), // a sign
            ("1/100000000",     None), // nine digits
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse().ok(), expected.map(Lsn), "{text}");
        }
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    }

    fn at(timeline: u32, lsn: u64) -> Position {
        Position::new(TimelineId(timeline), Lsn(lsn))
    }

    #[test]
    fn wal_was_left_behind_where_both_histories_are_the_same_up_to_its_end() {
        let history = |timeline, ancestors: &[Position]| History {
            timeline: TimelineId(timeline),
            ancestors: ancestors.to_vec(),
        };
        let newest = history(4, &[at(1, 0x100), at(3, 0x200)]);
        #[rustfmt::skip]
        let cases = [
            // whose WAL                                history                            ends at  left behind
            ("behind the branch",                       history(3, &[at(1, 0x100)]),       0x1F0,   true),
            ("at the branch",                           history(3, &[at(1, 0x100)]),       0x200,   true),
            ("past it",                                 history(3, &[at(1, 0x100)]),       0x201,   false),
            ("two branches ago",                        history(1, &[]),                   0x100,   true),
            ("past that one",                           history(1, &[]),                   0x101,   false),
            ("another timeline of that number",         history(3, &[at(1, 0x110)]),       0x1F0,   false),
            ("a timeline that nobody left",             history(2, &[at(1, 0x80)]),        0x90,    false),
            ("on the newest itself",                    newest.clone(),                    0x210,   false),
        ];
        for (what, branch, end, expected) in cases {
            assert_eq!(newest.left_behind(&branch, Lsn(end)), expected, "{what}");
            let parts = newest.parts_from(&branch, Lsn(end));
            assert!(newest.contains(parts) && parts.lsn <= Lsn(end), "{what}: {parts}");
            if expected {
                assert_eq!(parts, Position::new(branch.timeline, Lsn(end)), "{what}");
            }
        }
        let past = newest.parts_from(&history(3, &[at(1, 0x100)]), Lsn(0x300));
        assert_eq!(past, at(3, 0x200));
        assert_eq!(newest.parts_from(&history(2, &[at(1, 0x80)]), Lsn(0x90)), at(1, 0x80));
    }

    #[test]
    fn positions_compare_along_one_history_only() {
        let history = History::parse(
            TimelineId(3),
            "1\t0/100\tno recovery target specified\n\n2\t0/200\tno recovery target specified\n",
        )
        .unwrap();
        #[rustfmt::skip]
        let cases = [
            // where                      a prefix  reached by 3@0/300
            ("on the timeline, behind",   at(3, 0x250), true,  true),
            ("on the timeline, ahead",    at(3, 0x400), true,  false),
            ("where timeline 2 was left", at(2, 0x200), true,  true),
            ("past that place",           at(2, 0x201), false, false),
            ("on timeline 1, before",     at(1, 0x100), true,  true),
            ("on timeline 1, past it",    at(1, 0x101), false, false),
            ("on an unknown timeline",    at(4, 0x001), false, false),
        ];
        for (what, position, prefix, reached) in cases {
            assert_eq!(history.contains(position), prefix, "{what}");
            assert_eq!(history.reaches(Lsn(0x300), position), reached, "{what}");
        }
    }

    #[test]
    fn a_history_with_a_broken_line_is_refused() {
        for content in ["x\t0/100", "1", "1\tnowhere"] {
            assert!(History::parse(TimelineId(2), content).is_err(), "{content:?}");
        }
    }
}
