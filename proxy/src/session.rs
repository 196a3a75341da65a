//! One client, from its first byte to its last.
//!
//! [`serve`] is the whole life where one side is encrypted: handshake, admission
//! (`crate::admission`), relay, last word. Two plain sockets are handed over to a thread that moves
//! bytes between sockets and nothing else ([`crate::relay::crew`]); [`farewell`] says the last word to those.
//! What the server says is followed by a [`follower`], so that nothing is ever said to the client in
//! the middle of a message.
//!
//! **Invariant:** dropping the future closes both sockets, frees the client's place and forgets its
//! cancel key: no other clean-up exists.

pub mod binding;
pub mod dial;
pub mod farewell;
pub mod follower;
mod questions;
pub mod tracker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use dugong_topology::Topology;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::admission::{self, Admitted};
use crate::cancel;
use crate::ciphers;
use crate::config::Mode;
use crate::error::SessionError;
use crate::gate::Budget;
use crate::handshake::{self, Asked, Begun, Opening, Patience, Refused};
use crate::listener::Listener;
use crate::metrics::{self, OpenGuard};
use crate::relay::session::{Session, Terms};
use crate::relay::{Ended, Observer, Relay};
use crate::replicas::Claim;
use crate::route::{self, Leave, Parting, Target};
use crate::runtime::Shared;
use crate::session::binding::{Guard, WouldBind};
use crate::session::dial::{Binding, Server};
use crate::session::farewell::{FAREWELL, dismiss, say};
use crate::session::follower::Follower;
use crate::session::tracker::Tracker;
use crate::shutdown::Stage;
use crate::stream::Stream;
use crate::wire::startup::Beginning;

/// A client besides its socket, since it was accepted.
#[derive(Debug)]
pub struct Newcomer {
    pub listener: Listener,
    pub place: OpenGuard,
    pub since: Instant,
    /// Since when it waits for a server, where it does already.
    pub waits_since: Option<Instant>,
}

impl Newcomer {
    /// One that was accepted just now.
    pub fn new(listener: Listener, shared: &Shared) -> Self {
        let place = shared.gauges.open(listener);
        Self { listener, place, since: Instant::now(), waits_since: None }
    }

    /// How long it may wait for a server.
    pub fn budget(&self, shared: &Shared) -> Budget {
        Budget::since(self.waits_since.unwrap_or_else(Instant::now), shared.config.hold_timeout)
    }

    /// What its session begins with, on `target`.
    pub fn into_terms(self, target: Target, claim: Option<Claim>, shared: &Shared) -> Terms {
        let Self { listener, place: open, .. } = self;
        tracing::debug!(listener = listener.as_str(), server = %target.id, "session begins");
        let target = Arc::new(target);
        let follower = match shared.config.mode {
            Mode::Session => {
                let follower = Follower::new(Arc::clone(&target), Arc::clone(&shared.cancels));
                Some(follower.with_claim(claim))
            }
            // Nobody knows when the client waits for an answer: it has no part in what a standby has
            // to do.
            Mode::Tcp => None,
        };
        Terms { listener, target, follower, open }
    }
}

/// Serves one client that has said `said`, or makes it one of the crew's.
pub async fn serve(client: TcpStream, said: Beginning, newcomer: Newcomer, shared: Arc<Shared>) {
    match shared.config.mode {
        Mode::Session => serve_session(client, said, newcomer, shared).await,
        Mode::Tcp => connect_through(client, newcomer, &shared).await,
    }
}

/// Finds a server for a client of whom nothing is known, and makes both the crew's.
async fn connect_through(client: TcpStream, newcomer: Newcomer, shared: &Shared) {
    let mut client = Stream::Plain(client);
    let admitted = match admission::admit(&mut client, None, &newcomer, shared).await {
        Ok(admitted) => admitted,
        Err(error) => {
            note_refusal(newcomer.listener, shared, &error);
            return;
        }
    };
    let Admitted { target, server: Server { stream: server, spoken, .. }, claim } = admitted;
    let terms = newcomer.into_terms(target, claim, shared);
    match (client, server) {
        (Stream::Plain(client), Stream::Plain(server)) => {
            hand_over(client, server, spoken, terms, shared);
        }
        _ => unreachable!("a configuration with this mode has no TLS"),
    }
}

/// Shakes hands with a client, finds a server, and relays or has the crew do it.
async fn serve_session(
    client: TcpStream,
    said: Beginning,
    newcomer: Newcomer,
    shared: Arc<Shared>,
) {
    let listener = newcomer.listener;
    let tls = shared.port_tls(listener);
    let beginning = handshake::begin(client, said, newcomer.since, tls, patience(&shared));
    let here = match Box::pin(beginning).await {
        Ok(Begun::InClear(client, opening)) => {
            Box::pin(go_on(Stream::Plain(client), opening, newcomer, &shared)).await
        }
        Ok(Begun::Encrypts(asked)) => return encrypt_elsewhere(asked, newcomer, shared),
        Err(Refused { client, error }) => return refuse(client, listener, &shared, &error).await,
    };
    if let Some(here) = here {
        Box::pin(relay_here(here, &shared)).await;
    }
}

fn patience(shared: &Shared) -> Patience<'_> {
    Patience { limit: shared.config.handshake_timeout, shutdown: &shared.shutdown }
}

/// Goes on where there are threads for it: to encrypt is work, and many clients may want it.
fn encrypt_elsewhere(asked: Asked, newcomer: Newcomer, shared: Arc<Shared>) {
    let threads = shared.ciphers.clone();
    ciphers::spawn(&threads, async move {
        // Boxed: a session shall not keep the room of its beginning for all its life.
        let here = Box::pin(begin_encrypted(asked, newcomer, &shared)).await;
        if let Some(here) = here {
            relay_here(here, &shared).await;
        }
    });
}

/// Encrypts, and does what a client wants.
async fn begin_encrypted(
    asked: Asked,
    newcomer: Newcomer,
    shared: &Arc<Shared>,
) -> Option<Box<Here>> {
    let Some(front) = &shared.front else {
        unreachable!("only a port with TLS has clients that encrypt")
    };
    let encrypting = async {
        match asked.rehomed() {
            Ok(asked) => handshake::encrypt(asked, front, patience(shared)).await,
            Err(error) => Err(Refused { client: None, error: SessionError::Client(error) }),
        }
    };
    match encrypting.await {
        Ok((client, opening)) => go_on(client, opening, newcomer, shared).await,
        Err(Refused { client, error }) => {
            refuse(client, newcomer.listener, shared, &error).await;
            None
        }
    }
}

/// A session that is relayed by its own task, since one of its sides is encrypted.
struct Here {
    client: Stream,
    server: Stream,
    binding: Binding,
    /// What the server has said already.
    spoken: Vec<u8>,
    terms: Terms,
}

/// Does what a client wants. What it returns is still to be relayed.
async fn go_on(
    mut client: Stream,
    opening: Opening,
    newcomer: Newcomer,
    shared: &Arc<Shared>,
) -> Option<Box<Here>> {
    let startup = match opening {
        Opening::Startup(packet) => packet,
        Opening::Cancel(key, packet) => {
            cancel::forward(shared, &key, &packet).await;
            return None;
        }
        Opening::Nothing => return None,
    };
    let admitted = match admission::admit(&mut client, Some(&startup), &newcomer, shared).await {
        Ok(admitted) => admitted,
        Err(error) => {
            refuse(Some(client), newcomer.listener, shared, &error).await;
            return None;
        }
    };
    let Admitted { target, server: Server { stream: server, spoken, binding }, claim } = admitted;
    let terms = newcomer.into_terms(target, claim, shared);
    match (client, server) {
        (Stream::Plain(client), Stream::Plain(server)) => {
            hand_over(client, server, spoken, terms, shared);
            None
        }
        (client, server) => Some(Box::new(Here { client, server, binding, spoken, terms })),
    }
}

/// Turns away a client that has no server yet.
async fn refuse(client: Option<Stream>, listener: Listener, shared: &Shared, error: &SessionError) {
    note_refusal(listener, shared, error);
    if let (Some(client), Some(answer)) = (client, error.answer()) {
        Box::pin(dismiss(client, &answer)).await;
    }
}

/// Counts and logs it.
pub fn note_refusal(listener: Listener, shared: &Shared, error: &SessionError) {
    metrics::count_reason(metrics::REJECTED, listener, error.reason());
    if matches!(error, SessionError::Client(_)) {
        tracing::debug!(%error, "a client left");
        return;
    }
    if let Some(left_out) = shared.refusals.now() {
        tracing::info!(
            "a client of the {} port was refused: {error} ({left_out} more since the last line)",
            listener.as_str(),
        );
    }
}

/// Gives two plain sockets to a relay thread, and so ends this session's task.
fn hand_over(client: TcpStream, server: TcpStream, spoken: Vec<u8>, terms: Terms, shared: &Shared) {
    let listener = terms.listener;
    match (client.into_std(), server.into_std()) {
        (Ok(client), Ok(server)) => {
            shared.crew.adopt(Session::new(client.into(), server.into(), spoken, terms));
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "a session could not be handed over");
            metrics::count_reason(metrics::ENDED, listener, SessionError::Client(error).reason());
        }
    }
}

/// Relays in this task, says the last word, and counts.
async fn relay_here(here: Box<Here>, shared: &Shared) {
    let Here { mut client, server, binding, spoken, mut terms } = *here;
    let reason = match relay(&mut client, server, binding, spoken, &mut terms, shared).await {
        Ok(reason) => reason,
        Err(error) => {
            tracing::debug!(server = %terms.target.id, %error, "session ended");
            if let Some(answer) = error.answer() {
                Box::pin(dismiss(client, &answer)).await;
            }
            error.reason()
        }
    };
    metrics::count_reason(metrics::ENDED, terms.listener, reason);
}

/// Relays until one side ends, or until the session must; tells how it ended where nobody has to be
/// told.
async fn relay(
    client: &mut Stream,
    mut server: Stream,
    binding: Binding,
    spoken: Vec<u8>,
    terms: &mut Terms,
    shared: &Shared,
) -> Result<&'static str, SessionError> {
    let Terms { listener, target, follower, .. } = terms;
    follower.arrived(&spoken);
    let mut relay = Relay::new(spoken, metrics::byte_counters(*listener));
    let seats = shared.topologies.seats.clone();
    let leaves = AtomicBool::new(false);
    let mut leaving = Leaving { follower: &mut *follower, leaves: &leaves };
    let running = async {
        match (&*client, binding) {
            // Only who sees a certificate can bind to it.
            (Stream::Tls(_), Binding::Withheld) => {
                relay.run(&mut Guard::new(client), &mut server, &mut leaving).await
            }
            (Stream::Tls(_) | Stream::Plain(_), _) => {
                relay.run(client, &mut server, &mut leaving).await
            }
        }
    };

    // The relay may lose at any await: what the client did not take yet stays in its buffer.
    let why = tokio::select! {
        biased;
        leave = must_leave(target, seats.clone(), &leaves) => SessionError::Leave(leave),
        () = shared.shutdown.reached(Stage::Ending) => SessionError::ShuttingDown,
        ended = running => match ended.map(|ended| outcome(ended, heard(follower), target)) {
            Some(Ok(reason)) => return Ok(reason),
            Some(Err(error)) => error,
            None => {
                let generation = seats.borrow().as_ref().map(|topology| topology.generation);
                let generation = generation.unwrap_or_default();
                SessionError::Leave(Leave::HandsOver { id: target.id.clone(), generation })
            }
        },
    };
    drop(server);
    if !heard(follower).is_some_and(Tracker::at_boundary) {
        return Err(SessionError::Interrupted { why: Box::new(why) });
    }
    match timeout(FAREWELL, say(client, relay.unsent_to_client())).await {
        Ok(Ok(())) => Err(why),
        Ok(Err(error)) => Err(SessionError::Client(error)),
        Err(_) => Err(SessionError::Interrupted { why: Box::new(why) }),
    }
}

fn heard(follower: &Option<Follower>) -> Option<&Tracker> {
    follower.as_ref().map(Follower::tracker)
}

/// What the end of a relay means: a reason where nobody has to be told, or what is to be told.
///
/// # Errors
///
/// The client has to be told, or is gone.
pub fn outcome(
    ended: Ended,
    heard: Option<&Tracker>,
    target: &Target,
) -> Result<&'static str, SessionError> {
    match ended {
        Ended::ByClient => Ok("client"),
        Ended::ClientFailed(error) if WouldBind::is_why(&error) => Err(SessionError::WouldBind),
        Ended::ClientFailed(error) => Err(SessionError::Client(error)),
        // Whether it said why, nobody knows.
        Ended::ServerClosed if heard.is_none() => Ok("server"),
        Ended::ServerClosed | Ended::ServerFailed(_) if heard.is_some_and(Tracker::told_fatal) => {
            Ok("server")
        }
        Ended::ServerClosed | Ended::ServerFailed(_) => {
            Err(SessionError::ServerLost { instance: target.id.clone() })
        }
    }
}

/// Follows the server, and ends the relay between two transactions where that is wanted.
struct Leaving<'a> {
    follower: &'a mut Option<Follower>,
    leaves: &'a AtomicBool,
}

impl Observer for Leaving<'_> {
    fn asked(&mut self, bytes: &[u8]) {
        self.follower.asked(bytes);
    }

    fn arrived(&mut self, bytes: &[u8]) {
        self.follower.arrived(bytes);
    }

    fn has_heard_farewell(&self) -> bool {
        self.follower.has_heard_farewell()
    }

    fn wants_end(&self) -> bool {
        self.leaves.load(Relaxed)
            && self.follower.as_ref().is_some_and(Follower::is_between_transactions)
    }
}

/// Waits until the topology says that a session must leave its server at once. `leaves`: whether it
/// is to leave when it can.
async fn must_leave(
    target: &Target,
    mut seats: watch::Receiver<Option<Arc<Topology>>>,
    leaves: &AtomicBool,
) -> Leave {
    loop {
        let topology = seats.borrow_and_update().clone();
        let parting = topology.and_then(|topology| route::parting(target, &topology));
        leaves.store(matches!(parting, Some(Parting::BetweenTransactions(_))), Relaxed);
        if let Some(Parting::AtOnce(leave)) = parting {
            return leave;
        }
        if seats.changed().await.is_err() {
            // The proxy is ending, which is not the topology's doing.
            return std::future::pending().await;
        }
    }
}
