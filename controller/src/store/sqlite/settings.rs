//! The settings of the cluster, inside a transaction.

use dugong_topology::Revision;
use rusqlite::{Connection, OptionalExtension};

use super::super::codec;
use super::super::{ClusterSettings, Edition};
use super::content::{count, next_revision};
use super::trouble::Trouble;

/// What was written last.
pub(super) fn read(connection: &Connection) -> Result<Edition, Trouble> {
    let row = connection
        .prepare_cached("SELECT revision, content FROM settings")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((revision, content)) = row else { return Ok(Edition::default()) };
    Ok(Edition { revision: Revision(count(revision)?), settings: codec::decode(&content)? })
}

/// The compare-and-swap; none where another edition than that of `at` is there.
pub(super) fn amend(
    connection: &Connection,
    next: &ClusterSettings,
    at: Revision,
) -> Result<Option<Revision>, Trouble> {
    if read(connection)?.revision != at {
        return Ok(None);
    }
    let revision = next_revision(connection)?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO settings VALUES (1, ?1, ?2)")?
        .execute((revision, codec::encode(next)?))?;
    Ok(Some(Revision(count(revision)?)))
}
