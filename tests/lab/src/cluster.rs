//! A running laboratory: the network, its hosts, and what runs on them.
//!
//! [`Cluster::inflict`] does one [`Harm`], [`Cluster::heal`] takes it back. A thread of its own
//! starts what should run and does not.
//!
//! **Invariant:** dropping it ends every process and removes every namespace that it made.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::fault::Harm;
use crate::keeper::{Keeper, Kind};
use crate::network::{HostId, Network};
use crate::plan::{self, Hosts, Plan, Programs};

/// How often services are looked after.
const TEND_EVERY: Duration = Duration::from_millis(50);

/// A laboratory with everything in it.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    hosts: Hosts,
    /// Before the shared part, which it uses.
    tender: Tender,
    shared: Arc<Shared>,
    root: PathBuf,
}

#[derive(Debug)]
struct Shared {
    network: Network,
    /// By host. Faults and the tender take turns, so that nothing is started while its host falls.
    keepers: Mutex<Vec<Keeper>>,
    /// Why something could not be started.
    trouble: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Tender {
    /// Dropped to tell it that it is over.
    go_on: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Makes hosts and files, below `root`, and starts everything.
    ///
    /// # Errors
    ///
    /// The system's; what was made is removed again.
    pub fn start(plan: Plan, programs: &Programs, root: &Path) -> anyhow::Result<Self> {
        let network = Network::make(&plan.names())?;
        let services = plan::services(&plan, &network, programs, root)?;
        let keepers = services.into_iter().map(Keeper::new).collect();
        let shared =
            Arc::new(Shared { network, keepers: Mutex::new(keepers), trouble: Mutex::default() });
        let tender = Tender::start(shared.clone())?;
        Ok(Self { plan, hosts: plan.hosts(), tender, shared, root: root.to_owned() })
    }

    /// Its size and shape.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// Its hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Where its files are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Breaks one thing.
    ///
    /// # Errors
    ///
    /// The system's: the laboratory is broken, not the cluster.
    pub fn inflict(&self, harm: Harm) -> anyhow::Result<()> {
        let network = self.network();
        let on = |host| network.namespace(host);
        match harm {
            Harm::Cut { from, to } => network.cut(from, to),
            Harm::Delay { from, to, by } => network.delay(from, to, by),
            Harm::Lose { from, to, percent } => network.lose(from, to, percent),
            Harm::Kill { host } => self.keepers()[host.0].drop_host(on(host))?,
            Harm::Stop { host } => self.keepers()[host.0].pause(on(host))?,
            Harm::KillStoreMember { host } => self.keepers()[host.0].kill_kind(Kind::Store)?,
        }
        Ok(())
    }

    /// Takes one harm back.
    ///
    /// # Errors
    ///
    /// As for [`Cluster::inflict`].
    pub fn heal(&self, harm: Harm) -> anyhow::Result<()> {
        let network = self.network();
        match harm {
            Harm::Cut { from, to } => network.mend(from, to),
            Harm::Delay { from, to, by } => network.hasten(from, to, by),
            Harm::Lose { from, to, percent } => network.spare(from, to, percent),
            Harm::Kill { host } => self.keepers()[host.0].raise(),
            Harm::Stop { host } => self.keepers()[host.0].resume(network.namespace(host))?,
            Harm::KillStoreMember { host } => self.keepers()[host.0].raise_kind(Kind::Store),
        }
        Ok(())
    }

    /// Services that ended though nobody had told them to, and what could not be started.
    pub fn oddities(&self) -> Vec<String> {
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let keepers = self.keepers();
        let ended = keepers.iter().flat_map(|keeper| keeper.ended_by_themselves().iter().cloned());
        trouble.into_iter().chain(ended).collect()
    }

    /// The log of every service.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.keepers().iter().flat_map(|keeper| keeper.logs().map(Path::to_owned)).collect()
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Option<HostId> {
        self.network().hosts().find(|host| self.network().name(*host) == name)
    }

    fn keepers(&self) -> MutexGuard<'_, Vec<Keeper>> {
        self.shared.keepers()
    }
}

impl Shared {
    fn keepers(&self) -> MutexGuard<'_, Vec<Keeper>> {
        // What a panic left half done, the next tending completes.
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tend(&self) {
        let mut keepers = self.keepers();
        for (host, keeper) in self.network.hosts().zip(keepers.iter_mut()) {
            if let Err(error) = keeper.tend(self.network.namespace(host)) {
                let words = format!("{}: {error:#}", self.network.name(host));
                let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                if trouble.last() != Some(&words) {
                    trouble.push(words);
                }
            }
        }
    }
}

impl Tender {
    fn start(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let (go_on, over) = channel::<()>();
        let work = move || {
            loop {
                shared.tend();
                match over.recv_timeout(TEND_EVERY) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("tender".to_owned()).spawn(work);
        Ok(Self { go_on: Some(go_on), thread: Some(thread.context("a thread")?) })
    }
}

impl Drop for Tender {
    fn drop(&mut self) {
        self.go_on = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so, and has ended as well.
            let _ = thread.join();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Otherwise the tender would start again what ends with the hosts.
        self.tender.go_on = None;
    }
}
