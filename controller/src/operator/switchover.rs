//! `dugong switchover`: another primary, as planned.

use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use dugong_machine::{Ask, Outcome, RequestNumber, Switchover};
use dugong_topology::{InstanceId, Member, Phase, Topology, units};

use super::caller::Caller;
use super::client;
use super::reach::ReachOptions;
use super::schedule::{self, When};
use crate::run::Failure;

/// What `dugong switchover` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The primary lets open transactions finish, stops in order and hands over; the next primary opens
with everything that was ever acknowledged, and the former one becomes the last async, without a
copy of its data. Clients of the write address wait meanwhile: sessions are ended between two
transactions, connect again, and are held until the next primary takes writes.

What cannot be completed in time is rolled back: the primary resumes, and you are told why.
The exit status is 0 when it was done, 1 when it was refused or rolled back.

Examples:
  dugong switchover                      to the sync
  dugong switchover --to pg-3            to pg-3, which is made the sync first
  dugong switchover --drain 1min         let transactions take up to a minute to finish
  dugong switchover --at 2026-12-01T03:00:00Z   wait until then (in UTC), and ask only then")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The next primary: the sync or an async [default: the sync].
    #[arg(long, value_name = "ID")]
    pub to: Option<InstanceId>,
    /// How long open transactions may take to finish before they are ended.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub drain: Duration,
    /// How long all of it may take before it is rolled back; longer than --drain.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::parse_duration)]
    pub timeout: Duration,
    /// Wait until then, and ask only then: a time in UTC, or `+90min` from now. Interrupt the
    /// command, and nothing happens.
    #[arg(long, value_name = "TIME", value_parser = schedule::parse)]
    pub at: Option<When>,
}

/// How often the outcome is asked for.
const LOOK: Duration = Duration::from_millis(100);

/// How much longer than the request's own deadline an outcome may take: a stop that does not end
/// is cut off after half a minute, and the way back needs a start of the server.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long writes may take to go on after the outcome, before that is told instead.
const OPENS_WITHIN: Duration = Duration::from_secs(30);

/// Asks for a switchover and tells through `print` what becomes of it.
///
/// # Errors
///
/// It was refused, or rolled back, in words.
pub async fn switchover(options: &Options, mut print: impl FnMut(&str)) -> Result<(), Failure> {
    if options.timeout <= options.drain {
        return Err(Failure::Usage(format!(
            "--timeout {} leaves no time beyond --drain {}: make it longer",
            humantime::format_duration(options.timeout),
            humantime::format_duration(options.drain)
        )));
    }
    let caller = Caller::of(&options.reach)?;
    let mut topology = caller.topology().await?;
    if let Some(when) = options.at {
        check_name(options.to.as_ref(), &topology)?;
        let moment = when.moment(SystemTime::now()).map_err(Failure::Usage)?;
        let then = humantime::format_rfc3339_seconds(moment);
        print(&format!("waiting until {then}; Ctrl-C gives it up"));
        schedule::wait_until(moment).await;
        topology = caller.topology().await?;
    }
    let Some(from) = topology.primary.as_ref().map(|primary| primary.id.clone()) else {
        return Err(Failure::Runtime("the cluster has no primary yet".to_owned()));
    };
    let what = Switchover {
        from: from.clone(),
        to: options.to.clone(),
        drain: options.drain,
        deadline: options.timeout,
    };
    let begun = Instant::now();
    let number = caller.ask(Ask::Switchover(what)).await?;
    let mut line =
        |words: &str| print(&format!("{:6.1} s  {words}", begun.elapsed().as_secs_f64()));
    let next = options.to.as_ref().map_or("its sync", InstanceId::as_str);
    line(&format!("asked {from} to hand over to {next} (request {number})"));

    let outcome = follow(&caller, number, options.timeout + PATIENCE, &mut line).await?;
    match outcome {
        Outcome::Done => {
            let topology = open(&caller).await?;
            let name = |member: Option<&Member>| {
                member.map_or_else(|| "nobody".to_owned(), |member| member.id.to_string())
            };
            let (primary, sync) = (name(topology.primary.as_ref()), name(topology.sync.as_ref()));
            line(&format!(
                "done: {primary} takes writes in generation {}, its sync is {sync}",
                topology.generation
            ));
            Ok(())
        }
        Outcome::Refused { why } => {
            Err(Failure::Runtime(format!("refused: {why}; {from} was not asked to stop")))
        }
        Outcome::RolledBack { why } => {
            Err(Failure::Runtime(format!("rolled back: {why}; {from} is the primary as before")))
        }
    }
}

/// A typing error is better found now than at night.
fn check_name(to: Option<&InstanceId>, topology: &Topology) -> Result<(), Failure> {
    let Some(to) = to else { return Ok(()) };
    let names = || topology.members().map(|(_, member)| &member.id);
    if names().any(|id| id == to) {
        return Ok(());
    }
    let names: Vec<&str> = names().map(InstanceId::as_str).collect();
    Err(Failure::Runtime(format!("{to} is no member of the cluster: {}", names.join(", "))))
}

/// Tells what the instances do, until there is an outcome.
async fn follow(
    caller: &Caller,
    number: RequestNumber,
    patience: Duration,
    line: &mut impl FnMut(&str),
) -> Result<Outcome, Failure> {
    let mut topologies = client::follow_controllers(caller.controllers.clone());
    let mut looks = tokio::time::interval(LOOK);
    let deadline = tokio::time::Instant::now() + patience;
    let mut told = Vec::new();
    loop {
        tokio::select! {
            // Nothing is lost with the branches that do not win.
            Ok(()) = topologies.changed() => {
                let newest = topologies.borrow_and_update().clone();
                let notes = newest.map(|topology| notes(&topology)).unwrap_or_default();
                for note in notes.iter().filter(|note| !told.contains(*note)) {
                    line(note);
                }
                told = notes;
            }
            _ = looks.tick() => {
                // A controller that is away for a moment is no outcome.
                if let Ok(Some(outcome)) = caller.outcome(number).await {
                    return Ok(outcome);
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                // Nobody is to be surprised by it later.
                return caller.withdraw(number).await;
            }
        }
    }
}

/// What the primary and its sync do, in words.
fn notes(topology: &Topology) -> Vec<String> {
    let members = topology.primary.iter().chain(&topology.sync);
    members.filter_map(|m| m.note.as_ref().map(|note| format!("{}: {note}", m.id))).collect()
}

/// The topology once writes go on.
async fn open(caller: &Caller) -> Result<Topology, Failure> {
    let mut topologies = client::follow_controllers(caller.controllers.clone());
    let opened = topologies.wait_for(|newest| {
        newest.as_ref().is_some_and(|topology| topology.phase == Phase::ReadWrite)
    });
    match tokio::time::timeout(OPENS_WITHIN, opened).await {
        Ok(Ok(newest)) => newest
            .as_deref()
            .cloned()
            .ok_or_else(|| Failure::Runtime("the topology is not followed any more".to_owned())),
        Ok(Err(_)) | Err(_) => Err(Failure::Runtime(
            "it was done, but writes do not go on yet: see `dugong status`".to_owned(),
        )),
    }
}
