//! `dugong history`: what the cluster has lived through.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::caller::Caller;
use super::reach::ReachOptions;
use super::table;
use crate::launch::layout::Layout;
use crate::run::Failure;
use crate::store::sqlite::SqliteStore;
use crate::store::{HistoryEntry, Store};

/// What `dugong history` is told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    pub reach: ReachOptions,
    /// How many changes of the state record, the newest last.
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
}

/// The changes of the state record, oldest first, as a table.
///
/// # Errors
///
/// There is no cluster, or its store cannot be read.
pub async fn history(options: &Options) -> Result<String, Failure> {
    let entries = if options.reach.controllers.is_empty() {
        // From the file: also while no controller runs.
        let layout = Layout::of(options.reach.dir.as_deref());
        layout.existing()?;
        let store = SqliteStore::observe(&layout.store()).map_err(Failure::runtime)?;
        store.history(options.limit).await.map_err(Failure::runtime)?
    } else {
        Caller::of(&options.reach)?.history(options.limit).await?
    };
    let heading = ["generation", "time", "primary", "sync", "asyncs", "deposed", "reason"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(entries.iter().rev().map(row));
    Ok(table::render(&rows))
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    let record = &entry.record;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(entry.at_unix_ms);
    let list = |ids: Vec<&str>| if ids.is_empty() { "-".to_owned() } else { ids.join(", ") };
    vec![
        record.generation.to_string(),
        humantime::format_rfc3339_millis(at).to_string(),
        record.primary.to_string(),
        record.sync.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        list(record.asyncs.iter().map(|id| id.as_str()).collect()),
        list(record.deposed.iter().map(|deposed| deposed.id.as_str()).collect()),
        record.frozen.as_ref().map_or_else(
            || record.reason.as_str().to_owned(),
            |freeze| format!("frozen by {}: {}", freeze.by, freeze.why),
        ),
    ]
}
