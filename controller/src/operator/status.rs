//! `dugong status`: who is what, and why writes wait when they wait.

use std::io::IsTerminal;

use clap::Args;
use dugong_topology::{Member, Phase, Role, Topology};

use super::caller::Caller;
use super::client::{self, Newest};
use super::reach::{Controller, ReachOptions, controllers};
use super::table;
use crate::postgres::Here;
use crate::run::Failure;

/// What `dugong status` is told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// The topology document, for programs.
    #[arg(long)]
    pub json: bool,
    /// Go on, and show each change.
    #[arg(long)]
    pub watch: bool,
}

/// Shows the state through `print`; with `--watch` until the process is ended.
///
/// # Errors
///
/// No controller answers, or there is no cluster.
pub async fn status(options: &Options, mut print: impl FnMut(&str)) -> Result<(), Failure> {
    let controllers = controllers(&options.reach)?;
    if options.watch {
        return watch(options, controllers, print).await;
    }
    let Newest { found, silent } = client::newest(&controllers).await;
    let line = |(place, why): (usize, String)| {
        let controller = &controllers[place];
        format!("{} ({controller}): {why}", controller.name)
    };
    let silent: Vec<String> = silent.into_iter().map(line).collect();
    let Some((json, topology)) = found else {
        return Err(Failure::Runtime(format!(
            "no controller answers ({}): start the cluster with `dugong up`",
            silent.join("; ")
        )));
    };
    if options.json {
        print(&String::from_utf8_lossy(&json));
    } else {
        print(&page(&topology));
        for line in of_settings(&options.reach).await {
            print(&line);
        }
        for line in silent {
            print(&format!("no answer from the controller of {line}"));
        }
    }
    Ok(())
}

/// What waits for a restart, who does not take the cluster's settings, and what no failover brings
/// along; nothing where it is not told, since not everybody who may look may see settings.
async fn of_settings(reach: &ReachOptions) -> Vec<String> {
    let Ok(caller) = Caller::of(reach) else { return Vec::new() };
    let heard = caller.settings_here().await;
    let all: Vec<Here> = heard.into_iter().filter_map(|heard| heard.here.ok()).collect();
    let of_each = all.iter().flat_map(|here| {
        let names: Vec<_> = here.pending.iter().map(|pending| pending.name.as_str()).collect();
        let pending = (!names.is_empty()).then(|| {
            let names = names.join(", ");
            format!("{}: {names} waits for `dugong restart --pending`", here.instance)
        });
        let refused = here.refused.as_ref().map(|why| {
            format!("{} does not take the settings of the cluster: {why}", here.instance)
        });
        let slots = (!here.slots.is_empty()).then(|| {
            let slots = here.slots.join(", ");
            format!(
                "{}: the replication slots {slots} are on this instance only, and hold WAL here",
                here.instance
            )
        });
        pending.into_iter().chain(refused).chain(slots)
    });
    of_each.chain(uncopied(&all)).collect()
}

/// Failover slots that no standby has yet in a form that could take over.
fn uncopied(all: &[Here]) -> Vec<String> {
    let copied = |slot: &String| all.iter().any(|here| here.copied_slots.contains(slot));
    let of_one = |here: &Here| {
        let mut slots = here.failover_slots.clone();
        slots.retain(|slot| !copied(slot));
        (!slots.is_empty()).then(|| {
            format!(
                "{}: the failover slots {} are not on the sync yet: they are once their consumers \
                 have gone on for a while",
                here.instance,
                slots.join(", ")
            )
        })
    };
    all.iter().filter_map(of_one).collect()
}

async fn watch(
    options: &Options,
    controllers: Vec<Controller>,
    mut print: impl FnMut(&str),
) -> Result<(), Failure> {
    let mut topologies = client::follow_controllers(controllers);
    let terminal = std::io::stdout().is_terminal();
    while topologies.changed().await.is_ok() {
        let Some(topology) = topologies.borrow_and_update().clone() else { continue };
        if options.json {
            let json = serde_json::to_string(&*topology);
            print(&json.map_err(Failure::runtime)?);
            continue;
        }
        // Clears the screen and goes home: ECMA-48, ED and CUP.
        let clear = if terminal { "\u{1b}[2J\u{1b}[H" } else { "" };
        print(&format!("{clear}{}", page(&topology)));
    }
    Ok(())
}

/// The whole state, for people.
pub(super) fn page(topology: &Topology) -> String {
    let mut text = headline(topology);
    let heading = ["instance", "role", "state", "address", "from", "lag", "position"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(topology.members().map(|(role, member)| row(role, member)));
    text.push_str(&table::render(&rows));
    for (_, member) in topology.members() {
        if let Some(note) = &member.note {
            text.push_str(&format!("{}: {note}\n", member.id));
        }
        if let Some(making) = &member.making {
            text.push_str(&format!("{}: {making}\n", member.id));
        }
    }
    text
}

fn headline(topology: &Topology) -> String {
    let phase = match topology.phase {
        Phase::Unformed => "not formed yet",
        Phase::CatchingUp => "writes wait: the sync catches up",
        Phase::ReadWrite => "writes are accepted",
        Phase::HandingOver => "writes wait: another primary takes over, as planned",
        Phase::NoPrimary => "writes wait: no primary",
    };
    let mut text = format!("cluster {}: {phase}\n", topology.cluster);
    if let Some(waiting) = &topology.waiting {
        text.push_str(&format!("  {waiting}\n"));
    }
    if let Some(frozen) = &topology.frozen {
        text.push_str(&format!(
            "  frozen by {} since {}: {}; nothing changes by itself\n",
            frozen.by, frozen.since, frozen.why
        ));
    }
    if topology.one_node {
        text.push_str(
            "  WARNING: one node: acknowledged writes are on this instance only; start more of them\n",
        );
    }
    if let (Some(reason), Some(since)) = (&topology.reason, &topology.since) {
        text.push_str(&format!(
            "generation {} since {since} ({reason}), revision {}\n",
            topology.generation, topology.revision
        ));
    }
    text.push('\n');
    text
}

fn row(role: Option<Role>, member: &Member) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let lag = member.lag_bytes.map(|bytes| {
        let age = member.lag_seconds.unwrap_or_default();
        format!("{bytes} B, {}.{} s", age.millis / 1000, age.millis % 1000 / 100)
    });
    let state = match (member.healthy, member.state.as_str()) {
        (false, "running" | "streaming") => format!("{} (not fit)", member.state),
        (_, state) => state.to_owned(),
    };
    vec![
        member.id.to_string(),
        role.map_or_else(|| "newcomer".to_owned(), |role| role.to_string()),
        state,
        or_dash(member.address.as_ref().map(ToString::to_string)),
        or_dash(member.upstream.as_ref().map(ToString::to_string)),
        or_dash(lag),
        or_dash(member.position.map(|position| position.to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_who_is_what_and_why_writes_wait() {
        let topology: Topology = serde_json::from_str(
            r#"{"cluster":"main","generation":3,"revision":42,"phase":"catching_up",
                "primary":{"id":"pg-1","address":"127.0.0.1:5501","healthy":true,
                           "state":"running","position":{"timeline":2,"lsn":"0/5000060"}},
                "sync":{"id":"pg-2","address":"127.0.0.1:5502","healthy":true,"state":"streaming",
                        "upstream":"pg-1","position":null,"lag_bytes":16,"lag_seconds":0.25},
                "asyncs":[{"id":"pg-3","address":null,"healthy":false,"state":"unreachable",
                           "position":null,
                           "making":{"way":"rewind","done_bytes":41943040,
                                     "total_bytes":104857600,"seconds_left":3}}],
                "began_at":null,"frozen":null,"reason":"primary lost",
                "since":"2026-01-02T03:04:05.678Z","waiting":"pg-1: writes wait for pg-2"}"#,
        )
        .unwrap();
        let expected = "\
cluster main: writes wait: the sync catches up
  pg-1: writes wait for pg-2
generation 3 since 2026-01-02T03:04:05.678Z (primary lost), revision 42

instance  role     state        address         from  lag          position
pg-1      primary  running      127.0.0.1:5501  -     -            2@0/5000060
pg-2      sync     streaming    127.0.0.1:5502  pg-1  16 B, 0.2 s  -
pg-3      async    unreachable  -               -     -            -
pg-3: rewind: 40 of 100 MB, 40 %, 3 s left
";
        assert_eq!(page(&topology), expected);
    }
}
