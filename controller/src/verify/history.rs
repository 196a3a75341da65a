//! What the clients of one run did and were told.
//!
//! **Invariant:** a history holds facts of the clients' side only, in the order of the recorder's
//! clock. Whatever is concluded from them is concluded by the judge.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::outcome::{Cause, Outcome};

/// Nanoseconds of the recorder's monotonic clock, since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` until now; zero where that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// One client at the write address, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ClientId(pub u16);

/// One row that a client appended. Its numbers grow by one with each attempt, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Row {
    pub writer: ClientId,
    pub number: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.writer.0, self.number)
    }
}

/// One register. Each is used for a short time only, so that its history stays small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(pub u64);

/// What a register holds. Nobody ever writes a value twice, nor [`Value::NEVER_WRITTEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Value(pub u64);

impl Value {
    /// What is read where nobody has written yet.
    pub const NEVER_WRITTEN: Self = Self(0);
}

/// What a client asked for at the write address, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// One row, in a transaction of its own.
    Append(Row),
    /// The newest row of each writer that has one; recorded only where an answer came.
    Tips(Vec<Row>),
    /// A register's value; recorded only where an answer came.
    Read {
        key: Key,
        value: Value,
    },
    Write {
        key: Key,
        value: Value,
    },
    /// `old` was replaced by `new`. Where another value was found instead, it is a `Read` of that.
    Swap {
        key: Key,
        old: Value,
        new: Value,
    },
}

impl Action {
    /// Whether it changes anything where it succeeds.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Self::Append(_) | Self::Write { .. } | Self::Swap { .. } => true,
            Self::Tips(_) | Self::Read { .. } => false,
        }
    }
}

/// One action of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: ClientId,
    /// Before the first byte was sent.
    pub called: Moment,
    /// After the last byte was received; when the client gave up, where the outcome is unknown.
    pub returned: Moment,
    pub action: Action,
    pub outcome: Outcome,
}

/// One answer of the read address: the newest row of each writer that has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    pub called: Moment,
    pub returned: Moment,
    pub tips: Vec<Row>,
}

/// All that is there in the end, read through the write address by a connection of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub called: Moment,
    pub returned: Moment,
    /// In ascending order.
    pub rows: Vec<Row>,
    /// Registers that somebody has written.
    pub registers: BTreeMap<Key, Value>,
}

/// Everything that one run recorded.
#[derive(Clone, Debug)]
pub struct History {
    /// The wall clock at the moment 0; for people to read.
    pub began: SystemTime,
    /// When the clients were told to end.
    pub ended: Moment,
    /// In no particular order.
    pub operations: Vec<Operation>,
    /// Reads at the write address that got no answer, or an error, by cause.
    pub failed_reads: BTreeMap<Cause, u64>,
    /// Attempts to connect to the write address that failed, by cause.
    pub failed_connects: BTreeMap<Cause, u64>,
    /// Answers of the read address, in order; none: there is no read address.
    pub glances: Option<Vec<Glance>>,
    /// Reads at the read address without an answer, and failed attempts to connect, by cause.
    pub failed_glances: BTreeMap<Cause, u64>,
    /// The last looks, in order; fewer than wanted where the address did not answer in time.
    pub looks: Vec<Look>,
    /// Why there are fewer looks than wanted.
    pub unreachable: Option<String>,
    /// Why the tables could not be removed, though they should have been.
    pub left_behind: Option<String>,
    /// The run was ended early because the record had grown to its bound.
    pub full: Option<Moment>,
}

impl History {
    /// One that nobody has added to.
    #[must_use]
    pub fn new(began: SystemTime) -> Self {
        Self {
            began,
            ended: Moment(0),
            operations: Vec::new(),
            failed_reads: BTreeMap::new(),
            failed_connects: BTreeMap::new(),
            glances: None,
            failed_glances: BTreeMap::new(),
            looks: Vec::new(),
            unreachable: None,
            left_behind: None,
            full: None,
        }
    }
}
