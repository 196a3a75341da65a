//! Which controllers there are: what the URLs of the configuration stand for, as long as they do.
//!
//! **Invariant:** an answer that names nobody removes nobody. A controller too many changes nothing,
//! since only the newest topology counts; one too few could be the last.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dugong_topology::Address;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config::{ControllerUrl, Place, Scheme};
use crate::names::{Answer, NameError, Names, RETRY_AFTER};

/// One controller at one address: a source of the topology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) scheme: Scheme,
    /// As it was named; its certificate says this, too.
    pub(super) name: Address,
    pub(super) ip: IpAddr,
}

impl Endpoint {
    /// Where to connect to.
    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.name.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, name, ip } = self;
        write!(f, "{}://{name}", scheme.as_str())?;
        if name.host.parse() == Ok(*ip) { Ok(()) } else { write!(f, " at {ip}") }
    }
}

/// What one URL stands for from now on.
#[derive(Debug)]
pub(super) struct Located {
    /// Which of the configuration's.
    pub(super) url: usize,
    pub(super) endpoints: BTreeSet<Endpoint>,
}

/// Tells what a URL stands for, again and again as answers lapse; until nobody listens.
pub(super) async fn follow(
    index: usize,
    url: ControllerUrl,
    names: Arc<Names>,
    to: mpsc::Sender<Located>,
) {
    loop {
        let found = match &url.place {
            Place::Host(address) => host(&names, url.scheme, address).await,
            Place::Service(name) => service(&names, url.scheme, name).await,
        };
        // The failures were logged where they were found.
        let (endpoints, valid_until) =
            found.unwrap_or_else(|_| (BTreeSet::new(), Instant::now() + RETRY_AFTER));
        if !endpoints.is_empty() && to.send(Located { url: index, endpoints }).await.is_err() {
            return;
        }
        sleep_until(valid_until).await;
    }
}

type Found = (BTreeSet<Endpoint>, Instant);

async fn host(names: &Names, scheme: Scheme, name: &Address) -> Result<Found, NameError> {
    let Answer { found, valid_until } = names.addresses(&name.host).await?;
    let endpoint = |ip: &IpAddr| Endpoint { scheme, name: name.clone(), ip: *ip };
    Ok((found.iter().map(endpoint).collect(), valid_until))
}

/// A host of the service that is not known is left out until it is.
async fn service(names: &Names, scheme: Scheme, name: &str) -> Result<Found, NameError> {
    let Answer { found, mut valid_until } = names.services(name).await?;
    let mut endpoints = BTreeSet::new();
    for result in
        futures_util::future::join_all(found.iter().map(|address| host(names, scheme, address)))
            .await
    {
        match result {
            Ok((of_host, until)) => {
                endpoints.extend(of_host);
                valid_until = valid_until.min(until);
            }
            Err(_logged) => valid_until = valid_until.min(Instant::now() + RETRY_AFTER),
        }
    }
    Ok((endpoints, valid_until))
}
