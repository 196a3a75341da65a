//! What watchers of the topology cost a controller, beside the floor of the same run.
//!
//! The controller's real publisher and HTTP server hold the watchers; the clients are another
//! process, so that its memory and its time are not counted. The floor is a server that does
//! nothing but hold as many connections and write the same bytes to each.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use dugong_controller::clock::Clock;
use dugong_controller::credentials::Credentials;
use dugong_controller::driver::Local;
use dugong_controller::metrics;
use dugong_controller::publish::admission::Admission;
use dugong_controller::publish::desk::Desk;
use dugong_controller::publish::door::Door;
use dugong_controller::publish::http::{self, Pages};
use dugong_controller::publish::{Topologies, publish};
use dugong_controller::store::Reading;
use dugong_controller::store::sqlite::SqliteStore;
use dugong_machine::{
    Declared, Instance, Presence, Reason, Record, ServerState, Session, Snapshot, SystemIdentifier,
};
use dugong_topology::{Address, Generation, InstanceId, Lsn, Position, Revision, TimelineId};
use metrics_exporter_prometheus::PrometheusHandle;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::limits::raise_file_limit;
use crate::report::Spread;

/// The longest that any one step may take.
const LIMIT: Duration = Duration::from_secs(120);

const REQUEST: &[u8] = b"GET /v1/topology/watch HTTP/1.1\r\nhost: controller\r\n\r\n";

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// How many watchers there are.
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// How many changes each of them hears of.
    #[arg(long, default_value_t = 50)]
    changes: u64,
    /// For how many seconds nothing happens.
    #[arg(long, default_value_t = 12)]
    quiet: u64,
}

/// What the process of the clients is told.
#[derive(Args)]
pub(crate) struct Following {
    port: u16,
    watchers: usize,
}

/// What one server costs.
struct Cost {
    bytes_a_watcher: usize,
    /// Processor time of one change, all watchers together.
    changes: Spread,
    /// From the change until the last client has it.
    heard: Spread,
    /// Share of one processor while nothing changes.
    quiet: f64,
}

/// Measures both servers, and reports.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    raise_file_limit(2 * options.watchers as u64 + 1000)?;
    // Once before anything is measured: memory that is used once belongs to nobody.
    let metrics = metrics::install("pg-1", "main")?;
    let warm = Options { watchers: 100, changes: 2, quiet: 0 };
    measure(&warm, &Kind::Controller(metrics.clone())).await?;
    let floor = measure(options, &Kind::Floor).await?;
    let controller = measure(options, &Kind::Controller(metrics)).await?;
    println!("{} watchers, {} changes", options.watchers, options.changes);
    for (name, cost) in [("floor", &floor), ("controller", &controller)] {
        println!("{name}");
        println!("  memory            {} bytes a watcher", cost.bytes_a_watcher);
        println!("  time of a change  {} (processor)", cost.changes);
        println!("  heard by the last {}", cost.heard);
        println!("  nothing changes   {:.1} % of a processor", cost.quiet * 100.0);
    }
    let (own, bare) = (controller.changes.median(), floor.changes.median());
    println!("controller: {:.2} x the floor's time", own.as_secs_f64() / bare.as_secs_f64());
    Ok(())
}

enum Kind {
    Floor,
    Controller(PrometheusHandle),
}

async fn measure(options: &Options, kind: &Kind) -> anyhow::Result<Cost> {
    let (changes, readings) = watch::channel(Reading::Pending);
    let mut server = Server::start(kind, publish("main".to_owned(), readings)).await?;
    let change = |revision| changes.send_replace(Reading::Whole(Arc::new(snapshot(revision))));
    change(1);
    let before = resident_bytes()?;
    let mut clients = Clients::start(server.port, options.watchers)?;
    clients.heard(1).await?;
    let bytes_a_watcher = resident_bytes()?.saturating_sub(before) / options.watchers;

    let (mut spent, mut heard) = (Spread::default(), Spread::default());
    for revision in 2..options.changes + 2 {
        let (begun, used) = (Instant::now(), processor_time());
        change(revision);
        clients.heard(revision).await?;
        heard.add(begun.elapsed());
        spent.add(processor_time() - used);
    }
    let used = processor_time();
    sleep(Duration::from_secs(options.quiet)).await;
    let quiet = (processor_time() - used).as_secs_f64()
        / Duration::from_secs(options.quiet).as_secs_f64().max(1.0);
    clients.end().await?;
    server.end().await;
    Ok(Cost { bytes_a_watcher, changes: spent, heard, quiet })
}

/// A server with the topology's watchers.
struct Server {
    port: u16,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

impl Server {
    async fn start(kind: &Kind, topologies: Topologies) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let task = match kind {
            Kind::Floor => tokio::spawn(floor(listener, topologies)),
            Kind::Controller(metrics) => {
                let me: InstanceId = "pg-1".parse()?;
                let path = folder.path().join("store.db");
                let store = SqliteStore::open(&path, me.clone(), Duration::from_secs(60))?;
                let credentials = watch::channel(Arc::new(Credentials::generate()?)).1;
                let admission =
                    Admission { credentials, token: None, read_token: None, certificates: false };
                // Nobody looks after any data here.
                let (give_up, _) = mpsc::channel(1);
                let (store, settings) = (Arc::new(store), None);
                let desk = Desk {
                    store,
                    settings,
                    credentials: None,
                    migration: watch::channel(None).1,
                    me: me.clone(),
                    give_up,
                };
                let door = Door::open(listener, None)?;
                let (_, local) = watch::channel(Local::default());
                let metrics = metrics.clone();
                let pages = Pages { me, clock: Clock, topologies, local, metrics };
                tokio::spawn(async { Ok(http::serve(door, pages, desk, admission).await?) })
            }
        };
        Ok(Self { port, task, _folder: folder })
    }

    async fn end(&mut self) {
        self.task.abort();
        // Cancelled, as it was told.
        let _ = (&mut self.task).await;
    }
}

/// Holds connections, and writes each event to each: no less can be done.
async fn floor(listener: TcpListener, topologies: Topologies) -> anyhow::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mut topologies = topologies.clone();
        topologies.mark_changed();
        tokio::spawn(async move {
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).await?;
            while topologies.changed().await.is_ok() {
                let newest = topologies.borrow_and_update().clone();
                if let Some(published) = newest {
                    stream.write_all(&published.event).await?;
                }
            }
            Ok::<_, std::io::Error>(())
        });
    }
}

/// The process of the clients.
struct Clients {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    fn start(port: u16, watchers: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["follow-topologies", &port.to_string(), &watchers.to_string()]);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// Waits until every client has heard of `revision`.
    async fn heard(&mut self, revision: u64) -> anyhow::Result<()> {
        let line =
            timeout(LIMIT, self.lines.next_line()).await.context("clients are too slow")??;
        let said = line.context("the clients ended")?;
        ensure!(said == revision.to_string(), "expected {revision}, the clients said {said}");
        Ok(())
    }

    async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the clients cannot be ended")
    }
}

/// The clients: prints each revision that all of them have heard of.
pub(crate) async fn follow(following: &Following) -> anyhow::Result<()> {
    raise_file_limit(following.watchers as u64 + 1000)?;
    let (heard, mut all) = mpsc::unbounded_channel();
    for _ in 0..following.watchers {
        let mut stream = TcpStream::connect(("127.0.0.1", following.port)).await?;
        stream.write_all(REQUEST).await?;
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::with_capacity(2048, stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(revision) = revision_of(&line) {
                    // Nobody listens any more once all is over.
                    let _ = heard.send(revision);
                }
            }
        });
    }
    drop(heard);
    let mut counts = std::collections::BTreeMap::<u64, usize>::new();
    while let Some(revision) = all.recv().await {
        let count = counts.entry(revision).or_default();
        *count += 1;
        if *count == following.watchers {
            println!("{revision}");
        }
    }
    Ok(())
}

fn revision_of(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("data: ")?.split_once("\"revision\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A whole cluster of three, whose WAL grows with the revision.
fn snapshot(revision: u64) -> Snapshot {
    let ids = ["pg-1", "pg-2", "pg-3"].map(|name| name.parse::<InstanceId>());
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    let position = |lsn| Position::new(TimelineId(1), Lsn(lsn));
    let presence = |at: usize| Presence {
        id: ids[at].clone(),
        postgres: Address::loopback(5432),
        http: Address::loopback(8008),
        server: if at == 0 { ServerState::Primary } else { ServerState::Ready },
        system_identifier: Some(SystemIdentifier(7)),
        seen: Generation(1),
        open: (at == 0).then_some(Generation(1)),
        position: Some(position(0x0300_0000 + revision)),
        history: None,
        upstream: at.checked_sub(1).map(|up| ids[up].clone()),
        lag: None,
        making: None,
        drains: false,
        hands_over: None,
        note: None,
    };
    let record = Record {
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(7),
        generation: Generation(1),
        primary: ids[0].clone(),
        sync: Some(ids[1].clone()),
        asyncs: vec![ids[2].clone()],
        deposed: Vec::new(),
        began_at: position(0x0300_0000),
        timeline: TimelineId(1),
        frozen: None,
        one_node: false,
        reason: Reason::Bootstrap,
    };
    let of =
        |at: usize| (ids[at].clone(), Instance { presence: presence(at), session: Session::Alive });
    Snapshot {
        revision: Revision(revision),
        declared: Some(Declared { record, revision: Revision(1), since_unix_ms: 0 }),
        instances: (0..3).map(of).collect(),
        ..Snapshot::default()
    }
}

fn resident_bytes() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kilobytes.parse::<usize>()? * 1024)
}

/// What all threads of this process have used.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
