//! PostgreSQL as the protocol sees it: WAL, timelines, and what a crash takes away.
//!
//! An LSN counts entries of the WAL. An entry is the number of a client's write, or one of the
//! server's own; every entry is unique, so that equal WAL means equal entries.
//!
//! - A commit is written, flushed a little later, sent to the standbys, and acknowledged when all
//!   names that its WAL senders know of have flushed it.
//!   In one-node mode it is acknowledged once it is flushed; and so are commits after it, until
//!   the checkpointer has seen that there are names now.
//! - Others see it once it is acknowledged; or all of the WAL, acknowledged or not, after a crash,
//!   a restart or a promotion.
//! - A standby is only ever checked by timelines and LSNs: WAL of equal numbers and different
//!   content goes unnoticed, as it may in a real one.

use std::rc::Rc;

use dugong_machine::{Access, Identity, Names, Time, Work};
use dugong_topology::{History, InstanceId, Position, TimelineId};

use crate::moment::Moment;
use crate::wal::{Shown, WalSender, as_far_as, lsn};

/// One entry of the WAL: a client's write, or, from [`OWN`] on, one of a server.
pub(crate) type Entry = u32;

/// The first entry that is no client's write.
pub(crate) const OWN: Entry = 0x8000_0000;

/// The checkpointer's place among the connections that take up new names.
pub(crate) const CHECKPOINTER: u64 = 0;

/// Whoever waits for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    Client { client: usize, operation: u32 },
    Heartbeat { begun: Time },
}

/// The data directory: what survives the server.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// None: empty.
    pub identity: Option<Identity>,
    pub wal: Rc<Vec<Entry>>,
    /// How many entries no power failure takes.
    pub flushed: usize,
    /// Of the timeline at the end of its WAL.
    pub history: History,
    /// The newest timeline that it has a history file of.
    pub newest: TimelineId,
    /// It starts in recovery.
    pub standby: bool,
    /// It is being made anew in place: an end in the middle of that leaves nothing.
    pub given_up: bool,
}

/// The server process.
#[derive(Clone, Debug)]
pub(crate) enum Process {
    Down,
    /// Becomes `then` when its work is done.
    Busy(Work, Then),
    Standby(Standby),
    Primary(Box<Primary>),
}

/// What follows slow work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Initialised,
    /// From the instance of this number, if its data may be taken.
    Copied {
        from: usize,
    },
    Started,
    /// On this timeline; none: the first that is unknown here.
    Promoted {
        timeline: Option<TimelineId>,
    },
    Stopped,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Standby {
    pub upstream: Option<usize>,
    pub receiver: Option<Receiver>,
    /// No receiver can start any more (R4).
    pub sealed: bool,
}

/// A WAL receiver's connection.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub connection: u64,
    /// None: it has not been let in yet. Else the history that the upstream told it.
    pub history: Option<History>,
    pub heard_at: Moment,
}

#[derive(Clone, Debug)]
pub(crate) struct Primary {
    pub names: Names,
    /// Commits wait for the names: not before the checkpointer has seen that there are any.
    pub heeded: bool,
    pub access: Access,
    /// Clients may log in: a primary that was started again lets nobody in before it is open.
    pub admits: bool,
    /// How many entries readers see.
    pub visible: usize,
    /// The end of WAL when the names were last changed.
    pub end_before: usize,
    /// Commits that wait: how much WAL they need, and who is to be told.
    pub waiters: Vec<(usize, Waiter)>,
}

/// A WAL sender's connection.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub connection: u64,
    pub standby: usize,
    pub sent: usize,
    pub flushed: usize,
    /// It has been where the upstream was when it connected.
    pub streaming: bool,
    /// How much that was.
    pub target: usize,
    /// The synchronous names that it knows of: older than the server's for a moment (R6).
    pub names: Names,
    pub heard_at: Moment,
}

/// A server with its data.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub disk: Disk,
    pub process: Process,
    /// Counts the starts and ends of processes: what belongs to an older one is void.
    pub epoch: u32,
    pub senders: Vec<Sender>,
    /// While it stops, or is down: where the last record of a primary that stopped in order begins.
    pub(crate) shut_down_at: Option<Position>,
    /// The synchronous names that its configuration file holds.
    pub configured: Names,
}

impl Standby {
    pub(crate) fn streams(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.history.is_some())
    }
}

impl Disk {
    pub(crate) fn empty() -> Self {
        Self {
            identity: None,
            wal: Rc::default(),
            flushed: 0,
            history: History::root(TimelineId(1)),
            newest: TimelineId(1),
            standby: false,
            given_up: false,
        }
    }

    pub(crate) fn end(&self) -> Position {
        Position::new(self.history.timeline, lsn(self.flushed))
    }

    pub(crate) fn append(&mut self, entries: &[Entry]) -> usize {
        Rc::make_mut(&mut self.wal).extend_from_slice(entries);
        self.wal.len()
    }

    /// Everything after the first `length` entries is gone.
    pub(crate) fn lose_after(&mut self, length: usize) {
        if length < self.wal.len() {
            Rc::make_mut(&mut self.wal).truncate(length);
            self.history = as_far_as(&self.history, lsn(length));
        }
    }

    /// A promotion: the WAL goes on, on a timeline of its own. None: the first that is unknown here.
    pub(crate) fn branch_off(&mut self, timeline: Option<TimelineId>, own: Entry) {
        self.history.ancestors.push(self.end());
        self.newest = timeline.unwrap_or(TimelineId(self.newest.0 + 1));
        self.history.timeline = self.newest;
        self.flushed = self.append(&[own]);
    }

    /// Follows `history` as far as the WAL here goes.
    pub(crate) fn follow(&mut self, history: &History) {
        self.newest = self.newest.max(history.timeline);
        self.history = as_far_as(history, lsn(self.wal.len()));
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self {
            disk: Disk::empty(),
            process: Process::Down,
            epoch: 0,
            senders: Vec::new(),
            shut_down_at: None,
            configured: Names::Each(Vec::new()),
        }
    }

    pub(crate) fn primary(&mut self) -> Option<&mut Primary> {
        match &mut self.process {
            Process::Primary(primary) => Some(primary),
            Process::Down | Process::Busy(..) | Process::Standby(_) => None,
        }
    }

    pub(crate) fn standby(&mut self) -> Option<&mut Standby> {
        match &mut self.process {
            Process::Standby(standby) => Some(standby),
            Process::Down | Process::Busy(..) | Process::Primary(_) => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.process, Process::Standby(_) | Process::Primary(_))
    }

    /// No process is left.
    pub(crate) fn end(&mut self) {
        self.epoch += 1;
        self.process = Process::Down;
        self.senders.clear();
        if self.disk.given_up {
            self.disk = Disk::empty();
        }
    }

    pub(crate) fn begin(&mut self, work: Work, then: Then) {
        self.epoch += 1;
        self.process = Process::Busy(work, then);
        self.shut_down_at = None;
        self.senders.clear();
    }
}

impl WalSender for Sender {
    fn shown<'a>(&'a self, ids: &'a [InstanceId]) -> Shown<'a> {
        let Self { flushed, streaming, names, .. } = self;
        Shown { standby: &ids[self.standby], flushed: *flushed, streaming: *streaming, names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::released_by;

    #[test]
    fn a_standby_follows_a_history_no_further_than_its_wal() {
        let mut upstream = Disk::empty();
        upstream.flushed = upstream.append(&[1, 2, 3]);
        upstream.branch_off(None, OWN);
        let mut behind = Disk::empty();
        behind.append(&[1, 2]);
        behind.follow(&upstream.history);
        assert_eq!((behind.history.timeline.0, behind.newest.0), (1, 2));
        behind.append(&[3]);
        behind.follow(&upstream.history);
        assert_eq!(behind.history, upstream.history);
    }

    #[test]
    fn a_commit_is_released_by_what_its_sender_knows() {
        let ids: Vec<InstanceId> = ["a", "b", "c"].map(|id| id.parse().unwrap()).to_vec();
        let sender = |standby, flushed, names: &[usize]| Sender {
            connection: 1,
            standby,
            sent: 9,
            flushed,
            streaming: true,
            target: 0,
            names: Names::Each(names.iter().map(|name| ids[*name].clone()).collect()),
            heard_at: Moment::default(),
        };
        let mut server = Server::new();
        server.senders = vec![sender(1, 5, &[1, 2]), sender(2, 7, &[2])];
        assert_eq!(released_by(&server.senders[0], &server.senders, &ids), Some(5), "both names");
        assert_eq!(
            released_by(&server.senders[1], &server.senders, &ids),
            Some(7),
            "an older list"
        );
        server.senders.pop();
        assert_eq!(
            released_by(&server.senders[0], &server.senders, &ids),
            None,
            "a name is missing"
        );
        server.senders[0].names = Names::Each(Vec::new());
        assert_eq!(
            released_by(&server.senders[0], &server.senders, &ids),
            None,
            "nobody is waited for"
        );
    }
}
