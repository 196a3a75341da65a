//! Who is measured: nobody between pgbench and PostgreSQL, floors, peers, and ours.
//!
//! All of them run all the time, each as a process of its own that leads to the same server; who
//! is not measured just now sleeps. Their settings are in a file each: [`haproxy`], [`pgbouncer`],
//! [`dugong`].

mod dugong;
mod haproxy;
mod pgbouncer;

use std::fmt;
use std::path::PathBuf;

use anyhow::bail;
use dugong_tests::free_port;

use crate::account::{self, Account};
use crate::certificate::Certificate;
use crate::proxies::process::Process;
use crate::proxies::wire;
use crate::relay::Engine;

pub(crate) use crate::proxies::contenders::dugong::{Program, Programs, arguments};

/// One that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Nobody: pgbench at the server itself.
    Direct,
    Floor {
        engine: Engine,
        threads: usize,
    },
    Haproxy {
        threads: usize,
        splice: Splice,
    },
    Pgbouncer(Pooling),
    Dugong {
        build: Build,
        mode: Mode,
        engine: Option<Engine>,
    },
}

/// Whether HAProxy may move bytes without looking at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splice {
    No,
    Auto,
}

/// What PgBouncer keeps a server connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Session,
    Transaction,
}

/// How much of the protocol our proxy follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Session,
    Tcp,
}

/// Which of our programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// What this is about.
    Current,
    /// An older one, or one with another idea, to compare with.
    Before,
}

/// Whose a contender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Floor,
    Peer,
    Ours,
}

impl Contender {
    /// Everybody that can be measured here, in the order of the tables.
    pub(crate) fn all(ours: &Programs) -> Vec<Self> {
        let mut all = vec![Self::Direct];
        for engine in [Engine::Epoll, Engine::Uring] {
            all.extend([1, 2].map(|threads| Self::Floor { engine, threads }));
        }
        for splice in [Splice::No, Splice::Auto] {
            all.extend([1, 2].map(|threads| Self::Haproxy { threads, splice }));
        }
        all.extend([Pooling::Session, Pooling::Transaction].map(Self::Pgbouncer));
        all.extend(ours.contenders());
        all
    }

    /// Whether a failover is measured of it: it knows of clusters, or nobody needs to.
    pub(crate) fn has_failovers(self) -> bool {
        matches!(self, Self::Direct | Self::Dugong { mode: Mode::Session, .. })
    }

    /// None for `Direct`.
    pub(crate) fn side(self) -> Option<Side> {
        match self {
            Self::Direct => None,
            Self::Floor { .. } => Some(Side::Floor),
            Self::Haproxy { .. } | Self::Pgbouncer(_) => Some(Side::Peer),
            Self::Dugong { .. } => Some(Side::Ours),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.pad("direct"),
            Self::Floor { engine, threads } => {
                f.pad(&format!("floor-{}-{threads}", engine.short_name()))
            }
            Self::Haproxy { threads, splice: Splice::No } => f.pad(&format!("haproxy-{threads}")),
            Self::Haproxy { threads, splice: Splice::Auto } => {
                f.pad(&format!("haproxy-splice-{threads}"))
            }
            Self::Pgbouncer(Pooling::Session) => f.pad("pgbouncer-session"),
            Self::Pgbouncer(Pooling::Transaction) => f.pad("pgbouncer-transaction"),
            Self::Dugong { build, mode, engine } => {
                let build = match build {
                    Build::Current => "dugong",
                    Build::Before => "before",
                };
                let mode = match mode {
                    Mode::Session => "session",
                    Mode::Tcp => "tcp",
                };
                let engine = engine.map(|engine| format!("-{}", engine.short_name()));
                f.pad(&format!("{build}-{mode}{}", engine.unwrap_or_default()))
            }
        }
    }
}

/// What peers are told, beside ports and the number of threads.
pub(crate) const SETTINGS: &[(&str, &str)] =
    &[("HAProxy", haproxy::SETTINGS), ("PgBouncer", pgbouncer::SETTINGS)];

/// A contender that runs.
pub(crate) struct Running {
    pub(crate) contender: Contender,
    pub(crate) port: u16,
    /// None for `Direct`.
    pub(crate) process: Option<Process>,
}

/// What contenders are started with.
pub(crate) struct Stage {
    pub(crate) programs: Programs,
    /// For settings and logs.
    pub(crate) folder: PathBuf,
    /// What is shown to clients who want TLS, by those who speak it.
    pub(crate) certificate: Certificate,
    /// Clients that a proxy can have at once with the descriptors that there are.
    pub(crate) connections: u64,
}

impl Stage {
    /// Starts `contender` in front of the server at `server`, and waits until it leads there.
    pub(crate) fn start(&self, contender: Contender, server: u16) -> anyhow::Result<Running> {
        let (port, name) = (free_port(), contender.to_string());
        let prefix = self.folder.join(format!("{name}-{port}"));
        let command = match contender {
            Contender::Direct => return Ok(Running { contender, port: server, process: None }),
            Contender::Floor { engine, threads } => {
                let mut command = account::command(std::env::current_exe()?, Account::Own)?;
                command.args([
                    "relay",
                    "--engine",
                    engine.short_name(),
                    "--threads",
                    &threads.to_string(),
                ]);
                command.args(["--listen", &format!("127.0.0.1:{port}")]);
                command.args(["--to", &format!("127.0.0.1:{server}")]);
                command
            }
            Contender::Haproxy { threads, splice } => {
                haproxy::command(threads, splice, self.connections, [port, server], &prefix)?
            }
            Contender::Pgbouncer(pooling) => {
                pgbouncer::command(pooling, self, [port, server], &prefix)?
            }
            Contender::Dugong { build, mode, engine } => {
                dugong::command(self, build, mode, engine, [port, server])?
            }
        };
        let log = prefix.with_extension("log");
        let mut process = Process::start(&name, command, &log)?;
        wire::until_it_answers(port, || process.still_runs(&log))?;
        Ok(Running { contender, port, process: Some(process) })
    }
    /// Starts one of ours for the cluster of the controller at `url`, and waits until it leads to
    /// the primary.
    pub(crate) fn start_for_cluster(
        &self,
        contender: Contender,
        url: &str,
        write: u16,
        read: u16,
    ) -> anyhow::Result<Process> {
        let Contender::Dugong { build, engine, .. } = contender else {
            bail!("{contender} follows no topology");
        };
        let log = self.folder.join(format!("{contender}-{write}.log"));
        let command = dugong::for_cluster(self.programs.path(build)?, engine, url, [write, read])?;
        let mut process = Process::start(&contender.to_string(), command, &log)?;
        wire::until_it_answers(write, || process.still_runs(&log))?;
        Ok(process)
    }
}
