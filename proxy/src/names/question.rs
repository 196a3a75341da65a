//! The questions to the name servers, and what their answers mean.
//!
//! **Invariant:** bounded: a look-up ends after [`LOOKUP_MAX`], and no more than [`ANSWERS_MAX`] of
//! its records are used.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dugong_topology::Address;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::time::timeout;

use crate::config::NameServerAddress;
use crate::names::NameError;

/// One look-up, with its repetitions and all search domains.
pub(super) const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// One question to one server; a local network answers in milliseconds.
const SERVER_MAX: Duration = Duration::from_secs(1);

/// More instances or controllers than any cluster has.
const ANSWERS_MAX: usize = 64;

/// What was found, and its time to live.
pub(super) type Found<T> = (Vec<T>, Duration);

/// A resolver that keeps nothing: what an answer is worth is decided in one place, and not here.
pub(super) fn resolver(servers: &[NameServerAddress]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(
                "/etc/resolv.conf names no server ({error}): names are asked of this machine"
            );
            // As resolv.conf(5) has it.
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let config = ResolverConfig::from_name_servers(vec![local]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        })
    } else {
        let servers = servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = SERVER_MAX;
    options.attempts = 1;
    builder.build()
}

fn name_server(server: &NameServerAddress) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.0.port();
        connection
    });
    NameServerConfig::new(server.0.ip(), true, connections.to_vec())
}

/// The addresses of a host, IPv4 and IPv6.
pub(super) async fn addresses(
    resolver: TokioResolver,
    name: String,
) -> Result<Found<IpAddr>, NameError> {
    let looking = async { resolver.lookup_ip(name.as_str()).await.map(Lookup::from) };
    asked(&name, "address", looking, RData::ip_addr).await
}

/// The hosts and ports of a service.
pub(super) async fn services(
    resolver: TokioResolver,
    name: String,
) -> Result<Found<Address>, NameError> {
    // Search domains are for hosts that people type, not for the names of services.
    let full = format!("{}.", name.trim_end_matches('.'));
    let target = |data: &RData| {
        let RData::SRV(srv) = data else { return None };
        // A target that is the root says that there is no such service.
        (srv.port != 0 && !srv.target.is_root()).then(|| {
            let host = srv.target.to_ascii();
            Address { host: host.trim_end_matches('.').to_owned(), port: srv.port }
        })
    };
    asked(&name, "SRV record that names a host", resolver.srv_lookup(full), target).await
}

async fn asked<T: Ord>(
    name: &str,
    records: &'static str,
    looking: impl Future<Output = Result<Lookup, NetError>>,
    meaning: impl Fn(&RData) -> Option<T>,
) -> Result<Found<T>, NameError> {
    let away = |why: String| NameError::Away { name: name.to_owned(), why };
    let absent = || NameError::Absent { name: name.to_owned(), records };
    let lookup = match timeout(LOOKUP_MAX, looking).await {
        Ok(Ok(lookup)) => lookup,
        Ok(Err(error)) if error.is_no_records_found() => return Err(absent()),
        Ok(Err(error)) => return Err(away(error.to_string())),
        Err(_) => return Err(away(format!("no answer within {LOOKUP_MAX:?}"))),
    };
    let mut found: Vec<T> =
        lookup.answers().iter().filter_map(|record| meaning(&record.data)).collect();
    found.sort();
    found.dedup();
    found.truncate(ANSWERS_MAX);
    // Of the whole chain: an alias may lapse before the address that it leads to.
    let ttl = lookup.answers().iter().map(|record| record.ttl).min();
    match ttl {
        Some(ttl) if !found.is_empty() => Ok((found, Duration::from_secs(u64::from(ttl)))),
        Some(_) | None => Err(absent()),
    }
}
