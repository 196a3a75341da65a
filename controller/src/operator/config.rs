//! `dugong config`: the settings of PostgreSQL that hold in the whole cluster.

mod document;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use clap::{Args, Subcommand};
use dugong_topology::Revision;
use serde::Serialize;

use super::caller::{Caller, Heard};
use super::reach::ReachOptions;
use super::table;
use crate::postgres::{Change, Here, Takes};
use crate::publish::settings::Amended;
use crate::run::Failure;
use crate::store::Edition;

/// What `dugong config` is told.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
One set of settings holds for all instances, over failovers and for those that join later. The
primary's own PostgreSQL judges each change before it is written; every instance's does before it
takes it. What needs a restart waits for `dugong restart --pending`.

An instance's own word, [postgres] settings in its controller.toml, wins over the cluster's.

Examples:
  dugong config set work_mem=16MB log_min_duration_statement=500ms
  dugong config unset work_mem
  dugong config edit                     all of them, in $VISUAL or $EDITOR")]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Show what is set and why, who changed it last, and which instances have it.
    Show(Show),
    /// Set one setting or more: NAME=VALUE, as in postgresql.conf but without its quotes.
    Set(Set),
    /// Set one setting or more no longer: PostgreSQL's defaults, or Dugong's, hold again.
    Unset(Unset),
    /// Edit all of them as a text.
    Edit(Edit),
}

#[derive(Args, Clone, Debug)]
struct Show {
    #[command(flatten)]
    reach: ReachOptions,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Set {
    #[command(flatten)]
    reach: ReachOptions,
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = assignment)]
    values: Vec<(String, String)>,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
struct Unset {
    #[command(flatten)]
    reach: ReachOptions,
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
struct Edit {
    #[command(flatten)]
    reach: ReachOptions,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

/// What is to become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Write,
    OnlyCheck,
}

impl Wish {
    fn of(dry_run: bool) -> Self {
        if dry_run { Self::OnlyCheck } else { Self::Write }
    }
}

/// How long instances may take to have what was written, before that is told instead.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Shows or changes the settings, and tells through `print`.
///
/// # Errors
///
/// What was refused, by whom, and why.
pub async fn config(options: &Options, mut print: impl FnMut(&str)) -> Result<(), Failure> {
    match &options.what {
        What::Show(show) => {
            let caller = Caller::of(&show.reach)?;
            let edition = caller.settings().await?;
            let heard = caller.settings_here().await;
            print(&if show.json { json(&edition, &heard)? } else { page(&edition, &heard) });
            Ok(())
        }
        What::Set(set) => {
            let caller = Caller::of(&set.reach)?;
            let edition = caller.settings().await?;
            let mut values = edition.settings.values.clone();
            values.extend(set.values.iter().cloned());
            put(&caller, &edition, values, Wish::of(set.dry_run), &mut print).await
        }
        What::Unset(unset) => {
            let caller = Caller::of(&unset.reach)?;
            let edition = caller.settings().await?;
            let mut values = edition.settings.values.clone();
            for name in &unset.names {
                if values.remove(&name.to_ascii_lowercase()).is_none() {
                    return Err(Failure::Usage(format!(
                        "{name} is not set for the cluster: see `dugong config show`"
                    )));
                }
            }
            put(&caller, &edition, values, Wish::of(unset.dry_run), &mut print).await
        }
        What::Edit(edit) => {
            let caller = Caller::of(&edit.reach)?;
            let edition = caller.settings().await?;
            let draft = document::Draft::write(&edition.settings.values)?;
            let values = draft.edit()?;
            let put = put(&caller, &edition, values, Wish::of(edit.dry_run), &mut print).await;
            match put {
                Ok(()) => draft.remove(),
                Err(failure) => Err(kept(failure, &draft.path)),
            }
        }
    }
}

/// Nobody has to type again what was refused.
fn kept(failure: Failure, path: &Path) -> Failure {
    let words = format!("{failure}; your text is kept in {}", path.display());
    match failure {
        Failure::Usage(_) => Failure::Usage(words),
        Failure::Runtime(_) => Failure::Runtime(words),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() {
        return Err("write NAME=VALUE".to_owned());
    }
    Ok((name, value.to_owned()))
}

async fn put(
    caller: &Caller,
    edition: &Edition,
    values: BTreeMap<String, String>,
    wish: Wish,
    print: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    let Amended { revision, changes } =
        caller.amend(edition.revision, values, wish == Wish::OnlyCheck).await?;
    for change in &changes {
        print(&told(change));
    }
    match (revision, changes.is_empty()) {
        (_, true) => print("nothing changes"),
        (None, false) => print("only looked at: nothing was written"),
        (Some(revision), false) => {
            taken(caller, revision, print).await?;
            if changes.iter().any(|change| change.takes == Takes::Restart) {
                print(
                    "pending: `dugong restart --pending` restarts the servers, one after the other",
                );
            }
        }
    }
    Ok(())
}

fn told(change: &Change) -> String {
    let or_not = |value: &Option<String>| {
        value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("'{value}'"))
    };
    let takes = match change.takes {
        Takes::Reload => "",
        Takes::NewSessions => " (in sessions that begin later)",
        Takes::Restart => " (needs a restart)",
    };
    format!("{}: {} -> {}{takes}", change.name, or_not(&change.before), or_not(&change.after))
}

/// Waits until every instance has it; tells which has not.
async fn taken(
    caller: &Caller,
    revision: Revision,
    print: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let heard = caller.settings_here().await;
        let lacks = |here: &&Heard| here.here.as_ref().map_or(true, |it| it.revision < revision);
        let late: Vec<_> = heard.iter().filter(lacks).collect();
        if late.is_empty() {
            print(&format!("revision {}: every instance has it", revision.0));
            return Ok(());
        }
        let refused =
            |heard: &&&Heard| heard.here.as_ref().is_ok_and(|here| here.refused.is_some());
        if begun.elapsed() > PATIENCE || late.iter().filter(refused).count() == late.len() {
            print(&format!("revision {} is written", revision.0));
            for heard in late {
                print(&lack(heard));
            }
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why an instance does not have what it should.
fn lack(heard: &Heard) -> String {
    match &heard.here {
        Ok(here) => match &here.refused {
            Some(why) => format!("{} does not take it: {why}", here.instance),
            None => format!("{} has revision {} still", here.instance, here.revision.0),
        },
        Err(why) => format!("no answer from the controller of {}: {why}", heard.name),
    }
}

/// `--json`.
#[derive(Serialize)]
struct Document<'a> {
    revision: Revision,
    settings: &'a crate::store::ClusterSettings,
    instances: Vec<&'a Here>,
}

fn json(edition: &Edition, heard: &[Heard]) -> Result<String, Failure> {
    let instances = heard.iter().filter_map(|heard| heard.here.as_ref().ok()).collect();
    let Edition { revision, settings } = edition;
    let document = Document { revision: *revision, settings, instances };
    serde_json::to_string_pretty(&document).map_err(Failure::runtime)
}

fn page(edition: &Edition, heard: &[Heard]) -> String {
    let Edition { revision, settings } = edition;
    let here = || heard.iter().filter_map(|heard| heard.here.as_ref().ok());
    let mut text = String::new();
    if settings.values.is_empty() {
        text.push_str("nothing is set for the cluster: `dugong config set NAME=VALUE` does\n");
    } else {
        let at = UNIX_EPOCH + Duration::from_millis(settings.at_unix_ms);
        let at = humantime::format_rfc3339_seconds(at);
        text.push_str(&format!("revision {}, by {} at {at}\n\n", revision.0, settings.by));
        let mut rows = vec![["name", "value", "where not", "why"].map(str::to_owned).to_vec()];
        for (name, value) in &settings.values {
            let why = settings.why.get(name).cloned().unwrap_or_default();
            rows.push(vec![name.clone(), value.clone(), exceptions(name, here()), why]);
        }
        text.push_str(&table::render(&rows));
    }
    for here in here() {
        for pending in &here.pending {
            let wants = pending.wants.as_deref().unwrap_or("PostgreSQL's default");
            text.push_str(&format!(
                "{}: {} is {} until it is restarted, then {wants}\n",
                here.instance, pending.name, pending.has
            ));
        }
        for complaint in &here.complaints {
            text.push_str(&format!("{}: {complaint}\n", here.instance));
        }
    }
    let behind = |heard: &&Heard| {
        heard.here.as_ref().map_or(true, |here| here.refused.is_some() || here.revision < *revision)
    };
    for heard in heard.iter().filter(behind) {
        text.push_str(&format!("{}\n", lack(heard)));
    }
    text
}

/// On which instances a setting is not, or not yet, what the cluster says.
fn exceptions<'a>(name: &str, here: impl Iterator<Item = &'a Here>) -> String {
    let words = here.filter_map(|here| {
        if here.own.iter().any(|own| own == name) {
            return Some(format!("{}: its own", here.instance));
        }
        let pending = here.pending.iter().any(|pending| pending.name == name);
        pending.then(|| format!("{}: pending", here.instance))
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Pending;
    use crate::store::ClusterSettings;

    #[test]
    fn a_page_says_what_holds_where() {
        let values = [("max_connections", "300"), ("work_mem", "8MB")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let why = [("work_mem".to_owned(), "as much as fits".to_owned())].into();
        let settings = ClusterSettings { values, by: "ann".to_owned(), at_unix_ms: 1_000, why };
        let edition = Edition { revision: Revision(12), settings };
        let here = |id: &str, revision| Here {
            instance: id.parse().unwrap(),
            revision: Revision(revision),
            refused: None,
            own: Vec::new(),
            pending: Vec::new(),
            complaints: Vec::new(),
            started_unix_ms: Some(5),
            slots: Vec::new(),
            failover_slots: Vec::new(),
            copied_slots: Vec::new(),
        };
        let pending = Pending {
            name: "max_connections".to_owned(),
            has: "200".to_owned(),
            wants: Some("300".to_owned()),
        };
        let heard = |id: &str, here| Heard { place: 0, name: id.to_owned(), here };
        let all = [
            heard("pg-1", Ok(Here { pending: vec![pending], ..here("pg-1", 12) })),
            heard("pg-2", Ok(Here { own: vec!["work_mem".to_owned()], ..here("pg-2", 12) })),
            heard("pg-3", Ok(Here { refused: Some("no".to_owned()), ..here("pg-3", 9) })),
        ];
        let expected = "\
revision 12, by ann at 1970-01-01T00:00:01Z

name             value  where not      why
max_connections  300    pg-1: pending
work_mem         8MB    pg-2: its own  as much as fits
pg-1: max_connections is 200 until it is restarted, then 300
pg-3 does not take it: no
";
        assert_eq!(page(&edition, &all), expected);
    }
}
