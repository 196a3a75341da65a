//! A call to a server for one client: connects, hands the startup packet on, and listens for the first
//! word, as [`dial`](crate::session::dial) does where there is time to wait.
//!
//! One call only: where it comes to nothing, nothing was executed, and the control side tries again.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getpeername, ipproto,
    recv, send, socket_with, sockopt,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::admission;
use crate::listener::Listener;
use crate::names::ConnectError;
use crate::relay::engine::Readiness;
use crate::replicas::Claim;
use crate::route::{self, Options, Seat, Target};
use crate::runtime::Shared;
use crate::session::dial::{DialError, READ_BYTES};
use crate::socket;
use crate::wire::message::{FirstAnswer, first_answer};

pub(super) struct Call {
    pub(super) server: OwnedFd,
    pub(super) target: Target,
    pub(super) claim: Option<Claim>,
    /// None (mode `tcp`): a connection is all that is asked for.
    pub(super) packet: Vec<u8>,
    /// How much of it has gone.
    sent: usize,
    /// What the server said so far, for the client.
    pub(super) spoken: Vec<u8>,
    pub(super) since: Instant,
    /// Of those who may connect to a primary at once.
    _turn: Option<OwnedSemaphorePermit>,
}

/// What came of it so far.
pub(super) enum Heard {
    Nothing(Readiness),
    /// It serves the client, or refuses it for good.
    Answer,
}

impl Call {
    /// Begins to connect to the server that is to be tried first; gives the packet back where there is
    /// none that can be called without waiting.
    pub(super) fn begin(
        packet: Vec<u8>,
        listener: Listener,
        shared: &Shared,
    ) -> Result<Self, Vec<u8>> {
        let topology = shared.topologies.newest.borrow().clone();
        let options = route::options(listener, topology.as_deref(), shared.config.reads);
        let Options::Try(targets) = options else { return Err(packet) };
        let now = Instant::now();
        let target = shared.replicas.arrange(targets, now.into_std()).into_iter().next();
        let Some(target) = target else { return Err(packet) };
        let Some(ip) = shared.names.known_address(&target.address.host) else { return Err(packet) };
        let (turn, claim) = match target.seat {
            Seat::Primary => match shared.gate.free_turn() {
                Some(turn) => (Some(turn), None),
                None => return Err(packet),
            },
            Seat::Standby => (None, Some(shared.replicas.claim(&target.id))),
        };
        match start_to_connect(SocketAddr::new(ip, target.address.port)) {
            Ok(server) => Ok(Self {
                server,
                target,
                claim,
                packet,
                sent: 0,
                spoken: Vec::new(),
                since: now,
                _turn: turn,
            }),
            Err(error) => {
                note_failure(&target, &refused(error), listener, shared);
                Err(packet)
            }
        }
    }

    /// Does what can be done at once.
    pub(super) fn go_on(&mut self, buffer: &mut [u8]) -> Result<Heard, DialError> {
        if self.packet.is_empty() {
            return self.connected();
        }
        if self.sent < self.packet.len() {
            let rest = &self.packet[self.sent..];
            match send(&self.server, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN | Errno::INTR) => (),
                Err(error) if self.sent == 0 => return Err(refused(error)),
                Err(error) => return Err(DialError::Lost(error.into())),
            }
            let all = self.sent == self.packet.len();
            // It has had no time to answer.
            return Ok(Heard::Nothing(if all { Readiness::Readable } else { Readiness::Writable }));
        }
        match recv(&self.server, &mut buffer[..READ_BYTES], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(DialError::Closed),
            Ok((_, bytes)) => self.spoken.extend_from_slice(&buffer[..bytes]),
            Err(Errno::AGAIN | Errno::INTR) => (),
            Err(error) => return Err(DialError::Lost(error.into())),
        }
        match first_answer(&self.spoken) {
            FirstAnswer::Final => Ok(Heard::Answer),
            FirstAnswer::NotUp(says) => Err(DialError::NotUp { says }),
            FirstAnswer::Incomplete => Ok(Heard::Nothing(Readiness::Readable)),
        }
    }

    fn connected(&self) -> Result<Heard, DialError> {
        match getpeername(&self.server) {
            Ok(_) => Ok(Heard::Answer),
            Err(error) => match sockopt::socket_error(&self.server) {
                Ok(Ok(())) if error == Errno::NOTCONN => Ok(Heard::Nothing(Readiness::Writable)),
                Ok(Ok(())) => Err(refused(error)),
                Ok(Err(why)) | Err(why) => Err(refused(why)),
            },
        }
    }

    /// Whether the server is still the one to call.
    pub(super) fn is_right(&self, listener: Listener, shared: &Shared) -> bool {
        let topology = shared.topologies.newest.borrow().clone();
        topology.is_some_and(|now| route::still_right(listener, &self.target, &now))
    }

    /// Why it is not waited for any longer.
    pub(super) fn overdue(&self, now: Instant, shared: &Shared) -> Option<DialError> {
        let limit = shared.config.connect_timeout;
        if now < self.since + limit {
            return None;
        }
        if self.sent == 0 {
            return Some(DialError::ConnectTimeout { limit });
        }
        let limit = shared.config.hold_timeout;
        (now >= self.since + limit).then_some(DialError::Silent { limit })
    }

    /// It has come to nothing.
    pub(super) fn fail(&self, error: &DialError, listener: Listener, shared: &Shared) {
        note_failure(&self.target, error, listener, shared);
    }
}

fn note_failure(target: &Target, error: &DialError, listener: Listener, shared: &Shared) {
    // The control side tries again, and tells the client.
    let _ = admission::note_failure(target, error, listener, shared);
}

fn refused(error: Errno) -> DialError {
    DialError::Connect(ConnectError::Refused(error.into()))
}

/// A connection on its way. Within one machine it is there already.
fn start_to_connect(to: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let server = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    socket::prepare(&server).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match connect(&server, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(server),
        Err(error) => Err(error),
    }
}
