//! The names of the zone: which there are, and what is asked with one.
//!
//! ```text
//! <zone>                                                     the zone itself: SOA, NS
//! primary.<cluster>.<zone>, sync., replica., controller.     the hosts of a service
//! <instance>.<cluster>.<zone>                                PostgreSQL's host of one instance
//! <instance>.controller.<cluster>.<zone>                     its controller's host
//! _postgresql._tcp.<primary|sync|replica|instance>.<cluster>.<zone>   SRV
//! _dugong._tcp.<cluster>.<zone>                              SRV of the controllers' HTTP
//! ```
//!
//! **Invariant:** whether a name exists depends on the zone, the cluster and which instances the
//! topology names; never on who holds which office just now.

use hickory_proto::ProtoError;
use hickory_proto::rr::Name;

use crate::publish::services::Service;

/// The zone of one cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Lower case, with its root.
    origin: Name,
    cluster: String,
    ttl_secs: u32,
}

/// What a name is, as far as it can be told without the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Somebody else's.
    Outside,
    /// The zone itself.
    Apex,
    /// A name that is there only because there are names below it.
    Between,
    /// The hosts of a service.
    Hosts(Service),
    /// PostgreSQL's host of one instance, if there is one of that name.
    Instance(String),
    /// The controller's host of one instance, if there is one of that name.
    InstanceController(String),
    /// As [`Asked::Between`], below an instance, if there is one of that name.
    BelowInstance(String),
    /// Where a service is.
    Servers(Service),
    /// Where PostgreSQL is of one instance, if there is one of that name.
    InstanceServer(String),
    /// A name that no topology gives a meaning.
    Nothing,
}

impl Zone {
    /// The zone `origin` with the names of `cluster`; all records live for `ttl_secs` seconds.
    ///
    /// # Errors
    ///
    /// An origin that is no name.
    pub fn new(origin: &str, cluster: &str, ttl_secs: u32) -> Result<Self, ProtoError> {
        let mut origin = Name::from_ascii(origin)?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Self { origin, cluster: cluster.to_owned(), ttl_secs })
    }

    pub(super) fn origin(&self) -> &Name {
        &self.origin
    }

    pub(super) fn ttl_secs(&self) -> u32 {
        self.ttl_secs
    }

    /// The name of these labels in front of the cluster's.
    pub(super) fn name(&self, labels: &[&str]) -> Result<Name, ProtoError> {
        let labels = labels.iter().copied().chain([self.cluster.as_str()]);
        let mut name = Name::from_labels(labels.map(str::as_bytes))?.append_domain(&self.origin)?;
        name.set_fqdn(true);
        Ok(name)
    }

    /// Which name of the zone `name` is. Upper and lower case are the same.
    pub(super) fn asked(&self, name: &Name) -> Asked {
        if !self.origin.zone_of(name) {
            return Asked::Outside;
        }
        let below = usize::from(name.num_labels() - self.origin.num_labels());
        // What is no text is no name of ours either.
        let labels: Vec<_> = name
            .iter()
            .take(below)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let Some((cluster, labels)) = labels.split_last() else { return Asked::Apex };
        if *cluster != self.cluster {
            return Asked::Nothing;
        }
        match labels {
            [] | ["_tcp"] => Asked::Between,
            ["_dugong", "_tcp"] => Asked::Servers(Service::Controller),
            [host] => match office(host) {
                Some(service) => Asked::Hosts(service),
                None => Asked::Instance((*host).to_owned()),
            },
            [instance, "controller"] => Asked::InstanceController((*instance).to_owned()),
            ["_tcp", host] => match office(host) {
                Some(_) => Asked::Between,
                None => Asked::BelowInstance((*host).to_owned()),
            },
            ["_postgresql", "_tcp", host] => match office(host) {
                Some(service) => Asked::Servers(service),
                None => Asked::InstanceServer((*host).to_owned()),
            },
            _ => Asked::Nothing,
        }
    }
}

/// The service that a label names. An instance of such a name has none of its own.
pub(super) fn office(label: &str) -> Option<Service> {
    match Service::named(label)? {
        // Every instance has a name of its own.
        Service::Postgres => None,
        service @ (Service::Primary | Service::Sync | Service::Replica | Service::Controller) => {
            Some(service)
        }
    }
}
