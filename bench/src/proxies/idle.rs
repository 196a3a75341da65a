//! What a connection costs that says nothing: resident memory and descriptors of the proxy.
//!
//! Behind each contender stands a server that only greets ([`crate::answer`]): PostgreSQL would
//! need a process for each connection. Each contender is started anew, so that what it has kept
//! from other workloads is not counted, or hidden.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use dugong_tests::free_port;

use crate::account::{self, Account};
use crate::proxies::contenders::{Contender, Mode, Pooling, Splice, Stage};
use crate::proxies::process::Process;
use crate::proxies::wire::{self, Client, Wire};
use crate::relay::Engine;

/// How many connections there are, as far as descriptors allow.
const CROWDS: [u64; 2] = [1_000, 10_000];

/// When memory has not grown for so long, nothing is still being set up.
const SETTLED: Duration = Duration::from_millis(300);

/// The longest that is waited for that.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// What one contender needs for one crowd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) contender: Contender,
    pub(crate) towards_clients: Towards,
    pub(crate) connections: u64,
    /// Resident bytes for each connection, above those without any.
    pub(crate) bytes: f64,
    /// Descriptors for each connection.
    pub(crate) descriptors: f64,
}

/// How clients are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Towards {
    InClear,
    Tls,
}

impl Towards {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InClear => "in clear",
            Self::Tls => "TLS",
        }
    }
}

/// A server that only greets.
pub(crate) struct Greeter {
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Greeter {
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let (port, log) = (free_port(), folder.join("greeter.log"));
        let mut command = account::command(std::env::current_exe()?, Account::Own)?;
        command.args(["answer", "--listen", &format!("127.0.0.1:{port}")]);
        let mut process = Process::start("the greeter", command, &log)?;
        wire::until_it_answers(port, || process.still_runs(&log))?;
        Ok(Self { process, port })
    }
}

/// Whose idle connections are of interest: floors keep nothing, and threads change nothing.
pub(crate) fn takes(contender: Contender) -> bool {
    match contender {
        Contender::Direct
        | Contender::Floor { .. }
        | Contender::Haproxy { splice: Splice::Auto, .. }
        | Contender::Pgbouncer(Pooling::Transaction) => false,
        Contender::Haproxy { threads, splice: Splice::No } => threads == 1,
        Contender::Pgbouncer(Pooling::Session) | Contender::Dugong { .. } => true,
    }
}

/// Who speaks TLS with a crowd: one engine is enough, since what is encrypted is moved by neither.
fn speaks_tls(contender: Contender) -> bool {
    match contender {
        Contender::Pgbouncer(Pooling::Session) => true,
        Contender::Dugong { mode: Mode::Session, engine, .. } => engine != Some(Engine::Epoll),
        Contender::Direct
        | Contender::Floor { .. }
        | Contender::Haproxy { .. }
        | Contender::Pgbouncer(Pooling::Transaction)
        | Contender::Dugong { mode: Mode::Tcp, .. } => false,
    }
}

/// Connects crowds through `contender`, one on top of the other; in clear, then those with TLS.
pub(crate) fn measure(contender: Contender, stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let mut found = gather(contender, Towards::InClear, stage)?;
    if speaks_tls(contender) {
        found.extend(gather(contender, Towards::Tls, stage)?);
    }
    Ok(found)
}

fn gather(contender: Contender, towards: Towards, stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let greeter = Greeter::start(&stage.folder)?;
    let running = stage.start(contender, greeter.port)?;
    let process = running.process.as_ref().context("nobody to look at")?;
    let tls = stage.certificate.believed()?;
    let before = settled_bytes(process)?;
    let descriptors_before = process.descriptors()?;
    let mut crowd: Vec<Box<dyn Wire>> = Vec::new();
    let mut found = Vec::new();
    for wanted in CROWDS.map(|crowd| crowd.min(stage.connections - 50)) {
        while (crowd.len() as u64) < wanted {
            let number = crowd.len();
            let client = match towards {
                Towards::InClear => Client::connect(running.port),
                Towards::Tls => Client::connect_encrypted(running.port, &tls),
            };
            // One query each: before that, PgBouncer has no server connection for it.
            let client = client.and_then(|mut client| {
                client.query("select 1")?;
                Ok(client)
            });
            let client = client.with_context(|| format!("{contender}, connection {number}"))?;
            crowd.push(client.into_wire());
        }
        let bytes = settled_bytes(process)?.saturating_sub(before);
        let descriptors = process.descriptors()? - descriptors_before;
        found.push(Idle {
            contender,
            towards_clients: towards,
            connections: wanted,
            bytes: each(bytes, wanted),
            descriptors: each(descriptors as u64, wanted),
        });
    }
    Ok(found)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn each(all: u64, count: u64) -> f64 {
    all as f64 / count as f64
}

/// Resident memory, once it does not change any more.
fn settled_bytes(process: &Process) -> anyhow::Result<u64> {
    let (mut last, mut since, begun) = (process.resident_bytes()?, Instant::now(), Instant::now());
    while since.elapsed() < SETTLED && begun.elapsed() < SETTLED_WITHIN {
        thread::sleep(SETTLED / 10);
        let now = process.resident_bytes()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}
