//! A whole cluster as one value: what a checker compares, keeps, and goes on from.
//!
//! Time is whole seconds, and passes only once everything that is under way has happened: what
//! takes longer is late because of a trouble (a pause, a cut, an outage), and troubles are chosen
//! like everything else. Supervisors look and act at once; that they may not is a pause, too.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dugong_machine::{
    Answer, Bootstrap, Declaration, Goal, Presence, Settings, Snapshot, State, Time,
};
use dugong_simulator::Bug;
use dugong_topology::{Address, InstanceId, Revision, Version};

use crate::server::{Entry, Process, Server, Writes};
use crate::store::Store;
use crate::trouble::Trouble;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// Seconds.
    pub(crate) now: u32,
    pub(crate) bugs: Arc<Vec<Bug>>,
    pub(crate) ids: Arc<Vec<InstanceId>>,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Sorted.
    pub(crate) troubles: Vec<Trouble>,
    pub(crate) faults: u8,
    /// The clients' last write.
    pub(crate) written: Entry,
    /// Those of them that came at any moment.
    pub(crate) extra: Entry,
    pub(crate) acknowledged: Writes,
    /// What any client may have read on the write address.
    pub(crate) seen: Writes,
    pub(crate) broken: Option<Broken>,
}

/// A promise that was broken on the way to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    TwoWriters,
    StaleRead,
    SeenThenLost,
    TopologyWentBack,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) server: Arc<Server>,
    pub(crate) controller: Option<Arc<Controller>>,
    /// Counts the controllers.
    pub(crate) epoch: u8,
    /// What a controller that is dead had declared, still on its way.
    pub(crate) late: Option<(u8, Declaration)>,
    print: Print,
}

/// A hash of the rest, once it was asked for: most steps leave most instances as they are.
#[derive(Debug, Default)]
struct Print(OnceLock<u64>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Controller {
    pub(crate) state: State,
    /// On its way to the store.
    pub(crate) word: Option<Presence>,
    /// On its way to the store.
    pub(crate) declared: Option<Declaration>,
    /// On its way back.
    pub(crate) answer: Option<(Option<Revision>, Answer)>,
    /// When the store renewed the session, which the controller has not heard of yet.
    pub(crate) renewed: Option<u32>,
    /// The life in which its server died as a primary.
    pub(crate) died_in: Option<u32>,
    pub(crate) published: Version,
    /// What the watch showed last.
    pub(crate) heard: Option<Arc<Snapshot>>,
}

fn settings(size: usize) -> Settings {
    Settings {
        session_ttl: Duration::from_secs(u64::from(crate::store::SESSION_TTL)),
        link_ttl: Duration::from_secs(2),
        sync_timeout: Duration::from_secs(2),
        restart_after: Duration::from_secs(2),
        stuck_after: Duration::from_secs(4),
        forget_after: Duration::from_secs(3_600),
        bootstrap: Bootstrap::Of(size),
    }
}

impl World {
    /// Nothing but empty machines.
    pub(crate) fn new(size: usize, bugs: Vec<Bug>) -> Self {
        let name = |node: usize| format!("pg-{}", node + 1).parse().expect("it is an id");
        let server = Arc::new(Server::new());
        let print = Print::default();
        let node = Node { server, controller: None, epoch: 0, late: None, print };
        Self {
            now: 0,
            bugs: Arc::new(bugs),
            ids: Arc::new((0..size).map(name).collect()),
            store: Store::new(size),
            nodes: (0..size).map(|_| Arc::new(node.clone())).collect(),
            troubles: Vec::new(),
            faults: 0,
            written: 0,
            extra: 0,
            acknowledged: Writes::default(),
            seen: Writes::default(),
            broken: None,
        }
    }

    pub(crate) fn time(&self) -> Time {
        Time(u64::from(self.now) * 1_000)
    }

    pub(crate) fn node(&mut self, node: usize) -> &mut Node {
        let node = Arc::make_mut(&mut self.nodes[node]);
        node.print = Print::default();
        node
    }

    pub(crate) fn server(&mut self, node: usize) -> &mut Server {
        Arc::make_mut(&mut self.node(node).server)
    }

    pub(crate) fn controller(&mut self, node: usize) -> Option<&mut Controller> {
        self.node(node).controller.as_mut().map(Arc::make_mut)
    }

    /// Whether nothing has happened to an instance since.
    pub(crate) fn is_as_in(&self, before: &[Arc<Node>], node: usize) -> bool {
        before.get(node).is_some_and(|before| Arc::ptr_eq(before, &self.nodes[node]))
    }

    pub(crate) fn all(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    pub(crate) fn number_of(&self, id: &InstanceId) -> usize {
        self.ids.iter().position(|other| other == id).expect("the ids are the instances'")
    }

    pub(crate) fn goal(&self, node: usize) -> Option<&Goal> {
        self.nodes[node].controller.as_ref()?.state.goal.as_ref()
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bugs.contains(&bug)
    }

    /// A controller that knows nothing yet.
    pub(crate) fn begin(&mut self, node: usize) {
        self.kill_server(node);
        let size = self.nodes.len();
        let address = Address::loopback(u16::try_from(5_000 + node).expect("few instances"));
        let (id, now) = (self.ids[node].clone(), self.time());
        let name = "main".to_owned();
        let state = State::new(id, name, address.clone(), address, settings(size), now);
        let controller = Controller {
            state,
            word: None,
            declared: None,
            answer: None,
            renewed: None,
            died_in: None,
            published: Version::default(),
            heard: None,
        };
        let node = self.node(node);
        node.epoch += 1;
        node.controller = Some(Arc::new(controller));
    }

    /// Everybody is up, and the primary takes writes.
    pub(crate) fn is_whole(&self) -> bool {
        let up = |node: &Arc<Node>| match &node.server.process {
            Process::Primary(_) => true,
            Process::Standby(standby) => standby.link.is_some(),
            Process::Down | Process::Busy(..) => false,
        };
        let snapshot = &self.store.snapshot;
        let Some(record) = snapshot.record() else { return false };
        let primary = &self.nodes[self.number_of(&record.primary)].controller;
        let office = primary.as_ref().and_then(|controller| controller.state.office.as_ref());
        let open = office.and_then(|office| office.open);
        let mut standbys = record.sync.iter().chain(&record.asyncs);
        self.nodes.iter().all(up)
            && open == Some(record.generation)
            && 1 + record.sync.iter().count() + record.asyncs.len() == self.nodes.len()
            && standbys.all(|id| snapshot.is_ready(id))
    }

    /// Everybody who may read on the write address does, now.
    pub(crate) fn read_everywhere(&mut self) {
        let shown: Vec<Writes> = self
            .all()
            .filter(|node| self.server_runs(*node))
            .filter_map(|node| self.nodes[node].server.shown())
            .collect();
        let seen = shown.iter().fold(self.seen, |all, one| all.and(*one));
        if shown.iter().any(|one| !one.has_all(self.acknowledged)) {
            self.broken = self.broken.or(Some(Broken::StaleRead));
        } else if shown.iter().any(|one| !one.has_all(seen)) {
            self.broken = self.broken.or(Some(Broken::SeenThenLost));
        }
        self.seen = seen;
    }

    /// A primary that took over has acknowledged something.
    pub(crate) fn serves_after_takeover(&self) -> bool {
        let Some(record) = self.store.record() else { return false };
        let disk = &self.nodes[self.number_of(&record.primary)].server.disk;
        let began = usize::try_from(record.began_at.lsn.0).unwrap_or(usize::MAX);
        let new = disk.wal.get(began..).unwrap_or_default();
        record.generation.0 > 1 && new.iter().any(|entry| self.acknowledged.has(*entry))
    }

    /// Whether every acknowledged write is in the WAL of the primary that the record names.
    pub(crate) fn is_durable(&self) -> bool {
        let Some(record) = self.store.record() else { return true };
        let disk = &self.nodes[self.number_of(&record.primary)].server.disk;
        disk.writes(disk.wal.len()).has_all(self.acknowledged)
    }
}

impl Clone for Print {
    /// Whoever clones means to change something.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Print {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Print {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let print = self.print.0.get_or_init(|| {
            let state = (&self.server, &self.controller, self.epoch, &self.late);
            ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(state)
        });
        state.write_u64(*print);
    }
}
