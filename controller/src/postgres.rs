//! The PostgreSQL server beside this controller: a goal goes in, observations come out.
//!
//! [`supervise`] starts the one task that owns the server. It compares the newest
//! [`Goal`] with what is there, again and again: `postgres/plan.rs` decides
//! the next step, `supervisor.rs` takes it, `running.rs` does what can be done while the server
//! runs. The other files are what these need, each one thing.
//!
//! **Invariant:** "down" is only said when for certain no process works in the data directory, or
//! ever will again, and names are only said to be in force when every commit from then on waits for
//! them (R6).
//!
//! **Invariant:** the server does not outlive this process, unless it was left to the next one in
//! order; and neither a client's backend nor one that waits for the sync is ever cancelled or
//! released (R9).
//!
//! Source: PROTOCOL.md, R4, R5, R6, R9, R10, R11 and "What PostgreSQL must be told".

mod adoption;
mod advisor;
mod carried;
mod certificates;
mod checkpoint;
mod configuration;
mod control;
mod copying;
mod damage;
mod data_dir;
mod diverged;
mod doorkeeper;
mod existing;
mod failover_slots;
mod finishing;
mod floors;
mod following;
mod foreign;
mod given_up;
mod greeting;
mod hba;
mod heartbeat;
mod helper;
mod judge;
mod last_record;
mod layout;
mod link;
mod look;
mod making;
mod mandate;
mod migration;
mod names;
mod origin;
mod pace;
mod plan;
mod postmaster;
mod private;
mod process;
mod programs;
mod progress;
mod recovering;
mod refused;
mod remote;
mod replay;
mod reporter;
mod restoring;
mod rewind;
mod roles;
mod room;
mod running;
mod seam;
mod settle;
mod storage;
mod strikes;
mod supervisor;
mod tablespaces;
mod timeline;
mod versions;
pub mod warden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Goal, Neighbours, Server, Time};
use dugong_topology::{Address, Generation, InstanceId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::{Network, Origin, RepairConfig, TlsFiles};
use crate::credentials::Credentials;
use crate::store::Edition;

pub use advisor::{Advisor, Change, Here, Objection, Pending, Takes};
pub use certificates::TlsError;
pub use doorkeeper::{Doorkeeper, NotDone, Receiving, Seen as DoorSeen};
pub use floors::default_of_bound;
pub use judge::Verdict;
pub use mandate::Mandate;
pub use migration::{Finding, Finish, Migration, Reply};
pub use programs::{BinError, Version, find_bin};
pub use supervisor::{Damaged, GiveUp, Why};

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
    /// Their version.
    pub version: Version,
    /// The program that calls [`warden::keep`] where its first argument is [`warden::COMMAND`].
    pub warden: PathBuf,
    /// Where the server listens.
    pub listen: Address,
    /// Who may connect to it beside this machine.
    pub networks: Vec<Network>,
    /// From where clients may connect without TLS, where there is TLS.
    pub plain_networks: Vec<Network>,
    /// With which it speaks TLS, and verifies its upstream.
    pub tls: Option<TlsFiles>,
    /// Further settings, name to value: as checked in the configuration.
    pub extra: BTreeMap<String, String>,
    /// The passwords that hold at the start.
    pub credentials: Credentials,
    /// Between two commits that confirm the synchronous link.
    pub heartbeat_interval: Duration,
    /// How long a disk may take to write before that is a strike; none: nobody looks.
    pub storage_deadline: Option<Duration>,
    pub repair: RepairConfig,
    /// Where the first data of a new cluster comes from.
    pub origin: Origin,
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
    /// Until when a server may live out of recovery, by the clock of this machine. Enforced even
    /// while this process is paused. In the past at first: nobody is in office by itself.
    pub lease: watch::Sender<Time>,
    /// Who stands beside the server; nobody knows at first.
    pub neighbours: watch::Sender<Neighbours>,
    /// Whether the others can do without the server, should its disk be sick. Nobody says so at first.
    pub spared: watch::Sender<bool>,
    /// Leaves the server to the next controller, and ends the task.
    pub leave_running: oneshot::Sender<Mandate>,
    /// Whether the data here is to be given up for damaged pages.
    pub damaged: watch::Receiver<Damaged>,
    /// The word that the data is given up.
    pub give_up: mpsc::Sender<GiveUp>,
    /// Where an operator ends the following of a foreign primary.
    pub migration: Migration,
    /// What the controller before this one knew of the office, where it has left its server.
    pub inherited: Option<Mandate>,
    pub seen: mpsc::Receiver<Seen>,
    pub advisor: Advisor,
    pub doorkeeper: Doorkeeper,
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
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("processes cannot be started: {0}")]
    Spawner(std::io::Error),
    #[error("the threads that write to the disks cannot be started: {0}")]
    Storage(std::io::Error),
}

/// Whether the data in the instance directory `dir` has served a cluster (R10). Data that cannot be
/// read counts as such, and so does data that is being rewound.
pub fn has_served(dir: &Path) -> bool {
    if layout::rewound(dir).exists() {
        return true;
    }
    match data_dir::read_identity(&layout::data(dir)) {
        Ok(identity) => identity.is_some_and(|own| own.generation > Generation::default()),
        Err(_unreadable) => true,
    }
}

/// Takes the instance's directory and starts the task that owns its server.
///
/// Must be called within a tokio runtime. `editions` are the cluster's settings, as the store has
/// them; `credentials` the passwords, which may become others.
///
/// # Errors
///
/// See [`StartError`].
pub fn supervise(
    settings: Settings,
    clock: Clock,
    editions: watch::Receiver<Option<Arc<Edition>>>,
    credentials: watch::Receiver<Arc<Credentials>>,
) -> Result<Supervised, StartError> {
    if rustix::process::geteuid().is_root() {
        return Err(StartError::Root);
    }
    if let Some(files) = &settings.tls {
        certificates::check(files, &settings.listen.host)?;
    }
    copying::Verifier::announce(&settings.bin);
    let (layout, lock) = layout::Layout::claim(&settings.dir, settings.listen.port)?;
    let spawner = process::Spawner::start().map_err(StartError::Spawner)?;
    let found = supervisor::Inheritance::find(&layout);
    let inherited = found.as_ref().map(supervisor::Inheritance::mandate);
    let (goal, goals) = watch::channel(None);
    let (lease, leased) = watch::channel(inherited.unwrap_or_default().until);
    let (neighbours, beside) = watch::channel(Neighbours::default());
    let (leave_running, leaving) = oneshot::channel();
    let (give_up, orders) = mpsc::channel(1);
    let (seen_sender, seen) = mpsc::channel(SEEN_MAX);
    let (restarts, restart) = watch::channel(0);
    let (spared, may_be_spared) = watch::channel(false);
    let storage = storage::Storage::watch(&layout.data, settings.storage_deadline, may_be_spared)
        .map_err(StartError::Storage)?;
    let (told, last) = watch::channel(Server::unknown());
    let stand_in =
        storage::stand_in(storage.clone(), layout.workplaces(), last, seen_sender.clone());
    tokio::spawn(stand_in);
    let (desk, migration) = watch::channel(None);
    let (damaged, damages) = watch::channel(Damaged::No);
    let (settings, layout, spawner) = (Arc::new(settings), Arc::new(layout), Arc::new(spawner));
    let judge = judge::Judge::new(settings.clone(), layout.clone(), spawner.clone());
    let judge = Arc::new(judge);
    let (adopt, adopted) = watch::channel(adoption::kept(&layout.dir));
    let door = supervisor::door(&settings, &layout);
    let doorkeeper = Doorkeeper::new(settings.listen.clone(), door.clone());
    let advisor = Advisor::new(settings.clone(), door, judge.clone(), adopted.clone(), restarts);
    // Ends with the last who looks at what is adopted.
    tokio::spawn(adoption::adopt(layout.dir.clone(), judge, editions, adopt));
    let words = supervisor::Words {
        goals,
        lease: leased,
        neighbours: beside,
        adopted,
        credentials,
        restart,
        leave_running: leaving,
        desk,
        damaged,
        storage,
        told,
        seen: seen_sender,
    };
    let supervisor = supervisor::Supervisor::new(settings, layout, spawner, clock, words);
    let task = tokio::spawn(async move {
        supervisor.run(found, orders).await;
        drop(lock);
    });
    Ok(Supervised {
        goal,
        lease,
        neighbours,
        spared,
        leave_running,
        damaged: damages,
        give_up,
        migration,
        inherited,
        seen,
        advisor,
        doorkeeper,
        task,
    })
}
