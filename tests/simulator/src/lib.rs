//! Whole clusters in virtual time: the production state machine over a simulated store, network
//! and PostgreSQL, with faults drawn from a seed, and the promises checked from outside.
//!
//! Read `fault` (what goes wrong), `postgres` and `store` (what is assumed of the world), `checker`
//! (what must hold), `bug` (the proof that the checks can fail); then `world`, which runs it all.
//! `campaign` runs many seeds, `shrink` makes a failed one small.
//!
//! **Invariant:** nothing here reads a clock, a file or an order of iteration that could differ: a
//! scenario and its seed decide everything.
//!
//! Source: PROTOCOL.md, "How it is checked".
#![forbid(unsafe_code)]

mod bug;
mod campaign;
mod checker;
mod client;
pub mod contract;
mod controller;
mod dice;
pub mod fault;
mod happening;
pub mod lie;
pub mod moment;
pub mod network;
pub mod office;
mod postgres;
mod replication;
mod shrink;
mod store;
mod supervisor;
mod trouble;
pub mod wal;
mod world;

pub use bug::{BUGS, Bug, Known};
pub use campaign::{Campaign, Report, Totals};
pub use checker::Violation;
pub use fault::{Fault, Scenario};
pub use shrink::shrunk;
pub use world::{Counts, Outcome, Story, run};
