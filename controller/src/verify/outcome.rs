//! What a client may conclude from what it was told about its write.
//!
//! Three outcomes: acknowledged, refused for certain, unknown. [`of_error`] and [`of_success`] are
//! the whole decision.
//!
//! **Invariant:** an error is a refusal only where [`REFUSALS`] says so. Any other one, also one that
//! no table knows, leaves the outcome unknown: that can hide a loss, but never invent one.
//!
//! Source: PostgreSQL manual, appendix "PostgreSQL Error Codes"; `SyncRepWaitForLSN` in
//! PostgreSQL's `syncrep.c` for the warnings of a cancelled wait, which come before a *success* of
//! what is committed on one server only.

use std::fmt;

use serde::{Serialize, Serializer};

/// Five characters of the SQL standard's error codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sqlstate([u8; 5]);

impl Sqlstate {
    /// None where `code` has not five characters of ASCII.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        code.is_ascii().then_some(())?;
        code.as_bytes().try_into().ok().map(Self)
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or("?????")
    }
}

impl fmt::Debug for Sqlstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something was not simply acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The server's error.
    Error(Sqlstate),
    /// A warning before the success: the wait for a standby was cancelled.
    Warning(Sqlstate),
    /// The connection ended, or could not be made.
    ConnectionLost,
    /// No answer within the client's patience.
    Silence,
    /// No answer when the run ended.
    Ended,
    /// An answer that does not fit the question.
    Senseless,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(code) => write!(f, "error {}", code.as_str()),
            Self::Warning(code) => write!(f, "warning {} before success", code.as_str()),
            Self::ConnectionLost => f.write_str("connection lost"),
            Self::Silence => f.write_str("no answer in time"),
            Self::Ended => f.write_str("no answer when the run ended"),
            Self::Senseless => f.write_str("senseless answer"),
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of a write, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, and promised to stay.
    Acknowledged,
    /// Certainly not committed, now or later.
    Refused(Cause),
    /// Committed, or not, or not yet.
    Unknown(Cause),
}

/// How much of a code a row of [`REFUSALS`] covers.
type Prefix = &'static str;

/// Errors that end a transaction before anything of it was committed, and why that is certain.
#[rustfmt::skip]
const REFUSALS: [(Prefix, &str); 20] = [
    ("0A",    "not supported: refused before it ran"),
    ("21",    "cardinality violation: an error of the statement itself"),
    ("22",    "data exception: the same"),
    ("23",    "integrity constraint: the same; there are no deferred ones in these tables"),
    ("25006", "this server takes no writes"),
    ("25P02", "the transaction had failed before"),
    ("28",    "not let in"),
    ("3D",    "no such database"),
    ("3F",    "no such schema"),
    ("40001", "rolled back: serialization failure, or recovery on a standby"),
    ("40P01", "rolled back: deadlock"),
    ("42",    "syntax, missing table, missing right: refused before it ran"),
    ("53300", "too many connections: refused before it ran"),
    ("54",    "program limit exceeded: an error of the statement itself"),
    ("55P03", "lock not available: the same"),
    ("57014", "cancelled while it ran; a commit's wait is not ended by this error but by a warning"),
    ("57P03", "the server lets nobody in"),
    ("57P04", "no such database any more"),
    ("08001", "no connection could be made: nothing was sent on"),
    ("08004", "the connection was rejected: the same"),
];

/// Errors that say, or leave open, that the commit may have happened. They need no row to be held
/// as unknown; each is here with its reason so that nobody moves it to [`REFUSALS`].
#[cfg(test)]
#[rustfmt::skip]
const DOUBTS: [(&str, &str); 13] = [
    ("08000", "a connection failed somewhere on the way"),
    ("08003", "the same"),
    ("08006", "the same, as proxies put it"),
    ("08007", "transaction resolution unknown: the code made for this"),
    ("25P04", "the transaction took too long, perhaps while its commit waited"),
    ("40003", "statement completion unknown: the same"),
    ("57P01", "an administrator ended the session, perhaps while its commit waited"),
    ("57P02", "another server process crashed: this one was ended at any point"),
    ("57P05", "the session was idle too long: whoever ends it may not know what it did"),
    ("58030", "an I/O error, perhaps after the commit was written"),
    ("53100", "a full disk, perhaps when the commit was flushed"),
    ("XX000", "an internal error says nothing about when"),
    ("ZZZZZ", "a code that no manual has"),
];

/// What `code` means for a write that it was the answer to.
#[must_use]
pub fn of_error(code: Sqlstate) -> Outcome {
    let covers = |(prefix, _): &(Prefix, &str)| code.as_str().starts_with(prefix);
    if REFUSALS.iter().any(covers) {
        Outcome::Refused(Cause::Error(code))
    } else {
        Outcome::Unknown(Cause::Error(code))
    }
}

/// What a success means, with the first warning that came before it.
///
/// Warnings are translated, and the one of a cancelled wait has no code of its own (01000, or 57P01
/// where the session is ended): none of them is told apart. The recorder's statements cause no
/// other.
#[must_use]
pub fn of_success(warning: Option<Sqlstate>) -> Outcome {
    warning.map_or(Outcome::Acknowledged, |code| Outcome::Unknown(Cause::Warning(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Sqlstate {
        Sqlstate::new(text).unwrap()
    }

    #[test]
    fn only_certain_errors_are_refusals() {
        for (text, why) in DOUBTS {
            let unknown = Outcome::Unknown(Cause::Error(code(text)));
            assert_eq!(of_error(code(text)), unknown, "{text}: {why}");
        }
        for text in ["25006", "23505", "40001", "40P01", "42P01", "57014", "57P03", "53300"] {
            assert_eq!(of_error(code(text)), Outcome::Refused(Cause::Error(code(text))), "{text}");
        }
    }

    #[test]
    fn a_success_after_a_warning_is_no_success() {
        assert_eq!(of_success(None), Outcome::Acknowledged);
        for text in ["01000", "57P01"] {
            let unknown = Outcome::Unknown(Cause::Warning(code(text)));
            assert_eq!(of_success(Some(code(text))), unknown, "{text}");
        }
    }

    #[test]
    fn a_code_has_five_characters() {
        for text in ["", "0100", "010000", "0100é"] {
            assert_eq!(Sqlstate::new(text), None, "{text:?}");
        }
        assert_eq!(code("08007").as_str(), "08007");
    }
}
