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
//! # A failover
//!
//! The primary's server dies; pg-1 > pg-2 > pg-3 of generation 7 becomes pg-2 > pg-3 of generation 8.
//! Each word is an [`Event`] or an [`Action`]; `↯` is what fails.
//!
//! ```text
//!  clients     pg-1 (primary)         store            pg-2 (sync)            pg-3 (async)
//!     │            │                    │                   │                      │
//!     │  writes ─► │ ── WAL ───────────────────────────────►│ ── WAL ─────────────►│
//!     │            ↯ server dies        │                   │                      │
//!  ═══╪═ writes stop: the proxy holds them ═══════════════════════════════════════════
//!     │            │ Observed: Down     │                   │                      │
//!     │            │ Announce: stopped ►│ Snapshot ────────►│ R3: it may take over │
//!     │            │                    │                   │ Want: Sealed (R4)    │
//!     │            │                    │                   │ Observed: Sealed     │
//!     │            │                    │◄ Declare g8, if   │  at the end of its   │
//!     │            │                    │  pg-1 is stopped  │  WAL, and no further │
//!     │            │◄───────── Snapshot │ DeclareAnswered: ►│                      │
//!     │            │ R7: it was deposed │   Won             │ Want: Primary,       │
//!     │            │                    │ Snapshot ──────────────────────────────► │ Want: Standby
//!     │            │                    │                   │  closed, waits for   │  of pg-2
//!     │            │                    │                   │  pg-3 (R6)           │
//!     │            │                    │                   │ ◄─── streams from pg-2, has it all
//!     │            │                    │                   │ R5: Want: Primary,   │
//!     │            │                    │◄ Announce: open   │  open                │
//!  ═══╪═ writes start: the topology says so, the proxy lets the held ones go ═══════════
//!     │  writes ───────────────────────────────────────────►│ ── WAL ─────────────►│
//!     │            │ Want: Copied       │                   │                      │
//!     │            │  from pg-3, then the last async (R8)   │                      │
//! ```
//!
//! Where nobody is left to say "stopped", pg-2 waits until both leases are dead: the session has
//! lapsed in the store, and no WAL has come for `link_ttl` and a tenth.
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
pub use chain::Neighbours;
pub use event::{Answer, Event};
pub use lease::Leases;
pub use presence::{Handover, LagAge, Presence, ServerState, StandbyLag};
pub use record::{Deposed, Reason, Record, SystemIdentifier};
pub use request::{Ask, Outcome, Over, Promotion, Request, RequestNumber, Switchover};
pub use server::{
    Access, Data, Goal, Identity, Leaving, Names, Old, PrimaryGoal, PrimaryView, Receiver, Room,
    Run, Server, Sessions, StandbyGoal, StandbyRow, StandbyView, Stop, Upstream, Waits, Work,
};
pub use snapshot::{Declared, Instance, Session, Snapshot};
pub use state::{Bootstrap, Office, Ongoing, Settings, Stage, State, Vacancy};
pub use step::step;
pub use time::Time;
