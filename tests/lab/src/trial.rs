//! A cluster under observation: the laboratory with its watchers, its writers, and their ledgers.
//!
//! **Invariant:** nothing is judged here by what the cluster says of itself where a fact can be
//! had: writable is a cluster that has acknowledged a write which was begun after the question.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dugong_controller::verify::Verdict;
use dugong_topology::{Phase, Topology};
use tokio::time::sleep;

use crate::client::Dialer;
use crate::cluster::Cluster;
use crate::direct::{self, DirectAck};
use crate::fault::{Fault, Harm, Offices};
use crate::network::HostId;
use crate::plan::{Plan, Programs, WRITE};
use crate::register::{self, History, Registers};
use crate::resident::{Ender, Over, Resident, ending};
use crate::verifier::{self, Verifier};
use crate::watcher::{self, Board};
use crate::writer::{self, Ledger};

/// The longest that a cluster may take to be whole, from nothing or after any fault.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(180);

/// As many ends of services in a cluster that nobody has harmed are no accident.
const ENDS_MAX: usize = 12;

/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A connection of the laboratory's own may be held while the cluster fails over.
const PATIENCE: Duration = Duration::from_secs(40);

/// A cluster with everybody who watches it.
#[derive(Debug)]
pub struct Trial {
    pub board: Board,
    pub ledger: Ledger,
    ender: Ender,
    watchers: Vec<Resident<()>>,
    writers: Vec<Resident<()>>,
    direct: Vec<Resident<Vec<DirectAck>>>,
    registers: Registers,
    verifier: Option<Verifier>,
    over: Over,
    pub cluster: Cluster,
}

/// What was recorded beside the [`Ledger`].
#[derive(Debug)]
pub struct Records {
    /// What was acknowledged on the machines themselves.
    pub directly: Vec<DirectAck>,
    pub histories: Vec<History>,
    /// None where nobody asked for it; an error where the recorder could not do its work.
    pub verdict: Option<anyhow::Result<Verdict>>,
}

/// What is in the tables at the end.
#[derive(Debug)]
pub struct Rows {
    pub written: BTreeSet<(i32, i64)>,
    pub directly: BTreeSet<(String, i64)>,
}

impl Trial {
    /// Starts a cluster and everybody who watches it; returns when it is whole and has tables.
    ///
    /// # Errors
    ///
    /// The laboratory cannot be made, or the cluster does not become whole.
    pub async fn begin(plan: Plan, programs: &Programs, root: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::start(plan, programs, root)?;
        let board = Board::default();
        let (ender, over) = ending();
        let watchers = watcher::watch(&cluster, &board, &over)?;
        let trial = Self {
            board,
            ledger: Ledger::default(),
            ender,
            watchers,
            writers: Vec::new(),
            direct: Vec::new(),
            registers: Registers::default(),
            verifier: None,
            over,
            cluster,
        };
        trial.whole_at_first().await?;
        trial
            .ask(async |client| {
                client
                    .batch_execute(&[writer::CREATE, direct::CREATE, register::CREATE].join("; "))
                    .await
            })
            .await?;
        Ok(trial)
    }

    /// Begins to write and read at the write address, and to write on every machine.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn write(&mut self, writers: usize) -> anyhow::Result<()> {
        self.writers = writer::start(&self.cluster, writers, &self.ledger, &self.over)?;
        self.direct = direct::start(&self.cluster, &self.over)?;
        self.registers = Registers::start(&self.cluster, &self.over)?;
        Ok(())
    }

    /// The first time there is nobody to blame for a service that ends again and again.
    async fn whole_at_first(&self) -> anyhow::Result<()> {
        let hopeless = async {
            loop {
                let ended = self.cluster.oddities();
                if ended.len() >= ENDS_MAX {
                    return ended.join("; ");
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            whole = self.whole() => whole.map(|_| ()),
            ended = hopeless => bail!("services end by themselves: {ended}"),
        }
    }

    /// From now on the application's commits wait for nobody: a cluster that loses writes on purpose,
    /// for who wants to see the checkers convict.
    ///
    /// # Errors
    ///
    /// The cluster does not take the order.
    pub async fn sabotage(&self) -> anyhow::Result<()> {
        let order = "alter role current_user set synchronous_commit = local";
        self.ask(async move |client| client.batch_execute(order).await).await
    }

    /// Lets the recorder of `dugong verify` work beside the others.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn verify(&mut self, seed: u64) -> anyhow::Result<()> {
        self.verifier = Some(verifier::start(&self.cluster, seed, &self.over)?);
        Ok(())
    }

    /// Who has which office, as far as anybody knows; none before the first primary.
    pub fn offices(&self) -> Option<Offices> {
        let seen = self.board.read();
        let newest = seen.newest.as_ref()?;
        let host = |member: &dugong_topology::Member| self.cluster.host(member.id.as_str());
        let primary = host(newest.primary.as_ref()?)?;
        // Without a sync, its place is taken by whoever else there is.
        let anybody = || self.cluster.hosts().machines.iter().copied().find(|h| *h != primary);
        let sync = newest.sync.as_ref().and_then(host).or_else(anybody)?;
        Some(Offices { primary, sync })
    }

    /// Lets a fault strike as the offices are now; returns what it did.
    ///
    /// # Errors
    ///
    /// The laboratory's own.
    pub fn strike(&self, fault: &Fault) -> anyhow::Result<Vec<Harm>> {
        let now = self.offices().context("no primary was ever seen")?;
        let harms = fault.aim(self.cluster.hosts(), now);
        for harm in &harms {
            self.cluster.inflict(*harm)?;
        }
        Ok(harms)
    }

    /// Takes back what a fault did.
    ///
    /// # Errors
    ///
    /// The laboratory's own.
    pub fn heal(&self, harms: &[Harm]) -> anyhow::Result<()> {
        harms.iter().try_for_each(|harm| self.cluster.heal(*harm))
    }

    /// Waits until a write that is begun from now on is acknowledged; returns how long that took.
    ///
    /// # Errors
    ///
    /// None was within `limit`.
    pub async fn writable(&self, limit: Duration) -> anyhow::Result<Duration> {
        let since = Instant::now();
        loop {
            if let Some(at) = self.ledger.first_begun_after(since) {
                return Ok(at - since);
            }
            if since.elapsed() > limit {
                bail!("no write was acknowledged within {limit:?}; {}", self.status());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every instance is in the chain and follows.
    ///
    /// # Errors
    ///
    /// Not within [`WHOLE_WITHIN`].
    pub async fn whole(&self) -> anyhow::Result<Duration> {
        let since = Instant::now();
        let standbys = self.cluster.plan().machines - 1;
        let is_whole = |topology: &Topology| {
            let fit = topology.standbys().filter(|m| m.healthy && m.upstream.is_some()).count();
            topology.phase == Phase::ReadWrite
                && topology.sync.is_some()
                && topology.deposed.is_empty()
                && fit == standbys
        };
        loop {
            if self.board.read().newest.as_ref().is_some_and(is_whole) {
                return Ok(since.elapsed());
            }
            if since.elapsed() > WHOLE_WITHIN {
                bail!("the cluster is not whole within {WHOLE_WITHIN:?}; {}", self.status());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The newest topology in one line, for a person.
    pub fn status(&self) -> String {
        let seen = self.board.read();
        let Some(newest) = &seen.newest else { return "no topology was seen".to_owned() };
        let member = |(role, member): (Option<dugong_topology::Role>, &dugong_topology::Member)| {
            let role = role.map_or_else(|| "newcomer".to_owned(), |role| format!("{role:?}"));
            let note = member.note.as_deref().unwrap_or_default();
            format!("{} {} ({}) {note}", role.to_lowercase(), member.id, member.state)
        };
        let members: Vec<String> = newest.members().map(member).collect();
        let waiting = newest.waiting.as_deref().unwrap_or_default();
        format!(
            "generation {}, {}: {}; {waiting}",
            newest.generation.0,
            newest.phase.as_str(),
            members.join(", ")
        )
    }

    /// Ends everybody; returns what they recorded.
    ///
    /// # Errors
    ///
    /// One of them panicked.
    pub async fn end(&mut self) -> anyhow::Result<Records> {
        self.ender.end();
        for writer in std::mem::take(&mut self.writers) {
            writer.end().await?;
        }
        let mut directly = Vec::new();
        for direct in std::mem::take(&mut self.direct) {
            directly.extend(direct.end().await?);
        }
        for watcher in std::mem::take(&mut self.watchers) {
            watcher.end().await?;
        }
        let histories = std::mem::take(&mut self.registers).end().await?;
        let verdict = match self.verifier.take() {
            Some(verifier) => Some(verifier.end().await?),
            None => None,
        };
        Ok(Records { directly, histories, verdict })
    }

    /// Every row that is there.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub async fn rows(&self) -> anyhow::Result<Rows> {
        let written = self.ask(async |client| writer::rows(client).await).await?;
        let directly = self.ask(async |client| direct::rows(client).await).await?;
        Ok(Rows { written, directly })
    }

    /// Asks at the write address, from the clients' host.
    async fn ask<T, F>(&self, question: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: AsyncFn(&tokio_postgres::Client) -> Result<T, tokio_postgres::Error> + Send + 'static,
    {
        let (network, hosts) = (self.cluster.network(), self.cluster.hosts());
        let proxy: HostId = *hosts.proxies.first().context("there is no proxy")?;
        let address = SocketAddr::from((network.address(proxy), WRITE));
        let dialer = Dialer::new(self.cluster.root(), address, PATIENCE)?;
        let work = move || async move {
            let client = dialer.connect().await?;
            dialer.limited(question(&client)).await
        };
        Resident::settle(network.namespace(hosts.clients), work)?.end().await?
    }
}
