//! The settings of PostgreSQL that hold in the whole cluster: one document beside the state record.
//!
//! It travels beside the snapshots: nothing that the state machine decides depends on it.

use std::collections::BTreeMap;

use dugong_topology::Revision;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// What operators have set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Name in lower case to value, as in `postgresql.conf`, without its quotes.
    pub values: BTreeMap<String, String>,
    /// Who changed it last, for people to read.
    pub by: String,
    /// When, in milliseconds since 1970, by the clock of the controller that was asked.
    pub at_unix_ms: u64,
    /// Why a value was chosen, where nobody has chosen it: for people to read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub why: BTreeMap<String, String>,
}

/// The settings as of one write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// The store's revision of that write. 0: nobody ever set anything.
    pub revision: Revision,
    pub settings: ClusterSettings,
}

/// Why the settings were not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmendError {
    /// They are no longer at the expected revision.
    #[error("the settings were changed by somebody else meanwhile: look at them, and try again")]
    Raced,
    /// They may have been written or not.
    #[error(transparent)]
    Store(#[from] StoreError),
}
