//! The controller beside each PostgreSQL instance, and the operator's command.
//!
//! Reading order: [`run`] wires everything together; [`driver`] is the loop that feeds the state
//! machine (crate `dugong-machine`) and starts what it asks for; [`store`], [`postgres`] and
//! [`publish`] are the three sides of the world, and none of them knows another.
#![deny(unsafe_code)]

pub mod clock;
pub mod config;
pub mod credentials;
pub mod driver;
mod first_settings;
pub mod launch;
pub mod lifeline;
mod log;
mod mending;
pub mod metrics;
pub mod operator;
pub mod postgres;
pub mod publish;
pub mod run;
mod service;
mod session;
mod sparing;
pub mod store;
pub mod verify;
