//! The operator's freeze of the state record: one try to change it, for whoever may.

use std::time::SystemTime;

use dugong_machine::{Declaration, Guard};
use dugong_topology::Freeze;

use super::{DeclareError, Store, StoreError};

/// What became of one try.
pub(crate) enum Refrozen {
    /// The cluster was not made yet.
    NoRecord,
    /// It is as it shall be; this is what was so before.
    Settled { before: Option<Freeze> },
    /// Somebody was faster: try again.
    Raced,
}

/// Changes the record's freeze as `change` says; it says nothing where it is right as it is.
pub(crate) async fn try_to_refreeze(
    store: &dyn Store,
    change: impl Fn(Option<&Freeze>) -> Option<Option<Freeze>>,
) -> Result<Refrozen, StoreError> {
    let Some(declared) = store.read().await?.declared else { return Ok(Refrozen::NoRecord) };
    let before = declared.record.frozen.clone();
    let Some(after) = change(before.as_ref()) else { return Ok(Refrozen::Settled { before }) };
    let next = declared.record.with_freeze(after);
    let at = Some(declared.revision);
    match store.declare(Declaration { next, at, guard: Guard::None, fulfils: None }).await {
        Ok(_) => Ok(Refrozen::Settled { before }),
        Err(DeclareError::Raced | DeclareError::Guarded) => Ok(Refrozen::Raced),
        Err(DeclareError::Store(trouble)) => Err(trouble),
    }
}

/// A freeze that begins now.
pub(crate) fn freeze_by(by: String, why: String) -> Freeze {
    let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Freeze { by, why, since }
}
