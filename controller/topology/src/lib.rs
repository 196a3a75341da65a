//! The words of a cluster, and the topology document that its controllers publish.
//!
//! This crate is the contract between two processes: the controller writes a [`Topology`], the
//! proxy (and anybody else) reads it. Start with [`document`]; the other modules are its words.
//!
//! | word | meaning |
//! | --- | --- |
//! | instance | one PostgreSQL server and the controller beside it, named by an [`InstanceId`] |
//! | primary, sync, async, deposed | what an instance is in one generation: its [`Role`] |
//! | generation | grows by one each time the primary or the sync changes: [`Generation`] |
//! | revision | the store's count of writes: [`Revision`] |
//! | position | (timeline, LSN), a place in the WAL: [`Position`]; compared along one [`History`] |
//!
//! **Invariant:** nothing here does I/O or knows the replication protocol, and readers accept keys
//! that they do not know: an old proxy reads a newer controller's document.
//!
//! Source: PROTOCOL.md, "Words".

pub mod document;
mod generation;
mod instance;
mod making;
mod position;
mod role;
pub mod stream;
pub mod units;

pub use document::{Freeze, Member, Phase, Topology};
pub use generation::{Generation, Revision, Version};
pub use instance::{Address, AddressError, InstanceId, InstanceIdError};
pub use making::{Making, Way};
pub use position::{History, Lsn, LsnError, Position, TimelineId};
pub use role::Role;
