//! The floor of a proxy: the least that carrying bytes between two sockets costs.
//!
//! It knows no protocol, has no limits and no manners: two reads and two writes a round trip,
//! nothing else. Runs as a process of its own, so that its processor time is read from /proc like
//! everybody's. One thread accepts, connects, and deals the pairs out in turn ([`inbox`]); the
//! others carry bytes, by [`epoll`] or by [`uring`].
//!
//! **Invariant:** nothing of `dugong-proxy` is in it: a floor shares no mistakes with what stands
//! on it.

mod epoll;
mod inbox;
#[expect(unsafe_code, reason = "the kernel works on buffers while the program goes on")]
mod uring;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::relay::inbox::Inbox;

/// How the threads wait for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Epoll,
    Uring,
}

impl Engine {
    /// As contenders and this program's own flag name it.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Uring => "uring",
        }
    }

    /// As the kernel and our proxy name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        }
    }
}

/// Whether the kernel has io_uring, and lets this process use it.
pub(crate) fn uring_is_there() -> bool {
    uring::is_there()
}

/// What the process of a floor is told.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    engine: Engine,
    /// How many threads carry bytes.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long)]
    listen: SocketAddr,
    /// The server that every connection is led to.
    #[arg(long)]
    to: SocketAddr,
}

/// Two sockets that belong together, the client's first.
type Pair = [TcpStream; 2];

/// Accepts and relays until the process is ended.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)
        .with_context(|| format!("listening on {}", options.listen))?;
    let mut threads = Vec::new();
    for _ in 0..options.threads.max(1) {
        let (outbox, inbox) = inbox::channel()?;
        let engine = options.engine;
        std::thread::spawn(move || {
            let Err(error) = carry(engine, &inbox);
            // A floor that carries no more would be measured as one that costs nothing.
            eprintln!("the relay ends: {error}");
            std::process::exit(1);
        });
        threads.push(outbox);
    }
    for turn in 0_usize.. {
        let (client, _) = listener.accept().context("accepting")?;
        // A client whose server is gone is closed by being dropped.
        let Ok(server) = TcpStream::connect(options.to) else { continue };
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
        }
        let thread = turn % threads.len();
        threads[thread].give([client, server])?;
    }
    Ok(())
}

fn carry(engine: Engine, inbox: &Inbox) -> io::Result<Infallible> {
    match engine {
        Engine::Epoll => epoll::carry(inbox),
        Engine::Uring => uring::carry(inbox),
    }
}
