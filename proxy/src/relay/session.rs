//! A session as a shard has it: two sockets, what is known of it, and what becomes of it.
//!
//! It travels: from the control side to a shard, from one shard to another, and back where somebody
//! has to speak to the client ([`Parted`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dugong_topology::Topology;

use crate::error::SessionError;
use crate::listener::Listener;
use crate::metrics::{self, OpenGuard};
use crate::relay::bulk::Flow;
use crate::relay::pair::{Farewell, Pair, Side};
use crate::relay::{Ended, Observer};
use crate::route::{Leave, Parting, Target, parting};
use crate::session::follower::Follower;
use crate::session::outcome;
use crate::session::tracker::Tracker;
use crate::socket;

/// An established session whose sockets are plain TCP, and non-blocking.
#[derive(Debug)]
pub struct Session {
    pub(super) sockets: [OwnedFd; 2],
    pub(super) pair: Pair,
    /// By [`Side::index`] of who sends.
    flows: [Flow; 2],
    follower: Option<Follower>,
    target: Arc<Target>,
    pub(super) listener: Listener,
    open: OpenGuard,
    /// Why it ends once its client is between two transactions.
    leaving: Option<Box<Leave>>,
    /// Why it is on its way out of its shard; none while it is not.
    pub(super) fate: Option<Box<Fate>>,
}

/// What is to become of a session that its shard gives up.
#[derive(Debug)]
pub(super) enum Fate {
    /// One of its sides ended it.
    Ended(Ended),
    /// The proxy ends it.
    Dismissed(SessionError),
    /// Another shard takes it: the one of this index.
    Moved(usize),
}

/// A session that is over, whose client has to be told.
#[derive(Debug)]
pub struct Parted {
    pub client: OwnedFd,
    /// What the server said last, and the client did not take yet.
    pub unsent: Vec<u8>,
    pub why: SessionError,
    pub target: Arc<Target>,
    pub listener: Listener,
    pub open: OpenGuard,
}

/// What makes a session, besides its sockets.
pub struct Terms {
    pub listener: Listener,
    pub target: Arc<Target>,
    /// Knows what the server says; none where the proxy shall not know.
    pub follower: Option<Follower>,
    pub open: OpenGuard,
}

impl Session {
    /// A session whose server has said `spoken` already: the client gets that first.
    pub fn new(client: OwnedFd, server: OwnedFd, spoken: Vec<u8>, terms: Terms) -> Self {
        let Terms { listener, target, mut follower, open } = terms;
        if let Some(follower) = &mut follower {
            follower.arrived(&spoken);
        }
        Self {
            sockets: [client, server],
            pair: Pair::with_spoken(spoken),
            flows: Default::default(),
            follower,
            target,
            listener,
            open,
            leaving: None,
            fate: None,
        }
    }

    pub(super) fn socket(&self, side: Side) -> &OwnedFd {
        &self.sockets[side.index()]
    }

    /// Bytes have come from a side.
    #[inline]
    pub(super) fn arrived(&mut self, from: Side, bytes: &[u8]) {
        self.flows[from.index()].took(bytes.len());
        self.flows[from.other().index()].answered();
        match from {
            Side::Client => {
                self.follower.asked(bytes);
                if self.follower.has_heard_farewell() {
                    self.pair.take_leave(self.farewell());
                }
            }
            Side::Server => self.follower.arrived(bytes),
        }
    }

    /// Linux uses a port again after a second where both ends are within one machine (ip-sysctl,
    /// `tcp_tw_reuse`), and to wait for the server's end costs a look more.
    #[cold]
    fn farewell(&self) -> Farewell {
        let is_near = socket::is_within_machine(self.socket(Side::Server));
        if is_near { Farewell::AtOnce } else { Farewell::ByServer }
    }

    /// Takes a side for a sender of bulk where that is due. Says whether it did.
    pub(super) fn begins_bulk(&mut self, from: Side) -> bool {
        self.flows[from.index()].begin(&self.sockets[from.index()])
    }

    /// A tick is over. Says whether a side is in bulk still.
    pub(super) fn stays_in_bulk(&mut self, from: Side) -> bool {
        // A connection that takes no option is at its end, which the engine hears of.
        self.flows[from.index()].tick(&self.sockets[from.index()]).unwrap_or(false)
    }

    /// Nobody looks at its ticks any more.
    pub(super) fn ends_bulk(&mut self) {
        for (flow, socket) in self.flows.iter_mut().zip(&self.sockets) {
            // As above.
            let _ = flow.end(socket);
        }
    }

    /// Takes note of a topology. Returns what becomes of the session if it must leave its server now.
    pub(super) fn look_at(&mut self, topology: &Topology) -> Option<Fate> {
        self.leaving = None;
        match parting(&self.target, topology)? {
            Parting::AtOnce(leave) => Some(Fate::Dismissed(SessionError::Leave(leave))),
            Parting::BetweenTransactions(leave) => {
                self.leaving = Some(Box::new(leave));
                self.parts_now()
            }
        }
    }

    /// What becomes of a session that is to leave, if its client is between two transactions now.
    pub(super) fn parts_now(&mut self) -> Option<Fate> {
        // What nobody listens to, nobody can end in order: its server does that.
        self.leaving.as_ref()?;
        self.follower.as_ref().filter(|follower| follower.is_between_transactions())?;
        let leave = self.leaving.take()?;
        Some(Fate::Dismissed(SessionError::Leave(*leave)))
    }

    /// What becomes of a session that nobody moves bytes for any more; none: nobody has to be told.
    ///
    /// Its sockets are closed, its place and its cancel key are given up, but for what it returns.
    pub(super) fn part(self, fate: Fate) -> Option<Parted> {
        let heard = self.follower.as_ref().map(Follower::tracker);
        let at_boundary = heard.is_some_and(Tracker::at_boundary);
        let outcome = match fate {
            Fate::Ended(ended) => outcome(ended, heard, &self.target),
            Fate::Dismissed(why) => Err(why),
            Fate::Moved(_) => unreachable!("a session that moves does not part"),
        };
        let Self { sockets: [client, _server], pair, target, listener, open, .. } = self;
        let reason = match outcome {
            // In the middle of a message there is nothing that could still be said.
            Err(why) if at_boundary && why.answer().is_some() => {
                let unsent = pair.into_unsent_to_client();
                return Some(Parted { client, unsent, why, target, listener, open });
            }
            Err(why) => {
                tracing::debug!(server = %target.id, error = %why, "session ended");
                why.reason()
            }
            Ok(reason) => reason,
        };
        metrics::count_reason(metrics::ENDED, listener, reason);
        None
    }
}
