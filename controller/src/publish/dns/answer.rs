//! From a topology and a question to the records of an answer.
//!
//! Addresses become A and AAAA. An instance whose address is a host name is that name: as the
//! target of its SRV record, and by a CNAME record where addresses are asked for. Where several
//! instances share a name, those with addresses are its answer; only if none has any, the name is
//! a CNAME to one of them, to another one each turn. Host names within the zone would lead back
//! here, and are passed over.
//!
//! **Invariant:** pure. No record names an instance that the topology does not name.
//!
//! Source: RFC 1034 and 1035; RFC 2782 (SRV); RFC 2308 (negative answers).

use std::net::IpAddr;

use dugong_topology::Topology;
use hickory_proto::ProtoError;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::{Asked, Zone, office};
use crate::publish::services::{Instance, Service};

/// Nobody copies the zone, so these two are only what the format asks for.
const REFRESH_SECS: i32 = 60;
const EXPIRE_SECS: i32 = 3600;

/// Equal for all: who asks picks one at random.
const WEIGHT: u16 = 10;

/// The three sections, and whether the name exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// One question of a client.
#[derive(Clone, Debug)]
pub(super) struct Question<'a> {
    pub(super) name: &'a Name,
    pub(super) asked: Asked,
    pub(super) kind: RecordType,
    /// Where to begin in lists of equals: any number that differs from question to question.
    pub(super) turn: usize,
}

/// Answers `question` from `topology`.
pub(super) fn answer(
    zone: &Zone,
    topology: &Topology,
    question: &Question<'_>,
) -> Result<Answer, ProtoError> {
    let world = World { zone, topology };
    let named = |id: &str| {
        let mut all = Service::Postgres.instances(topology);
        all.retain(|instance| instance.id.as_str() == id);
        let known = topology.members().any(|(_, member)| member.id.as_str() == id);
        known.then_some(all)
    };
    match &question.asked {
        Asked::Outside => Ok(Answer::empty(ResponseCode::Refused)),
        Asked::Apex => world.apex(question),
        Asked::Between => world.negative(ResponseCode::NoError),
        Asked::Nothing => world.negative(ResponseCode::NXDomain),
        Asked::Hosts(service) => world.hosts(question, service.instances(topology)),
        Asked::Servers(service) => world.servers(question, *service, service.instances(topology)),
        Asked::Instance(id) => match named(id) {
            Some(instances) => world.hosts(question, instances),
            None => world.negative(ResponseCode::NXDomain),
        },
        Asked::InstanceServer(id) => match named(id) {
            Some(instances) => world.servers(question, Service::Postgres, instances),
            None => world.negative(ResponseCode::NXDomain),
        },
        Asked::BelowInstance(id) => world.negative(match named(id) {
            Some(_) => ResponseCode::NoError,
            None => ResponseCode::NXDomain,
        }),
        Asked::InstanceController(id) => match named(id) {
            Some(_) => world.hosts(question, world.controllers_of(id)),
            None => world.negative(ResponseCode::NXDomain),
        },
    }
}

impl Answer {
    pub(super) fn empty(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

#[derive(Clone, Copy)]
struct World<'a> {
    zone: &'a Zone,
    topology: &'a Topology,
}

impl World<'_> {
    fn record(self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.zone.ttl_secs(), data)
    }

    /// No records; the SOA says for how long that may be believed.
    fn negative(self, code: ResponseCode) -> Result<Answer, ProtoError> {
        Ok(Answer { authorities: vec![self.soa()?], ..Answer::empty(code) })
    }

    fn positive(self, answers: Vec<Record>) -> Result<Answer, ProtoError> {
        if answers.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        Ok(Answer { answers, ..Answer::empty(ResponseCode::NoError) })
    }

    /// The serial number is the revision, in the arithmetic of serial numbers (RFC 1982).
    fn soa(self) -> Result<Record, ProtoError> {
        let origin = self.zone.origin();
        let serial = u32::try_from(self.topology.revision.0 & u64::from(u32::MAX));
        let ttl = self.zone.ttl_secs();
        let soa = SOA::new(
            self.zone.name(&[Service::Controller.name()])?,
            origin.prepend_label("hostmaster")?,
            serial.unwrap_or_default(),
            REFRESH_SECS,
            REFRESH_SECS,
            EXPIRE_SECS,
            ttl,
        );
        Ok(self.record(origin, RData::SOA(soa)))
    }

    /// Every controller answers for the zone.
    fn apex(self, question: &Question<'_>) -> Result<Answer, ProtoError> {
        let origin = self.zone.origin();
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        if matches!(question.kind, RecordType::SOA | RecordType::ANY) {
            answers.push(self.soa()?);
        }
        if matches!(question.kind, RecordType::NS | RecordType::ANY) {
            let controllers = Service::Controller.instances(self.topology);
            for controller in turned(controllers, question.turn) {
                let Some(target) = self.target(Service::Controller, &controller)? else { continue };
                answers.push(self.record(origin, RData::NS(NS(target.clone()))));
                additionals.extend(self.addresses(&target, [&controller], RecordType::ANY));
            }
            if !answers.iter().any(|record| record.record_type() == RecordType::NS) {
                let nobody = self.zone.name(&[Service::Controller.name()])?;
                answers.push(self.record(origin, RData::NS(NS(nobody))));
            }
        }
        Ok(Answer { additionals, ..self.positive(answers)? })
    }

    /// The addresses of `instances`, or a name for one of them.
    fn hosts(
        self,
        question: &Question<'_>,
        instances: Vec<Instance>,
    ) -> Result<Answer, ProtoError> {
        let instances = turned(instances, question.turn);
        if instances.iter().any(|instance| ip(instance).is_some()) {
            return self.positive(self.addresses(question.name, &instances, question.kind));
        }
        let host = instances.iter().find_map(|instance| self.foreign(instance));
        let alias = host.map(|host| self.record(question.name, RData::CNAME(CNAME(host))));
        self.positive(alias.into_iter().collect())
    }

    /// SRV records, and the addresses of their targets.
    fn servers(
        self,
        question: &Question<'_>,
        service: Service,
        instances: Vec<Instance>,
    ) -> Result<Answer, ProtoError> {
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        if matches!(question.kind, RecordType::SRV | RecordType::ANY) {
            for instance in turned(instances, question.turn) {
                let Some(target) = self.target(service, &instance)? else { continue };
                let srv = SRV::new(0, WEIGHT, instance.address.port, target.clone());
                answers.push(self.record(question.name, RData::SRV(srv)));
                additionals.extend(self.addresses(&target, [&instance], RecordType::ANY));
            }
        }
        Ok(Answer { additionals, ..self.positive(answers)? })
    }

    /// A and AAAA, each address once.
    fn addresses<'i>(
        self,
        name: &Name,
        instances: impl IntoIterator<Item = &'i Instance>,
        kind: RecordType,
    ) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for ip in instances.into_iter().filter_map(ip) {
            let (own, data) = match ip {
                IpAddr::V4(v4) => (RecordType::A, RData::A(A(v4))),
                IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(AAAA(v6))),
            };
            let fits = kind == own || kind == RecordType::ANY;
            if fits && !records.iter().any(|record| record.data == data) {
                records.push(self.record(name, data));
            }
        }
        records
    }

    /// The name of an instance in SRV and NS records, which must be no alias.
    fn target(self, service: Service, instance: &Instance) -> Result<Option<Name>, ProtoError> {
        if ip(instance).is_none() {
            return Ok(self.foreign(instance));
        }
        let id = instance.id.as_str();
        if office(id).is_some() {
            return Ok(None); // The configuration refuses it: its name leads elsewhere.
        }
        // Controller and server share a machine, and mostly an address: then one name will do,
        // and one certificate.
        let shared = service != Service::Controller
            || self.postgres_host(id) == Some(&instance.address.host);
        if shared { self.zone.name(&[id]) } else { self.zone.name(&[id, "controller"]) }.map(Some)
    }

    fn postgres_host(&self, id: &str) -> Option<&String> {
        let mut members = self.topology.members();
        let (_, member) = members.find(|(_, member)| member.id.as_str() == id)?;
        member.address.as_ref().map(|address| &address.host)
    }

    /// The controller of one instance, present or not.
    fn controllers_of(self, id: &str) -> Vec<Instance> {
        Service::Controller.known(self.topology).filter(|one| one.id.as_str() == id).collect()
    }

    /// The host name of an instance that has no address, unless it is below the zone or no name.
    fn foreign(self, instance: &Instance) -> Option<Name> {
        let mut name = Name::from_ascii(&instance.address.host).ok()?;
        name.set_fqdn(true);
        (ip(instance).is_none() && !self.zone.origin().zone_of(&name)).then_some(name)
    }
}

fn ip(instance: &Instance) -> Option<IpAddr> {
    instance.address.host.parse().ok()
}

fn turned(mut instances: Vec<Instance>, turn: usize) -> Vec<Instance> {
    if !instances.is_empty() {
        let first = turn % instances.len();
        instances.rotate_left(first);
    }
    instances
}
