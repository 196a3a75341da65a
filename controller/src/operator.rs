//! What an operator asks of a cluster: its state, its history, how to connect.

pub mod client;
pub mod dsn;
pub mod history;
pub mod status;
mod table;
