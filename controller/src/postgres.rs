//! The PostgreSQL server beside this controller: a goal goes in, observations come out.
//!
//! [`supervise`] starts the one task that owns the server. It compares the newest
//! [`Goal`] with what is there, again and again: `postgres/plan.rs` decides
//! the next step, `supervisor.rs` takes it, `running.rs` does what can be done while the server
//! runs. The other files are what these need, each one thing.
//!
//! **Invariant:** "down" is only said when for certain no process works in the data directory, and
//! names are only said to be in force when every commit from then on waits for them (R6).
//!
//! **Invariant:** the server does not outlive this process, and neither a client's backend nor one
//! that waits for the sync is ever cancelled or released (R9).
//!
//! Source: PROTOCOL.md, R4, R5, R6, R9, R10, R11 and "What PostgreSQL must be told".

mod configuration;
mod control;
mod data_dir;
mod heartbeat;
mod helper;
mod layout;
mod look;
mod making;
mod names;
mod pace;
mod plan;
mod postmaster;
mod process;
mod programs;
mod replay;
mod reporter;
mod running;
mod settle;
mod supervisor;
pub mod warden;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Goal, Server, Time};
use dugong_topology::{Address, InstanceId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::credentials::Credentials;

pub use programs::{BinError, Version, find_bin};

/// Observations that wait for their reader. A slow reader slows the looks, it loses none.
const SEEN_MAX: usize = 64;

/// What the server is, from the start of this process to its end.
#[derive(Clone, Debug)]
pub struct Settings {
    pub instance: InstanceId,
    /// The cluster's name.
    pub cluster: String,
    /// The instance's directory: `data/`, `run/`, `postgres.log`, `controller.lock`.
    pub dir: PathBuf,
    /// The directory of PostgreSQL's programs: see [`find_bin`].
    pub bin: PathBuf,
    /// Where the server listens.
    pub listen: Address,
    /// Further settings, name to value: as checked in the configuration.
    pub extra: BTreeMap<String, String>,
    pub credentials: Credentials,
    /// Between two commits that confirm the synchronous link.
    pub heartbeat_interval: Duration,
}

/// What was seen.
#[expect(clippy::large_enum_variant, reason = "nearly all are observations, and few wait")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Observed(Server),
    /// A commit that was begun at `begun` came back through synchronous replication.
    LinkConfirmed {
        begun: Time,
    },
}

/// A supervised server. Dropping `goal` ends it: every process is killed.
#[derive(Debug)]
pub struct Supervised {
    /// None: nothing is wanted yet; only looked.
    pub goal: watch::Sender<Option<Goal>>,
    pub seen: mpsc::Receiver<Seen>,
    /// Ends after `goal` or `seen` was dropped, once every process is gone.
    pub task: JoinHandle<()>,
}

/// Why no server can be supervised here.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "PostgreSQL does not run as root: start the controller as another user, for example with \
         `setpriv --reuid postgres --regid postgres --init-groups dugong-controller …`"
    )]
    Root,
    #[error("the instance directory {} cannot be used: {error}", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(
        "the instance directory is in use by the controller with process id {holder} ({}): stop \
         that one first",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "the path of the server's socket is too long for the system ({}, at most 107 bytes): \
         choose an instance directory with a shorter path",
        path.display()
    )]
    SocketPath { path: PathBuf },
    #[error("processes cannot be started: {0}")]
    Spawner(std::io::Error),
}

/// Takes the instance's directory and starts the task that owns its server.
///
/// Must be called within a tokio runtime.
///
/// # Errors
///
/// See [`StartError`].
pub fn supervise(settings: Settings, clock: Clock) -> Result<Supervised, StartError> {
    if rustix::process::geteuid().is_root() {
        return Err(StartError::Root);
    }
    let (layout, lock) = layout::Layout::claim(&settings.dir, settings.listen.port)?;
    let spawner = process::Spawner::start().map_err(StartError::Spawner)?;
    let (goal, goals) = watch::channel(None);
    let (seen_sender, seen) = mpsc::channel(SEEN_MAX);
    let supervisor = supervisor::Supervisor::new(
        Arc::new(settings),
        Arc::new(layout),
        Arc::new(spawner),
        clock,
        goals,
        seen_sender,
    );
    let task = tokio::spawn(async move {
        supervisor.run().await;
        drop(lock);
    });
    Ok(Supervised { goal, seen, task })
}
