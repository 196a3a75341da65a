//! `dugong restart`: servers restarted one after the other, for settings that are read at a start.
//!
//! `plan` decides the order; this does one step after the other, and goes on only while the cluster
//! is whole.

mod plan;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use dugong_topology::{InstanceId, Member, Phase, Role, Topology, units};

use self::plan::{Situation, Step, Way, plan};
use super::caller::{Caller, Heard};
use super::reach::ReachOptions;
use super::switchover;
use crate::postgres::Here;
use crate::run::Failure;

/// What `dugong restart` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
One server at a time: asyncs from the tail of the chain, then the sync, then the primary; and the
cluster must be whole again before the next one. Commits wait for as long as the sync's server takes
to start, about a second.

The primary's office goes to its sync (a switchover: sessions are ended between two transactions
and connect again, writes pause for about half a second), and the former primary starts anew as a
standby. With --primary in-place it keeps its office: all of its sessions are ended, in the middle
of a transaction, too, and nobody can write until it is back, some seconds later. The cluster is
frozen meanwhile.

max_connections, max_worker_processes, max_wal_senders, max_prepared_transactions and
max_locks_per_transaction can be lowered on the primary only in place, and there first.

Examples:
  dugong restart --pending               whatever waits for a restart
  dugong restart pg-3                    one instance
  dugong restart --all --primary in-place")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The one instance to restart.
    #[arg(value_name = "ID", required_unless_present_any = ["all", "pending"])]
    pub id: Option<InstanceId>,
    /// Every instance.
    #[arg(long, conflicts_with_all = ["id", "pending"])]
    pub all: bool,
    /// Those on which a setting waits for a restart.
    #[arg(long, conflicts_with_all = ["id", "all"])]
    pub pending: bool,
    /// How the primary is restarted [default: switchover, unless something is lowered].
    #[arg(long, value_enum)]
    pub primary: Option<Primary>,
    /// How long open transactions may take to finish before a switchover ends them.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub drain: Duration,
    /// How long a restarted server, and then the cluster, may take until it is whole.
    #[arg(long, value_name = "TIME", default_value = "2min", value_parser = units::parse_duration)]
    pub wait: Duration,
}

/// How the primary is restarted, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Primary {
    Switchover,
    InPlace,
}

/// How long the cluster may take to be whole before anything is done to it.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(150);

/// Restarts servers, and tells through `print` what is being done.
///
/// # Errors
///
/// The cluster is not whole, or does not become whole again: then nothing further is done.
pub async fn restart(options: &Options, mut print: impl FnMut(&str)) -> Result<(), Failure> {
    let begun = Instant::now();
    let caller = Caller::of(&options.reach)?;
    let mut line =
        |words: &str| print(&format!("{:6.1} s  {words}", begun.elapsed().as_secs_f64()));
    let mut run = Run { caller: &caller, members: Vec::new(), line: &mut line, options };
    let topology = caller.topology().await?;
    run.members = topology.members().map(|(_, member)| member.id.clone()).collect();
    let mut wanted = run.wanted(&topology).await?;
    if wanted.is_empty() {
        print("no setting waits for a restart: nothing to do");
        return Ok(());
    }
    let mut topology = run.whole(FIRST_PATIENCE).await?;
    loop {
        let here = run.here().await?;
        let said: Vec<_> = here.iter().map(|it| &it.here).collect();
        let situation = Situation::of(&topology, &said)
            .ok_or_else(|| Failure::Runtime("the cluster has no primary yet".to_owned()))?;
        let way = options.primary.map(Way::of);
        let steps = plan(&situation, &wanted, way).map_err(Failure::Runtime)?;
        let primary_last = steps.last().is_some_and(Step::is_for_primary);
        for step in steps {
            run.step(&step).await?;
        }
        topology = run.whole(options.wait).await?;
        if !primary_last || situation.lowered.is_empty() {
            break;
        }
        // What was lowered on the primary only now can be lowered on its standbys; it is not among
        // what is wanted in the next round, so that there is none after that.
        let here = run.here().await?;
        let pending = |id: &InstanceId| here.iter().any(|it| it.is_pending(id));
        wanted.retain(|id| *id != situation.primary && pending(id));
    }
    print("done: the cluster is whole");
    Ok(())
}

/// One call of the command.
struct Run<'a, L> {
    caller: &'a Caller,
    /// Who was there when it began.
    members: Vec<InstanceId>,
    line: &'a mut L,
    options: &'a Options,
}

/// An instance that answered.
struct Found {
    place: usize,
    here: Here,
}

impl Found {
    fn is_pending(&self, id: &InstanceId) -> bool {
        self.here.instance == *id && !self.here.pending.is_empty()
    }
}

impl<L: FnMut(&str)> Run<'_, L> {
    /// Which instances are meant.
    async fn wanted(&self, topology: &Topology) -> Result<Vec<InstanceId>, Failure> {
        if let Some(id) = &self.options.id {
            if !self.members.contains(id) {
                return Err(Failure::Usage(format!("{id} is no instance of this cluster")));
            }
            return Ok(vec![id.clone()]);
        }
        let ids: Vec<_> = topology.members().map(|(_, member)| member.id.clone()).collect();
        if self.options.all {
            return Ok(ids);
        }
        let here = self.here().await?;
        let pending = |id: &InstanceId| here.iter().any(|it| it.is_pending(id));
        Ok(ids.into_iter().filter(pending).collect())
    }

    /// What every instance says; all of them must.
    async fn here(&self) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        let mut silent = Vec::new();
        for Heard { place, name, here } in self.caller.settings_here().await {
            match here {
                Ok(here) => found.push(Found { place, here }),
                Err(why) => silent.push(format!("{name}: {why}")),
            }
        }
        let missing = |id: &&InstanceId| !found.iter().any(|it| it.here.instance == **id);
        if let Some(id) = self.members.iter().find(missing) {
            let why = if silent.is_empty() {
                "name all of them with --controller".to_owned()
            } else {
                silent.join("; ")
            };
            return Err(Failure::Runtime(format!(
                "the controller of {id} does not answer ({why})"
            )));
        }
        Ok(found)
    }

    async fn step(&mut self, step: &Step) -> Result<(), Failure> {
        let id = step.id().clone();
        let topology = self.whole(self.options.wait).await?;
        let in_office = topology.primary.as_ref().is_some_and(|primary| primary.id == id);
        if in_office != step.is_for_primary() {
            return Err(Failure::Runtime(
                "the primary has changed meanwhile: see `dugong status`, and ask again".to_owned(),
            ));
        }
        match step {
            Step::Standby(id) => {
                let role = role_of(&topology, id);
                (self.line)(&format!("{id}: restarting ({role})"));
                let began = self.started(id).await?;
                self.ask_for_restart(id).await?;
                self.restarted(id, began).await
            }
            Step::HandOver(id) => {
                let began = self.started(id).await?;
                let asked = switchover::Options {
                    reach: self.options.reach.clone(),
                    to: None,
                    drain: self.options.drain,
                    timeout: self.options.drain + Duration::from_secs(50),
                    at: None,
                };
                let line = &mut self.line;
                // Its times begin with itself.
                let words =
                    |words: &str| line(words.split_once(" s  ").map_or(words, |(_, it)| it));
                switchover::switchover(&asked, words).await?;
                // It was stopped to hand over, and started anew as a standby.
                self.restarted(id, began).await
            }
            Step::InPlace(id) => self.in_place(&topology, id).await,
        }
    }

    /// Nobody takes over from a server that is down for a moment on purpose.
    async fn in_place(&mut self, topology: &Topology, id: &InstanceId) -> Result<(), Failure> {
        (self.line)(&format!(
            "{id}: restarting in place (primary): all of its sessions end, writes wait until it is \
             back"
        ));
        let began = self.started(id).await?;
        // One node has nobody who could take over; a freeze of somebody else's stays.
        let freezes = topology.frozen.is_none() && topology.sync.is_some();
        if freezes {
            let why = format!("`dugong restart` restarts {id} in place");
            self.caller.freeze(why).await?;
        }
        let asked = self.ask_frozen(id).await;
        let done = match asked {
            Ok(()) => self.restarted(id, began).await,
            Err(failure) => Err(failure),
        };
        if freezes {
            let thawed = self.caller.unfreeze().await;
            if let (Ok(()), Err(failure)) = (&done, &thawed) {
                return Err(Failure::Runtime(format!(
                    "{id} was restarted, but the cluster is frozen still ({failure}): \
                     `dugong unfreeze`"
                )));
            }
        }
        done
    }

    /// The controller may be a moment late to know of the freeze.
    async fn ask_frozen(&self, id: &InstanceId) -> Result<(), Failure> {
        let deadline = Instant::now() + FIRST_PATIENCE;
        loop {
            match self.ask_for_restart(id).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                asked => return asked,
            }
        }
    }

    async fn ask_for_restart(&self, id: &InstanceId) -> Result<(), Failure> {
        let here = self.here().await?;
        let found = here.iter().find(|it| it.here.instance == *id);
        let place = found.map(|it| it.place).ok_or_else(|| {
            Failure::Runtime(format!("the controller of {id} does not answer any more"))
        })?;
        self.caller.restart(place).await
    }

    /// When its server was started.
    async fn started(&self, id: &InstanceId) -> Result<Option<u64>, Failure> {
        let here = self.here().await?;
        Ok(here.iter().find(|it| it.here.instance == *id).and_then(|it| it.here.started_unix_ms))
    }

    /// Waits until another server of it runs, and the cluster is whole.
    async fn restarted(&mut self, id: &InstanceId, began: Option<u64>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.options.wait;
        let mut told = String::new();
        loop {
            let heard = self.caller.settings_here().await;
            let here = heard.iter().filter_map(|heard| heard.here.as_ref().ok());
            let now = here.filter(|here| here.instance == *id).find_map(|it| it.started_unix_ms);
            if now.is_some() && now != began {
                break;
            }
            let why = match self.caller.topology().await {
                Ok(topology) => said(&topology, id),
                Err(failure) => failure.to_string(),
            };
            if Instant::now() > deadline {
                return Err(Failure::Runtime(format!(
                    "{id} did not come back within {} ({why}); nothing further is restarted: see \
                     `dugong status`, and its postgres.log",
                    humantime::format_duration(self.options.wait)
                )));
            }
            if why.contains("cannot be started") && why != told {
                (self.line)(&format!("{id}: {why}"));
                told = why;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.whole(self.options.wait).await?;
        (self.line)(&format!("{id}: restarted, the cluster is whole"));
        Ok(())
    }

    /// Waits until everybody who was there at the beginning does what he should.
    async fn whole(&self, patience: Duration) -> Result<Topology, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let why = match self.caller.topology().await {
                Ok(topology) => match lacking(&topology, &self.members) {
                    None => return Ok(topology),
                    Some(why) => why,
                },
                Err(failure) => failure.to_string(),
            };
            if Instant::now() > deadline {
                return Err(Failure::Runtime(format!(
                    "the cluster is not whole ({why}), so nothing further is restarted: see \
                     `dugong status`"
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What keeps a cluster from being whole; none where nothing does.
fn lacking(topology: &Topology, members: &[InstanceId]) -> Option<String> {
    if topology.phase != Phase::ReadWrite {
        return Some(topology.waiting.clone().unwrap_or_else(|| "writes wait".to_owned()));
    }
    let fit = |id: &&InstanceId| {
        topology.members().any(|(role, member)| {
            let standby = matches!(role, Some(Role::Sync | Role::Async));
            let follows = role == Some(Role::Primary) || standby && member.upstream.is_some();
            member.id == **id && member.healthy && follows
        })
    };
    let unfit = members.iter().find(|id| !fit(id))?;
    Some(format!("{unfit}: {}", said(topology, unfit)))
}

/// What an instance says of itself.
fn said(topology: &Topology, id: &InstanceId) -> String {
    let member = topology.members().map(|(_, member)| member).find(|member| member.id == *id);
    let words = |member: &Member| member.note.clone().unwrap_or_else(|| member.state.clone());
    member.map_or_else(|| "it is not there".to_owned(), words)
}

fn role_of(topology: &Topology, id: &InstanceId) -> String {
    let found = topology.members().find(|(_, member)| member.id == *id).and_then(|(role, _)| role);
    found.map_or_else(|| "newcomer".to_owned(), |role| role.to_string())
}
