//! One reading of the store, whole.

use std::collections::BTreeMap;

use dugong_topology::{InstanceId, Phase, Revision};
use serde::{Deserialize, Serialize};

use crate::presence::{Presence, ServerState};
use crate::record::Record;
use crate::request::{Ask, Outcome, Promotion, Request, RequestNumber, Switchover};

/// Everything the store holds at one revision. Equal revisions mean equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// The store's count of writes.
    pub revision: Revision,
    /// None: the cluster was never bootstrapped.
    pub declared: Option<Declared>,
    /// The last word of every instance that ever said one.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Operators' requests without an outcome, oldest first.
    #[serde(default)]
    pub requests: BTreeMap<RequestNumber, Request>,
    /// The outcomes of the last few others.
    #[serde(default)]
    pub outcomes: BTreeMap<RequestNumber, Outcome>,
}

/// The state record as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Declared {
    pub record: Record,
    /// The revision of the record's own last write: what a compare-and-swap compares.
    pub revision: Revision,
    /// When the generation was declared: milliseconds since 1970 by the declarer's clock, for
    /// people to read. No decision uses it.
    pub since_unix_ms: u64,
}

/// An instance's last word, and whether its session is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub presence: Presence,
    pub session: Session,
}

/// The store's lease of one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Session {
    Alive,
    /// Not renewed in time, or given back.
    Lapsed,
}

impl Snapshot {
    /// The state record, if there is one.
    pub fn record(&self) -> Option<&Record> {
        self.declared.as_ref().map(|declared| &declared.record)
    }

    /// The switchover that is asked for, if one is.
    pub fn switchover(&self) -> Option<(RequestNumber, &Switchover)> {
        self.requests.values().find_map(|request| match &request.what {
            Ask::Switchover(switchover) => Some((request.number, switchover)),
            Ask::Promotion(_) => None,
        })
    }

    /// The promotion that is asked for, if one is.
    pub fn promotion(&self) -> Option<(RequestNumber, &Promotion)> {
        self.requests.values().find_map(|request| match &request.what {
            Ask::Promotion(promotion) => Some((request.number, promotion)),
            Ask::Switchover(_) => None,
        })
    }

    /// The word of an instance whose session is alive.
    pub fn present(&self, id: &InstanceId) -> Option<&Presence> {
        self.instances
            .get(id)
            .filter(|instance| instance.session == Session::Alive)
            .map(|instance| &instance.presence)
    }

    /// All instances whose sessions are alive, in the order of their ids.
    pub fn all_present(&self) -> impl Iterator<Item = &Presence> {
        self.instances
            .values()
            .filter(|instance| instance.session == Session::Alive)
            .map(|instance| &instance.presence)
    }

    /// Whether the write address leads to the primary (R12).
    ///
    /// A primary whose session has lapsed keeps its last word: only a new generation takes the
    /// office away, and it may well serve on its other lease.
    pub fn phase(&self) -> Phase {
        let Some(record) = self.record() else { return Phase::Unformed };
        let Some(primary) = self.instances.get(&record.primary) else { return Phase::NoPrimary };
        if primary.presence.drains {
            return Phase::HandingOver;
        }
        match primary.presence.server {
            ServerState::Primary if primary.presence.open == Some(record.generation) => {
                Phase::ReadWrite
            }
            ServerState::Primary | ServerState::Standby | ServerState::Ready => Phase::CatchingUp,
            ServerState::Starting if primary.session == Session::Alive => Phase::CatchingUp,
            ServerState::Starting | ServerState::Stopped | ServerState::Copying => Phase::NoPrimary,
        }
    }

    /// Whether `id` is present and its server replicates on the primary's history.
    pub fn is_ready(&self, id: &InstanceId) -> bool {
        self.present(id).is_some_and(|presence| presence.server == ServerState::Ready)
    }
}
