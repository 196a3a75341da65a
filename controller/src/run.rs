//! One controller, from its configuration to its end.

mod backend;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use dugong_machine::{Bootstrap, Goal, Settings, State};
use dugong_topology::Address;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::config::{Config, HttpConfig, Origin};
use crate::credentials::{Credentials, Keeper, Password};
use crate::driver::{self, End, Local, Order, Wiring};
use crate::log::Log;
use crate::publish::Topologies;
use crate::publish::admission::Admission;
use crate::publish::credentials::CredentialsDesk;
use crate::publish::desk::Desk;
use crate::publish::dns::{NameServer, Zone};
use crate::publish::door::Door;
use crate::publish::http::{self, Pages};
use crate::publish::settings::SettingsDesk;
use crate::store::Store;
use crate::{first_settings, lifeline, mending, metrics, postgres, publish, service, sparing};

/// The controller beside one PostgreSQL instance: runs it, replicates it, heals it.
///
/// One controller runs beside each instance of a cluster. They agree through a store; on one
/// machine that is a file which all of them share, and `dugong up` starts them all.
///
/// SIGTERM or SIGINT stops the server and ends the controller. SIGUSR1 ends the controller and
/// keeps its server running: for a restart or an upgrade, to be followed by a new controller within
/// a second or two, before the lease of a primary ends.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    after_help = "The smallest configuration:\n\n  \
        instance = \"pg-1\"\n  \
        dir = \"/var/lib/dugong/pg-1\"\n  \
        credentials = \"/var/lib/dugong/credentials.json\"\n  \
        [postgres]\n  listen = \"127.0.0.1:20001\"\n  \
        [http]\n  listen = \"127.0.0.1:20011\"\n  \
        [store]\n  path = \"/var/lib/dugong/store.db\"\n\n\
        The environment overrides every key: DUGONG_, the section, the key (the top of the file is the\n\
        section CONTROLLER), as in DUGONG_CONTROLLER_INSTANCE and DUGONG_HTTP_LISTEN."
)]
pub struct Options {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration, say what is understood, and end.
    #[arg(long)]
    pub check_config: bool,
    /// What is logged to standard error: error, warn, info, debug, or a tracing filter.
    #[arg(long, env = "DUGONG_LOG", default_value = "info")]
    pub log: String,
}

/// Why a controller ended: one sentence with the next step.
#[derive(Debug)]
pub enum Failure {
    /// What was typed, or written into the file, is wrong. Exit status 2.
    Usage(String),
    /// It could not be done here and now. Exit status 1.
    Runtime(String),
}

impl Failure {
    /// As promised in the manual.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Runtime(_) => ExitCode::from(1),
        }
    }

    /// Any error whose own words are the sentence.
    pub fn runtime(error: impl fmt::Display) -> Self {
        Self::Runtime(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Runtime(why) => f.write_str(why),
        }
    }
}

/// Runs a controller until it is told to end.
///
/// # Errors
///
/// What keeps it from running, in one sentence.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (config, understood) = Config::load_and_tell(&options.config)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    if options.check_config {
        // A closed standard output leaves the exit status to tell.
        let _ = writeln!(std::io::stdout(), "ok\n{understood}");
        return Ok(());
    }
    let filter = EnvFilter::try_new(&options.log)
        .map_err(|error| Failure::Usage(format!("--log {:?}: {error}", options.log)))?;
    let (log, _flusher) = Log::start(std::io::stderr()).map_err(Failure::runtime)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(log)
        .init();
    raise_file_limit();
    // The main thread lives as long as the process does: what depends on its life is bound here.
    lifeline::follow_parent().map_err(Failure::runtime)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One may hang with a disk: it is the supervisor's.
        .worker_threads(3)
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    runtime.block_on(control(config))
}

/// A descriptor for each who watches: the usual soft limit of 1024 is no number of proxies.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

async fn control(config: Config) -> Result<(), Failure> {
    let orders = orders_by_signal().map_err(Failure::runtime)?;
    let keeper = Keeper::open(config.credentials.clone()).map_err(Failure::runtime)?;
    let listener = listen(&config.http.listen).await?;
    let door = Door::open(listener, config.http.tls.as_ref()).map_err(Failure::runtime)?;
    let admission = admission(&config.http, keeper.in_force())?;
    let name_server = bind_name_server(&config).await?;
    let store = backend::open(&config)?;
    let metrics =
        metrics::install(config.instance.as_str(), &config.cluster).map_err(Failure::runtime)?;

    if config.bootstrap == Bootstrap::OneNode {
        tracing::warn!(
            "one_node: until a standby has joined, an acknowledged write is on this instance only"
        );
    }
    let clock = Clock;
    let credentials = keeper.in_force();
    let settings = postgres_settings(&config, (**credentials.borrow()).clone())?;
    let supervised = postgres::supervise(settings, clock, store.watch_settings(), credentials);
    let mut server = supervised.map_err(Failure::runtime)?;
    begin_settings(&config, store.clone(), server.goal.subscribe());
    begin_healing(&config, store.clone(), &server);
    let (local, local_seen) = watch::channel(Local::default());
    let topologies = publish::publish(config.cluster.clone(), store.watch());
    name_server.map(|server| tokio::spawn(server.serve(topologies.clone())));
    tokio::spawn(service::watchdog(local_seen.clone()));
    tokio::spawn(publish::settings::measure(server.advisor.clone()));
    let hands = (server.advisor, server.give_up, server.migration, (keeper, server.doorkeeper));
    let desk = desk(&config, store.clone(), topologies.clone(), hands);
    let pages =
        Pages { me: config.instance.clone(), clock, topologies, local: local_seen, metrics };
    let http = tokio::spawn(http::serve(door, pages, desk, admission));

    tracing::info!(instance = %config.instance, http = %config.http.listen, "ready");
    service::ready();
    let state = State::new(
        config.instance.clone(),
        config.cluster.clone(),
        config.postgres.listen.clone(),
        config.http.listen.clone(),
        machine_settings(&config),
        clock.now(),
    );
    let wiring = Wiring {
        clock,
        store,
        goal: server.goal,
        lease: server.lease,
        neighbours: server.neighbours,
        leave_running: server.leave_running,
        inherited: server.inherited,
        seen: server.seen,
        local,
        orders,
    };
    let outcome = tokio::select! {
        end = driver::run(state, wiring) => Ok(end),
        ended = http => Err(Failure::Runtime(format!("the HTTP listener ended: {ended:?}"))),
        ended = &mut server.task => Err(Failure::Runtime(match ended {
            Ok(()) => format!("{} was destroyed", config.dir.display()),
            Err(error) => format!("the server is not looked after any more: {error}"),
        })),
    };
    if let Ok(End::Restarting) = outcome {
        // Until the warden has the note. One that takes longer is ended with its server.
        server.task.await.map_err(Failure::runtime)?;
    }
    tracing::info!("ended");
    outcome.map(|_| ())
}

/// Should this instance begin a cluster from nothing.
fn begin_settings(config: &Config, store: Arc<dyn Store>, goal: watch::Receiver<Option<Goal>>) {
    if config.origin == Origin::Initdb {
        let (me, memory) = (config.instance.clone(), config.postgres.memory);
        tokio::spawn(first_settings::write(me, memory, store, goal));
    }
}

/// Should pages of its data be damaged, or its disk be sick.
fn begin_healing(config: &Config, store: Arc<dyn Store>, server: &postgres::Supervised) {
    let (damaged, give_up) = (server.damaged.clone(), server.give_up.clone());
    tokio::spawn(sparing::tell(config.instance.clone(), store.watch(), server.spared.clone()));
    tokio::spawn(mending::mend(config.instance.clone(), store, damaged, give_up));
}

/// What the desk has of the server's side.
type Hands = (
    postgres::Advisor,
    mpsc::Sender<postgres::GiveUp>,
    postgres::Migration,
    (Arc<Keeper>, postgres::Doorkeeper),
);

fn desk(config: &Config, store: Arc<dyn Store>, topologies: Topologies, hands: Hands) -> Desk {
    let (advisor, give_up, migration, (keeper, doorkeeper)) = hands;
    let me = config.instance.clone();
    let settings = SettingsDesk { me: me.clone(), store: store.clone(), topologies, advisor };
    let credentials = CredentialsDesk { me: me.clone(), keeper, doorkeeper };
    Desk { store, settings: Some(settings), credentials: Some(credentials), me, give_up, migration }
}

/// Who may read and change things over HTTP.
fn admission(
    config: &HttpConfig,
    credentials: watch::Receiver<Arc<Credentials>>,
) -> Result<Admission, Failure> {
    let token = |key, path: &Option<PathBuf>| {
        let read = path.as_ref().map(|path| dugong_trust::secret(key, path)).transpose();
        Ok::<_, Failure>(read.map_err(Failure::runtime)?.map(Password::of))
    };
    let (token, read_token) = (
        token("http.token_file", &config.token_file)?,
        token("http.read_token_file", &config.read_token_file)?,
    );
    let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let here = config.listen.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !here && config.tls.is_none() {
        tracing::warn!(
            "without tls_cert and tls_key in [http], what is read at {} is in clear, and nobody on \
             another machine may change anything",
            config.listen
        );
    }
    Ok(Admission { credentials, token, read_token, certificates })
}

fn machine_settings(config: &Config) -> Settings {
    let timings = &config.timings;
    Settings {
        session_ttl: config.store.session_ttl,
        link_ttl: timings.link_ttl,
        sync_timeout: timings.sync_timeout,
        restart_after: timings.restart_after,
        stuck_after: timings.stuck_after,
        forget_after: timings.forget_after,
        bootstrap: config.bootstrap,
    }
}

fn postgres_settings(
    config: &Config,
    credentials: Credentials,
) -> Result<postgres::Settings, Failure> {
    let (bin, version) =
        postgres::find_bin(config.postgres.bin.as_deref()).map_err(Failure::runtime)?;
    tracing::info!(bin = %bin.display(), %version, "PostgreSQL");
    Ok(postgres::Settings {
        instance: config.instance.clone(),
        cluster: config.cluster.clone(),
        dir: config.dir.clone(),
        bin,
        version,
        // This very program, even if its file was replaced by another version meanwhile.
        warden: PathBuf::from("/proc/self/exe"),
        listen: config.postgres.listen.clone(),
        networks: config.postgres.networks.clone(),
        plain_networks: config.postgres.plain_networks.clone(),
        tls: config.postgres.tls.clone(),
        extra: config.postgres.settings.clone(),
        credentials,
        heartbeat_interval: config.timings.heartbeat_interval,
        storage_deadline: config.timings.storage_deadline,
        repair: config.repair,
        origin: config.origin.clone(),
    })
}

/// Its service goes on whatever becomes of its sockets, and ends with the controller.
async fn bind_name_server(config: &Config) -> Result<Option<NameServer>, Failure> {
    let Some(dns) = &config.dns else { return Ok(None) };
    let ttl_secs = u32::try_from(dns.ttl.as_secs()).map_err(Failure::runtime)?;
    let zone = Zone::new(&dns.zone, &config.cluster, ttl_secs).map_err(Failure::runtime)?;
    let server = NameServer::bind(&dns.listen, zone).await.map_err(Failure::runtime)?;
    tracing::info!(zone = dns.zone, listen = %dns.listen, "name server");
    Ok(Some(server))
}

async fn listen(address: &Address) -> Result<TcpListener, Failure> {
    let bound = match address.to_string().parse::<SocketAddr>() {
        Ok(socket) => TcpListener::bind(socket).await,
        Err(_) => TcpListener::bind((address.host.as_str(), address.port)).await,
    };
    bound.map_err(|error| {
        Failure::Runtime(format!(
            "cannot listen on {address}: {error}; end what uses the port, or change [http] listen"
        ))
    })
}

/// What the last signal said.
fn orders_by_signal() -> std::io::Result<watch::Receiver<Order>> {
    let (sender, receiver) = watch::channel(Order::GoOn);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = terminate.recv() => Order::Leave,
                _ = interrupt.recv() => Order::Leave,
                _ = restart.recv() => Order::Restart,
            };
            tracing::info!("told to end: {order:?}");
            if order == Order::Leave {
                service::stopping();
            }
            sender.send_replace(order);
        }
    });
    Ok(receiver)
}
