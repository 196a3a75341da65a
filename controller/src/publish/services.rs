//! The services of a cluster: who answers for what, for everything that is not our own proxy.
//!
//! | service | its instances | its leader |
//! | --- | --- | --- |
//! | `postgres` | every instance with a known address, whatever it does | the primary, while it takes writes |
//! | `primary` | the primary, while it takes writes | the same |
//! | `sync` | the sync, while it is fit | the same |
//! | `replica` | every fit standby, in chain order | the first of them |
//! | `controller` | the controllers that are present (all that are known, if none is) | the primary's |
//!
//! [`Services`] is made with each topology, beside it; a service that did not change is shared with
//! the topology before. `feed` encodes its events, `pages` answers over HTTP, `dns` asks the same
//! questions in another language.
//!
//! **Invariant:** a function of the topology and of the services before it. What is sent to
//! many watchers is encoded once.

mod document;
mod feed;
pub(super) mod pages;

use std::sync::Arc;

use bytes::Bytes;
use dugong_topology::{Address, InstanceId, Member, Phase, Role, Topology, Version};
use serde::Serialize;

use document::{Led, Listed, Whole};
use feed::Feed;

/// Something that instances of a cluster do for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Postgres,
    Primary,
    Sync,
    Replica,
    Controller,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    /// Where the service is: PostgreSQL's address, or the controller's HTTP.
    pub(super) address: Address,
    pub(super) role: Option<Role>,
    /// See [`Member::healthy`].
    healthy: bool,
    state: String,
}

impl Service {
    /// In the order of the documents.
    pub(super) const ALL: [Self; 5] =
        [Self::Postgres, Self::Primary, Self::Sync, Self::Replica, Self::Controller];

    /// As in paths and names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Primary => "primary",
            Self::Sync => "sync",
            Self::Replica => "replica",
            Self::Controller => "controller",
        }
    }

    /// The service of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// Who answers for it just now, in chain order.
    pub(super) fn instances(self, topology: &Topology) -> Vec<Instance> {
        let has = topology.members().filter(|(role, member)| self.has(topology, *role, member));
        let found: Vec<_> = has.filter_map(|(role, member)| self.instance(role, member)).collect();
        match self {
            Self::Controller if found.is_empty() => self.known(topology).collect(),
            Self::Postgres | Self::Primary | Self::Sync | Self::Replica | Self::Controller => found,
        }
    }

    /// Every member with its address for this service, whatever it does.
    pub(super) fn known(self, topology: &Topology) -> impl Iterator<Item = Instance> {
        topology.members().filter_map(move |(role, member)| self.instance(role, member))
    }

    /// Whether a member answers for it.
    fn has(self, topology: &Topology, role: Option<Role>, member: &Member) -> bool {
        // A primary that lost its session alone may go on for as long as its link lives, so its
        // health does not matter here; the phase does.
        let open = role == Some(Role::Primary) && topology.phase == Phase::ReadWrite;
        match self {
            Self::Postgres => true,
            Self::Primary => open,
            Self::Sync => role == Some(Role::Sync) && member.healthy,
            Self::Replica => matches!(role, Some(Role::Sync | Role::Async)) && member.healthy,
            Self::Controller => !matches!(member.state.as_str(), "unreachable" | "unknown"),
        }
    }

    /// None where its address is not known.
    fn instance(self, role: Option<Role>, member: &Member) -> Option<Instance> {
        let address = match self {
            Self::Controller => &member.http,
            Self::Postgres | Self::Primary | Self::Sync | Self::Replica => &member.address,
        };
        let address = address.clone()?;
        let Member { id, healthy, state, .. } = member.clone();
        Some(Instance { id, address, role, healthy, state })
    }

    /// The one of its instances that leads.
    fn leader(self, topology: &Topology, instances: &[Instance]) -> Option<Instance> {
        let leads = |instance: &&Instance| match self {
            Self::Postgres => {
                instance.role == Some(Role::Primary) && topology.phase == Phase::ReadWrite
            }
            Self::Controller => instance.role == Some(Role::Primary),
            Self::Primary | Self::Sync | Self::Replica => true,
        };
        instances.iter().find(leads).cloned()
    }
}

/// All services at one version of the topology, encoded.
#[derive(Debug)]
pub(super) struct Services {
    states: [Arc<ServiceState>; 5],
    /// The newest of the states' versions.
    since: Version,
    /// The document of all of them.
    document: Bytes,
}

/// One service since its last change.
#[derive(Debug)]
pub(super) struct ServiceState {
    service: Service,
    instances: Vec<Instance>,
    leader: Option<Instance>,
    /// The version with which it became what it is.
    since: Version,
    /// The answers of `/instances` and `/leader`.
    listing: Bytes,
    leading: Bytes,
    /// The events of its watchers.
    feed: Feed,
}

impl Services {
    /// The services of `topology`; `before` are those of the topology before it.
    pub(super) fn new(
        topology: &Topology,
        before: Option<&Self>,
    ) -> Result<Self, serde_json::Error> {
        let state = |at: usize| {
            let before = before.map(|before| &before.states[at]);
            ServiceState::new(Service::ALL[at], topology, before)
        };
        let states = [state(0)?, state(1)?, state(2)?, state(3)?, state(4)?];
        let since = states.iter().map(|state| state.since).max().unwrap_or_default();
        let document = serde_json::to_vec(&Whole {
            cluster: &topology.cluster,
            version: since.into(),
            services: states.iter().map(|state| (state.service.name(), state.listed())).collect(),
        })?;
        Ok(Self { states, since, document: Bytes::from(document) })
    }

    fn of(&self, service: Service) -> &Arc<ServiceState> {
        &self.states[service as usize]
    }
}

impl ServiceState {
    /// The state before, if nothing changed.
    fn new(
        service: Service,
        topology: &Topology,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, serde_json::Error> {
        let instances = service.instances(topology);
        let leader = service.leader(topology, &instances);
        if let Some(before) = before
            && (&before.instances, &before.leader) == (&instances, &leader)
        {
            return Ok(before.clone());
        }
        let mut state = Self {
            service,
            instances,
            leader,
            since: topology.version(),
            listing: Bytes::new(),
            leading: Bytes::new(),
            feed: Feed::default(),
        };
        state.listing = Bytes::from(serde_json::to_vec(&state.listed())?);
        state.leading = Bytes::from(serde_json::to_vec(&Led {
            service: service.name(),
            version: state.since.into(),
            leader: state.leader.as_ref(),
        })?);
        state.feed = Feed::new(&state, before.map(|before| &**before))?;
        Ok(Arc::new(state))
    }

    fn listed(&self) -> Listed<'_> {
        Listed {
            service: self.service.name(),
            version: self.since.into(),
            leader: self.leader.as_ref().map(|leader| &leader.id),
            instances: &self.instances,
        }
    }
}

#[cfg(test)]
mod tests;
