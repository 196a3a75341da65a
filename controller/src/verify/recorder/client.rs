//! One client at the write address: does one thing after the other, and writes down what it was
//! told.
//!
//! **Invariant:** an operation is recorded whatever becomes of it, unless it was a read without an
//! answer, which has neither done nor seen anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::connection::{Answer, Connection, Door, Trouble};
use super::dice::Dice;
use super::shared::Shared;
use crate::verify::history::{Action, ClientId, History, Key, Moment, Operation, Row, Value};
use crate::verify::outcome::{self, Cause, Outcome};

/// Between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(10);

/// Values of one client are this far from those of the next.
const VALUES_EACH: u64 = 1 << 40;

/// What one client has done and was told.
#[derive(Debug, Default)]
pub(super) struct Record {
    operations: Vec<Operation>,
    failed_reads: BTreeMap<Cause, u64>,
    failed_connects: BTreeMap<Cause, u64>,
}

impl Record {
    pub(super) fn add_to(self, history: &mut History) {
        history.operations.extend(self.operations);
        add(&mut history.failed_reads, self.failed_reads);
        add(&mut history.failed_connects, self.failed_connects);
    }
}

fn add(all: &mut BTreeMap<Cause, u64>, more: BTreeMap<Cause, u64>) {
    for (cause, count) in more {
        *all.entry(cause).or_default() += count;
    }
}

/// Works until everybody is told to end.
pub(super) async fn work(id: ClientId, door: Door, shared: Arc<Shared>) -> Record {
    let mut client = Client {
        id,
        dice: Dice::new(shared.seed, u64::from(id.0)),
        rows: 0,
        values: u64::from(id.0) * VALUES_EACH,
        known: BTreeMap::new(),
        record: Record::default(),
    };
    let mut pace = interval(shared.pace.max(Duration::from_micros(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<Connection> = None;
    while !shared.is_stopped() {
        let Some(open) = connection.as_mut().filter(|connection| !connection.is_lost()) else {
            // Closed first: one client has one connection.
            drop(connection.take());
            connection = client.connect(&door, &shared).await;
            continue;
        };
        // A client that is told to end need not wait for its turn.
        tokio::select! {
            _ = pace.tick() => client.act(open, &shared).await,
            () = shared.stopped() => (),
        }
    }
    client.record
}

struct Client {
    id: ClientId,
    dice: Dice,
    /// Rows tried so far.
    rows: u64,
    /// The last value used.
    values: u64,
    /// The last value that this client knows of each place, and of which register there.
    known: BTreeMap<u64, (Key, Value)>,
    record: Record,
}

impl Client {
    async fn connect(&mut self, door: &Door, shared: &Shared) -> Option<Connection> {
        // Nothing was asked yet: an attempt can be dropped at any time.
        let opened = tokio::select! {
            opened = door.open() => opened,
            () = shared.stopped() => return None,
        };
        match opened {
            Ok(connection) => Some(connection),
            Err(trouble) => {
                shared.not_connected();
                *self.record.failed_connects.entry(trouble.cause).or_default() += 1;
                tokio::time::sleep(RECONNECT).await;
                None
            }
        }
    }

    /// One operation, drawn from the dice.
    async fn act(&mut self, connection: &mut Connection, shared: &Shared) {
        let kind = self.dice.below(100);
        if kind < 35 {
            self.rows += 1;
            let row = Row { writer: self.id, number: self.rows };
            let sql = shared.tables.append(row);
            return self.write(connection, shared, &sql, Action::Append(row)).await;
        }
        if kind < 50 {
            return self.tips(connection, shared).await;
        }
        let place = self.dice.below(u64::from(u16::MAX));
        let key = shared.register(place);
        let known = self.known.get(&place_of(key, shared)).filter(|(of, _)| *of == key);
        match known.map(|(_, value)| *value) {
            Some(old) if kind >= 85 => self.swap(connection, shared, key, old).await,
            _ if kind < 65 => {
                let value = self.new_value();
                let sql = shared.tables.write(key, value);
                self.know(shared, key, value);
                self.write(connection, shared, &sql, Action::Write { key, value }).await;
            }
            _ => self.read(connection, shared, key).await,
        }
    }

    fn new_value(&mut self) -> Value {
        self.values += 1;
        Value(self.values)
    }

    fn know(&mut self, shared: &Shared, key: Key, value: Value) {
        self.known.insert(place_of(key, shared), (key, value));
    }

    async fn write(
        &mut self,
        connection: &mut Connection,
        shared: &Shared,
        sql: &str,
        action: Action,
    ) {
        let called = shared.now();
        let told = connection.ask(shared, sql).await;
        let outcome = told.map_or_else(
            |trouble| of_trouble(&trouble),
            |answer| outcome::of_success(answer.warning),
        );
        self.note(shared, called, action, outcome);
    }

    async fn swap(&mut self, connection: &mut Connection, shared: &Shared, key: Key, old: Value) {
        let new = self.new_value();
        let action = Action::Swap { key, old, new };
        let called = shared.now();
        let answer = match connection.ask(shared, &shared.tables.swap(key, old, new)).await {
            Ok(answer) => answer,
            Err(trouble) => return self.note(shared, called, action, of_trouble(&trouble)),
        };
        let row = answer.rows.first().map_or(&[][..], Vec::as_slice);
        match Answer::number(row, 1) {
            Some(1) => {
                self.know(shared, key, new);
                self.note(shared, called, action, outcome::of_success(answer.warning));
            }
            // Another value was there, or none at all: that is all that happened.
            Some(_) => {
                let value = Answer::number(row, 0).map_or(Value::NEVER_WRITTEN, Value);
                self.know(shared, key, value);
                self.note(shared, called, Action::Read { key, value }, Outcome::Acknowledged);
            }
            None => self.note(shared, called, action, Outcome::Unknown(Cause::Senseless)),
        }
    }

    async fn read(&mut self, connection: &mut Connection, shared: &Shared, key: Key) {
        let called = shared.now();
        let told = connection.ask(shared, &shared.tables.read(key)).await;
        let value = told.map_err(|trouble| trouble.cause).and_then(|answer| {
            let Some(row) = answer.rows.first() else {
                return Ok(Value::NEVER_WRITTEN);
            };
            Answer::number(row, 0).map(Value).ok_or(Cause::Senseless)
        });
        match value {
            Ok(value) => {
                self.know(shared, key, value);
                self.note(shared, called, Action::Read { key, value }, Outcome::Acknowledged);
            }
            Err(cause) => *self.record.failed_reads.entry(cause).or_default() += 1,
        }
    }

    async fn tips(&mut self, connection: &mut Connection, shared: &Shared) {
        let called = shared.now();
        let told = connection.ask(shared, &shared.tables.tips()).await;
        match told.map_err(|trouble| trouble.cause).and_then(|answer| tips_in(&answer)) {
            Ok(tips) => self.note(shared, called, Action::Tips(tips), Outcome::Acknowledged),
            Err(cause) => *self.record.failed_reads.entry(cause).or_default() += 1,
        }
    }

    fn note(&mut self, shared: &Shared, called: Moment, action: Action, outcome: Outcome) {
        let returned = shared.now();
        if action.is_write() {
            shared.wrote(outcome, returned);
        } else {
            shared.read();
        }
        self.record.operations.push(Operation {
            client: self.id,
            called,
            returned,
            action,
            outcome,
        });
    }
}

fn place_of(key: Key, shared: &Shared) -> u64 {
    key.0 % shared.places()
}

fn of_trouble(trouble: &Trouble) -> Outcome {
    match trouble.cause {
        Cause::Error(code) => outcome::of_error(code),
        cause @ (Cause::Warning(_)
        | Cause::ConnectionLost
        | Cause::Silence
        | Cause::Ended
        | Cause::Senseless) => Outcome::Unknown(cause),
    }
}

/// The newest row of each writer, as an answer has them.
pub(super) fn tips_in(answer: &Answer) -> Result<Vec<Row>, Cause> {
    let tip = |row: &Vec<Option<String>>| {
        let writer = u16::try_from(Answer::number(row, 0)?).ok().map(ClientId)?;
        Some(Row { writer, number: Answer::number(row, 1)? })
    };
    answer.rows.iter().map(|row| tip(row).ok_or(Cause::Senseless)).collect()
}
