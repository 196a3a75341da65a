//! The replication state machine: what one instance does next, and nothing else.
//!
//! **Invariant:** nothing here can reach a clock, a thread, a file or a socket. The crate depends
//! on the topology's words and serde alone. Collections are ordered, because the order of
//! iteration is part of the result.
//!
//! Source: PROTOCOL.md, rules R1 to R13 and "Transitions, seen by one instance".
#![forbid(unsafe_code)]

mod action;
mod event;
mod presence;
mod record;
mod server;
mod snapshot;
mod time;

pub use action::{Action, Declaration, Guard};
pub use event::{Answer, Event};
pub use presence::{LagAge, Presence, ServerState, StandbyLag};
pub use record::{Reason, Record, SystemIdentifier};
pub use server::{
    Access, Data, Goal, Identity, PrimaryGoal, PrimaryView, Receiver, Run, Server, StandbyGoal,
    StandbyRow, StandbyView, Stop, Upstream, Waits, Work,
};
pub use snapshot::{Declared, Instance, Session, Snapshot};
pub use time::Time;
