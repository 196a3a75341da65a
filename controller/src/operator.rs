//! What an operator asks of a cluster: its state, its history, how to connect;
//! another primary, and whether roles change by themselves; data copied anew; other passwords; the end of
//! a migration; and whether it keeps its promises.

mod caller;
pub mod client;
pub mod config;
mod confirm;
pub mod dsn;
pub mod freeze;
pub mod history;
pub mod init;
pub mod migrate;
pub mod promote;
pub mod reach;
pub mod reinit;
pub mod restart;
pub mod rotate;
pub mod schedule;
pub mod status;
pub mod switchover;
mod table;
pub mod verify;
