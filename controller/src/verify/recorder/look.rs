//! The last looks: all that is there, read several times, each time by a connection of its own.
//!
//! **Invariant:** a look is whole or there is none. A table that does not exist is an empty one: it
//! was there when the run began, so whoever lost it lost its rows.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Answer, Connection, Door, Trouble};
use super::shared::Shared;
use super::tables::Tables;
use super::{Options, Remains};
use crate::verify::history::{History, Key, Look, Row, Value};
use crate::verify::outcome::Cause;
use crate::verify::verdict::LOOKS;

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How long removing the tables may take.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);

/// Takes the last looks, and removes the tables where that is wanted.
pub(super) async fn look(door: &Door, shared: &Shared, options: &Options, history: &mut History) {
    let deadline = Instant::now() + options.look_within;
    let mut last = format!("the write address gave no answer within {:?}", options.look_within);
    while history.looks.len() < LOOKS && Instant::now() < deadline {
        // Dropped with its connection: a look that takes too long is none.
        match tokio::time::timeout_at(deadline, once(door, shared, options)).await {
            Ok(Ok(look)) => {
                history.looks.push(look);
                continue;
            }
            Ok(Err(trouble)) => last = trouble.words,
            Err(_) => break,
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    if history.looks.len() < LOOKS {
        history.unreachable = Some(last);
        return;
    }
    match options.remains {
        Remains::Kept => (),
        Remains::Dropped => {
            if let Err(trouble) = remove(door, &shared.tables).await {
                history.left_behind = Some(trouble.words);
            }
        }
    }
}

async fn remove(door: &Door, tables: &Tables) -> Result<(), Trouble> {
    let removing = async { tables.remove(&mut door.open().await?, REMOVE_WITHIN).await };
    let silent = || Trouble { cause: Cause::Silence, words: "no answer in time".to_owned() };
    tokio::time::timeout(REMOVE_WITHIN, removing).await.map_err(|_| silent())?
}

async fn once(door: &Door, shared: &Shared, options: &Options) -> Result<Look, Trouble> {
    let mut connection = door.open().await?;
    let called = shared.now();
    let within = options.look_within;
    let tables = &shared.tables;
    let mut rows = Vec::new();
    for writer in tables.writers() {
        for row in all(&mut connection, within, &tables.rows_of(writer)).await? {
            rows.push(Row { writer, number: number(&row, 0)? });
        }
    }
    let mut registers = BTreeMap::new();
    for row in all(&mut connection, within, &tables.all_registers()).await? {
        registers.insert(Key(number(&row, 0)?), Value(number(&row, 1)?));
    }
    Ok(Look { called, returned: shared.now(), rows, registers })
}

async fn all(
    connection: &mut Connection,
    within: Duration,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, Trouble> {
    match connection.ask_within(within, sql).await {
        Ok(answer) => Ok(answer.rows),
        Err(Trouble { cause: Cause::Error(code), .. })
            if ["42P01", "3F000"].contains(&code.as_str()) =>
        {
            Ok(Vec::new())
        }
        Err(trouble) => Err(trouble),
    }
}

fn number(row: &[Option<String>], column: usize) -> Result<u64, Trouble> {
    let words = || format!("not a number: {row:?}");
    Answer::number(row, column).ok_or_else(|| Trouble { cause: Cause::Senseless, words: words() })
}
