//! What an instance is in one generation.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one instance is in one generation. A newcomer has no role: `Option<Role>`, not a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes the writes; the only instance that edits the state record in its generation.
    Primary,
    /// The standby that commits wait for; the only instance that may take over.
    Sync,
    /// Replicates from its left neighbour in the chain; nothing waits for it.
    Async,
    /// A former primary whose WAL may have forked; serves nothing until repaired (R7).
    Deposed,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Deposed => "deposed",
        })
    }
}
