//! What becomes of the cluster, told as it happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dugong_topology::{InstanceId, Phase, Topology};
use tokio::sync::watch;

use super::layout::ClusterFile;
use super::prepare::Prepared;
use crate::operator::client;
use crate::operator::dsn::{self, Purpose};

/// After so long without writes it is told, again and again, what is waited for.
const IMPATIENT: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(30);

/// How often the write address is tried before it has answered for the first time.
const TRY: Duration = Duration::from_millis(100);

/// One line to whoever started the launcher. It may have closed its ears: that is no failure.
pub(super) fn print_line(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

macro_rules! say {
    ($($words:tt)*) => { $crate::launch::progress::print_line(&format!($($words)*)) };
}
pub(super) use say;

/// Follows the topology and tells what changes.
pub(super) struct Progress {
    prepared: Words,
    topologies: watch::Receiver<Option<Arc<Topology>>>,
    begun: Instant,
    told: BTreeMap<InstanceId, String>,
    generation: u64,
    ready: bool,
}

/// What is told at the end of the beginning.
struct Words {
    write: String,
    read: String,
    directory: String,
}

impl Progress {
    pub(super) fn begin(prepared: &Prepared) -> Self {
        let cluster: &ClusterFile = &prepared.cluster;
        let ports = cluster.instances.iter().map(|instance| instance.http_port).collect();
        let string = |purpose| dsn::string(cluster, &prepared.credentials, purpose);
        Self {
            prepared: Words {
                write: string(Purpose::Write),
                read: string(Purpose::Read),
                directory: prepared.layout.root().display().to_string(),
            },
            topologies: client::follow(ports),
            begun: Instant::now(),
            told: BTreeMap::new(),
            generation: 0,
            ready: false,
        }
    }

    /// The primary, as far as is known.
    pub(super) fn primary(&self) -> Option<InstanceId> {
        let newest = self.topologies.borrow().clone()?;
        newest.primary.as_ref().map(|member| member.id.clone())
    }

    /// Tells, for ever.
    pub(super) async fn tell(&mut self) {
        let mut impatient =
            tokio::time::interval_at(tokio::time::Instant::now() + IMPATIENT, AGAIN);
        loop {
            let may_be_ready = !self.ready && self.is_open();
            tokio::select! {
                Ok(()) = self.topologies.changed() => self.tell_changes(),
                () = answered(&self.prepared.write), if may_be_ready => self.tell_ready(),
                _ = impatient.tick() => self.tell_what_is_waited_for(),
            }
        }
    }

    fn is_open(&self) -> bool {
        let newest = self.topologies.borrow();
        newest.as_ref().is_some_and(|topology| topology.phase == Phase::ReadWrite)
    }

    fn tell_changes(&mut self) {
        let Some(topology) = self.topologies.borrow_and_update().clone() else { return };
        if topology.generation.0 > self.generation {
            self.generation = topology.generation.0;
            let name = |member: Option<&dugong_topology::Member>| {
                member.map_or_else(|| "nobody".to_owned(), |member| member.id.to_string())
            };
            let (primary, sync) = (name(topology.primary.as_ref()), name(topology.sync.as_ref()));
            let reason = topology.reason.as_deref().unwrap_or("unknown");
            self.line(&format!(
                "generation {}: primary {primary}, sync {sync} ({reason})",
                topology.generation
            ));
        }
        let mut told = std::mem::take(&mut self.told);
        for (role, member) in topology.members() {
            let role = role.map_or_else(|| "newcomer".to_owned(), |role| role.to_string());
            let upstream = member.upstream.as_ref().map(|id| format!(" from {id}"));
            let note = member.note.as_ref().map(|note| format!(": {note}"));
            let state = format!(
                "{role}, {}{}{}",
                member.state,
                upstream.unwrap_or_default(),
                note.unwrap_or_default()
            );
            if told.get(&member.id) != Some(&state) {
                self.line(&format!("{}  {state}", member.id));
                told.insert(member.id.clone(), state);
            }
        }
        self.told = told;
    }

    fn tell_ready(&mut self) {
        self.ready = true;
        self.line("ready");
        say!("");
        say!("  write   psql '{}'", self.prepared.write);
        say!("  read    psql '{}'", self.prepared.read);
        say!("  status  dugong status --dir {}", self.prepared.directory);
        say!("  logs    {}/*.log and */*.log", self.prepared.directory);
        say!("  stop    Ctrl-C, or dugong down --dir {}", self.prepared.directory);
        say!("");
    }

    fn tell_what_is_waited_for(&self) {
        let newest = self.topologies.borrow().clone();
        match newest {
            _ if self.ready => (),
            Some(topology) => {
                let waiting = topology.waiting.as_deref().unwrap_or("the write address to answer");
                self.line(&format!("still waiting: {waiting}"));
            }
            None => self.line("still waiting: no controller answers; see the logs"),
        }
    }

    fn line(&self, words: &str) {
        say!("{:7.1} s  {words}", self.begun.elapsed().as_secs_f64());
    }
}

/// Comes back once the write address has answered a query.
async fn answered(dsn: &str) {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await
        {
            let connection = tokio::spawn(connection);
            let answer = client.simple_query("select 1").await;
            drop(client);
            connection.abort();
            if answer.is_ok() {
                return;
            }
        }
        tokio::time::sleep(TRY).await;
    }
}
