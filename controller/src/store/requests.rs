//! What every backend does with requests and their outcomes.

use dugong_machine::{Outcome, Promotion};
use serde::{Deserialize, Serialize};

/// How many of the last outcomes a snapshot shows: whoever asked is still waiting for one of them.
pub(super) const OUTCOMES_SHOWN: u16 = 16;

/// An outcome, as a record: a record is an object.
#[derive(Serialize, Deserialize)]
pub(super) struct Ended<T> {
    pub(super) outcome: T,
}

/// How an open request ends when `by` asks for a promotion: nobody may be there to answer it.
pub(super) fn superseded(by: &str, promotion: &Promotion) -> Outcome {
    Outcome::Refused { why: format!("{by} asks {} to become the primary instead", promotion.id) }
}
