//! The documents of services: what their JSON looks like, key by key.
//!
//! The names of the keys are a contract: keys are added, never renamed or removed.

use std::collections::BTreeMap;

use dugong_topology::{Generation, InstanceId, Revision, Version};
use serde::Serialize;

use super::Instance;

/// `generation` and `revision`, as in the topology.
#[derive(Debug, Serialize)]
pub(super) struct Numbers {
    generation: Generation,
    revision: Revision,
}

impl From<Version> for Numbers {
    fn from(Version { generation, revision }: Version) -> Self {
        Self { generation, revision }
    }
}

/// `/v1/services`: at the version of the newest change of any of them.
#[derive(Debug, Serialize)]
pub(super) struct Whole<'a> {
    pub(super) cluster: &'a str,
    #[serde(flatten)]
    pub(super) version: Numbers,
    pub(super) services: BTreeMap<&'static str, Listed<'a>>,
}

/// `/v1/services/{name}/instances`: at the version of its last change.
#[derive(Debug, Serialize)]
pub(super) struct Listed<'a> {
    pub(super) service: &'static str,
    #[serde(flatten)]
    pub(super) version: Numbers,
    /// One of the instances.
    pub(super) leader: Option<&'a InstanceId>,
    /// In chain order.
    pub(super) instances: &'a [Instance],
}

/// `/v1/services/{name}/leader`.
#[derive(Debug, Serialize)]
pub(super) struct Led<'a> {
    pub(super) service: &'static str,
    #[serde(flatten)]
    pub(super) version: Numbers,
    pub(super) leader: Option<&'a Instance>,
}

/// The data of one event.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Told<'a> {
    /// Null where a leader is gone and nobody follows.
    Instance {
        service: &'static str,
        kind: &'static str,
        instance: Option<&'a Instance>,
    },
    Mark {
        service: &'static str,
        kind: &'static str,
    },
}
