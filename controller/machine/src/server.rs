//! The server beside this controller: what the machine wants of it, and what is seen of it.
//!
//! A [`Goal`] is a state, not a command: whoever carries it out compares it with what is there,
//! again and again, until both agree (R11). A [`Server`] is an observation, never a promise.

use std::collections::BTreeSet;

use dugong_topology::{
    Address, Generation, History, InstanceId, Lsn, Making, Position, TimelineId,
};
use serde::{Deserialize, Serialize};

use crate::presence::StandbyLag;
use crate::record::{Record, SystemIdentifier};
use crate::request::RequestNumber;

/// The state that the server shall be in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// No server process. Data stays as it is.
    Down(Stop),
    /// A new, empty PostgreSQL cluster in the (empty) data directory, with the roles that Dugong
    /// needs; no server process once it is there.
    Initialised,
    /// Out of recovery, or on the way there: a standby is promoted.
    Primary(PrimaryGoal),
    /// In recovery.
    Standby(StandbyGoal),
    /// In recovery, receiving no WAL any more, all that was received replayed (R4).
    Sealed { generation: Generation },
    /// The data made anew as a copy of `source`'s; no server process once it is there.
    ///
    /// `making` is the number that the new data will carry ([`Identity::making`]): the goal is
    /// reached once it does.
    Copied { source: Upstream, generation: Generation, making: u32, old: Old },
}

/// What may become of the data that is there while it is made anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Old {
    /// It may be all that there is: it stays as it is until the copy is complete.
    Untouched,
    /// It is worth nothing as it is, and `primary` and its sync have all that was acknowledged:
    /// it may become the copy itself, where it is a prefix of what the primary has, or is made one.
    GivenUp { primary: Upstream },
}

/// How a server is brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// Every process killed at once: nothing that waits for the sync is released (R9).
    Immediate,
    /// PostgreSQL's fast shutdown: sessions ended, standbys receive the shutdown checkpoint.
    Fast,
}

/// A primary, as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrimaryGoal {
    pub generation: Generation,
    /// The one that a promotion begins. What is on another one of this number is not its own.
    pub timeline: TimelineId,
    pub names: Names,
    pub access: Access,
    pub sessions: Sessions,
    /// A checkpoint, for the switchover that wants it: what it writes, the stop need not.
    pub checkpoint: Option<RequestNumber>,
    /// The instances that receive WAL from here, each with a physical slot.
    pub downstreams: BTreeSet<InstanceId>,
    /// A server that died is started again only for a greater number than the one it died in: by
    /// the machine's word, never by itself.
    pub life: u32,
}

/// Whose flush a commit waits for (R6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Names {
    /// All of them. Empty: nobody exists that could give it, so commits wait for ever; never
    /// "commits wait for nobody".
    Each(Vec<InstanceId>),
    /// Commits wait for nobody, as the operator wanted it: a primary that never had a sync
    /// ([`Record::is_one_node`](crate::Record::is_one_node)).
    OneNode,
}

/// `default_transaction_read_only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// What becomes of the sessions of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sessions {
    Stay,
    /// Each one ends between two transactions. While transactions may still write, that is its
    /// proxy's to do, and only those are ended here that have not moved for a while; after that,
    /// every one that is between two.
    Leave,
}

/// A standby, as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StandbyGoal {
    pub generation: Generation,
    /// None: receives nothing, serves reads of what it has.
    pub upstream: Option<Upstream>,
    /// The primary hands over to it: clients wait for what it has, and for each look at that.
    pub heir: bool,
    /// The instances that receive WAL from here, each with a physical slot.
    pub downstreams: BTreeSet<InstanceId>,
}

/// Where WAL, or a copy, comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    pub id: InstanceId,
    pub address: Address,
}

/// What is seen of the server and its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub data: Data,
    pub run: Run,
    pub room: Room,
    /// While it is down after a primary stopped in order: where the last record of its WAL begins,
    /// the shutdown checkpoint.
    pub shut_down_at: Option<Position>,
    /// Why the goal is not reached yet, where that is more than a matter of time: the last error,
    /// in words, with the next step.
    pub trouble: Option<String>,
}

/// What is left on the disks of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Room {
    Enough,
    /// Too little for a server to go on. A copy would need more still.
    Short,
}

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// Not looked at yet.
    Unknown,
    /// Nothing there.
    Empty,
    /// Something that must not be touched: another cluster's, another instance's, or nobody's.
    Foreign { why: String },
    /// This instance's own (R10).
    Own(Identity),
}

/// What a data directory knows about itself (R10).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub instance: InstanceId,
    /// The cluster's name.
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    /// The highest generation that the directory has served. 0: initialised, but its cluster was
    /// never declared.
    pub generation: Generation,
    /// How often the data was made anew here, by initdb or as a copy. 1 for the first data.
    pub making: u32,
    /// The generation that the copy was made for; 0 after initdb. A copy that was made for
    /// generation g repairs what was deposed in g or before (R7).
    pub made_in: Generation,
    /// Where its WAL ended when initdb or the copy had made it.
    pub made_at: Position,
}

/// The server process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// Not looked at yet.
    Unknown,
    /// For certain no process works in the data directory.
    Down,
    /// Neither down nor answering.
    Busy(Work),
    Standby(StandbyView),
    Primary(PrimaryView),
}

/// What keeps a server from answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Initialising,
    Copying(Making),
    Starting,
    Promoting,
    Stopping,
}

/// A server in recovery, as a fresh look shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StandbyView {
    /// The instance that `primary_conninfo` names.
    pub upstream: Option<InstanceId>,
    pub receiver: Receiver,
    /// The branches that led to the timeline that it replays.
    pub history: History,
    /// The end of the WAL that it received and flushed. May end inside a record.
    pub flushed: Lsn,
    /// The end of the last record that it replayed.
    pub replayed: Lsn,
    /// None where it has not heard from its upstream yet.
    pub lag: Option<StandbyLag>,
}

/// The WAL receiver of a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// WAL streams in.
    Streaming,
    /// None runs, or it is on its way.
    Stopped,
    /// None runs, none can start, and every complete record that was received is replayed: its
    /// end is `replayed`, for good (R4).
    Sealed,
}

/// A server out of recovery, as a fresh look shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrimaryView {
    /// The branches that led to its timeline.
    pub history: History,
    /// The end of its flushed WAL, read after `names` were seen in force.
    pub end: Lsn,
    /// The synchronous names that are in force: read back by a fresh connection, no error in
    /// `pg_file_settings`, and no WAL sender left that may know only older ones (R6).
    pub names: Names,
    pub access: Access,
    /// Counted only while they leave.
    pub leaving: Option<Leaving>,
    /// The last checkpoint that was asked for and has ended.
    pub checkpointed: Option<RequestNumber>,
    /// The standbys that stream from here.
    pub standbys: Vec<StandbyRow>,
}

/// Sessions of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaving {
    pub sessions: u32,
    /// Those of them that are inside a transaction.
    pub in_transaction: u32,
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StandbyRow {
    pub id: InstanceId,
    pub flushed: Lsn,
    pub waits: Waits,
}

/// Whether commits wait for a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waits {
    /// `state = 'streaming'` and `sync_state = 'sync'`.
    ForIt,
    /// Streaming, but nothing waits for it.
    ForOthers,
    /// Connected, but still catching up: it does not count yet.
    NotYet,
}

impl Server {
    /// Before the first look.
    pub fn unknown() -> Self {
        Self {
            data: Data::Unknown,
            run: Run::Unknown,
            room: Room::Enough,
            shut_down_at: None,
            trouble: None,
        }
    }

    /// The identity of this instance's own data, if it has any.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.data {
            Data::Own(identity) => Some(identity),
            Data::Unknown | Data::Empty | Data::Foreign { .. } => None,
        }
    }
}

impl Names {
    /// What `record` says, and beyond it the instance that becomes the sync.
    pub(crate) fn of(record: &Record, next: Option<&InstanceId>) -> Self {
        match next {
            None if record.is_one_node() => Self::OneNode,
            next => Self::Each(record.sync.iter().chain(next).cloned().collect()),
        }
    }

    /// Whether commits wait for this instance.
    pub fn contains(&self, id: &InstanceId) -> bool {
        match self {
            Self::Each(names) => names.contains(id),
            Self::OneNode => false,
        }
    }
}

impl PrimaryView {
    /// The end of WAL as a position on its timeline.
    pub fn position(&self) -> Position {
        Position::new(self.history.timeline, self.end)
    }

    /// The row of one standby.
    pub fn standby(&self, id: &InstanceId) -> Option<&StandbyRow> {
        self.standbys.iter().find(|row| row.id == *id)
    }
}

impl StandbyView {
    /// The end of its complete WAL as a position on the timeline that it replays.
    pub fn position(&self) -> Position {
        Position::new(self.history.timeline, self.replayed)
    }
}
