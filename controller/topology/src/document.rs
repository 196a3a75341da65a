//! The topology document: what clients see of a cluster.
//!
//! A projection of the state record and of what the instances say about themselves. The names of
//! its keys are a contract: keys are added, never renamed or removed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Address, Generation, InstanceId, Making, Position, Revision, Role, Version};

/// What clients see of one cluster at one [`Version`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The cluster's name.
    pub cluster: String,
    /// 0 while no state record exists.
    pub generation: Generation,
    pub revision: Revision,
    pub phase: Phase,
    pub primary: Option<Member>,
    pub sync: Option<Member>,
    /// In chain order.
    #[serde(default)]
    pub asyncs: Vec<Member>,
    #[serde(default)]
    pub deposed: Vec<Member>,
    /// Present, but not in the state record yet.
    #[serde(default)]
    pub newcomers: Vec<Member>,
    /// The position at which the generation begins; none while no state record exists.
    pub began_at: Option<Position>,
    /// None: transitions are automatic.
    pub frozen: Option<Freeze>,
    /// The primary has no sync, as the operator wanted it: acknowledged writes are on it only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_node: bool,
    /// Why this generation was declared, in words.
    pub reason: Option<String>,
    /// When this generation was declared, RFC 3339 in UTC, by the declarer's clock.
    #[serde(default)]
    pub since: Option<String>,
    /// Why writes wait, and what ends it; none while they do not.
    #[serde(default)]
    pub waiting: Option<String>,
    /// When the publisher published it, milliseconds since 1970 by its clock. Says nothing about
    /// the cluster: two documents of one version may differ in it.
    #[serde(default)]
    pub published_at_ms: Option<u64>,
}

/// Whether, and why not, the write address leads to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No state record exists: the cluster was not bootstrapped yet.
    Unformed,
    /// A primary is in office, but its sync has not caught up (R5).
    CatchingUp,
    /// The primary takes writes.
    ReadWrite,
    /// The primary is about to stop in order, for another one: whoever is between two transactions
    /// leaves it.
    HandingOver,
    /// The record's primary runs no server.
    NoPrimary,
}

impl Phase {
    /// The name in the document, and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unformed => "unformed",
            Self::CatchingUp => "catching_up",
            Self::ReadWrite => "read_write",
            Self::HandingOver => "handing_over",
            Self::NoPrimary => "no_primary",
        }
    }
}

/// One instance, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: InstanceId,
    /// Where its PostgreSQL listens; none where it was never present.
    pub address: Option<Address>,
    /// Present, and its server runs in the role that the record gives it.
    pub healthy: bool,
    /// The end of its WAL (flushed); none where unknown.
    pub position: Option<Position>,
    /// Where its controller answers.
    #[serde(default)]
    pub http: Option<Address>,
    /// What its server does, in one or two words: `running`, `copying`, `unreachable`.
    #[serde(default)]
    pub state: String,
    /// The instance that it receives WAL from just now.
    #[serde(default)]
    pub upstream: Option<InstanceId>,
    /// WAL bytes that the primary has and reads here do not show yet. Standbys only; none: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Age of what reads here show, at the primary's last word. Standbys only; none: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<Lag>,
    /// How far its data has come, while that is made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub making: Option<Making>,
    /// What it does or waits for, in words; none where there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A lag in milliseconds; in the document a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lag {
    pub millis: u64,
}

impl Serialize for Lag {
    #[expect(clippy::cast_precision_loss, reason = "exact below 285,000 years")]
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.millis as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Lag {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and a negative lag means none"
    )]
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self { millis: (f64::deserialize(from)? * 1000.0).round() as u64 })
    }
}

/// An operator's word that no transition happens by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Freeze {
    /// Who froze it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
}

impl Topology {
    /// The document of a cluster that has no state record.
    pub fn unformed(cluster: String, revision: Revision) -> Self {
        Self {
            cluster,
            generation: Generation::default(),
            revision,
            phase: Phase::Unformed,
            primary: None,
            sync: None,
            asyncs: Vec::new(),
            deposed: Vec::new(),
            newcomers: Vec::new(),
            began_at: None,
            frozen: None,
            one_node: false,
            reason: None,
            since: None,
            waiting: None,
            published_at_ms: None,
        }
    }

    /// Where this document stands in the order of all of the cluster's documents.
    pub fn version(&self) -> Version {
        Version { generation: self.generation, revision: self.revision }
    }

    /// Whether an observer of `other` may move on to this document.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.version() > other.version()
    }

    /// The sync, then the asyncs.
    pub fn standbys(&self) -> impl Iterator<Item = &Member> {
        self.sync.iter().chain(&self.asyncs)
    }

    /// Every instance with its role, primary first, in chain order; newcomers last, without one.
    pub fn members(&self) -> impl Iterator<Item = (Option<Role>, &Member)> {
        let with = |role| move |member| (role, member);
        self.primary
            .iter()
            .map(with(Some(Role::Primary)))
            .chain(self.sync.iter().map(with(Some(Role::Sync))))
            .chain(self.asyncs.iter().map(with(Some(Role::Async))))
            .chain(self.deposed.iter().map(with(Some(Role::Deposed))))
            .chain(self.newcomers.iter().map(with(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document of the contract, as an application may have stored it.
    const CONTRACT: &str = r#"{"cluster":"main","generation":3,"revision":42,"phase":"read_write",
        "primary":{"id":"pg-1","address":"127.0.0.1:5501","healthy":true,
                   "position":{"timeline":2,"lsn":"0/5000060"}},
        "sync":{"id":"pg-2","address":"127.0.0.1:5502","healthy":true,
                "position":{"timeline":2,"lsn":"0/5000060"},"lag_bytes":0,"lag_seconds":0.25},
        "asyncs":[],"deposed":[],"began_at":{"timeline":2,"lsn":"0/4FFFFD8"},"frozen":null,
        "reason":"primary lost","a_key_of_the_future":1}"#;

    #[test]
    fn the_contract_reads_and_unknown_keys_are_passed_over() {
        let topology: Topology = serde_json::from_str(CONTRACT).unwrap();
        assert_eq!(topology.phase, Phase::ReadWrite);
        assert_eq!(topology.version().generation, Generation(3));
        let sync = topology.sync.clone().unwrap();
        assert_eq!(sync.lag_seconds, Some(Lag { millis: 250 }));
        let again: Topology =
            serde_json::from_str(&serde_json::to_string(&topology).unwrap()).unwrap();
        assert_eq!(again, topology);
    }

    #[test]
    fn a_later_generation_wins_over_any_revision() {
        let of = |generation, revision| Topology {
            generation: Generation(generation),
            ..Topology::unformed("main".to_owned(), Revision(revision))
        };
        assert!(of(4, 1).supersedes(&of(3, 99)));
        assert!(of(3, 100).supersedes(&of(3, 99)));
        assert!(!of(3, 99).supersedes(&of(3, 99)));
        assert!(!of(2, 1000).supersedes(&of(3, 99)));
    }
}
