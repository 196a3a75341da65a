//! What operators ask of a cluster, and what becomes of it.
//!
//! A request is a record in the store, with a number. The primary works on it, and it ends by
//! exactly one [`Outcome`]: "done" is written together with the declaration that does it
//! ([`Declaration::fulfils`](crate::Declaration)), anything else by an
//! [`Action::Answer`](crate::Action). The store takes the first outcome, and keeps it.

use std::fmt;
use std::time::Duration;

use dugong_topology::{InstanceId, units};
use serde::{Deserialize, Serialize};

/// The store's count of requests. 0: nothing was ever asked.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RequestNumber(pub u64);

impl fmt::Display for RequestNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One request that has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    pub number: RequestNumber,
    /// Who asked, for people to read.
    pub by: String,
    /// When, milliseconds since 1970 by the store's clock, for people to read.
    pub asked_unix_ms: u64,
    pub what: Ask,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Switchover(Switchover),
    Promotion(Promotion),
}

/// The primary hands its office over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Switchover {
    /// The primary as whoever asked saw it. Another one refuses.
    pub from: InstanceId,
    /// The next primary; none: the sync, whoever that is.
    pub to: Option<InstanceId>,
    /// How long open transactions may take to finish before they are ended.
    #[serde(with = "units::duration")]
    pub drain: Duration,
    /// How long all of it may take, counted by the primary from when it learned of it; after that
    /// it is rolled back.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
}

/// R13: an instance makes itself primary, at the price of writes that it lacks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promotion {
    pub id: InstanceId,
    /// The primary as whoever asked saw it.
    pub from: InstanceId,
    pub over: Over,
}

/// What whoever asked has confirmed about the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// It is lost: refused while one of its leases is known to be alive.
    Lost,
    /// It may be alive, and may take writes until it learns of its successor.
    Alive,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// Nothing was begun.
    Refused {
        why: String,
    },
    /// It was begun, could not be completed, and everything is as it was.
    RolledBack {
        why: String,
    },
}
