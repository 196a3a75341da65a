//! What the store's contract says of declarations and requests, for whoever plays a store.

use dugong_machine::{Answer, Declaration, Guard, Outcome, RequestNumber, ServerState, Snapshot};

/// Whether the guard of a declaration is looked at, as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    Yes,
    No,
}

/// Why a declaration is not taken; none: it is.
pub fn refusal(snapshot: &Snapshot, declaration: &Declaration, guarded: Guarded) -> Option<Answer> {
    let at = snapshot.declared.as_ref().map(|declared| declared.revision);
    if at != declaration.at {
        return Some(Answer::Raced);
    }
    let guard = match &declaration.guard {
        Guard::None => true,
        Guard::AbsentOrStopped(id) => {
            let word = snapshot.present(id);
            word.is_none_or(|presence| presence.server == ServerState::Stopped)
        }
        Guard::HandedOver { by, request } => {
            let word = snapshot.present(by).and_then(|presence| presence.hands_over);
            word.is_some_and(|word| word.request == *request)
        }
    };
    let open = |request| snapshot.requests.contains_key(&request);
    let holds = guard && declaration.fulfils.is_none_or(open);
    (!holds && guarded == Guarded::Yes).then_some(Answer::Guarded)
}

/// A request ends by one outcome, the first; whether this is it.
pub fn answer(snapshot: &mut Snapshot, request: RequestNumber, outcome: Outcome) -> bool {
    let open = snapshot.requests.remove(&request).is_some();
    if open {
        snapshot.outcomes.insert(request, outcome);
    }
    open
}
