//! `dugong promote`: the override, for a cluster that rightly waits.

use std::io::BufRead;
use std::time::{Duration, Instant};

use clap::Args;
use dugong_machine::{Ask, Outcome, Over, Promotion};
use dugong_topology::{InstanceId, Topology};

use super::caller::Caller;
use super::confirm::confirm;
use super::reach::ReachOptions;
use super::status;
use crate::run::Failure;

/// What `dugong promote` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
This is for the day on which a cluster waits for what will not come back. By itself it never
promotes on a guess: only the sync has every acknowledged write, and only with a further instance
to become its sync does it take over. With this command ANY instance does, and every acknowledged
write that it lacks is LOST. For a planned change use `dugong switchover`.

The cluster's name has to be typed to confirm. The instance makes itself primary as soon as the
session of the old one is dead; where that may still be alive, --although-primary-lives and a
second confirmation are needed. Whoever is not proven to follow the new primary is copied anew
from it, and writes wait until one instance is ready to be its sync. `dugong history` keeps it.

Example:
  dugong promote pg-2 --lose-writes")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The instance that is to be the primary.
    #[arg(value_name = "ID")]
    pub id: InstanceId,
    /// That acknowledged writes may be lost.
    #[arg(long, required = true)]
    pub lose_writes: bool,
    /// That the present primary may be alive, and goes on taking writes until it learns of this.
    #[arg(long)]
    pub although_primary_lives: bool,
}

/// How often the outcome is asked for.
const LOOK: Duration = Duration::from_millis(100);

/// After so long the request is withdrawn: who asked is not to be surprised by it later.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has what is asked confirmed by lines of `typed`, asks, and tells through `print`.
///
/// # Errors
///
/// It was not confirmed, refused, or not done in time.
pub async fn promote(
    options: &Options,
    typed: impl BufRead,
    mut print: impl FnMut(&str),
) -> Result<(), Failure> {
    let caller = Caller::of(&options.reach)?;
    let topology = caller.topology().await?;
    let id = &options.id;
    let Some(from) = topology.primary.as_ref().map(|primary| primary.id.clone()) else {
        return Err(Failure::Runtime("the cluster has no primary yet".to_owned()));
    };
    if !topology.members().any(|(_, member)| member.id == *id && member.state != "unreachable") {
        return Err(Failure::Runtime(format!("{id} is not there: nobody would obey")));
    }
    print(&status::page(&topology));
    confirm_loss(options, &topology, &from, typed, &mut print)?;
    let over = if options.although_primary_lives { Over::Alive } else { Over::Lost };
    let what = Promotion { id: id.clone(), from, over };
    let number = caller.ask(Ask::Promotion(what)).await?;
    let begun = Instant::now();
    let outcome = loop {
        // A controller that is away for a moment is no outcome.
        if let Ok(Some(outcome)) = caller.outcome(number).await {
            break outcome;
        }
        if begun.elapsed() > PATIENCE {
            break caller.withdraw(number).await?;
        }
        tokio::time::sleep(LOOK).await;
    };
    match outcome {
        Outcome::Done => {
            print(&format!(
                "done: {id} is the primary; writes wait until an instance is ready to be its sync"
            ));
            Ok(())
        }
        Outcome::Refused { why } | Outcome::RolledBack { why } => {
            Err(Failure::Runtime(format!("refused: {why}; nothing has changed")))
        }
    }
}

fn confirm_loss(
    options: &Options,
    topology: &Topology,
    from: &InstanceId,
    mut typed: impl BufRead,
    print: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    let (id, cluster) = (&options.id, &topology.cluster);
    let question = format!(
        "{id} becomes the primary, and every acknowledged write that it lacks is lost.\n\
         Type the name of the cluster ({cluster}) to go on:"
    );
    confirm(&question, cluster, &mut typed, print)?;
    if options.although_primary_lives {
        let question = format!(
            "{from} may be alive: what it acknowledges until it learns of this is lost, too.\n\
             Type the name of the primary ({from}) to go on:"
        );
        confirm(&question, from.as_str(), &mut typed, print)?;
    }
    Ok(())
}
