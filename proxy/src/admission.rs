//! From a startup packet to a server that answers it: try, wait, try again.
//!
//! A client that comes while nobody can serve it waits here and notices nothing, within one budget
//! and one of a bounded number of places. Nothing was executed for it yet, so that another try is
//! always safe.

use std::sync::Arc;
use std::time::Duration;

use dugong_topology::{Phase, Topology};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::error::{Awaited, SessionError};
use crate::gate::Budget;
use crate::listener::Listener;
use crate::metrics;
use crate::replicas::Claim;
use crate::route::{self, Options, Seat, Target};
use crate::runtime::Shared;
use crate::session::Newcomer;
use crate::session::dial::{self, DialError, Server};
use crate::shortage::Shortage;
use crate::shutdown::Stage;
use crate::stream::Stream;
use crate::tls::servers::NoTls;

/// Between two tries of servers that do not answer: doubled from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(100);

type Topologies = watch::Receiver<Option<Arc<Topology>>>;

/// A server that answers a client.
pub struct Admitted {
    pub target: Target,
    pub server: Server,
    /// The client's part in what a standby has to do.
    pub claim: Option<Claim>,
}

/// Finds a server for a client, whose startup packet is known or not, for as long as the client may wait and does.
///
/// # Errors
///
/// Nobody could serve it in time, too many wait, the client left, or the proxy stops.
pub async fn admit(
    client: &mut Stream,
    startup: Option<&[u8]>,
    newcomer: &Newcomer,
    shared: &Shared,
) -> Result<Admitted, SessionError> {
    let shown = client.shown().cloned();
    // A try that loses is dropped with its connection: the server sees a client that left.
    tokio::select! {
        biased;
        () = shared.shutdown.reached(Stage::Draining) => Err(SessionError::ShuttingDown),
        error = client.gone() => Err(SessionError::Client(error)),
        found = find(startup, shown.as_ref(), newcomer, shared) => found,
    }
}

async fn find(
    startup: Option<&[u8]>,
    shown: Option<&Arc<CertificateDer<'static>>>,
    newcomer: &Newcomer,
    shared: &Shared,
) -> Result<Admitted, SessionError> {
    let (listener, budget) = (newcomer.listener, newcomer.budget(shared));
    let mut topologies = shared.topologies.newest.clone();
    let mut pause = PAUSE_MIN;
    let mut held = None;
    let mut cause = None;
    loop {
        let topology = topologies.borrow_and_update().clone();
        let options = route::options(listener, topology.as_deref(), shared.config.reads);
        let try_again = match options {
            Options::Refuse => return Err(SessionError::NoReplica),
            Options::Hold => None,
            // It had its try, which took all its time.
            Options::Try(_) if newcomer.waits_since.is_some() && budget.is_spent() => None,
            Options::Try(targets) => {
                for target in shared.replicas.arrange(targets, std::time::Instant::now()) {
                    let reads = target.seat == Seat::Standby;
                    let claim = reads.then(|| shared.replicas.claim(&target.id));
                    match attempt(&target, startup, shown, listener, budget, shared).await {
                        Ok(server) => return Ok(Admitted { target, server, claim }),
                        Err(words) => cause = words.or(cause),
                    }
                }
                Some(Instant::now() + pause)
            }
        };
        if held.is_none() {
            held = Some(shared.gate.hold(listener)?);
        }
        if budget.is_spent() {
            return Err(timed_out(listener, topology.as_deref(), cause, shared));
        }
        let until = match try_again {
            Some(at) => at.min(budget.deadline()),
            None => budget.deadline(),
        };
        match timeout_at(until, topologies.changed()).await {
            Ok(Ok(())) => pause = PAUSE_MIN,
            // Nobody publishes any more, as while the proxy stops: only time passes.
            Ok(Err(_)) => tokio::time::sleep_until(until).await,
            Err(_) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

/// One try of one server. Where it does not serve this client now: why, if that does not pass by
/// itself.
async fn attempt(
    target: &Target,
    startup: Option<&[u8]>,
    shown: Option<&Arc<CertificateDer<'static>>>,
    listener: Listener,
    budget: Budget,
    shared: &Shared,
) -> Result<Server, Option<String>> {
    let limit = shared.config.connect_timeout;
    // A server that accepts and then says nothing costs the client's budget, not for ever. Even a
    // client that may not wait at all gets one try.
    let deadline = budget.deadline().max(Instant::now() + limit);
    let dialing = async {
        let _turn = match target.seat {
            Seat::Primary => Some(shared.gate.turn().await),
            Seat::Standby => None,
        };
        dial::open(shared, &target.address, startup, shown).await
    };
    let dialing = timeout_at(deadline, dialing);
    // A try that loses is dropped with its connection.
    let result = tokio::select! {
        biased;
        () = superseded(listener, target, shared.topologies.newest.clone()) => return Err(None),
        result = dialing => result,
    };
    let error = match result {
        Ok(Ok(server)) => {
            shared.replicas.served(&target.id);
            return Ok(server);
        }
        Ok(Err(error)) => error,
        Err(_) => DialError::Silent { limit: shared.config.hold_timeout },
    };
    Err(note_failure(target, &error, listener, shared))
}

/// Takes note of a try that failed; says why, if that does not pass by itself.
pub fn note_failure(
    target: &Target,
    error: &DialError,
    listener: Listener,
    shared: &Shared,
) -> Option<String> {
    tracing::debug!(server = %target.id, %error, "a try failed");
    metrics::count_at(metrics::CONNECT_FAILURES, listener);
    if let Some(shortage) = error.shortage() {
        return Some(lament(target, error, shortage, shared));
    }
    if target.seat == Seat::Standby {
        shared.replicas.refused(&target.id, std::time::Instant::now());
    }
    let DialError::Tls(error) = error else { return None };
    Some(disbelieve(target, error, shared))
}

/// Tells the operator what the proxy lacks; the server has done nothing wrong.
fn lament(target: &Target, error: &DialError, shortage: Shortage, shared: &Shared) -> String {
    let words = format!("the proxy cannot reach {} at {}: {error}", target.id, target.address);
    if let Some(left_out) = shared.shortages.now() {
        let remedy = shortage.remedy();
        tracing::warn!("{words}: {remedy} ({left_out} more since the last line)");
    }
    words
}

/// Tells the operator that a server is not believed, which does not pass by itself.
fn disbelieve(target: &Target, error: &NoTls, shared: &Shared) -> String {
    let words = format!("{} at {}: {error}", target.id, target.address);
    if let Some(left_out) = shared.disbeliefs.now() {
        tracing::warn!("no session on {words} ({left_out} more since the last line)");
    }
    words
}

/// Waits until the topology says that this is not the server to try.
async fn superseded(listener: Listener, target: &Target, mut topologies: Topologies) {
    let right = |topology: &Option<Arc<Topology>>| {
        topology.as_ref().is_some_and(|now| route::still_right(listener, target, now))
    };
    if topologies.wait_for(|topology| !right(topology)).await.is_err() {
        // Nobody publishes any more: the try goes on.
        std::future::pending::<()>().await;
    }
}

fn timed_out(
    listener: Listener,
    topology: Option<&Topology>,
    cause: Option<String>,
    shared: &Shared,
) -> SessionError {
    let what = match listener {
        Listener::Write => Awaited::Primary,
        Listener::Read => Awaited::Reader,
    };
    let because = cause.unwrap_or_else(|| why(topology));
    SessionError::HoldTimeout { what, limit: shared.config.hold_timeout, because }
}

/// Why nobody could serve a client, in words; the publisher's, where it says why.
fn why(topology: Option<&Topology>) -> String {
    let Some(topology) = topology else {
        return "no controller has told the topology yet".to_owned();
    };
    if let Some(waiting) = &topology.waiting {
        return waiting.clone();
    }
    match (topology.phase, &topology.primary) {
        (Phase::Unformed, _) => "the cluster is not formed yet".to_owned(),
        (Phase::CatchingUp, _) => "the primary's sync has not caught up yet".to_owned(),
        (Phase::HandingOver, _) => "the primary hands over to another one".to_owned(),
        (Phase::NoPrimary, Some(primary)) => format!("the primary {} is not running", primary.id),
        (Phase::NoPrimary | Phase::ReadWrite, None) => "there is no primary".to_owned(),
        (Phase::ReadWrite, Some(primary)) => match &primary.address {
            Some(address) => format!("{} at {address} did not answer", primary.id),
            None => format!("the address of {} is not known", primary.id),
        },
    }
}
