//! What all connections share, and the order of starting and stopping.
//!
//! [`run`] binds all three listeners before it says that it is ready, and returns when the last
//! client has been told that the proxy stops.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use dugong_topology::Phase;
use hickory_resolver::net::NetError;
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch::Sender;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, Admin};
use crate::cancel::Cancels;
use crate::config::{Config, Encryption, Source, Trust};
use crate::gate::Gate;
use crate::handshake::PortTls;
use crate::listener::{self, Listener};
use crate::lobby;
use crate::metrics::{self, Gauges};
use crate::names::Names;
use crate::rarely::Rarely;
use crate::relay::crew::Crew;
use crate::relay::session::Parted;
use crate::replicas::Replicas;
use crate::service;
use crate::session::farewell;
use crate::shutdown::{Shutdown, Signals, Stage};
use crate::socket;
use crate::tls::clients::{ClientTlsError, Front};
use crate::tls::servers::{Back, ServerTlsError};
use crate::watch::access::{Access, AccessError};
use crate::watch::{self, Board, Sources, Topologies};

/// What a connection can reach besides its own sockets.
pub struct Shared {
    pub config: Config,
    pub topologies: Topologies,
    /// TLS towards clients; none: it is not offered.
    pub front: Option<Front>,
    /// TLS to servers; none: they are spoken to in clear.
    pub back: Option<Back>,
    pub names: Arc<Names>,
    pub sources: Arc<Sources>,
    pub gate: Gate,
    pub cancels: Arc<Cancels>,
    pub crew: Crew,
    /// Threads for sessions that are encrypted.
    pub ciphers: Handle,
    pub gauges: Arc<Gauges>,
    pub shutdown: Shutdown,
    pub replicas: Replicas,
    /// Log lines about refused clients.
    pub refusals: Rarely,
    /// Log lines about servers that are not believed.
    pub disbeliefs: Rarely,
    /// Log lines about what the proxy lacks to reach a server.
    pub shortages: Rarely,
}

impl Shared {
    /// What a port does about encryption.
    pub fn port_tls(&self, listener: Listener) -> PortTls<'_> {
        match (&self.front, self.config.encryption(listener)) {
            (None, _) | (_, Encryption::Disable) => PortTls::Off,
            (Some(front), Encryption::Allow) => PortTls::Offered(front),
            (Some(front), Encryption::Require) => PortTls::Required(front),
        }
    }
}

/// How a run that could start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Asked to, and everybody was told.
    InOrder,
    /// Asked twice.
    AtOnce,
}

/// Why the proxy could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    ClientTls(#[from] ClientTlsError),
    #[error(transparent)]
    ServerTls(#[from] ServerTlsError),
    #[error(
        "port {} of {} is in use by another program: end that one, or choose another port with \
         --{flag}", address.port(), address.ip()
    )]
    PortInUse { address: SocketAddr, flag: &'static str },
    #[error("cannot listen on {address} (--{flag}): {source}")]
    Bind { address: SocketAddr, flag: &'static str, source: io::Error },
    #[error("cannot take signals: {0}")]
    Signals(io::Error),
    #[error("cannot look names up: {0}")]
    Names(NetError),
    #[error(
        "cannot start the relay threads: {0}; raise the limits of threads and of open files, or say \
         --relay-engine epoll"
    )]
    Threads(io::Error),
    #[error("cannot begin to count: {0}")]
    Metrics(#[from] BuildError),
    #[error("a task that runs for ever ended, which is a bug of the proxy: {0}")]
    TaskEnded(String),
}

/// Between two log lines about refused clients.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Between two log lines about servers that cannot be used: clients try them again and again.
const TRIES_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often histograms are summed up while nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The three listeners, bound.
struct Sockets {
    write: TcpListener,
    read: TcpListener,
    http: TcpListener,
}

/// Runs the proxy until it is told to stop. `ciphers`: whose threads encrypt.
///
/// # Errors
///
/// It could not start.
pub async fn run(config: Config, ciphers: Handle) -> Result<Finished, RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let sockets = Sockets::bind(&config)?;
    let addresses = sockets.addresses()?;
    let prometheus = metrics::install()?;
    let (stage, shutdown) = Shutdown::new();
    let mut duties = JoinSet::new();
    let (shared, partings) = share(config, ciphers, shutdown, &mut duties)?;
    let [write, read, http] = addresses;
    let listeners = [write, read];
    let admin =
        Admin { shared: Arc::clone(&shared), prometheus: prometheus.clone(), listeners, http };
    duties.spawn(admin::run(sockets.http, admin));
    duties.spawn(upkeep(prometheus));
    duties.spawn(farewell::run(partings));
    duties.spawn(herald(Arc::clone(&shared)));
    duties.spawn(balance(Arc::clone(&shared)));
    duties.spawn(question_preferences(Arc::clone(&shared)));
    let ports = [(Listener::Write, sockets.write), (Listener::Read, sockets.read)];
    let mut accepting = accept(ports, &shared).map_err(RunError::Threads)?;
    duties.spawn(service::watchdog());
    tracing::info!("ready: write {write}, read {read}, http {http}");
    service::ready();

    // Whatever comes first is the end; nothing is lost with the others.
    tokio::select! {
        () = signals.next() => (),
        Some(ended) = duties.join_next() => return Err(RunError::TaskEnded(format!("{ended:?}"))),
        Some(ended) = accepting.join_next() => {
            return Err(RunError::TaskEnded(format!("{ended:?}")));
        }
    }
    service::stopping();
    tokio::select! {
        () = stop(&stage, accepting, &shared) => Ok(Finished::InOrder),
        () = signals.next() => Ok(Finished::AtOnce),
    }
}

/// Makes what connections share; with what the relay threads hand back.
fn share(
    config: Config,
    ciphers: Handle,
    shutdown: Shutdown,
    duties: &mut JoinSet<()>,
) -> Result<(Arc<Shared>, UnboundedReceiver<Parted>), RunError> {
    let names = Arc::new(Names::new(&config.resolvers).map_err(RunError::Names)?);
    let (topologies, sources) = watch_topology(&config.source, &names, duties)?;
    let (front, back) = load_tls(&config, duties)?;
    let gauges = Arc::<Gauges>::default();
    let (crew, partings) =
        start_crew(&config, &topologies, &shutdown).map_err(RunError::Threads)?;
    let replicas = Replicas::new(config.slow_start, config.preferences.clone());
    let shared = Shared {
        gate: Gate::new(config.max_held, Arc::clone(&gauges)),
        config,
        topologies,
        front,
        back,
        names,
        sources,
        cancels: Arc::default(),
        crew,
        ciphers,
        gauges,
        shutdown,
        replicas,
        refusals: Rarely::new(REFUSAL_LOG_INTERVAL),
        disbeliefs: Rarely::new(TRIES_LOG_INTERVAL),
        shortages: Rarely::new(TRIES_LOG_INTERVAL),
    };
    Ok((Arc::new(shared), partings))
}

/// Begins to let clients in: by a relay thread at a port where they may be in clear, else by tasks.
fn accept(ports: [(Listener, TcpListener); 2], shared: &Arc<Shared>) -> io::Result<JoinSet<()>> {
    let mut accepting = JoinSet::new();
    let mut in_clear = Vec::new();
    for (listener, socket) in ports {
        if shared.back.is_some() || matches!(shared.port_tls(listener), PortTls::Required(_)) {
            accepting.spawn(listener::run(socket, listener, Arc::clone(shared)));
        } else {
            in_clear.push((listener, socket.into_std()?.into()));
        }
    }
    let (sender, strangers) = unbounded_channel();
    shared.crew.set_door(Some(lobby::Door::new(in_clear, Arc::clone(shared), sender)));
    accepting.spawn(listener::receive(strangers, Arc::clone(shared)));
    Ok(accepting)
}

/// TLS towards clients and to servers, where the configuration has it.
fn load_tls(
    config: &Config,
    duties: &mut JoinSet<()>,
) -> Result<(Option<Front>, Option<Back>), RunError> {
    let front = match &config.client_tls {
        Some(files) => {
            let (front, duty) = Front::load(files)?;
            duties.spawn(duty);
            Some(front)
        }
        None => None,
    };
    let back = match &config.server_tls {
        Some(tls) => {
            let (back, duty) = Back::load(tls)?;
            duties.spawn(duty);
            Some(back)
        }
        None => None,
    };
    Ok((front, back))
}

/// Whether all files that a configuration names can be used.
///
/// # Errors
///
/// The first one that cannot.
pub fn check_files(config: &Config) -> Result<(), RunError> {
    if let Source::Controllers { trust, .. } = &config.source {
        Access::load(trust)?;
    }
    if let Some(files) = &config.client_tls {
        drop(Front::load(files)?);
    }
    if let Some(tls) = &config.server_tls {
        drop(Back::load(tls)?);
    }
    Ok(())
}

/// Tells who waits, lets sessions go on for a while, then tells those.
async fn stop(stage: &Sender<Stage>, mut accepting: JoinSet<()>, shared: &Shared) {
    let drain_timeout = shared.config.drain_timeout;
    tracing::info!("stopping: sessions may go on for {drain_timeout:?}");
    stage.send_replace(Stage::Draining);
    shared.crew.set_door(None);
    let drained = async {
        while accepting.join_next().await.is_some() {}
        shared.gauges.deserted().await;
    };
    let mut drained = std::pin::pin!(drained);
    if timeout(drain_timeout, &mut drained).await.is_err() {
        stage.send_replace(Stage::Ending);
        // Bounded: each session has a limit for its last word.
        drained.await;
    }
    tracing::info!("stopped");
}

/// Starts to learn the topology.
fn watch_topology(
    source: &Source,
    names: &Arc<Names>,
    duties: &mut JoinSet<()>,
) -> Result<(Topologies, Arc<Sources>), AccessError> {
    let (mut board, topologies) = Board::new();
    let (controllers, access) = match source {
        Source::Controllers { urls, trust } => (urls.clone(), Access::load(trust)?),
        Source::Fixed { primary, replicas } => {
            board.judge(watch::fixed(primary.clone(), replicas.clone()));
            (Vec::new(), Access::load(&Trust::default())?)
        }
    };
    let sources = Arc::new(Sources { configured: controllers.len(), ..Sources::default() });
    let watching = watch::run(controllers, access, Arc::clone(names), board, Arc::clone(&sources));
    duties.spawn(watching);
    Ok((topologies, sources))
}

/// Starts the relay threads; with what they hand back.
fn start_crew(
    config: &Config,
    topologies: &Topologies,
    shutdown: &Shutdown,
) -> io::Result<(Crew, UnboundedReceiver<Parted>)> {
    let (parted, partings) = unbounded_channel();
    let threads = match config.relay_threads {
        Some(threads) => usize::try_from(threads.get()).unwrap_or(usize::MAX),
        None => available_parallelism().map_or(1, NonZero::get),
    };
    let crew = Crew::start(threads, config.relay_engine, topologies, shutdown, &parted)?;
    Ok((crew, partings))
}

/// Tells the relay threads what concerns all sessions.
async fn herald(shared: Arc<Shared>) {
    shared.crew.herald(shared.topologies.clone(), shared.shutdown.clone()).await;
}

/// Keeps the relay threads as few as carry the load.
async fn balance(shared: Arc<Shared>) {
    shared.crew.balance().await;
}

/// Tells of preferences that mean no instance: a misspelt one is none at all.
async fn question_preferences(shared: Arc<Shared>) {
    let preferences = &shared.config.preferences;
    let mut seats = shared.topologies.seats.clone();
    let mut told = None;
    loop {
        let topology = seats.borrow_and_update().clone();
        let formed = topology.filter(|topology| topology.phase != Phase::Unformed);
        let unknown = formed.and_then(|topology| preferences.unknown(&topology).cloned());
        if let Some(id) = unknown.filter(|id| told.as_ref() != Some(id)) {
            tracing::warn!(
                "read_near or read_weights names {id}, which is no instance of this cluster: it \
                 changes nothing"
            );
            told = Some(id);
        }
        if seats.changed().await.is_err() {
            // Nobody publishes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Without it, histograms would grow until the next scrape.
async fn upkeep(prometheus: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        prometheus.run_upkeep();
    }
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, RunError> {
        let bind = |port, flag| {
            let address = SocketAddr::new(config.listen, port);
            socket::listen(address).map_err(|source| {
                if source.kind() == io::ErrorKind::AddrInUse {
                    RunError::PortInUse { address, flag }
                } else {
                    RunError::Bind { address, flag, source }
                }
            })
        };
        Ok(Self {
            write: bind(config.write_port, "write-port")?,
            read: bind(config.read_port, "read-port")?,
            http: bind(config.http_port, "http-port")?,
        })
    }

    /// The real addresses, also where any port would do: write, read, http.
    fn addresses(&self) -> Result<[SocketAddr; 3], RunError> {
        let real = |socket: &TcpListener, flag| {
            socket.local_addr().map_err(|source| {
                let address = SocketAddr::from(([0, 0, 0, 0], 0));
                RunError::Bind { address, flag, source }
            })
        };
        Ok([
            real(&self.write, "write-port")?,
            real(&self.read, "read-port")?,
            real(&self.http, "http-port")?,
        ])
    }
}

#[cfg(test)]
mod tests;
