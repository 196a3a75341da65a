//! What is read and written inside a transaction: records, presences, sessions, history. Requests
//! are in `requests`.
//!
//! **Invariant:** whatever changes what [`snapshot`] returns, or the settings, also adds to the
//! revision, in the same transaction; nothing else does.

use std::time::Duration;

use dugong_machine::{
    Declaration, Declared, Guard, Instance, Outcome, Presence, Record, ServerState,
    Session as Liveness, Snapshot,
};
use dugong_topology::{InstanceId, Revision};
use rusqlite::{Connection, OptionalExtension};

use super::super::HistoryEntry;
use super::super::codec;
use super::clock::{BootTime, Clock};
use super::requests;
use super::trouble::Trouble;
use super::writer::Transaction;
use crate::clock::unix_ms;

/// The lease of one handle.
#[derive(Debug)]
pub(super) struct Session {
    instance: InstanceId,
    ttl: Duration,
    /// Random; tells this handle's session from those of others for the same instance.
    token: String,
    /// Whether this handle ever opened it. One that was opened and then replaced stays replaced.
    opened: bool,
}

impl Session {
    pub(super) fn new(
        connection: &Connection,
        instance: InstanceId,
        ttl: Duration,
    ) -> Result<Self, Trouble> {
        let random = "SELECT lower(hex(randomblob(16)))";
        let token = connection.query_row(random, [], |row| row.get(0))?;
        Ok(Self { instance, ttl, token, opened: false })
    }
}

/// Why a declaration was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Raced,
    Guarded,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Renewed,
    Lapsed,
}

/// The store's count of writes.
pub(super) fn revision(connection: &Connection) -> Result<i64, Trouble> {
    let mut read = connection.prepare_cached("SELECT revision FROM meta")?;
    Ok(read.query_row([], |row| row.get(0))?)
}

/// Marks every session that has ended. Afterwards `alive` is the truth for this transaction.
pub(super) fn mark_lapsed(
    connection: &Connection,
    clock: &Clock,
    now: BootTime,
) -> Result<(), Trouble> {
    let ended = connection
        .prepare_cached(
            "UPDATE presences SET alive = 0
             WHERE alive = 1 AND (boot_id <> ?1 OR expires_at_ms <= ?2)",
        )?
        .execute((&clock.boot_id, now.0))?;
    if ended > 0 {
        next_revision(connection)?;
    }
    Ok(())
}

/// When the next session ends unless it is renewed; none where no session is alive.
pub(super) fn next_lapse(
    connection: &Connection,
    clock: &Clock,
) -> Result<Option<BootTime>, Trouble> {
    let mut read = connection.prepare_cached(
        "SELECT MIN(CASE boot_id WHEN ?1 THEN expires_at_ms ELSE 0 END)
         FROM presences WHERE alive = 1",
    )?;
    let next: Option<i64> = read.query_row([&clock.boot_id], |row| row.get(0))?;
    Ok(next.map(BootTime))
}

/// The compare-and-swap, with its guard.
pub(super) fn declare(
    transaction: &mut Transaction<'_>,
    declaration: &Declaration,
) -> Result<Result<Revision, Refusal>, Trouble> {
    let connection = transaction.connection;
    let current = connection
        .prepare_cached("SELECT revision, generation, since_unix_ms FROM record")?
        .query_row([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let at = current.map(|(revision, ..)| count(revision)).transpose()?.map(Revision);
    if at != declaration.at {
        return Ok(Err(Refusal::Raced));
    }
    if !guard_holds(connection, &declaration.guard)? {
        return Ok(Err(Refusal::Guarded));
    }
    if let Some(request) = declaration.fulfils {
        if !requests::is_open(connection, request)? {
            return Ok(Err(Refusal::Guarded));
        }
        requests::answer(transaction, request, &Outcome::Done)?;
    }
    let revision = next_revision(connection)?;
    let now = integer(unix_ms())?;
    let generation = integer(declaration.next.generation.0)?;
    let since = match current {
        Some((_, same, since)) if same == generation => since,
        Some(_) | None => now,
    };
    let content = codec::encode(&declaration.next)?;
    connection
        .prepare_cached("INSERT OR REPLACE INTO record VALUES (1, ?1, ?2, ?3, ?4)")?
        .execute((revision, generation, since, &content))?;
    connection
        .prepare_cached("INSERT INTO history VALUES (?1, ?2, ?3, ?4)")?
        .execute((revision, now, generation, &content))?;
    Ok(Ok(Revision(count(revision)?)))
}

fn guard_holds(connection: &Connection, guard: &Guard) -> Result<bool, Trouble> {
    match guard {
        Guard::None => Ok(true),
        Guard::AbsentOrStopped(id) => {
            let word = word_of(connection, id)?;
            Ok(word.is_none_or(|word| word.server == ServerState::Stopped))
        }
        Guard::HandedOver { by, request } => {
            let handover = word_of(connection, by)?.and_then(|word| word.hands_over);
            Ok(handover.is_some_and(|handover| handover.request == *request))
        }
    }
}

/// The word of an instance whose session is alive.
fn word_of(connection: &Connection, id: &InstanceId) -> Result<Option<Presence>, Trouble> {
    let word = connection
        .prepare_cached("SELECT content FROM presences WHERE instance = ?1 AND alive = 1")?
        .query_row([id.as_str()], |row| row.get::<_, String>(0))
        .optional()?;
    Ok(word.map(|word| codec::decode(&word)).transpose()?)
}

/// Replaces the instance's word and renews its session, opening one if need be.
pub(super) fn announce(
    transaction: &mut Transaction<'_>,
    presence: &Presence,
) -> Result<(), Trouble> {
    let session = transaction.session.as_deref_mut().ok_or(Trouble::Observer)?;
    let instance = &session.instance;
    if presence.id != *instance {
        let (instance, presence) = (instance.clone(), presence.id.clone());
        return Err(Trouble::Misnamed { instance, presence });
    }
    let connection = transaction.connection;
    let content = codec::encode(presence)?;
    let before = connection
        .prepare_cached("SELECT content, session, alive FROM presences WHERE instance = ?1")?
        .query_row([instance.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
        })
        .optional()?;
    let is_news = match &before {
        Some((_, other, true)) if session.opened && *other != session.token => {
            return Err(Trouble::Replaced { instance: instance.clone() });
        }
        Some((word, other, true)) => *other != session.token || *word != content,
        Some((_, _, false)) | None => true,
    };
    let ends = transaction.now.after(session.ttl);
    connection
        .prepare_cached("INSERT OR REPLACE INTO presences VALUES (?1, ?2, ?3, 1, ?4, ?5)")?
        .execute((
            instance.as_str(),
            &content,
            &session.token,
            &transaction.clock.boot_id,
            ends.0,
        ))?;
    session.opened = true;
    if is_news {
        next_revision(connection)?;
    }
    Ok(())
}

/// Renews the session, unless it has ended or was replaced.
pub(super) fn renew(transaction: &mut Transaction<'_>) -> Result<Renewal, Trouble> {
    let session = transaction.session.as_deref().ok_or(Trouble::Observer)?;
    let renewed = transaction
        .connection
        .prepare_cached(
            "UPDATE presences SET expires_at_ms = ?3
             WHERE instance = ?1 AND session = ?2 AND alive = 1",
        )?
        .execute((
            session.instance.as_str(),
            &session.token,
            transaction.now.after(session.ttl).0,
        ))?;
    Ok(if renewed > 0 { Renewal::Renewed } else { Renewal::Lapsed })
}

/// Ends the session; one that has ended, or was replaced, is left as it is.
pub(super) fn resign(transaction: &mut Transaction<'_>) -> Result<(), Trouble> {
    let session = transaction.session.as_deref().ok_or(Trouble::Observer)?;
    let ended = transaction
        .connection
        .prepare_cached(
            "UPDATE presences SET alive = 0 WHERE instance = ?1 AND session = ?2 AND alive = 1",
        )?
        .execute((session.instance.as_str(), &session.token))?;
    if ended > 0 {
        next_revision(transaction.connection)?;
    }
    Ok(())
}

/// Everything, at the revision of the transaction that `connection` is in.
pub(super) fn snapshot(connection: &Connection) -> Result<Snapshot, Trouble> {
    let revision = Revision(count(revision(connection)?)?);
    let declared = connection
        .prepare_cached("SELECT revision, since_unix_ms, content FROM record")?
        .query_row([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    let declared = declared
        .map(|(revision, since, content)| {
            let record = codec::decode(&content)?;
            let revision = Revision(count(revision)?);
            Ok::<_, Trouble>(Declared { record, revision, since_unix_ms: count(since)? })
        })
        .transpose()?;
    let mut read = connection.prepare_cached("SELECT content, alive FROM presences")?;
    let mut rows = read.query([])?;
    let mut snapshot = Snapshot { revision, declared, ..Snapshot::default() };
    while let Some(row) = rows.next()? {
        let presence: Presence = codec::decode(row.get_ref(0)?.as_str().map_err(from_sql)?)?;
        let session = if row.get(1)? { Liveness::Alive } else { Liveness::Lapsed };
        snapshot.instances.insert(presence.id.clone(), Instance { presence, session });
    }
    requests::show(connection, &mut snapshot)?;
    Ok(snapshot)
}

/// The last declared records, newest first.
pub(super) fn history(connection: &Connection, limit: u32) -> Result<Vec<HistoryEntry>, Trouble> {
    let mut read = connection.prepare_cached(
        "SELECT revision, at_unix_ms, content FROM history ORDER BY revision DESC LIMIT ?1",
    )?;
    let mut rows = read.query([limit])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let record: Record = codec::decode(row.get_ref(2)?.as_str().map_err(from_sql)?)?;
        let revision = Revision(count(row.get(0)?)?);
        entries.push(HistoryEntry { revision, at_unix_ms: count(row.get(1)?)?, record });
    }
    Ok(entries)
}

pub(super) fn next_revision(connection: &Connection) -> Result<i64, Trouble> {
    let mut step =
        connection.prepare_cached("UPDATE meta SET revision = revision + 1 RETURNING revision")?;
    Ok(step.query_row([], |row| row.get(0))?)
}

/// SQLite's integers have a sign; ours that are stored there have not.
pub(super) fn count(integer: i64) -> Result<u64, Trouble> {
    u64::try_from(integer)
        .map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(0, integer).into())
}

pub(super) fn integer(count: u64) -> Result<i64, Trouble> {
    i64::try_from(count)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)).into())
}

pub(super) fn from_sql(error: rusqlite::types::FromSqlError) -> Trouble {
    Trouble::Sqlite(error.into())
}
