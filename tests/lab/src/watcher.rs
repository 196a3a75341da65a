//! Observers of the topology: one for each controller's stream, one for each proxy's view.
//!
//! Each sits on the host that it watches, so that no cut is between them. All write to one
//! [`Board`], which knows the newest topology that anybody has seen.
//!
//! **Invariant:** an observer moves back only where the program that it watches was started anew:
//! then nobody answered at its port in between.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dugong_topology::stream::{self, Decoder};
use dugong_topology::{Generation, InstanceId, Topology, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::network::HostId;
use crate::papers::Https;
use crate::plan::{CONTROLLER, PROXY_HTTP};
use crate::resident::{Over, Resident};

/// A stream that is silent for longer is connected anew: its controller may be paused.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Between two looks at a proxy, and two tries of a stream: much shorter than a restart takes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What all observers have seen.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Seen>>);

/// See [`Board`].
#[derive(Debug, Default)]
pub struct Seen {
    /// The newest topology of all.
    pub newest: Option<Topology>,
    /// Who was primary in each generation.
    pub primaries: BTreeMap<Generation, InstanceId>,
    /// Moves of one observer from a topology to an older one.
    pub moved_back: Vec<String>,
    /// Two topologies of one generation that name different primaries.
    pub contradictions: Vec<String>,
    /// How many topologies were seen.
    pub documents: u64,
}

impl Board {
    /// What was seen so far.
    pub fn read(&self) -> MutexGuard<'_, Seen> {
        // Plain counting and replacing: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// How often the office of primary went to somebody else.
    pub fn failovers(&self) -> usize {
        let primaries: Vec<&InstanceId> = self.primaries.values().collect();
        primaries.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn saw(&mut self, observer: &mut Observer, topology: Topology) {
        self.documents += 1;
        let version = topology.version();
        if observer.last.is_some_and(|last| version < last) {
            let last = observer.last.unwrap_or_default();
            self.moved_back.push(format!("{}: from {last:?} to {version:?}", observer.name));
        }
        observer.last = Some(version);
        if let Some(primary) = &topology.primary {
            let before =
                self.primaries.entry(topology.generation).or_insert_with(|| primary.id.clone());
            if *before != primary.id {
                let words = format!("{}: {before} and {}", topology.generation.0, primary.id);
                self.contradictions.push(words);
            }
        }
        if self.newest.as_ref().is_none_or(|newest| topology.version() >= newest.version()) {
            self.newest = Some(topology);
        }
    }
}

/// One observer, and where it is.
#[derive(Debug)]
struct Observer {
    name: String,
    address: SocketAddr,
    /// None: it is asked in clear.
    https: Option<Https>,
    last: Option<Version>,
}

/// Begins to watch every controller and every proxy.
///
/// # Errors
///
/// A thread cannot be started.
pub fn watch(cluster: &Cluster, board: &Board, over: &Over) -> anyhow::Result<Vec<Resident<()>>> {
    let mut residents = Vec::new();
    let https = Https::of(cluster.root())?;
    let mut settle = |host: HostId, port, what| -> anyhow::Result<()> {
        let network = cluster.network();
        let observer = Observer {
            name: format!("{what} on {}", network.name(host)),
            address: SocketAddr::from((network.address(host), port)),
            // A proxy's pages are in clear.
            https: https.clone().filter(|_| port == CONTROLLER),
            last: None,
        };
        let (board, over) = (board.clone(), over.clone());
        let work = move || async move {
            match port {
                CONTROLLER => follow(observer, board, over).await,
                _ => look(observer, board, over).await,
            }
        };
        residents.push(Resident::settle(network.namespace(host), work)?);
        Ok(())
    };
    for host in &cluster.hosts().machines {
        settle(*host, CONTROLLER, "controller")?;
    }
    for host in &cluster.hosts().proxies {
        settle(*host, PROXY_HTTP, "proxy")?;
    }
    Ok(residents)
}

/// Follows a controller's stream, and connects again whenever it ends.
async fn follow(mut observer: Observer, board: Board, mut over: Over) {
    while !over.is_over() {
        let read = over.unless(read_stream(&mut observer, &board)).await;
        if let Some(Err(error)) = read {
            observer.lost(&error);
        }
        over.unless(sleep(LOOK_EVERY)).await;
    }
}

async fn read_stream(observer: &mut Observer, board: &Board) -> anyhow::Result<()> {
    let response = observer.get("/v1/topology/watch").await?;
    let mut body = response.into_body();
    let mut decoder = Decoder::default();
    while let Some(frame) = timeout(SILENCE_MAX, body.frame()).await? {
        if let Ok(data) = frame?.into_data() {
            for topology in decoder.push(&data)? {
                board.read().saw(observer, topology);
            }
        }
    }
    Ok(())
}

/// Asks a proxy again and again what it believes.
async fn look(mut observer: Observer, board: Board, mut over: Over) {
    while !over.is_over() {
        match over.unless(timeout(SILENCE_MAX, ask(&observer))).await {
            Some(Ok(Ok(Some(topology)))) => board.read().saw(&mut observer, topology),
            Some(Ok(Err(error))) => observer.lost(&error),
            // Paused, or it knows none yet.
            Some(Err(_) | Ok(Ok(None))) | None => {}
        }
        over.unless(sleep(LOOK_EVERY)).await;
    }
}

async fn ask(proxy: &Observer) -> anyhow::Result<Option<Topology>> {
    let response = proxy.get("/v1/topology").await?;
    if response.status() != StatusCode::OK {
        return Ok(None);
    }
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Some(serde_json::from_slice(&body)?))
}

async fn get<S>(stream: S, address: SocketAddr, path: &str) -> anyhow::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the body, or with the server; the reader of the body learns why.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, stream::CONTENT_TYPE)
        .body(Empty::<Bytes>::new())?;
    Ok(timeout(SILENCE_MAX, requests.send_request(request)).await??)
}

impl Observer {
    async fn get(&self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        match &self.https {
            None => get(stream, self.address, path).await,
            Some(https) => {
                let greeting = https.greet(self.address.ip(), stream);
                get(timeout(SILENCE_MAX, greeting).await??, self.address, path).await
            }
        }
    }

    /// A connection failed: where nobody listens, the program that was watched is gone.
    fn lost(&mut self, error: &anyhow::Error) {
        let refused = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            self.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use dugong_topology::Revision;

    use super::*;

    fn topology(generation: u64, revision: u64) -> Topology {
        Topology {
            generation: Generation(generation),
            ..Topology::unformed("main".to_owned(), Revision(revision))
        }
    }

    #[test]
    fn only_one_and_the_same_observer_moves_back() {
        let new = |name: &str| Observer {
            name: name.to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            https: None,
            last: None,
        };
        let (mut first, mut second) = (new("first"), new("second"));
        let mut seen = Seen::default();
        seen.saw(&mut first, topology(2, 9));
        seen.saw(&mut second, topology(1, 7));
        seen.saw(&mut first, topology(2, 9));
        assert!(seen.moved_back.is_empty(), "{:?}", seen.moved_back);
        seen.saw(&mut first, topology(1, 10));
        assert_eq!(seen.moved_back.len(), 1);
        assert_eq!(seen.newest.unwrap().version(), topology(2, 9).version());
    }

    #[test]
    fn a_program_that_was_started_anew_may_begin_anywhere() {
        let mut observer = Observer {
            name: "one".to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            https: None,
            last: Some(topology(3, 3).version()),
        };
        observer.lost(&anyhow::anyhow!("it closed the stream"));
        assert!(observer.last.is_some());
        observer.lost(&io::Error::from(io::ErrorKind::ConnectionRefused).into());
        assert!(observer.last.is_none());
    }
}
