//! The topology for everybody, and the desk where operators ask: projected from the store's snapshots, encoded once, fanned out.
//!
//! **Invariant:** a published topology is a function of one snapshot and of nothing else, so all
//! controllers publish the same document for the same revision (R12). Versions only grow.

pub mod admission;
pub mod credentials;
pub mod desk;
pub mod dns;
pub mod door;
pub mod http;
pub mod migration;
mod patroni;
mod projection;
pub mod reinit;
mod services;
pub mod settings;
mod wait;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dugong_topology::{Topology, stream};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use projection::tests as samples;
pub use projection::topology;

use crate::store::Reading;
use services::Services;

/// One topology, ready to be sent to anybody.
#[derive(Debug)]
pub struct Published {
    pub topology: Topology,
    /// The document.
    pub json: Bytes,
    /// The document as one event of the stream.
    pub event: Bytes,
    services: Services,
}

impl Published {
    /// Encodes `topology`, which follows `before`.
    ///
    /// # Errors
    ///
    /// The encoder's own.
    pub fn new(topology: Topology, before: Option<&Self>) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_string(&topology)?;
        let event = Bytes::from(stream::event(&json));
        let services = Services::new(&topology, before.map(|before| &before.services))?;
        Ok(Self { topology, json: Bytes::from(json), event, services })
    }
}

/// The newest topology; none before the store was first read.
pub type Topologies = watch::Receiver<Option<Arc<Published>>>;

/// Publishes every snapshot that the store shows, until the store is gone.
pub fn publish(cluster: String, mut readings: watch::Receiver<Reading>) -> Topologies {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let snapshot = match &*readings.borrow_and_update() {
                Reading::Whole(snapshot) => Some(snapshot.clone()),
                Reading::Pending | Reading::Failed(_) => None,
            };
            if let Some(snapshot) = snapshot {
                send(&sender, topology(&cluster, &snapshot));
            }
            if readings.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Replaces the newest topology unless that is as new already.
fn send(sender: &watch::Sender<Option<Arc<Published>>>, mut topology: Topology) {
    let newer = |known: &Option<Arc<Published>>| {
        known.as_ref().is_none_or(|known| topology.supersedes(&known.topology))
    };
    if !newer(&sender.borrow()) {
        return;
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    topology.published_at_ms = u64::try_from(since_1970.as_millis()).ok();
    let before = sender.borrow().clone();
    match Published::new(topology, before.as_deref()) {
        Ok(published) => {
            sender.send_replace(Some(Arc::new(published)));
        }
        Err(error) => tracing::error!(%error, "a topology could not be encoded"),
    }
}
