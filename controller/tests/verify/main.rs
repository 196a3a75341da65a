//! The verifier against real servers that break real promises, and against ones that keep them.
//!
//! **Invariant:** each breach is certain: what is to be lost was acknowledged after it could no longer
//! be kept, which is waited for and never hoped for.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod acquitted;
mod command;
mod convicted;
mod eventually;
mod forwarder;
mod server;
