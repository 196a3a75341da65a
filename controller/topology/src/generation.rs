//! The two numbers that order everything that a cluster publishes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of one assignment of primary and sync; a change of either adds exactly one.
///
/// Never 0 in a declared record: `Generation::default()` sorts before all of them, so that
/// "nothing seen yet" needs no `Option`. Source: PROTOCOL.md, "Words".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The store's count of writes. 0: nothing was ever written.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The order of topology documents: generation first, then revision.
///
/// No observer ever moves from one version to a smaller one (PROTOCOL.md, invariant 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub generation: Generation,
    pub revision: Revision,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{} r{}", self.generation, self.revision)
    }
}
