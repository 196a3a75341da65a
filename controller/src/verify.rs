//! Whether a database keeps its promises: clients that remember what they were told, and a judge.
//!
//! Two halves, with a value between them. The [`Recorder`] writes and reads through given addresses
//! while somebody breaks things, takes a last look, and hands over a [`History`]. [`judge`] turns
//! a history into a [`Verdict`]: pure, history in, verdict out.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dugong_controller::verify::{Addresses, Options, Recorder, Ruling, judge};
//!
//! let addresses = Addresses::parse("host=127.0.0.1 port=6432 dbname=app", None)?;
//! let recorder = Recorder::start(addresses, Options::default()).await?;
//! // Break things here; `recorder.progress()` says how far the clients are.
//! let history = recorder.finish().await?;
//! let verdict = judge(&history);
//! assert_eq!(verdict.ruling(), Ruling::Acquitted, "{}", verdict.text());
//! # Ok(())
//! # }
//! ```
//!
//! What is promised, and judged:
//!
//! - [`durability`]: acknowledged rows are there, rows that anybody read are there, refused ones are
//!   not. What counts as acknowledged is decided in [`outcome`].
//! - [`linearizability`]: registers, read, written, compared and set at the write address.
//! - [`freshness`]: a read at the write address sees every row acknowledged before it began.
//! - [`staleness`] and [`pauses`] are measured, not judged: nobody promises a number.
//!
//! **Invariant:** what was not looked at is never called good: a bound that was exceeded, an address
//! that did not answer in the end or a run without a single acknowledged write is *not decided*.
//!
//! **Invariant:** times are those of one monotonic clock, the recorder's own. No server is asked for
//! its time, nor for its opinion of itself.
//!
//! Source: `controller/PROTOCOL.md`, "The model of correctness", 1, 3 and 4, seen from outside.

pub mod durability;
pub mod freshness;
pub mod history;
pub mod linearizability;
pub mod outcome;
pub mod pauses;
pub mod recorder;
mod report;
pub mod staleness;
pub mod tls;
pub mod verdict;

pub use history::History;
pub use recorder::{Addresses, Options, Recorder};
pub use verdict::{Ruling, Verdict, judge};
