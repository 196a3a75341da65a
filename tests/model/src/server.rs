//! PostgreSQL as the protocol sees it, with no more state than a checker can keep by the million.
//!
//! The same assumptions as the simulator's, but for two: what is written is flushed at once, and a
//! connection is lost when a process at one of its ends is. A commit is acknowledged when the WAL
//! senders that know whom it waits for have seen it flushed there.

use dugong_machine::{Access, Identity, Names, Receiver, Run, StandbyView, Time, Work};
use dugong_simulator::wal::{Shown, WalSender, as_far_as, lsn};
use dugong_topology::{History, InstanceId, Position, TimelineId};

/// One entry of the WAL: the number of a client's write, or [`OWN`].
pub(crate) type Entry = u8;

/// A server's own: a heartbeat, a checkpoint.
pub(crate) const OWN: Entry = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) disk: Disk,
    pub(crate) process: Process,
    /// Counts the processes: a connection knows which one it belongs to.
    pub(crate) life: u8,
    pub(crate) senders: Vec<Sender>,
    pub(crate) shut_down_at: Option<Position>,
    /// What its configuration file says.
    pub(crate) configured: Names,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) identity: Option<Identity>,
    pub(crate) wal: Vec<Entry>,
    /// Of the timeline at the end of its WAL.
    pub(crate) history: History,
    /// The newest timeline that it has a history file of.
    pub(crate) newest: TimelineId,
    /// It starts in recovery.
    pub(crate) standby: bool,
    /// It is being made anew in place: an end in the middle of that leaves nothing.
    pub(crate) given_up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Process {
    Down,
    Busy(Work, Then),
    Standby(Standby),
    Primary(Primary),
}

/// What follows slow work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    Initialised,
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Standby {
    pub(crate) upstream: Option<usize>,
    /// The upstream's life, and the history that it told.
    pub(crate) link: Option<(u8, History)>,
    /// No receiver can start any more (R4).
    pub(crate) sealed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Primary {
    pub(crate) names: Names,
    /// The checkpointer has seen that commits wait for somebody.
    pub(crate) heeded: bool,
    pub(crate) access: Access,
    pub(crate) admits: bool,
    /// How many entries readers see.
    pub(crate) visible: usize,
    /// The end of WAL when the names were last changed.
    pub(crate) end_before: usize,
    pub(crate) waiters: Vec<(usize, Waiter)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Waiter {
    Client(Entry),
    Heartbeat { begun: Time },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sender {
    pub(crate) standby: usize,
    /// The standby's life.
    pub(crate) life: u8,
    pub(crate) flushed: usize,
    pub(crate) streaming: bool,
    /// Where the upstream was when it connected.
    pub(crate) target: usize,
    /// The names that it knows of (R6).
    pub(crate) names: Names,
}

/// What a commit's end means to whoever waited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Released {
    pub(crate) upto: usize,
    pub(crate) waiters: Vec<Waiter>,
}

impl Disk {
    pub(crate) fn end(&self) -> Position {
        Position::new(self.history.timeline, lsn(self.wal.len()))
    }

    /// A promotion: the WAL goes on, on a timeline of its own. None: the first that is unknown here.
    pub(crate) fn branch_off(&mut self, timeline: Option<TimelineId>) {
        self.history.ancestors.push(self.end());
        self.newest = timeline.unwrap_or(TimelineId(self.newest.0 + 1));
        self.history.timeline = self.newest;
        self.wal.push(OWN);
    }

    /// Follows `history` as far as the WAL here goes.
    pub(crate) fn follow(&mut self, history: &History) {
        self.newest = self.newest.max(history.timeline);
        self.history = as_far_as(history, lsn(self.wal.len()));
    }

    /// The clients' writes among the first `length` entries.
    pub(crate) fn writes(&self, length: usize) -> Writes {
        self.wal.iter().take(length).fold(Writes::default(), |all, entry| all.with(*entry))
    }
}

/// A set of clients' writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Writes(u64);

impl Writes {
    #[must_use]
    pub(crate) fn with(self, entry: Entry) -> Self {
        if entry == OWN { self } else { Self(self.0 | 1 << entry) }
    }

    #[must_use]
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) fn has(self, entry: Entry) -> bool {
        entry != OWN && self.0 & 1 << entry != 0
    }

    pub(crate) fn has_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        let disk = Disk {
            identity: None,
            wal: Vec::new(),
            history: History::root(TimelineId(1)),
            newest: TimelineId(1),
            standby: false,
            given_up: false,
        };
        let configured = Names::Each(Vec::new());
        let (process, senders) = (Process::Down, Vec::new());
        Self { disk, process, life: 0, senders, shut_down_at: None, configured }
    }

    pub(crate) fn primary(&self) -> Option<&Primary> {
        match &self.process {
            Process::Primary(primary) => Some(primary),
            Process::Down | Process::Busy(..) | Process::Standby(_) => None,
        }
    }

    pub(crate) fn primary_mut(&mut self) -> Option<&mut Primary> {
        match &mut self.process {
            Process::Primary(primary) => Some(primary),
            Process::Down | Process::Busy(..) | Process::Standby(_) => None,
        }
    }

    pub(crate) fn standby_mut(&mut self) -> Option<&mut Standby> {
        match &mut self.process {
            Process::Standby(standby) => Some(standby),
            Process::Down | Process::Busy(..) | Process::Primary(_) => None,
        }
    }

    pub(crate) fn standby(&self) -> Option<&Standby> {
        match &self.process {
            Process::Standby(standby) => Some(standby),
            Process::Down | Process::Busy(..) | Process::Primary(_) => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.process, Process::Standby(_) | Process::Primary(_))
    }

    /// What clients see that read here; none where none are let in.
    pub(crate) fn shown(&self) -> Option<Writes> {
        let primary = self.primary().filter(|primary| primary.admits)?;
        Some(self.disk.writes(primary.visible))
    }

    pub(crate) fn become_busy(&mut self, work: Work, then: Then) {
        self.life += 1;
        self.process = Process::Busy(work, then);
        self.shut_down_at = None;
        self.senders.clear();
    }

    pub(crate) fn end(&mut self) {
        self.life += 1;
        self.process = Process::Down;
        self.senders.clear();
        self.shut_down_at = None;
        if self.disk.given_up {
            self.disk = Self::new().disk;
        }
    }

    /// Out of recovery: everything in the WAL is seen, acknowledged or not.
    pub(crate) fn take_office(&mut self, admits: bool) {
        self.disk.standby = false;
        self.disk.wal.push(OWN);
        let visible = self.disk.wal.len();
        self.process = Process::Primary(Primary {
            heeded: self.configured != Names::OneNode,
            names: self.configured.clone(),
            access: Access::ReadOnly,
            admits,
            visible,
            end_before: visible,
            waiters: Vec::new(),
        });
    }

    /// Every commit that needs no more WAL than this is acknowledged.
    pub(crate) fn release(&mut self, upto: usize) -> Released {
        let upto = upto.min(self.disk.wal.len());
        let Some(primary) = self.primary_mut() else { return Released::default() };
        primary.visible = primary.visible.max(upto);
        let all = std::mem::take(&mut primary.waiters);
        let (done, waiting): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(need, _)| *need <= upto);
        primary.waiters = waiting;
        Released { upto, waiters: done.into_iter().map(|(_, waiter)| waiter).collect() }
    }

    pub(crate) fn look_at_standby(
        &self,
        ids: &[InstanceId],
        standby: &Standby,
        history: History,
    ) -> Run {
        let end = lsn(self.disk.wal.len());
        Run::Standby(StandbyView {
            upstream: standby.upstream.map(|upstream| ids[upstream].clone()),
            receiver: match (standby.sealed, &standby.link) {
                (true, _) => Receiver::Sealed,
                (false, Some(_)) => Receiver::Streaming,
                (false, None) => Receiver::Stopped,
            },
            history,
            flushed: end,
            replayed: end,
            lag: None,
        })
    }
}

impl WalSender for Sender {
    fn shown<'a>(&'a self, ids: &'a [InstanceId]) -> Shown<'a> {
        let Self { flushed, streaming, names, .. } = self;
        Shown { standby: &ids[self.standby], flushed: *flushed, streaming: *streaming, names }
    }
}
