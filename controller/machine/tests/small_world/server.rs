//! A toy server: WAL as a list of writes, replication as copying what the upstream has more.

use std::collections::BTreeMap;
use std::rc::Rc;

use dugong_machine::{
    Access, Data, Goal, Identity, Names, PrimaryGoal, PrimaryView, Receiver, Run, Server,
    StandbyRow, StandbyView, Stop, SystemIdentifier, Waits, Work,
};
use dugong_topology::{Generation, History, InstanceId, Lsn, Position, TimelineId};

/// One write: its number, on the timeline on which it was written.
pub(crate) type Write = (u32, u64);

/// Bytes that a write takes in the WAL.
const BYTES: u64 = 8;

/// Numbers from here on are shutdown checkpoints.
const SHUTDOWN: u64 = 1 << 40;

#[derive(Clone, PartialEq)]
enum Mode {
    Down,
    /// Becomes what the goal says at that time.
    Busy(Work, u64),
    Standby,
    Sealed,
    Primary {
        names: Names,
        access: Access,
    },
}

/// One instance's data and server.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) id: InstanceId,
    identity: Option<Identity>,
    /// Shared, since the world looks at every disk in every turn.
    wal: Rc<Vec<Write>>,
    history: History,
    mode: Mode,
    upstream: Option<InstanceId>,
    opened: bool,
    /// Where the shutdown checkpoint begins, after a stop in order.
    shut_down_at: Option<Position>,
}

impl Disk {
    pub(crate) fn empty(id: InstanceId) -> Self {
        Self {
            id,
            identity: None,
            wal: Rc::default(),
            history: History::root(TimelineId(1)),
            mode: Mode::Down,
            upstream: None,
            opened: false,
            shut_down_at: None,
        }
    }

    fn end(&self) -> Lsn {
        Lsn(self.wal.len() as u64 * BYTES)
    }

    pub(crate) fn die(&mut self) {
        self.mode = Mode::Down;
        self.shut_down_at = None;
    }

    pub(crate) fn destroy(&mut self) {
        *self = Self::empty(self.id.clone());
    }

    pub(crate) fn has(&self, write: Write) -> bool {
        self.wal.contains(&write)
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.mode, Mode::Primary { access: Access::ReadWrite, .. })
    }

    /// Whether this is the turn in which it became writable.
    pub(crate) fn opened_now(&self) -> bool {
        self.opened
    }

    pub(crate) fn append(&mut self, number: u64) {
        Rc::make_mut(&mut self.wal).push((self.history.timeline.0, number));
    }

    /// One step towards the goal; `slow` is how long the next slow thing takes.
    pub(crate) fn pursue(
        &mut self,
        goal: Option<&Goal>,
        all: &BTreeMap<InstanceId, Self>,
        now: u64,
        slow: u64,
    ) {
        self.opened = false;
        let Some(goal) = goal else { return };
        if let Mode::Busy(_, until) = self.mode
            && now < until
            && !matches!(goal, Goal::Down(_))
        {
            return;
        }
        match goal {
            Goal::Down(stop) => self.stop(*stop, now, slow),
            Goal::Initialised => {
                let (me, at) = (self.id.clone(), Position::new(TimelineId(1), Lsn(0)));
                self.identity.get_or_insert_with(|| identity(me, 0, 1, 0, at));
            }
            Goal::Copied { source, generation, making } => {
                self.copy(&all[&source.id], *generation, *making, now, slow);
            }
            Goal::Standby(goal) => {
                self.serve(goal.generation);
                self.upstream = goal.upstream.as_ref().map(|upstream| upstream.id.clone());
                match &self.mode {
                    Mode::Down => self.mode = Mode::Busy(Work::Starting, now + slow),
                    Mode::Busy(..) | Mode::Sealed => self.mode = Mode::Standby,
                    Mode::Primary { .. } => panic!("{} demoted without an end", self.id),
                    Mode::Standby => (),
                }
                self.receive(all);
            }
            Goal::Sealed { .. } => match self.mode {
                Mode::Standby => self.mode = Mode::Sealed,
                Mode::Down => self.mode = Mode::Busy(Work::Starting, now + slow),
                Mode::Busy(..) => self.mode = Mode::Sealed,
                Mode::Sealed | Mode::Primary { .. } => (),
            },
            Goal::Primary(goal) => self.become_primary(goal, all, now, slow),
        }
    }

    /// A primary that stops in order writes a last record, and sends it for a while.
    fn stop(&mut self, stop: Stop, now: u64, slow: u64) {
        match (&self.mode, stop) {
            (Mode::Primary { .. }, Stop::Fast) => {
                self.shut_down_at = Some(Position::new(self.history.timeline, self.end()));
                self.append(SHUTDOWN + now);
                self.mode = Mode::Busy(Work::Stopping, now + slow);
            }
            (Mode::Busy(Work::Stopping, until), Stop::Fast) if now < *until => (),
            (Mode::Down | Mode::Busy(Work::Stopping, _), Stop::Fast) => self.mode = Mode::Down,
            (_, _) => self.die(),
        }
    }

    fn serve(&mut self, generation: Generation) {
        self.identity.as_mut().unwrap().generation = generation;
        self.shut_down_at = None;
    }

    fn copy(&mut self, source: &Self, generation: Generation, making: u32, now: u64, slow: u64) {
        if self.identity.as_ref().is_some_and(|identity| identity.making >= making) {
            return;
        }
        match self.mode {
            Mode::Busy(Work::Copying { .. }, _) if source.is_up() => {
                let id = self.id.clone();
                let at = Position::new(source.history.timeline, source.end());
                let made = identity(id.clone(), generation.0, making, generation.0, at);
                let (wal, history) = (source.wal.clone(), source.history.clone());
                *self = Self { identity: Some(made), wal, history, ..Self::empty(id) };
            }
            Mode::Busy(..) | Mode::Down | Mode::Standby | Mode::Sealed | Mode::Primary { .. } => {
                self.mode = Mode::Busy(Work::Copying { bytes: 0 }, now + 10 * slow);
            }
        }
    }

    fn become_primary(
        &mut self,
        goal: &PrimaryGoal,
        all: &BTreeMap<InstanceId, Self>,
        now: u64,
        slow: u64,
    ) {
        self.serve(goal.generation);
        match self.mode {
            Mode::Down => self.mode = Mode::Busy(Work::Starting, now + slow),
            Mode::Standby | Mode::Sealed => self.mode = Mode::Busy(Work::Promoting, now + slow),
            Mode::Busy(work, _) => {
                if work == Work::Promoting {
                    let newest = all.values().map(|disk| disk.history.timeline.0).max().unwrap();
                    let left = Position::new(self.history.timeline, self.end());
                    self.history.ancestors.push(left);
                    self.history.timeline = TimelineId(newest + 1);
                }
                self.mode = Mode::Primary { names: goal.names.clone(), access: goal.access };
            }
            Mode::Primary { .. } => {
                let was_open = self.is_writable();
                self.mode = Mode::Primary { names: goal.names.clone(), access: goal.access };
                self.opened = !was_open && self.is_writable();
            }
        }
    }

    fn is_up(&self) -> bool {
        match self.mode {
            Mode::Standby | Mode::Sealed | Mode::Primary { .. } => true,
            Mode::Busy(work, _) => work == Work::Stopping,
            Mode::Down => false,
        }
    }

    fn streams_from<'a>(&self, all: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        let upstream = all.into_iter().find(|disk| Some(&disk.id) == self.upstream.as_ref())?;
        // Writes are unique, so equal ends mean equal beginnings.
        let end = self.wal.len().checked_sub(1);
        let prefix = end.is_none_or(|end| upstream.wal.get(end) == self.wal.get(end));
        (self.mode == Mode::Standby && upstream.is_up() && prefix).then_some(upstream)
    }

    /// Up to three writes a turn, so that there is always something on the way.
    fn receive(&mut self, all: &BTreeMap<InstanceId, Self>) {
        let Some(upstream) = self.streams_from(all.values()).cloned() else { return };
        let end = upstream.wal.len().min(self.wal.len() + 3);
        if end > self.wal.len() {
            let more = &upstream.wal[self.wal.len()..end];
            Rc::make_mut(&mut self.wal).extend_from_slice(more);
        }
        if end == upstream.wal.len() {
            self.history = upstream.history;
        }
    }

    /// Writes that every name has, as long as each of them streams from here.
    pub(crate) fn acknowledged(&self, all: &[Self]) -> Vec<Write> {
        let Mode::Primary { names: Names::Each(names), .. } = &self.mode else { return Vec::new() };
        let waits_for = |name: &InstanceId| {
            let standby = all.iter().find(|disk| disk.id == *name)?;
            let from = standby.streams_from(all)?;
            (from.id == self.id).then_some(standby.wal.len())
        };
        let reached: Option<Vec<usize>> = names.iter().map(waits_for).collect();
        let reached = reached.and_then(|all| all.into_iter().min()).unwrap_or(0);
        let newest = reached.min(self.wal.len());
        self.wal[newest.saturating_sub(5)..newest].to_vec()
    }

    /// Whether a heartbeat's commit would come back just now.
    pub(crate) fn link_holds(&self, all: &[Self]) -> bool {
        self.is_writable() && !self.acknowledged(all).is_empty()
    }

    pub(crate) fn observe(&self, all: &[Self], now: u64) -> Server {
        let data = self.identity.clone().map_or(Data::Empty, Data::Own);
        let run = match &self.mode {
            Mode::Down => Run::Down,
            Mode::Busy(work, until) => {
                assert!(*until + 100_000 > now, "{} is busy for ever", self.id);
                Run::Busy(*work)
            }
            Mode::Standby | Mode::Sealed => Run::Standby(StandbyView {
                upstream: self.upstream.clone(),
                receiver: match (&self.mode, self.streams_from(all)) {
                    (Mode::Sealed, _) => Receiver::Sealed,
                    (_, Some(_)) => Receiver::Streaming,
                    (_, None) => Receiver::Stopped,
                },
                history: self.history.clone(),
                flushed: self.end(),
                replayed: self.end(),
                lag: None,
            }),
            Mode::Primary { names, access } => Run::Primary(PrimaryView {
                history: self.history.clone(),
                end: self.end(),
                names: names.clone(),
                access: *access,
                in_transaction: (*access == Access::ReadOnly)
                    .then_some(u32::from(now % 1_000 < 700)),
                standbys: self.rows(names, all),
            }),
        };
        let shut_down_at = self.shut_down_at.filter(|_| run == Run::Down);
        Server { data, run, shut_down_at, trouble: None }
    }

    fn rows(&self, names: &Names, all: &[Self]) -> Vec<StandbyRow> {
        let streams =
            |disk: &&Self| disk.streams_from(all).is_some_and(|upstream| upstream.id == self.id);
        all.iter()
            .filter(streams)
            .map(|disk| StandbyRow {
                id: disk.id.clone(),
                flushed: disk.end(),
                waits: match names {
                    Names::Each(names) if names.contains(&disk.id) => Waits::ForIt,
                    Names::Each(_) | Names::OneNode => Waits::ForOthers,
                },
            })
            .collect()
    }
}

fn identity(
    instance: InstanceId,
    generation: u64,
    making: u32,
    made_in: u64,
    made_at: Position,
) -> Identity {
    Identity {
        instance,
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(7),
        generation: Generation(generation),
        making,
        made_in: Generation(made_in),
        made_at,
    }
}
