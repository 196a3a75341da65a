//! Everything that the machine can ask for.

use dugong_topology::{InstanceId, Revision};

use crate::presence::Presence;
use crate::record::Record;
use crate::request::{Outcome, RequestNumber};
use crate::server::Goal;

/// What the driver starts, in this order, before it feeds the next event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say this about the instance, under its session, now and at each renewal.
    Announce(Presence),
    /// Compare-and-swap the state record. Ends in [`Event::DeclareAnswered`](crate::Event).
    Declare(Declaration),
    /// Give an operator's request its outcome, unless it has one: the first one stays. Asked again
    /// until the store no longer shows the request as open.
    Answer { request: RequestNumber, outcome: Outcome },
    /// Bring the server to this state; replaces every goal before it.
    Want(Goal),
    /// Everything is stopped: give the session back and end.
    Finish,
}

/// One compare-and-swap of the state record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Declaration {
    pub next: Record,
    /// The revision of the record that is replaced; none: there must be no record.
    pub at: Option<Revision>,
    pub guard: Guard,
    /// The request that is done by it: it must be open, and gets that outcome in the same
    /// transaction.
    pub fulfils: Option<RequestNumber>,
}

/// What else must hold, in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Guard {
    None,
    /// This instance's session has lapsed, or it said that its server is stopped (R3 b).
    AbsentOrStopped(InstanceId),
    /// This instance is present, and says that it has stopped its server to hand over for this
    /// very request.
    HandedOver {
        by: InstanceId,
        request: RequestNumber,
    },
}
