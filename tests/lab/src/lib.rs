//! The partition laboratory: real clusters on hosts of their own, and a nemesis that breaks what is
//! between them while checkers watch.
//!
//! Reading order: [`namespace`] is a host without a network, [`switch`] the network between hosts,
//! [`network`] both together. [`keeper`] starts and ends processes on a host. [`plan`] says what
//! runs where, [`cluster`] runs it. [`fault`] is everything that can be broken and healed,
//! [`nemesis`] draws faults from a seed, [`partition`] is the run with all its checkers
//! ([`watcher`], [`writer`], [`register`], [`direct`],
//! [`verifier`]), and [`measure`] tells how long single faults are felt.
//!
//! **Invariant:** nothing here reaches the machine's own network: no interface of it is touched,
//! and every packet between hosts goes through this program.
#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub mod direct;
pub mod fault;
pub mod keeper;
pub mod logs;
pub mod measure;
pub mod namespace;
pub mod nemesis;
pub mod network;
pub mod papers;
pub mod partition;
pub mod plan;
pub mod register;
pub mod resident;
pub mod say;
pub mod store_leader;
pub mod switch;
pub mod trial;
pub mod verifier;
pub mod watcher;
pub mod writer;
