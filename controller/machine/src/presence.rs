//! What one instance says about itself, under the store's session.

use dugong_topology::document::Lag;
use dugong_topology::{Address, Generation, History, InstanceId, Lsn, Making, Position};
use serde::{Deserialize, Serialize};

use crate::record::SystemIdentifier;
use crate::request::RequestNumber;

/// One instance's word about itself. It lives as long as the instance's session in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Presence {
    pub id: InstanceId,
    /// Where its PostgreSQL listens.
    pub postgres: Address,
    /// Where its controller answers.
    pub http: Address,
    pub server: ServerState,
    /// Of its data; none while it has none.
    pub system_identifier: Option<SystemIdentifier>,
    /// The newest generation that it has seen.
    pub seen: Generation,
    /// As a primary: the generation whose sync has caught up with it (R5). Else none.
    pub open: Option<Generation>,
    /// The end of its WAL: flushed, complete records. None while its server was never seen.
    pub position: Option<Position>,
    /// The branches that led to the timeline of its WAL.
    pub history: Option<History>,
    /// The instance that it receives WAL from just now.
    pub upstream: Option<InstanceId>,
    /// As a standby: how far it is behind its upstream.
    pub lag: Option<StandbyLag>,
    /// While its data is made anew: how far that has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,
    /// As a primary that hands over: its clients are to leave it, between two transactions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drains: bool,
    /// As a primary that has stopped: what its sync needs to take over as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hands_over: Option<Handover>,
    /// What it does or waits for, in words.
    pub note: Option<String>,
}

/// What the server of an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// For certain no server process exists, and none will before the instance has said so: the
    /// word on which a sync takes over without waiting for any lease.
    Stopped,
    /// About to be started, starting, stopping, or not looked at yet.
    Starting,
    /// A data directory is being made: from nothing, or as a copy of another instance's.
    Copying,
    /// In recovery.
    Standby,
    /// In recovery, on the history of the primary, and receiving: fit to be made sync or async.
    Ready,
    /// Out of recovery.
    Primary,
}

/// A primary's word that it has stopped in order, for a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    pub request: RequestNumber,
    /// Where the last record of its WAL begins, the shutdown checkpoint. Who has replayed past it
    /// has everything.
    pub last: Position,
}

/// How far a standby is behind its upstream, as it sees it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StandbyLag {
    /// The upstream's end of WAL, as last heard of.
    pub upstream_end: Lsn,
    /// What reads here show.
    pub replayed: Lsn,
    /// Age of the newest transaction shown here; 0 where everything received is shown.
    pub age: LagAge,
}

/// Milliseconds, serializable and hashable.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LagAge(pub u64);

impl From<LagAge> for Lag {
    fn from(age: LagAge) -> Self {
        Self { millis: age.0 }
    }
}

impl Presence {
    /// Whether the two say the same but for what moves all the time: positions, lag, progress.
    pub fn is_like(&self, other: &Self) -> bool {
        let still = |of: &Self| Self { position: None, lag: None, making: None, ..of.clone() };
        still(self) == still(other)
    }
}
