//! The controller beside each PostgreSQL instance, and the operator's command.
//!
#![deny(unsafe_code)]

pub mod clock;
pub mod config;
pub mod credentials;
pub mod postgres;
pub mod store;
