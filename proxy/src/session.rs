//! One client, from its first byte to its last.
//!
//! [`serve`] is the whole life: handshake, admission (`crate::admission`), relay, last word. What the
//! server says is followed by a [`tracker`], so that nothing is ever said to the client in the middle
//! of a message.
//!
//! **Invariant:** dropping the future closes both sockets, frees the client's place and forgets its
//! cancel key: no other clean-up exists.

pub mod dial;
pub mod tracker;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::Topology;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admission;
use crate::cancel;
use crate::error::SessionError;
use crate::handshake::{self, Opening};
use crate::listener::Listener;
use crate::metrics;
use crate::relay::{Ended, Observer, Relay};
use crate::route::{self, Leave, Target};
use crate::runtime::Shared;
use crate::session::dial::Server;
use crate::session::tracker::Tracker;
use crate::shutdown::Stage;
use crate::socket;
use crate::stream::Stream;
use crate::wire::message::Answer;

/// The longest that a client gets to take its last message.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest that a client gets to close after it.
const LINGER: Duration = Duration::from_millis(500);

/// Serves one client.
pub async fn serve(client: TcpStream, listener: Listener, shared: Arc<Shared>) {
    let _open = shared.gauges.open(listener);
    if let Err(error) = socket::prepare(&client) {
        tracing::debug!(%error, "a client was gone at once");
        return;
    }
    let mut client = Stream::Plain(client);
    let startup = match open(&mut client, &shared).await {
        Ok(Opening::Startup(packet)) => packet,
        Ok(Opening::Cancel(key, packet)) => {
            let limit = shared.config.connect_timeout;
            return cancel::forward(&shared.cancels, &shared.names, &key, &packet, limit).await;
        }
        Ok(Opening::Nothing) => return,
        Err(error) => return refuse(client, listener, &shared, &error).await,
    };
    let (target, server) = match admission::admit(&mut client, &startup, listener, &shared).await {
        Ok(admitted) => admitted,
        Err(error) => return refuse(client, listener, &shared, &error).await,
    };
    drop(startup);
    tracing::debug!(listener = listener.as_str(), server = %target.id, "session begins");
    let reason = match relay(&mut client, &target, server, listener, &shared).await {
        Ok(parting) => parting.as_str(),
        Err(error) => {
            tracing::debug!(server = %target.id, %error, "session ended");
            if let Some(answer) = error.answer() {
                dismiss(client, &answer).await;
            }
            error.reason()
        }
    };
    metrics::count_reason(metrics::ENDED, listener, reason);
}

/// Learns what the client wants.
async fn open(client: &mut Stream, shared: &Shared) -> Result<Opening, SessionError> {
    // Whichever loses is dropped; the client's bytes are not needed any more then.
    tokio::select! {
        biased;
        () = shared.shutdown.reached(Stage::Draining) => Err(SessionError::ShuttingDown),
        opening = handshake::read(client, shared.config.handshake_timeout) => opening,
    }
}

/// Turns away a client that has no server yet.
async fn refuse(client: Stream, listener: Listener, shared: &Shared, error: &SessionError) {
    metrics::count_reason(metrics::REJECTED, listener, error.reason());
    let Some(answer) = error.answer() else {
        tracing::debug!(%error, "a client left");
        return;
    };
    if let Some(left_out) = shared.refusals.now() {
        tracing::info!(
            "a client of the {} port was refused: {error} ({left_out} more since the last line)",
            listener.as_str(),
        );
    }
    dismiss(client, &answer).await;
}

/// How a session ended where nobody has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// The client closed.
    ByClient,
    /// The server said that it closes.
    ByServer,
}

impl Parting {
    fn as_str(self) -> &'static str {
        match self {
            Self::ByClient => "client",
            Self::ByServer => "server",
        }
    }
}

/// Relays until one side ends, or until the session must.
async fn relay(
    client: &mut Stream,
    target: &Target,
    mut server: Server,
    listener: Listener,
    shared: &Shared,
) -> Result<Parting, SessionError> {
    let mut registered = None;
    let mut tracker = Tracker::new(|key| {
        registered = Some(shared.cancels.register(key, target.address.clone()));
    });
    tracker.arrived(&server.spoken);
    let mut relay = Relay::new(server.spoken, metrics::byte_counters(listener));
    let running = async {
        match (&mut *client, &mut server.stream) {
            (Stream::Plain(client), Stream::Plain(server)) => {
                relay.run(client, server, &mut tracker).await
            }
            (client, server) => relay.run(client, server, &mut tracker).await,
        }
    };

    // The relay may lose at any await: what the client did not take yet stays in its buffer.
    let why = tokio::select! {
        biased;
        leave = must_leave(target, shared.topologies.seats.clone()) => SessionError::Leave(leave),
        () = shared.shutdown.reached(Stage::Ending) => SessionError::ShuttingDown,
        ended = running => match ended {
            Ended::ByClient => return Ok(Parting::ByClient),
            Ended::ClientFailed(error) => return Err(SessionError::Client(error)),
            Ended::ServerClosed | Ended::ServerFailed(_) if tracker.told_fatal() => {
                return Ok(Parting::ByServer);
            }
            Ended::ServerClosed | Ended::ServerFailed(_) => {
                SessionError::ServerLost { instance: target.id.clone() }
            }
        },
    };
    drop(server.stream);
    if !tracker.at_boundary() {
        return Err(SessionError::Interrupted { why: Box::new(why) });
    }
    match timeout(FAREWELL, say(client, relay.unsent_to_client())).await {
        Ok(Ok(())) => Err(why),
        Ok(Err(error)) => Err(SessionError::Client(error)),
        Err(_) => Err(SessionError::Interrupted { why: Box::new(why) }),
    }
}

/// Waits until the topology says that a session must leave its server.
async fn must_leave(target: &Target, mut seats: watch::Receiver<Option<Arc<Topology>>>) -> Leave {
    loop {
        let topology = seats.borrow_and_update().clone();
        if let Some(leave) = topology.and_then(|topology| route::leave(target, &topology)) {
            return leave;
        }
        if seats.changed().await.is_err() {
            // The proxy is ending, which is not the topology's doing.
            return std::future::pending().await;
        }
    }
}

/// Writes all of it, and out.
async fn say(client: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Says a last word and closes in a way that lets the client read it.
async fn dismiss(mut client: Stream, answer: &Answer) {
    let farewell = async {
        client.write_all(&answer.encode()).await?;
        client.shutdown().await
    };
    if !matches!(timeout(FAREWELL, farewell).await, Ok(Ok(()))) {
        return;
    }
    // Closing while bytes are unread resets the connection, and the client would lose the message.
    let mut bin = [0; 1024];
    let emptying = async { while matches!(client.read(&mut bin).await, Ok(1..)) {} };
    // Whether the client closed or the time is over: it has had its chance to read.
    let _ = timeout(LINGER, emptying).await;
}
