//! The tables of one run, and every statement that is ever sent.
//!
//! `dugong_verify.rows_RUN (writer, number)` grows by one row with each append;
//! `dugong_verify.registers_RUN (key, value)` has a row for each register that was written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::connection::{Connection, Door, Trouble};
use crate::verify::history::{ClientId, Key, Row, Value};
use crate::verify::outcome::{Cause, Sqlstate};

const SCHEMA: &str = "dugong_verify";

/// Between two tries to make the tables.
const TRY_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) struct Tables {
    rows: String,
    registers: String,
    writers: u16,
}

impl Tables {
    /// Of a run that began then; unlike those of any other.
    pub(super) fn of_run(began: SystemTime, writers: u16) -> Self {
        let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = format!("{}_{}", since.as_micros(), std::process::id());
        let [rows, registers] = ["rows", "registers"].map(|kind| format!("{SCHEMA}.{kind}_{run}"));
        Self { rows, registers, writers }
    }

    pub(super) fn names(&self) -> [String; 2] {
        [self.rows.clone(), self.registers.clone()]
    }

    pub(super) fn writers(&self) -> impl Iterator<Item = ClientId> + use<> {
        (0..self.writers).map(ClientId)
    }

    /// Makes the tables; tries again what may be over soon, for `within` altogether.
    pub(super) async fn make(&self, door: &Door, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        let mut last = Err(format!("no connection within {within:?}"));
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let made = tokio::time::timeout(left, self.make_once(door, within)).await;
            match made {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(trouble)) if is_hopeless(trouble.cause) => return Err(trouble.words),
                Ok(Err(trouble)) => last = Err(trouble.words),
                Err(_) => (),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        last
    }

    async fn make_once(&self, door: &Door, within: Duration) -> Result<(), Trouble> {
        let mut connection = door.open().await?;
        let rows = format!(
            "create table if not exists {} (writer bigint, number bigint, primary key (writer, \
             number))",
            self.rows
        );
        let registers = format!(
            "create table if not exists {} (key bigint primary key, value bigint not null)",
            self.registers
        );
        match connection.ask_within(within, &rows).await {
            // Looked for first: to make a schema takes a right that its user may not have.
            Err(Trouble { cause: Cause::Error(code), .. }) if code.as_str() == "3F000" => {
                let schema = format!("create schema if not exists {SCHEMA}");
                connection.ask_within(within, &schema).await?;
                connection.ask_within(within, &rows).await?;
            }
            other => drop(other?),
        }
        connection.ask_within(within, &registers).await.map(drop)
    }

    /// Removes the tables, and the schema unless another run uses it.
    pub(super) async fn remove(
        &self,
        connection: &mut Connection,
        within: Duration,
    ) -> Result<(), Trouble> {
        let tables = format!("drop table if exists {}, {}", self.rows, self.registers);
        connection.ask_within(within, &tables).await?;
        match connection.ask_within(within, &format!("drop schema if exists {SCHEMA}")).await {
            // Not empty, or not ours: it is somebody else's.
            Err(Trouble { cause: Cause::Error(code), .. })
                if ["2BP01", "42501"].contains(&code.as_str()) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    pub(super) fn append(&self, row: Row) -> String {
        format!("insert into {} values ({}, {})", self.rows, row.writer.0, row.number)
    }

    /// The newest row of each writer: a look into the index for each.
    pub(super) fn tips(&self) -> String {
        format!(
            "select writer, number from (select writer, (select max(number) from {} as rows where \
             rows.writer = writers.writer) as number from generate_series(0, {}) as \
             writers(writer)) as tips where number is not null",
            self.rows,
            self.writers - 1
        )
    }

    pub(super) fn read(&self, key: Key) -> String {
        format!("select value from {} where key = {}", self.registers, key.0)
    }

    pub(super) fn write(&self, key: Key, value: Value) -> String {
        format!(
            "insert into {} values ({}, {}) on conflict (key) do update set value = excluded.value",
            self.registers, key.0, value.0
        )
    }

    /// Answers what was found, under a lock, and how many rows were changed: 0 or 1.
    pub(super) fn swap(&self, key: Key, old: Value, new: Value) -> String {
        format!(
            "with found as (select value from {table} where key = {key} for update), \
             changed as (update {table} set value = {new} where key = {key} and value = {old} \
             and exists (select from found where value = {old}) returning 1) \
             select (select value from found), (select count(*) from changed)",
            table = self.registers,
            key = key.0,
            old = old.0,
            new = new.0
        )
    }

    pub(super) fn rows_of(&self, writer: ClientId) -> String {
        format!("select number from {} where writer = {} order by 1", self.rows, writer.0)
    }

    pub(super) fn all_registers(&self) -> String {
        format!("select key, value from {}", self.registers)
    }
}

/// Whether the same will be said however often it is tried: no right, no such role or database.
fn is_hopeless(cause: Cause) -> bool {
    match cause {
        Cause::Error(code) => is(code, &["28", "3D", "42"]),
        Cause::Warning(_)
        | Cause::ConnectionLost
        | Cause::Silence
        | Cause::Ended
        | Cause::Senseless => false,
    }
}

fn is(code: Sqlstate, classes: &[&str]) -> bool {
    classes.iter().any(|class| code.as_str().starts_with(class))
}
