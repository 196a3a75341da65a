//! Host names and service names: what they stand for now, kept up to date as answers lapse.
//!
//! [`Names`] answers [`Names::addresses`] and [`Names::services`]; [`connect`] goes on from an
//! address to a connection. Each answer is kept in a [`memory`] for as long as its time to live says,
//! within [`TTL_MIN`] and [`TTL_MAX`]; [`question`] asks the name servers.
//!
//! **Invariant:** no thread waits for a name server, and a name that is known costs nobody more than
//! a moment's wait: while the name servers do not answer, the last answer counts. An answer that
//! says that there is nothing is believed.
//!
//! Source: RFC 1035 (addresses), RFC 2782 (services), RFC 8767 (stale answers).

mod connect;
mod memory;
mod question;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::Address;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use tokio::time::Instant;

use crate::config::NameServerAddress;
use crate::names::memory::Memory;

pub use crate::names::connect::ConnectError;

/// The shortest and the longest that an answer counts, whatever its time to live.
///
/// Not below a second, or each new connection would ask; not above a minute, or a controller that
/// moved would be looked for at its old place for hours.
pub const TTL_MIN: Duration = Duration::from_secs(1);
pub const TTL_MAX: Duration = Duration::from_secs(60);

/// After a look-up that gave nothing, the next one waits so long.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a name stands for, and until when that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// Sorted, each once; at least one.
    pub found: Arc<[T]>,
    pub valid_until: Instant,
}

/// Why a name stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A name server said so.
    #[error("the name {name} has no {records}: correct the name, or its records in the DNS")]
    Absent { name: String, records: &'static str },
    /// Nobody said anything about it. What was known before counts on.
    #[error("the name {name} could not be looked up ({why}): check the name servers")]
    Away { name: String, why: String },
}

/// The names that this process knows.
pub struct Names {
    resolver: TokioResolver,
    hosts: Memory<IpAddr>,
    services: Memory<Address>,
}

impl Names {
    /// Asks these name servers; without any, those of `/etc/resolv.conf`.
    ///
    /// # Errors
    ///
    /// The resolver's refusal of its configuration.
    pub fn new(servers: &[NameServerAddress]) -> Result<Self, NetError> {
        let resolver = question::resolver(servers)?;
        Ok(Self { resolver, hosts: Memory::default(), services: Memory::default() })
    }

    /// The addresses of a host; one that is an address already needs no look-up.
    ///
    /// # Errors
    ///
    /// It has none, or nobody knows and nobody ever did.
    pub async fn addresses(&self, host: &str) -> Result<Answer<IpAddr>, NameError> {
        if let Ok(ip) = host.parse() {
            let valid_until = Instant::now() + TTL_MAX;
            return Ok(Answer { found: Arc::new([ip]), valid_until });
        }
        let look = || question::addresses(self.resolver.clone(), host.to_owned());
        self.hosts.get(host, look).await
    }

    /// One address of a host, where nobody has to wait for it.
    pub fn known_address(&self, host: &str) -> Option<IpAddr> {
        let is_address = host.parse().ok();
        is_address
            .or_else(|| self.hosts.known(host).and_then(|answer| answer.found.first().copied()))
    }

    /// The hosts and ports of a service (`_dugong._tcp.main.example`), of all priorities.
    ///
    /// # Errors
    ///
    /// It has none, or nobody knows and nobody ever did.
    pub async fn services(&self, name: &str) -> Result<Answer<Address>, NameError> {
        let look = || question::services(self.resolver.clone(), name.to_owned());
        self.services.get(name, look).await
    }
}
