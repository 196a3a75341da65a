//! What tests and benchmarks share: a real cluster of real processes, real clients, real kills.
//!
//! [`Cluster`] is the centre: it runs `dugong up` in a directory of its own and ends everything
//! when it is dropped. [`Writer`] is a client that remembers what it was told. [`eventually`] is
//! the only place that waits.
//!
//! **Invariant:** nothing here asks the system for its opinion of itself where a fact can be had:
//! acknowledged rows are looked up, processes are looked for.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a harness speaks to whoever reads a failed test")]
#![expect(clippy::missing_panics_doc, reason = "a harness panics where a test shall fail")]

mod binaries;
mod client;
mod cluster;
pub mod crowd;
mod disk;
mod etcd;
mod eventually;
mod manager;
mod ports;
mod postgres;
mod processes;

pub use binaries::{binary, built};
pub use client::{Report, Writer, connect};
pub use cluster::{Cluster, Instance};
pub use disk::{Disk, Kind as DiskKind};
pub use etcd::Etcd;
pub use eventually::eventually;
pub use manager::ServiceManager;
pub use ports::free_port;
pub use postgres::{chosen_postgres, postgres_bin, postgres_of_version};
pub use processes::{Pid, kill, parent_of, pause, restart, resume, stop_fast, terminate};
