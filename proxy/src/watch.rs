//! The topology: learns it from the controllers' streams, and believes the highest version.
//!
//! [`run`] owns one task for each URL of the configuration ([`find`]: which controllers there are),
//! one for each controller ([`source`]), and the [`Board`] that those report to. The board publishes twice: every newer document, for those who wait; and only the documents that
//! change who is what, for the sessions, so that a thousand idle ones do not wake for a new lag.
//!
//! **Invariant:** what is published never goes back to a smaller (generation, revision), and is of
//! one cluster. A source that is slow, stale or dead changes nothing; without any, the last document
//! stays: the primary fences itself, so that this is safe.

pub mod access;
mod find;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use dugong_topology::{Address, Generation, InstanceId, Member, Phase, Revision, Topology};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::config::ControllerUrl;
use crate::metrics;
use crate::names::Names;
use crate::watch::access::Access;
use crate::watch::find::{Endpoint, Located};
use crate::watch::source::{Heard, Push};

/// What connections watch.
#[derive(Clone, Debug)]
pub struct Topologies {
    /// Changes with every newer document; none before the first.
    pub newest: watch::Receiver<Option<Arc<Topology>>>,
    /// Changes only when an instance gets another seat or address, or its clients are to leave it.
    pub seats: watch::Receiver<Option<Arc<Topology>>>,
}

/// How many sources there are, and how many are connected.
#[derive(Debug, Default)]
pub struct Sources {
    /// URLs in the configuration.
    pub configured: usize,
    /// Addresses of controllers that these stand for.
    pub found: AtomicUsize,
    pub connected: AtomicUsize,
}

/// Documents that may wait between the sources and the board.
const QUEUE: usize = 16;

/// Watches the controllers for ever. Without any, keeps what the board has.
pub async fn run(
    controllers: Vec<ControllerUrl>,
    access: Access,
    names: Arc<Names>,
    mut board: Board,
    sources: Arc<Sources>,
) {
    let (sender, mut heard) = mpsc::channel(QUEUE);
    let (locating, mut located) = mpsc::channel(QUEUE);
    let mut finders = JoinSet::new();
    for (index, controller) in controllers.into_iter().enumerate() {
        finders.spawn(find::follow(index, controller, Arc::clone(&names), locating.clone()));
    }
    // Kept while the board is needed, also without a URL.
    let _locating = locating;
    let mut following = Following::new(access, sender, sources);
    loop {
        // Documents and places that were not received yet stay in their queues.
        tokio::select! {
            Some(heard) = heard.recv() => board.hear(heard),
            Some(located) = located.recv() => following.locate(located),
            Some(ended) = following.tasks.join_next() => complain(&ended),
            Some(ended) = finders.join_next() => complain(&ended),
        }
    }
}

/// Sources and finders follow for ever: one that ended without being asked to has panicked.
fn complain(ended: &Result<(), JoinError>) {
    if !ended.as_ref().is_err_and(JoinError::is_cancelled) {
        metrics::count(metrics::PANICS);
        tracing::error!(?ended, "a topology source ended, which is a bug of the proxy");
    }
}

/// The sources that there are, which are always those that are wanted.
struct Following {
    /// By the place of its URL in the configuration.
    wanted: BTreeMap<usize, BTreeSet<Endpoint>>,
    running: BTreeMap<Endpoint, AbortHandle>,
    tasks: JoinSet<()>,
    access: Access,
    heard: mpsc::Sender<Heard>,
    sources: Arc<Sources>,
}

impl Following {
    fn new(access: Access, heard: mpsc::Sender<Heard>, sources: Arc<Sources>) -> Self {
        let (wanted, running) = (BTreeMap::new(), BTreeMap::new());
        Self { wanted, running, tasks: JoinSet::new(), access, heard, sources }
    }

    /// Begins what is wanted now, ends what no URL stands for any more, and leaves the rest alone.
    fn locate(&mut self, located: Located) {
        self.wanted.insert(located.url, located.endpoints);
        let wanted: BTreeSet<_> = self.wanted.values().flatten().cloned().collect();
        self.running.retain(|endpoint, task| {
            let keep = wanted.contains(endpoint);
            if !keep {
                tracing::info!("topology from {endpoint}: not named any more");
                task.abort();
            }
            keep
        });
        for endpoint in wanted {
            let Self { tasks, access, heard, sources, .. } = self;
            self.running.entry(endpoint).or_insert_with_key(|endpoint| {
                let (from, sources) = (endpoint.clone(), Arc::clone(sources));
                tasks.spawn(source::follow(from, access.clone(), heard.clone(), sources))
            });
        }
        self.sources.found.store(self.running.len(), Relaxed);
        metrics::set(metrics::SOURCES, self.running.len() as u64);
    }
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In use from now on.
    Believed,
    /// Of the same version or an older one: the ordinary case with several sources.
    NotNewer,
    /// Of another cluster than the first.
    OtherCluster,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Believed => "believed",
            Self::NotNewer => "not_newer",
            Self::OtherCluster => "other_cluster",
        }
    }
}

/// Where the topology in use is kept; the only writer.
#[derive(Debug)]
pub struct Board {
    newest: watch::Sender<Option<Arc<Topology>>>,
    seats: watch::Sender<Option<Arc<Topology>>>,
    /// The last primary that was named, to count failovers by.
    primary: Option<InstanceId>,
    /// Sources that told of another cluster, each complained about once.
    strangers: BTreeSet<Endpoint>,
}

impl Board {
    /// An empty board, and what is seen of it.
    pub fn new() -> (Self, Topologies) {
        let (newest, newest_seen) = watch::channel(None);
        let (seats, seats_seen) = watch::channel(None);
        let board = Self { newest, seats, primary: None, strangers: BTreeSet::new() };
        (board, Topologies { newest: newest_seen, seats: seats_seen })
    }

    /// Takes a document from a source.
    fn hear(&mut self, heard: Heard) {
        let Heard { from, topology, push } = heard;
        let cluster = topology.cluster.clone();
        let published_at_ms = topology.published_at_ms;
        let verdict = self.judge(topology);
        metrics::count_by(metrics::DOCUMENTS, "outcome", verdict.as_str());
        match (verdict, push) {
            (Verdict::Believed, Push::Pushed) => {
                if let Some(age) = published_at_ms.map(age) {
                    metrics::observe(metrics::TOPOLOGY_AGE_SECONDS, age);
                }
            }
            // What was current when the stream began may have been published long ago.
            (Verdict::Believed, Push::Current) | (Verdict::NotNewer, _) => (),
            (Verdict::OtherCluster, _) => {
                if self.strangers.insert(from.clone()) {
                    tracing::error!(
                        "{from} tells of the cluster {cluster:?}, which is not the one that this \
                         proxy serves: its documents are ignored; remove it from the controllers"
                    );
                }
            }
        }
    }

    /// Decides about a document, and puts it up where it is newer.
    pub fn judge(&mut self, topology: Topology) -> Verdict {
        let before = self.newest.borrow().clone();
        if let Some(before) = &before {
            if before.cluster != topology.cluster {
                return Verdict::OtherCluster;
            }
            if !topology.supersedes(before) {
                return Verdict::NotNewer;
            }
        }
        self.put_up(before.as_deref(), Arc::new(topology));
        Verdict::Believed
    }

    fn put_up(&mut self, before: Option<&Topology>, topology: Arc<Topology>) {
        metrics::set(metrics::GENERATION, topology.generation.0);
        metrics::set(metrics::REVISION, topology.revision.0);
        if let Some(primary) = topology.primary.as_ref().map(|member| &member.id) {
            let last = self.primary.replace(primary.clone());
            if last.is_some_and(|last| last != *primary) {
                metrics::count(metrics::FAILOVERS);
            }
        }
        let seats_changed = before.map(seats) != Some(seats(&topology));
        let hands_over = |topology: &Topology| topology.phase == Phase::HandingOver;
        let leave_changed = before.is_some_and(hands_over) != hands_over(&topology);
        let phase_changed = before.map(|before| before.phase) != Some(topology.phase);
        if seats_changed || phase_changed {
            tracing::info!("topology {}: {}", topology.version(), describe(&topology));
        } else {
            tracing::debug!("topology {}", topology.version());
        }
        self.newest.send_replace(Some(Arc::clone(&topology)));
        if seats_changed || leave_changed {
            self.seats.send_replace(Some(topology));
        }
    }
}

/// Who is what, and where: all that matters to a session that has its server.
fn seats(topology: &Topology) -> Vec<(InstanceId, Option<Address>, bool)> {
    let seat =
        |member: &Member, is_primary| (member.id.clone(), member.address.clone(), is_primary);
    let primary = topology.primary.iter().map(|member| seat(member, true));
    primary.chain(topology.standbys().map(|member| seat(member, false))).collect()
}

fn describe(topology: &Topology) -> String {
    let phase = topology.phase.as_str();
    let primary = match &topology.primary {
        Some(Member { id, address: Some(address), .. }) => format!("primary {id} at {address}"),
        Some(Member { id, address: None, .. }) => format!("primary {id}"),
        None => "no primary".to_owned(),
    };
    format!("{phase}, {primary}, {} standbys", topology.standbys().count())
}

/// How long ago that was. Clocks may disagree: never less than nothing.
fn age(published_at_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(published_at_ms))
}

/// The topology of a proxy that was told its servers on the command line.
///
/// # Panics
///
/// Never: the names are instance ids.
pub fn fixed(primary: Address, replicas: Vec<Address>) -> Topology {
    let member = |id: String, address, lag_bytes| Member {
        id: id.parse().expect("a lower-case word, perhaps with a number, is an instance id"),
        address: Some(address),
        healthy: true,
        position: None,
        http: None,
        state: "fixed".to_owned(),
        upstream: None,
        lag_bytes,
        lag_seconds: None,
        making: None,
        note: None,
    };
    let replica = |(index, address)| member(format!("replica-{}", index + 1), address, Some(0));
    Topology {
        generation: Generation(1),
        phase: Phase::ReadWrite,
        primary: Some(member("primary".to_owned(), primary, None)),
        asyncs: replicas.into_iter().enumerate().map(replica).collect(),
        reason: Some("named on the command line or in the configuration file".to_owned()),
        ..Topology::unformed("fixed".to_owned(), Revision(1))
    }
}

impl Sources {
    /// For a health page: how many sources there are, and how many are connected.
    pub fn now(&self) -> (usize, usize) {
        (self.found.load(Relaxed), self.connected.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(cluster: &str, generation: u64, revision: u64, primary: u16) -> Topology {
        let mut topology = fixed(Address::loopback(primary), Vec::new());
        topology.cluster = cluster.to_owned();
        topology.generation = Generation(generation);
        topology.revision = Revision(revision);
        topology
    }

    #[test]
    fn the_highest_version_of_the_first_cluster_is_believed() {
        let (mut board, seen) = Board::new();
        #[rustfmt::skip]
        let cases = [
            ("the first",                   document("main", 3, 10, 1),  Verdict::Believed),
            ("the same again",              document("main", 3, 10, 1),  Verdict::NotNewer),
            ("an older revision",           document("main", 3, 9, 1),   Verdict::NotNewer),
            ("an older generation",         document("main", 2, 99, 1),  Verdict::NotNewer),
            ("another cluster, however new", document("test", 9, 99, 1), Verdict::OtherCluster),
            ("a newer revision",            document("main", 3, 11, 1),  Verdict::Believed),
            ("a newer generation",          document("main", 4, 1, 1),   Verdict::Believed),
        ];
        for (what, topology, expected) in cases {
            assert_eq!(board.judge(topology), expected, "{what}");
        }
        assert_eq!(seen.newest.borrow().as_ref().unwrap().generation, Generation(4));
    }

    #[test]
    fn sessions_wake_only_when_they_may_have_to_leave() {
        let (mut board, mut seen) = Board::new();
        let handing_over =
            |revision| Topology { phase: Phase::HandingOver, ..document("main", 4, revision, 2) };
        #[rustfmt::skip]
        let cases = [
            ("the first",               document("main", 3, 10, 1),  true),
            ("another revision",        document("main", 3, 11, 1),  false),
            ("another generation",      document("main", 4, 12, 1),  false),
            ("another address",         document("main", 4, 13, 2),  true),
            ("it hands over",           handing_over(14),            true),
            ("it still does",           handing_over(15),            false),
            ("it does not any more",    document("main", 4, 16, 2),  true),
        ];
        for (what, topology, expected) in cases {
            assert_eq!(board.judge(topology), Verdict::Believed, "{what}");
            assert_eq!(seen.seats.has_changed().unwrap(), expected, "{what}");
            seen.seats.mark_unchanged();
        }
    }
}
