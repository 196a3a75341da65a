//! The keys and values of one cluster, and the snapshot that they make.

use std::collections::BTreeMap;

use dugong_machine::{
    Declared, Instance, Outcome, Presence, Record, Request, RequestNumber, Session, Snapshot,
};
use dugong_topology::Revision;
use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};

use super::super::Edition;
use super::super::codec;
use super::super::requests::{Ended, OUTCOMES_SHOWN};
use super::keys::{Key, Keys, OfInstance};
use super::trouble::Trouble;

/// The state record, as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    /// When its generation was declared.
    pub(super) since_unix_ms: u64,
    /// When it was declared itself.
    pub(super) at_unix_ms: u64,
    pub(super) record: Record,
}

/// A value, and the revision of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) revision: i64,
}

impl Value {
    pub(super) fn of(pair: &KeyValue) -> Result<Self, Trouble> {
        let text = pair.value_str().map_err(|_no_text| malformed(pair.key()))?;
        Ok(Self { text: text.to_owned(), revision: pair.mod_revision() })
    }
}

/// Everything below `now/`.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    values: BTreeMap<String, Value>,
}

impl Content {
    pub(super) fn of(pairs: &[KeyValue]) -> Result<Self, Trouble> {
        let mut content = Self::default();
        for pair in pairs {
            content.put(pair)?;
        }
        Ok(content)
    }

    pub(super) fn put(&mut self, pair: &KeyValue) -> Result<(), Trouble> {
        self.values.insert(name(pair)?, Value::of(pair)?);
        Ok(())
    }

    pub(super) fn delete(&mut self, pair: &KeyValue) -> Result<(), Trouble> {
        self.values.remove(&name(pair)?);
        Ok(())
    }

    /// The settings of the cluster.
    pub(super) fn settings(&self, keys: &Keys) -> Result<Edition, Trouble> {
        self.values.get(&keys.settings()).map_or_else(|| Ok(Edition::default()), edition)
    }

    /// What it says at `revision`.
    pub(super) fn snapshot(&self, keys: &Keys, revision: i64) -> Result<Snapshot, Trouble> {
        let mut snapshot = Snapshot { revision: as_revision(revision), ..Snapshot::default() };
        let mut words = BTreeMap::new();
        let mut alive = Vec::new();
        for (key, value) in &self.values {
            match keys.meaning(key) {
                Key::Record => {
                    let Kept { since_unix_ms, record, at_unix_ms: _ } = codec::decode(&value.text)?;
                    let revision = as_revision(value.revision);
                    snapshot.declared = Some(Declared { record, revision, since_unix_ms });
                }
                Key::Request => {
                    let request: Request = codec::decode(&value.text)?;
                    snapshot.requests.insert(request.number, request);
                }
                Key::Outcome(number) => {
                    let Ended { outcome } = codec::decode::<Ended<Outcome>>(&value.text)?;
                    snapshot.outcomes.insert(RequestNumber(number), outcome);
                }
                Key::Instance(id, OfInstance::Word) => {
                    words.insert(id, codec::decode::<Presence>(&value.text)?);
                }
                Key::Instance(id, OfInstance::Session) => alive.push(id),
                Key::Instance(_, OfInstance::Handover | OfInstance::Epoch | OfInstance::Said)
                | Key::Settings
                | Key::Other => (),
            }
        }
        while snapshot.outcomes.len() > usize::from(OUTCOMES_SHOWN) {
            snapshot.outcomes.pop_first();
        }
        for (id, presence) in words {
            let session = if alive.contains(&id) { Session::Alive } else { Session::Lapsed };
            snapshot.instances.insert(presence.id.clone(), Instance { presence, session });
        }
        Ok(snapshot)
    }
}

/// The settings that a value holds.
pub(super) fn edition(value: &Value) -> Result<Edition, Trouble> {
    let settings = codec::decode(&value.text)?;
    Ok(Edition { revision: as_revision(value.revision), settings })
}

/// etcd's revisions are never negative.
pub(super) fn as_revision(revision: i64) -> Revision {
    Revision(revision.unsigned_abs())
}

fn name(pair: &KeyValue) -> Result<String, Trouble> {
    pair.key_str().map(str::to_owned).map_err(|_no_text| malformed(pair.key()))
}

fn malformed(key: &[u8]) -> Trouble {
    Trouble::Malformed { key: String::from_utf8_lossy(key).into_owned() }
}
