//! The short way in, on a relay thread: from accept to a server's first word, where nothing stands in
//! the way and nothing is encrypted.
//!
//! The thread that will move a client's bytes accepts it, reads its startup packet and calls its
//! server ([`guest`], [`call`]): nobody has to be woken to take it over. Whoever is to wait for a
//! server, to be tried elsewhere, refused, or to cancel something, goes to the control side as a
//! [`Stranger`], which goes on from what was said.
//!
//! **Invariant:** bounded work a turn, and no system call that waits.
//!
//! **Invariant:** accepting never stops for good before the shutdown. Where a resource runs out (file
//! descriptors, memory) it pauses and says so.

mod call;
mod guest;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::listener::{Listener, Pauses};
use crate::lobby::guest::{Guest, Next};
use crate::relay::engine::{Readiness, Token, Watch};
use crate::relay::session::Session;
use crate::runtime::Shared;
use crate::session::Newcomer;
use crate::wire::startup::{BODY_BYTES_MAX, Beginning, LENGTH_BYTES};

/// Clients that are accepted at a port in one turn, at most.
const BURST: usize = 16;

/// Between two looks at who waits, and at whether there is again what ran out.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What a lobby is made from.
pub struct Door {
    /// They listen, and do not block. A port's name is its place.
    ports: Vec<(Listener, OwnedFd)>,
    shared: Arc<Shared>,
    /// To the control side. As many as there are clients at most.
    strangers: UnboundedSender<Stranger>,
}

impl Door {
    pub fn new(
        ports: Vec<(Listener, OwnedFd)>,
        shared: Arc<Shared>,
        strangers: UnboundedSender<Stranger>,
    ) -> Self {
        Self { ports, shared, strangers }
    }
}

/// A client that the control side goes on with.
pub struct Stranger {
    pub client: OwnedFd,
    pub said: Beginning,
    pub newcomer: Newcomer,
}

/// The clients of a thread that have no session yet.
pub struct Lobby {
    door: Arc<Door>,
    guests: HashMap<Token, Guest>,
    /// The name of the next guest: none is used twice.
    next_guest: Token,
    next_look: Instant,
    /// By port: how many clients the next turn may accept.
    bursts: Vec<usize>,
    /// Ports where accepting pauses.
    paused: Vec<usize>,
    pauses: Pauses,
    /// What one read brings.
    buffer: Box<[u8]>,
    admitted: Vec<Session>,
}

/// What a guest needs of its lobby.
struct Around<'a> {
    shared: &'a Shared,
    watch: &'a mut dyn Watch,
    buffer: &'a mut [u8],
}

impl Lobby {
    /// Opens the door.
    pub fn open(door: Arc<Door>, watch: &mut dyn Watch) -> Self {
        let ports = door.ports.len();
        let mut lobby = Self {
            door,
            guests: HashMap::new(),
            next_guest: ports as Token,
            next_look: Instant::now(),
            bursts: vec![1; ports],
            paused: Vec::new(),
            pauses: Pauses::default(),
            buffer: vec![0; LENGTH_BYTES + BODY_BYTES_MAX].into_boxed_slice(),
            admitted: Vec::new(),
        };
        for port in 0..ports {
            lobby.await_clients(port, watch);
        }
        lobby
    }

    /// Closes the door. Who is still here is left to the control side.
    pub fn close(mut self, watch: &mut dyn Watch) {
        for (token, (_, socket)) in (0..).zip(&self.door.ports) {
            watch.unwatch(token, socket.as_fd());
        }
        for (_, guest) in self.guests.drain() {
            send_away(guest, &self.door, watch);
        }
    }

    /// Whether there is something to do when nothing stirs.
    pub fn waits(&self) -> bool {
        !self.guests.is_empty() || !self.paused.is_empty()
    }

    /// How long it can wait for that.
    pub fn patience(&self) -> Duration {
        self.next_look.saturating_duration_since(Instant::now())
    }

    /// Has it look at who waits in the next turn: servers may be what they were not.
    pub fn hurry(&mut self) {
        self.next_look = Instant::now();
    }

    /// Goes on with all that has stirred, and looks now and then at who waits.
    pub fn turn(&mut self, stirred: &mut Vec<Token>, watch: &mut dyn Watch) {
        // Only while nobody waits: who stirs again and again does not put the next look off.
        if !self.waits() {
            self.next_look = Instant::now() + LOOK_INTERVAL;
        }
        for (port, burst) in (0..).zip(&mut self.bursts) {
            if !stirred.contains(&port) {
                *burst = 1;
            }
        }
        for token in stirred.drain(..) {
            match usize::try_from(token) {
                Ok(port) if port < self.door.ports.len() => self.accept(port, watch),
                // One that is not here any more may be told of all the same.
                Ok(_) | Err(_) => {
                    if let Some(guest) = self.guests.remove(&token) {
                        self.go_on(guest, watch);
                    }
                }
            }
        }
        if self.waits() {
            self.look(watch);
        }
    }

    /// One of those who have a server by now.
    pub fn take_admitted(&mut self) -> Option<Session> {
        self.admitted.pop()
    }

    /// Has the next client of a port told of.
    fn await_clients(&mut self, port: usize, watch: &mut dyn Watch) {
        let (listener, socket) = &self.door.ports[port];
        if let Err(error) = watch.watch(port as Token, socket.as_fd(), Readiness::Readable) {
            self.pauses.note(*listener, &error);
            self.pause(port, watch);
        }
    }

    fn pause(&mut self, port: usize, watch: &mut dyn Watch) {
        watch.unwatch(port as Token, self.door.ports[port].1.as_fd());
        self.paused.push(port);
    }

    /// Accepts one client, and twice as many with each turn in a row that finds some: who accepts until
    /// nobody is there pays for one call more, which is nearly as dear as one that brings a client.
    fn accept(&mut self, port: usize, watch: &mut dyn Watch) {
        let burst = self.bursts[port];
        self.bursts[port] = BURST.min(2 * burst);
        for _ in 0..burst {
            let (listener, socket) = &self.door.ports[port];
            match accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => {
                    let newcomer = Newcomer::new(*listener, &self.door.shared);
                    let guest = Guest::new(self.next_guest, client, newcomer);
                    self.next_guest += 1;
                    self.go_on(guest, watch);
                }
                Err(Errno::AGAIN) => {
                    self.bursts[port] = 1;
                    break;
                }
                Err(error) if Pauses::are_due(&error.into()) => {
                    self.pauses.note(*listener, &error.into());
                    return self.pause(port, watch);
                }
                // The client was gone before it was accepted.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
        self.await_clients(port, watch);
    }

    fn go_on(&mut self, mut guest: Guest, watch: &mut dyn Watch) {
        let buffer = &mut *self.buffer;
        let next = guest.go_on(&mut Around { shared: &self.door.shared, watch, buffer });
        self.settle(guest, next, watch);
    }

    fn settle(&mut self, mut guest: Guest, next: Next, watch: &mut dyn Watch) {
        match next {
            Next::Wait => {
                self.guests.insert(guest.token(), guest);
            }
            Next::Gone => guest.unwatch(watch),
            Next::Elsewhere => send_away(guest, &self.door, watch),
            Next::Admit => {
                guest.unwatch(watch);
                self.admitted.push(guest.into_session(&self.door.shared));
            }
        }
    }

    /// Now and then: who waits for too long, or in vain?
    fn look(&mut self, watch: &mut dyn Watch) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_INTERVAL;
        for port in std::mem::take(&mut self.paused) {
            self.await_clients(port, watch);
        }
        let shared = &self.door.shared;
        let waiting =
            self.guests.iter_mut().map(|(token, guest)| (*token, guest.look(now, shared)));
        let moved: Vec<_> = waiting.filter(|(_, next)| *next != Next::Wait).collect();
        for (token, next) in moved {
            if let Some(guest) = self.guests.remove(&token) {
                self.settle(guest, next, watch);
            }
        }
    }
}

/// Leaves a guest to the control side.
fn send_away(mut guest: Guest, door: &Door, watch: &mut dyn Watch) {
    guest.unwatch(watch);
    // The control side is gone only when the process ends.
    let _ = door.strangers.send(guest.into_stranger());
}
