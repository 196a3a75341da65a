//! `dugong migrate`: the primary that a new cluster follows is left, and the cluster begins.

use std::io::BufRead;
use std::time::{Duration, Instant};

use clap::Args;
use dugong_topology::{Phase, Topology, units};

use super::caller::Caller;
use super::client;
use super::confirm::confirm;
use super::reach::{Controller, ReachOptions};
use crate::postgres::{Finding, Reply};
use crate::run::Failure;

/// What `dugong migrate` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
For a cluster with [bootstrap] method = \"follow\": it has a copy of another primary, and follows that.
Stop that primary in order (`pg_ctl stop -m fast`), and see that nothing starts it again. Then this
command looks whether everything that it wrote is here, ends the following, and the cluster begins.

While that primary runs, nothing is ever done; `--wait` waits for its stop. Where it is gone without an
orderly stop, what it wrote last may be missing here: --even-if-behind goes on nevertheless, and the
cluster's name has to be typed.

The exit status is 0 when writes are accepted (with --check: when they could be), else 1.

Examples:
  dugong migrate --check             how far it is, and what is still to be done
  dugong migrate --wait 10min        as soon as that primary has stopped")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// Only look.
    #[arg(long, conflicts_with_all = ["wait", "even_if_behind"])]
    pub check: bool,
    /// Wait so long for the stop of that primary.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = units::parse_duration,
        conflicts_with = "even_if_behind"
    )]
    pub wait: Option<Duration>,
    /// That acknowledged writes of that primary may be lost.
    #[arg(long)]
    pub even_if_behind: bool,
}

/// Between two questions.
const LOOK: Duration = Duration::from_millis(100);

/// How long what was received may take to be replayed, and an interrupted follower to be back.
const PATIENCE: Duration = Duration::from_secs(60);

/// After so long without a change, what it waits for is told.
const QUIET: Duration = Duration::from_secs(10);

/// Asks, has it confirmed by a line of `typed` where that is needed, and tells through `print`.
///
/// # Errors
///
/// It was refused, or not confirmed.
pub async fn migrate(
    options: &Options,
    mut typed: impl BufRead,
    mut print: impl FnMut(&str),
) -> Result<(), Failure> {
    let caller = Caller::of(&options.reach)?;
    let topology = caller.topology().await?;
    if topology.phase != Phase::Unformed {
        return Err(Failure::Runtime(format!(
            "the cluster {} has begun already: see `dugong status`",
            topology.cluster
        )));
    }
    let (follower, reply) = find_within(options.wait.unwrap_or_default(), &caller).await?;
    let primary = &reply.primary;
    print(&format!("{primary} is followed by {follower}: {}", reply.words));
    if options.check {
        return match reply.finding {
            Finding::Whole => Ok(()),
            Finding::NotYet | Finding::Runs | Finding::Doubtful => {
                Err(Failure::Runtime(format!("{primary} cannot be left yet")))
            }
        };
    }
    if options.even_if_behind {
        let cluster = &topology.cluster;
        let question = format!(
            "Whatever {primary} acknowledged and this cluster does not have is LOST.\n\
             Type the name of the cluster ({cluster}) to go on:"
        );
        confirm(&question, cluster, &mut typed, &mut print)?;
    }
    // Before the word: what comes of it is not to be missed.
    let topologies = client::follow_controllers(caller.controllers.clone());
    let reply = finish(options, &caller, &follower, &mut print).await?;
    let begun = Instant::now();
    print(&format!("the following of {primary} has ended: {}", reply.words));
    until_open(topologies, begun, print).await
}

/// The same, where whoever follows may be about to begin, or has just been started again.
async fn find_within(wait: Duration, caller: &Caller) -> Result<(Controller, Reply), Failure> {
    let begun = Instant::now();
    loop {
        match find(caller, &caller.topology().await?).await {
            Err(Failure::Runtime(_)) if begun.elapsed() < wait => tokio::time::sleep(LOOK).await,
            other => return other,
        }
    }
}

/// Who follows, and what it found.
async fn find(caller: &Caller, topology: &Topology) -> Result<(Controller, Reply), Failure> {
    let mut why = "no controller is there".to_owned();
    for member in &topology.newcomers {
        let Some(http) = member.http.as_ref().filter(|_| member.state != "unreachable") else {
            continue;
        };
        let controller = caller.controller_at(http)?;
        match caller.migrate(&controller, true, false).await? {
            Ok(reply) => return Ok((controller, reply)),
            Err(refused) => {
                let note = member.note.as_ref().map(|note| format!(" ({note})"));
                why = format!("{refused}{}", note.unwrap_or_default());
            }
        }
    }
    Err(Failure::Runtime(why))
}

/// Asks until it is done, or refused for good.
async fn finish(
    options: &Options,
    caller: &Caller,
    follower: &Controller,
    print: &mut impl FnMut(&str),
) -> Result<Reply, Failure> {
    let (begun, wait) = (Instant::now(), options.wait.unwrap_or_default());
    let mut told = String::new();
    loop {
        let (patience, why) = match caller.migrate(follower, false, options.even_if_behind).await? {
            Ok(reply) if reply.finished => return Ok(reply),
            Ok(reply) => {
                let patience = match reply.finding {
                    Finding::Whole | Finding::NotYet => PATIENCE.max(wait),
                    Finding::Runs | Finding::Doubtful => wait,
                };
                let hint = match reply.finding {
                    Finding::Doubtful => {
                        "; if nothing more can be had of it, --even-if-behind leaves it nevertheless"
                    }
                    Finding::Whole | Finding::NotYet | Finding::Runs => "",
                };
                (patience, format!("{}{hint}", reply.words))
            }
            Err(interrupted) => (PATIENCE.max(wait), interrupted),
        };
        if begun.elapsed() >= patience {
            return Err(Failure::Runtime(format!("refused: {why}; nothing has changed")));
        }
        if why != told {
            print(&format!("{:6.1} s  waits: {why}", begun.elapsed().as_secs_f64()));
            told = why;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells what it waits for, until writes are accepted.
async fn until_open(
    mut topologies: tokio::sync::watch::Receiver<Option<std::sync::Arc<Topology>>>,
    begun: Instant,
    mut print: impl FnMut(&str),
) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let newest = topologies.borrow_and_update().clone();
        if let Some(now) = newest {
            let seconds = begun.elapsed().as_secs_f64();
            if now.phase == Phase::ReadWrite {
                let id = now.primary.as_ref().map(|primary| primary.id.to_string());
                let id = id.unwrap_or_default();
                print(&format!("done: {id} takes writes, after {seconds:.1} s"));
                return Ok(());
            }
            let making = now.members().find_map(|(_, member)| {
                member.making.as_ref().map(|making| format!("{}: {making}", member.id))
            });
            let words = making.or_else(|| now.waiting.clone()).unwrap_or_default();
            if !words.is_empty() && words != told {
                print(&format!("{seconds:6.1} s  {words}"));
                told = words;
            }
        }
        match tokio::time::timeout(QUIET, topologies.changed()).await {
            Ok(Ok(())) => (),
            Err(_elapsed) => told.clear(),
            Ok(Err(_)) => {
                return Err(Failure::Runtime(
                    "what becomes of it cannot be seen: look at `dugong status`".to_owned(),
                ));
            }
        }
    }
}
