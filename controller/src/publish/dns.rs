//! The topology as DNS: a name server for one zone, over UDP and TCP.
//!
//! `zone` knows the names, `answer` the records, `message` the format; here are the sockets.
//! The message format is the library's (`hickory-proto`). The loops are our own, since they share
//! a process with the database's fate: connections are counted, and no packet ends anything.
//!
//! **Invariant:** what is answered is a function of the newest published topology. Before the store
//! was first read that is SERVFAIL; while the store is away it is what was last read, as over HTTP.

mod answer;
mod message;
mod zone;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use zone::Zone;

use super::Topologies;
use crate::metrics;
use message::{Transport, respond};

/// Connections at once; further ones wait.
const CONNECTIONS_MAX: usize = 64;

/// A client that neither asks nor reads for this long is left.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests of one connection; then others may want its place.
const REQUESTS_MAX: usize = 1_000;

/// After trouble with a socket, so that trouble that stays costs nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// More than any question needs.
const REQUEST_BYTES_MAX: usize = 4096;

/// Whether an instance of this name could not be told from a role.
pub fn is_taken(instance: &str) -> bool {
    zone::office(instance).is_some()
}

/// A name server with its two sockets.
#[derive(Debug)]
pub struct NameServer {
    zone: Zone,
    udp: UdpSocket,
    tcp: TcpListener,
}

/// Why there is no name server.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for DNS ({transport}): {error}; {way_out}", way_out = way_out(error))]
pub struct BindError {
    listen: Address,
    transport: &'static str,
    error: io::Error,
}

fn way_out(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "ports below 1024 need the capability CAP_NET_BIND_SERVICE: give it, or change [dns] listen"
    } else {
        "end what uses the port, or change [dns] listen"
    }
}

impl NameServer {
    /// Binds both sockets.
    ///
    /// # Errors
    ///
    /// One sentence that names the address and the way out.
    pub async fn bind(listen: &Address, zone: Zone) -> Result<Self, BindError> {
        let place = (listen.host.as_str(), listen.port);
        let refused =
            |transport| move |error| BindError { listen: listen.clone(), transport, error };
        let udp = UdpSocket::bind(place).await.map_err(refused("UDP"))?;
        let tcp = TcpListener::bind(place).await.map_err(refused("TCP"))?;
        Ok(Self { zone, udp, tcp })
    }

    /// Answers from the newest of `topologies`, for ever.
    pub async fn serve(self, topologies: Topologies) {
        let Self { zone, udp, tcp } = self;
        let office = Arc::new(Office { zone, topologies });
        let (udp, tcp) = (Arc::new(udp), Arc::new(tcp));
        tokio::join!(
            again("UDP", || datagrams(udp.clone(), office.clone())),
            again("TCP", || connections(tcp.clone(), office.clone())),
        );
    }
}

/// A panic over one packet must not end the service, and still less the controller.
async fn again<F>(transport: &'static str, work: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // A set ends its tasks with itself.
        let mut task = JoinSet::new();
        task.spawn(work());
        let ended = task.join_next().await;
        tracing::error!(transport, "the name server ended and begins again: {ended:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

struct Office {
    zone: Zone,
    topologies: Topologies,
}

impl Office {
    fn respond(&self, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let newest = self.topologies.borrow().clone();
        let topology = newest.as_ref().map(|published| &published.topology);
        let response = respond(&self.zone, topology, request, transport)?;
        if let Some(flags) = response.get(3) {
            metrics::name_answered(flags & 0x0F);
        }
        Some(response)
    }
}

async fn datagrams(socket: Arc<UdpSocket>, office: Arc<Office>) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut request).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "DNS (UDP)");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(response) = office.respond(&request[..length], Transport::Udp) else { continue };
        if let Err(error) = socket.send_to(&response, client).await {
            tracing::debug!(%error, %client, "DNS (UDP)");
        }
    }
}

async fn connections(listener: Arc<TcpListener>, office: Arc<Office>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "DNS (TCP)");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if places.available_permits() == 0 {
            metrics::name_waited();
        }
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let office = office.clone();
        // Bounded in number by its place and in time by its patience, so nobody waits for its end.
        tokio::spawn(async move {
            if let Err(error) = converse(stream, client, &office).await {
                tracing::debug!(%error, %client, "DNS (TCP)");
            }
            drop(place);
        });
    }
}

/// Requests and responses in turn, each after its length.
async fn converse(mut stream: TcpStream, client: SocketAddr, office: &Office) -> io::Result<()> {
    tracing::trace!(%client, "DNS (TCP)");
    for _ in 0..REQUESTS_MAX {
        let length = match timeout(PATIENCE, stream.read_u16()).await? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        if length > REQUEST_BYTES_MAX {
            return Err(io::Error::other(format!("a request of {length} bytes")));
        }
        let mut request = vec![0; length];
        timeout(PATIENCE, stream.read_exact(&mut request)).await??;
        let Some(response) = office.respond(&request, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &response].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
