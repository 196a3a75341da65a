//! The two listeners for PostgreSQL's clients: their names, and how clients come in to the control side:
//! accepted here where they may encrypt ([`run`]), or left to it by a lobby ([`receive`]).
//!
//! **Invariant:** accepting never stops for good before the shutdown. Where a resource runs out (file
//! descriptors, memory) it pauses and says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};

use crate::lobby::Stranger;
use crate::metrics;
use crate::rarely::Rarely;
use crate::runtime::Shared;
use crate::session::{self, Newcomer};
use crate::shortage::Shortage;
use crate::shutdown::Stage;
use crate::wire::startup::Beginning;

/// Which address a client came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// Leads to the primary.
    Write,
    /// Leads to a standby.
    Read,
}

impl Listener {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Write, Self::Read];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }

    /// Where it stands in [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::Write => 0,
            Self::Read => 1,
        }
    }
}

/// How long accepting pauses when a resource ran out: connections end meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two log lines about that.
const PAUSE_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts and serves clients until the shutdown; returns when the last one has ended.
///
/// Owns its clients' tasks. A panic in one ends that session only.
pub async fn run(sockets: TcpListener, listener: Listener, shared: Arc<Shared>) {
    let pauses = Pauses::default();
    let mut sessions = JoinSet::new();
    loop {
        // A lost accept leaves the connection in the kernel's queue; a lost join is joined later.
        tokio::select! {
            biased;
            () = shared.shutdown.reached(Stage::Draining) => break,
            Some(ended) = sessions.join_next() => note_panic(ended),
            accepted = sockets.accept() => match accepted {
                Ok((stream, _)) => start(&mut sessions, stream, listener, &shared),
                Err(error) if Pauses::are_due(&error) => {
                    pauses.note(listener, &error);
                    tokio::time::sleep(PAUSE).await;
                }
                // The client was gone before it was accepted.
                Err(error) => tracing::debug!(%error, "accept"),
            },
        }
    }
    drop(sockets);
    while let Some(ended) = sessions.join_next().await {
        note_panic(ended);
    }
}

/// Serves those whom a lobby leaves to the control side, until it closes; returns when the last one
/// has ended.
pub async fn receive(mut strangers: UnboundedReceiver<Stranger>, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        // What loses stays in its queue.
        tokio::select! {
            biased;
            Some(ended) = sessions.join_next() => note_panic(ended),
            Some(stranger) = strangers.recv() => {
                let Stranger { client, said, newcomer } = stranger;
                match TcpStream::from_std(client.into()) {
                    Ok(client) => {
                        sessions.spawn(session::serve(client, said, newcomer, Arc::clone(&shared)));
                    }
                    Err(error) => tracing::warn!(%error, "a client could not be taken over"),
                }
            }
            else => break,
        }
    }
}

fn start(sessions: &mut JoinSet<()>, stream: TcpStream, listener: Listener, shared: &Arc<Shared>) {
    let newcomer = Newcomer::new(listener, shared);
    let shared = Arc::clone(shared);
    if shared.back.is_none() {
        sessions.spawn(session::serve(stream, Beginning::default(), newcomer, shared));
        return;
    }
    // Its server's side will be encrypted, whatever its own is.
    let threads = shared.ciphers.clone();
    let serving = async move {
        match stream.into_std().and_then(TcpStream::from_std) {
            Ok(stream) => session::serve(stream, Beginning::default(), newcomer, shared).await,
            Err(error) => tracing::debug!(%error, "a client was gone at once"),
        }
    };
    sessions.spawn_on(serving, &threads);
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        metrics::count(metrics::PANICS);
        tracing::error!(%error, "a session ended in a panic, which is a bug of the proxy");
    }
}

/// Says why accepting pauses, now and then.
#[derive(Debug)]
pub struct Pauses(Rarely);

impl Default for Pauses {
    fn default() -> Self {
        Self(Rarely::new(PAUSE_LOG_INTERVAL))
    }
}

impl Pauses {
    /// Whether accept failed for want of something that comes back when connections end.
    pub fn are_due(error: &io::Error) -> bool {
        matches!(Shortage::of(error), Some(Shortage::Files | Shortage::Memory))
    }

    /// There is one.
    pub fn note(&self, listener: Listener, error: &io::Error) {
        metrics::count_at(metrics::ACCEPT_PAUSES, listener);
        if let Some(left_out) = self.0.now() {
            let port = listener.as_str();
            let remedy = Shortage::of(error).map_or("it is tried again", Shortage::remedy);
            tracing::warn!(
                "accepting on the {port} port pauses ({error}): {remedy} ({left_out} more pauses \
                 since the last line)"
            );
        }
    }
}
