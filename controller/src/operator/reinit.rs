//! `dugong reinit`: the data of a standby is given up, and copied anew.

use std::io::BufRead;
use std::time::{Duration, Instant};

use clap::Args;
use dugong_topology::{InstanceId, Member, Role, Topology};

use super::caller::Caller;
use super::client;
use super::confirm::confirm;
use super::reach::ReachOptions;
use crate::run::Failure;

/// What `dugong reinit` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
For a standby whose data is doubted, or that shall be laid out anew. Its server stops, a copy is
made beside the old data, is verified, and takes its place; then it follows again. The old data is
kept as [repair] keep_diverged says. Its reads wait for that long; no write does.

The primary is refused, and so is the sync: what they have is all that is certain. A switchover
gives them another role. Whoever interrupts this command does not interrupt the copy.

Examples:
  dugong reinit pg-3                     from its left neighbour in the chain
  dugong reinit pg-3 --from pg-1 --yes   from pg-1, without a question")]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The instance whose data is given up.
    #[arg(value_name = "ID")]
    pub id: InstanceId,
    /// Whom to copy [default: its left neighbour in the chain]. Where that fails once, the default.
    #[arg(long, value_name = "ID")]
    pub from: Option<InstanceId>,
    /// Ask nothing.
    #[arg(long)]
    pub yes: bool,
}

/// How long it may take until others see that its server is down.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

/// Has it confirmed by a line of `typed`, asks, and tells through `print` until it is done.
///
/// # Errors
///
/// It was not confirmed, or refused.
pub async fn reinit(
    options: &Options,
    mut typed: impl BufRead,
    mut print: impl FnMut(&str),
) -> Result<(), Failure> {
    let caller = Caller::of(&options.reach)?;
    let topology = caller.topology().await?;
    let Some(member) = find(&topology, &options.id) else {
        return Err(Failure::Runtime(format!(
            "the cluster has no instance {}: see `dugong status`",
            options.id
        )));
    };
    if !options.yes {
        let id = &options.id;
        let question = format!(
            "The data of {id} is given up and copied anew; until then it serves nothing.\n\
             Type its name ({id}) to go on:"
        );
        confirm(&question, id.as_str(), &mut typed, &mut print)?;
    }
    // Before the word: what comes of it is not to be missed.
    let mut topologies = client::follow_controllers(caller.controllers.clone());
    let begun = Instant::now();
    caller.reinit(member, options.from.clone()).await?;
    print(&format!("{}: its data is given up, and copied anew", options.id));
    let (mut told, mut was_down) = (String::new(), false);
    loop {
        let changed = topologies.changed();
        match tokio::time::timeout(DOWN_WITHIN, changed).await {
            Ok(Ok(())) => (),
            // A quiet cluster publishes nothing: the copy may just have nothing to say.
            Err(_elapsed) if was_down => continue,
            Ok(Err(_)) | Err(_) => {
                return Err(Failure::Runtime(
                    "what becomes of it cannot be seen: look at `dugong status`".to_owned(),
                ));
            }
        }
        let newest = topologies.borrow_and_update().clone();
        let Some(now) = newest.as_deref().and_then(|newest| find(newest, &options.id)) else {
            continue;
        };
        was_down |= !now.healthy;
        if was_down && now.healthy {
            let took = begun.elapsed().as_secs_f64();
            print(&format!("done: {} follows again, after {took:.1} s", options.id));
            return Ok(());
        }
        let words = words(now);
        if !words.is_empty() && words != told {
            print(&format!("{:6.1} s  {words}", begun.elapsed().as_secs_f64()));
            told = words;
        }
    }
}

fn find<'a>(topology: &'a Topology, id: &InstanceId) -> Option<&'a Member> {
    let of = |(_, member): (Option<Role>, &'a Member)| (member.id == *id).then_some(member);
    topology.members().find_map(of)
}

/// What it does just now.
fn words(member: &Member) -> String {
    let making = member.making.as_ref().map(ToString::to_string);
    making.or_else(|| member.note.clone()).unwrap_or_default()
}
