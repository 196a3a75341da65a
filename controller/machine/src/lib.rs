//! The replication state machine: what one instance does next, and nothing else.
//!
//! [`step`] is pure. The time comes in as an argument, the world comes in as an [`Event`], and all
//! that leaves is a new [`State`] and the [`Action`]s to start. The controller's driver waits,
//! calls `step`, starts the actions, and turns their outcomes into events.
//!
//! Read [`Event`], [`Action`] and [`Goal`] first: they are the whole interface. Then `step`, which
//! takes in the event, decides by role (`step/primary.rs`, `step/takeover.rs`, …) and asks for
//! what is not there yet.
//!
//! **Invariant:** nothing here can reach a clock, a thread, a file or a socket. The crate depends
//! on the topology's words and serde alone. Collections are ordered, because the order of
//! iteration is part of the result.
//!
//! Source: PROTOCOL.md, rules R1 to R13 and "Transitions, seen by one instance".
#![forbid(unsafe_code)]

mod action;
mod chain;
mod event;
mod lease;
mod presence;
mod record;
mod request;
mod server;
mod snapshot;
mod state;
mod step;
mod text;
mod time;

pub use action::{Action, Declaration, Guard};
pub use event::{Answer, Event};
pub use lease::Leases;
pub use presence::{Handover, LagAge, Presence, ServerState, StandbyLag};
pub use record::{Deposed, Reason, Record, SystemIdentifier};
pub use request::{Ask, Outcome, Over, Promotion, Request, RequestNumber, Switchover};
pub use server::{
    Access, Data, Goal, Identity, Names, PrimaryGoal, PrimaryView, Receiver, Run, Server, Sessions,
    StandbyGoal, StandbyRow, StandbyView, Stop, Upstream, Waits, Work,
};
pub use snapshot::{Declared, Instance, Session, Snapshot};
pub use state::{Bootstrap, Office, Ongoing, Settings, Stage, State, Vacancy};
pub use step::step;
pub use time::Time;
