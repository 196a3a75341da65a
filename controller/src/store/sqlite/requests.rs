//! Operators' requests and their outcomes, inside a transaction.
//!
//! **Invariant:** an outcome is written once and never changed.

use dugong_machine::{Ask, Outcome, Request, RequestNumber, Snapshot};
use rusqlite::{Connection, OptionalExtension};

use super::super::codec;
use super::super::requests::{Ended, OUTCOMES_SHOWN, superseded};
use super::content::{count, from_sql, integer, next_revision};
use super::trouble::Trouble;
use super::writer::Transaction;
use crate::clock::unix_ms;

/// Writes a request; none where another one is open, whose number is returned as the error.
pub(super) fn ask(
    transaction: &mut Transaction<'_>,
    by: String,
    what: Ask,
) -> Result<Result<RequestNumber, RequestNumber>, Trouble> {
    let connection = transaction.connection;
    let open = connection
        .prepare_cached("SELECT number FROM requests WHERE outcome IS NULL LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if let Some(open) = open.map(count).transpose()?.map(RequestNumber) {
        match &what {
            Ask::Switchover(_) => return Ok(Err(open)),
            Ask::Promotion(promotion) => {
                answer(transaction, open, &superseded(&by, promotion))?;
            }
        }
    }
    let newest: i64 = connection
        .prepare_cached("SELECT coalesce(MAX(number), 0) FROM requests")?
        .query_row([], |row| row.get(0))?;
    let number = RequestNumber(count(newest)? + 1);
    let request = Request { number, by, asked_unix_ms: unix_ms(), what };
    connection
        .prepare_cached("INSERT INTO requests VALUES (?1, ?2, NULL)")?
        .execute((integer(number.0)?, codec::encode(&request)?))?;
    next_revision(connection)?;
    Ok(Ok(number))
}

/// Whether a request has no outcome yet.
pub(super) fn is_open(connection: &Connection, request: RequestNumber) -> Result<bool, Trouble> {
    let open = connection
        .prepare_cached("SELECT 1 FROM requests WHERE number = ?1 AND outcome IS NULL")?
        .query_row([integer(request.0)?], |_| Ok(()))
        .optional()?;
    Ok(open.is_some())
}

/// Gives a request its outcome, unless it has one.
pub(super) fn answer(
    transaction: &mut Transaction<'_>,
    request: RequestNumber,
    outcome: &Outcome,
) -> Result<(), Trouble> {
    let answered = transaction
        .connection
        .prepare_cached("UPDATE requests SET outcome = ?2 WHERE number = ?1 AND outcome IS NULL")?
        .execute((integer(request.0)?, codec::encode(&Ended { outcome })?))?;
    if answered > 0 {
        next_revision(transaction.connection)?;
    }
    Ok(())
}

/// Adds what is open, and the last outcomes.
pub(super) fn show(connection: &Connection, snapshot: &mut Snapshot) -> Result<(), Trouble> {
    let mut read =
        connection.prepare_cached("SELECT content FROM requests WHERE outcome IS NULL")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let request: Request = codec::decode(row.get_ref(0)?.as_str().map_err(from_sql)?)?;
        snapshot.requests.insert(request.number, request);
    }
    let mut read = connection.prepare_cached(
        "SELECT number, outcome FROM requests WHERE outcome IS NOT NULL
         ORDER BY number DESC LIMIT ?1",
    )?;
    let mut rows = read.query([OUTCOMES_SHOWN])?;
    while let Some(row) = rows.next()? {
        let Ended { outcome } = codec::decode(row.get_ref(1)?.as_str().map_err(from_sql)?)?;
        snapshot.outcomes.insert(RequestNumber(count(row.get(0)?)?), outcome);
    }
    Ok(())
}
