//! A failover with a crowd of clients: when each is told, when each is at the new primary, and
//! what readers feel meanwhile.
//!
//! Servers that only greet stand in for PostgreSQL, and the stream of topologies is written here:
//! how long a cluster needs is another measurement (`dugong-bench failover`). The primary is
//! killed, and a moment later another one is published. Whoever is told connects again at once, and
//! is held until then. The clients share the cores with the proxy, so part of what is measured is
//! their own: how much, `direct` shows, where the same clients are at the servers themselves, notice
//! by themselves that theirs is gone, and are told where the next one is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use dugong_tests::free_port;
use dugong_topology::{Generation, Member, Phase, Revision, Topology, stream};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::proxies::contenders::{Contender, Stage};
use crate::proxies::idle::Greeter;
use crate::proxies::wire::{self, Client};

/// Clients of the write address, as far as descriptors allow.
const CLIENTS: u64 = 5_000;

/// Threads that read all the time, each with a pause between its queries.
const READERS: usize = 4;
const READER_PAUSE: Duration = Duration::from_millis(1);

/// How long readers are watched before anything happens.
const QUIET: Duration = Duration::from_secs(2);

/// How long nobody is primary.
const VACANT: Duration = Duration::from_millis(200);

/// The longest that all of it may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What a failover was like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) contender: Contender,
    pub(crate) clients: u64,
    /// From the kill of the primary until the last client was told.
    pub(crate) told: Duration,
    /// Clients who were cut off without a word.
    pub(crate) cut_off: u64,
    /// From the publication of the new primary until the last client had an answer from it.
    pub(crate) moved: Duration,
    /// The longest that a read took in the quiet before, and from the kill until all had moved.
    pub(crate) read_before: Duration,
    pub(crate) read_during: Duration,
}

/// One failover through our proxy, or without any.
pub(crate) async fn measure(contender: Contender, stage: &Stage) -> anyhow::Result<Crowd> {
    let greeter = || Greeter::start(&stage.folder);
    let (mut old, new, replica) = (greeter()?, greeter()?, greeter()?);
    let (published, topologies) = watch::channel(topology(1, old.port, replica.port)?);
    let controller = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", controller.local_addr()?);
    let publisher = tokio::spawn(publish(controller, topologies));

    let direct = contender == Contender::Direct;
    let [write, read] =
        if direct { [old.port, replica.port] } else { [(); 2].map(|()| free_port()) };
    let start = || stage.start_for_cluster(contender, &url, write, read);
    let running = if direct { None } else { Some(start()?) };
    // Where a client goes next; none: it does not know yet.
    let (leads, led) = watch::channel((!direct).then_some(write));
    let clients = CLIENTS.min(stage.connections - 50);
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS).map(|_| Reader::start(read, &over)).collect();
    let mut crowd = JoinSet::new();
    for number in 0..clients {
        let socket = timeout(LIMIT, login(write)).await?;
        let socket = socket.with_context(|| format!("client {number}"))?;
        crowd.spawn(live_through(socket, led.clone()));
    }
    let quiet = Instant::now();
    sleep(QUIET).await;
    let killed = Instant::now();
    old.process.end_by(Signal::KILL);
    sleep(VACANT).await;
    let named = Instant::now();
    published.send_replace(topology(2, new.port, replica.port)?);
    if direct {
        leads.send_replace(Some(new.port));
    }
    let lived = timeout(LIMIT, crowd.join_all()).await.context("not all have moved")?;
    let all_moved = Instant::now();
    over.store(true, Ordering::Relaxed);
    let lived = lived.into_iter().collect::<Result<Vec<_>, _>>()?;
    let reads = Reader::all(readers)?;
    publisher.abort();
    drop(running);

    let longest = |from: Instant, to: Instant| {
        let within = reads.iter().filter(|(at, took)| *at + *took >= from && *at < to);
        within.map(|(_, took)| *took).max().unwrap_or_default()
    };
    let last = |moments: &mut dyn Iterator<Item = Instant>, since| {
        moments.max().map(|last| last.saturating_duration_since(since)).unwrap_or_default()
    };
    Ok(Crowd {
        contender,
        clients,
        told: last(&mut lived.iter().map(|lived| lived.left), killed),
        cut_off: lived.iter().filter(|lived| !lived.told).count() as u64,
        moved: last(&mut lived.iter().map(|lived| lived.back), named),
        read_before: longest(quiet, killed),
        read_during: longest(killed, all_moved),
    })
}

fn topology(generation: u64, primary: u16, replica: u16) -> anyhow::Result<Topology> {
    let member = |number: u64, port: u16| -> anyhow::Result<Member> {
        Ok(serde_json::from_value(serde_json::json!({
            "id": format!("pg-{number}"), "address": format!("127.0.0.1:{port}"),
            "healthy": true, "lag_bytes": 0,
        }))?)
    };
    Ok(Topology {
        generation: Generation(generation),
        phase: Phase::ReadWrite,
        primary: Some(member(generation, primary)?),
        sync: Some(member(3, replica)?),
        ..Topology::unformed("main".to_owned(), Revision(generation))
    })
}

/// The stream of a controller: the topology, and each that follows it.
async fn publish(listener: TcpListener, topologies: watch::Receiver<Topology>) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let mut topologies = topologies.clone();
        topologies.mark_changed();
        tokio::spawn(async move {
            // Whatever is asked for, this is the answer.
            let _ = socket.read(&mut [0; 4096]).await?;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {}\r\n\r\n", stream::CONTENT_TYPE);
            socket.write_all(head.as_bytes()).await?;
            while topologies.changed().await.is_ok() {
                let newest = serde_json::to_string(&*topologies.borrow_and_update());
                socket.write_all(stream::event(&newest?).as_bytes()).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
}

/// What one client remembers.
struct Lived {
    /// When it knew that its session is over, and whether by a word.
    left: Instant,
    told: bool,
    /// When it had the next one.
    back: Instant,
}

/// Waits for the end of a session, and comes back.
async fn live_through(
    mut socket: TcpStream,
    mut led: watch::Receiver<Option<u16>>,
) -> anyhow::Result<Lived> {
    let mut words = Vec::new();
    // A reset tells nothing but the end, either.
    let _ = socket.read_to_end(&mut words).await;
    let left = Instant::now();
    let told = words.windows(5).any(|word| word == b"57P01");
    drop(socket);
    let port = *led.wait_for(Option::is_some).await?;
    let _socket = login(port.context("nowhere to go")?).await.context("coming back")?;
    Ok(Lived { left, told, back: Instant::now() })
}

/// Connects, logs in, and reads up to ReadyForQuery.
async fn login(port: u16) -> anyhow::Result<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(wire::STARTUP).await?;
    let mut words = Vec::new();
    while !words.ends_with(b"Z\0\0\0\x05I") {
        let length = socket.read_buf(&mut words).await?;
        ensure!(length > 0, "turned away: {}", String::from_utf8_lossy(&words));
    }
    Ok(socket)
}

/// A thread that reads, and remembers when each query began and how long it took.
struct Reader(thread::JoinHandle<anyhow::Result<Vec<(Instant, Duration)>>>);

impl Reader {
    fn start(port: u16, over: &Arc<AtomicBool>) -> Self {
        let over = Arc::clone(over);
        Self(thread::spawn(move || {
            let mut client = Client::connect(port)?;
            let mut reads = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.query("select 1").context("a reader")?;
                reads.push((begun, begun.elapsed()));
                thread::sleep(READER_PAUSE);
            }
            Ok(reads)
        }))
    }

    fn all(readers: Vec<Self>) -> anyhow::Result<Vec<(Instant, Duration)>> {
        let mut all = Vec::new();
        for Self(thread) in readers {
            all.extend(thread.join().map_err(|_| anyhow!("a reader panicked"))??);
        }
        Ok(all)
    }
}
