//! What connects the supervisor with the rest of the controller.

use std::sync::Arc;

use dugong_machine::{Goal, Neighbours, Server, Time};
use tokio::sync::{mpsc, oneshot, watch};

use super::super::Seen;
use super::super::adoption::Adopted;
use super::super::following::Desk;
use super::super::mandate::Mandate;
use super::super::storage::Storage;
use super::Damaged;
use crate::credentials::Credentials;

/// What the supervisor is told, and where it tells what it sees.
pub(in crate::postgres) struct Words {
    pub(in crate::postgres) goals: watch::Receiver<Option<Goal>>,
    pub(in crate::postgres) lease: watch::Receiver<Time>,
    pub(in crate::postgres) neighbours: watch::Receiver<Neighbours>,
    pub(in crate::postgres) adopted: watch::Receiver<Adopted>,
    pub(in crate::postgres) credentials: watch::Receiver<Arc<Credentials>>,
    pub(in crate::postgres) restart: watch::Receiver<u64>,
    pub(in crate::postgres) leave_running: oneshot::Receiver<Mandate>,
    pub(in crate::postgres) desk: Desk,
    pub(in crate::postgres) damaged: watch::Sender<Damaged>,
    pub(in crate::postgres) storage: Storage,
    /// The last that was told, for whoever stands in.
    pub(in crate::postgres) told: watch::Sender<Server>,
    pub(in crate::postgres) seen: mpsc::Sender<Seen>,
}
