//! The two ways of a session, as a state machine: what is kept, which side is at its end, and what
//! follows from that.
//!
//! Sans-IO: an engine tells what its system calls said, and asks what to do ([`Next`]) after each
//! side's change. Both engines, and nobody else, drive it, so that a session ends the same way
//! whichever moves its bytes.
//!
//! **Invariant:** a way whose rest holds something is not read from. Nothing that was read is
//! lost: it was sent, or is in a rest.

use std::io;

use crate::relay::Ended;
use crate::relay::buffer::Rest;

/// One of the two connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Client, Self::Server];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Where it stands in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Client => 0,
            Self::Server => 1,
        }
    }
}

/// The way from one side to the other.
#[derive(Debug, Default)]
struct Way {
    /// Read from the one side, not taken by the other.
    rest: Rest,
    /// Whether an engine has bytes that were read, and are neither sent nor in the rest.
    in_flight: bool,
    /// Whether there is anything more to read, and what ended it.
    source: Source,
}

impl Way {
    /// Whether everything that was read is sent.
    fn is_clear(&self) -> bool {
        self.rest.is_empty() && !self.in_flight
    }
}

#[derive(Debug, Default)]
enum Source {
    #[default]
    Open,
    /// The side said its last byte.
    Ended,
    /// The connection broke.
    Failed(io::Error),
    /// It has said that it leaves: nothing follows from its end any more.
    Left,
    /// The end was passed on, or the other side takes nothing any more.
    Over,
}

/// Both ways of a session.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// By [`Side::index`] of the side that is read from.
    ways: [Way; 2],
    /// The client said its last byte or its farewell, and the server was told.
    client_closed: bool,
    /// The client has said that it leaves, and the server has nothing more to say: it is over once the
    /// server has been told.
    leaves: bool,
}

/// What follows from a client's farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// It is over once the server has been told.
    AtOnce,
    /// It is over once the server closes. Who closes a connection first keeps its port from others for
    /// a minute (TIME_WAIT), and the proxy has few for each server, while servers need none.
    ByServer,
}

/// What an engine does after a change.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing, but to read where [`Pair::reads`] and to send where [`Pair::unsent`].
    Continue,
    /// Tell the server that no more comes: shut its connection down for sending.
    ShutServer,
    /// The session is over.
    End(Ended),
}

impl Next {
    /// Whether the session is as it was.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Self::Continue)
    }
}

impl Pair {
    /// A pair whose server has said something already.
    pub(super) fn with_spoken(to_client: Vec<u8>) -> Self {
        let mut pair = Self::default();
        pair.ways[Side::Server.index()].rest.keep(to_client);
        pair
    }

    fn from(&mut self, side: Side) -> &mut Way {
        &mut self.ways[side.index()]
    }

    /// Whether this side is to be read from.
    pub(super) fn reads(&self, side: Side) -> bool {
        let way = &self.ways[side.index()];
        matches!(way.source, Source::Open) && way.rest.is_empty() && !self.leaves
    }

    /// Whether something waits for this side to take it.
    pub(super) fn waits(&self, to: Side) -> bool {
        !self.ways[to.other().index()].rest.is_empty()
    }

    /// What waits for this side to take it.
    pub(super) fn unsent(&self, to: Side) -> &[u8] {
        self.ways[to.other().index()].rest.unsent()
    }

    /// Keeps what the side did not take.
    pub(super) fn keep(&mut self, to: Side, bytes: &[u8]) {
        let way = self.from(to.other());
        // What nobody takes any more is not kept.
        if !matches!(way.source, Source::Over) {
            way.rest.append(bytes);
        }
    }

    /// The side took the first `bytes` of what waited for it.
    pub(super) fn sent(&mut self, to: Side, bytes: usize) {
        self.from(to.other()).rest.sent(bytes);
    }

    /// Takes what waits for the side, to be sent without another copy.
    pub(super) fn take_rest(&mut self, to: Side) -> Rest {
        std::mem::take(&mut self.from(to.other()).rest)
    }

    /// Puts back what the side did not take of [`Self::take_rest`], before what came since.
    pub(super) fn put_back(&mut self, to: Side, mut rest: Rest) {
        let way = self.from(to.other());
        if !matches!(way.source, Source::Over) {
            rest.append(way.rest.unsent());
            way.rest = rest;
        }
    }

    /// Whether an engine has bytes for the side that are neither sent nor kept here.
    pub(super) fn set_in_flight(&mut self, to: Side, in_flight: bool) {
        self.from(to.other()).in_flight = in_flight;
    }

    /// Whether the side takes nothing any more: what comes for it is thrown away.
    pub(super) fn is_over(&self, to: Side) -> bool {
        matches!(self.ways[to.other().index()].source, Source::Over)
    }

    /// Whether a side has ended, and what follows from that is still to come.
    pub(super) fn is_ending(&self) -> bool {
        self.ways.iter().any(|way| matches!(way.source, Source::Ended | Source::Failed(_)))
    }

    /// The side said its last byte, or its connection broke.
    pub(super) fn ended(&mut self, side: Side, error: Option<io::Error>) {
        let way = self.from(side);
        if matches!(way.source, Source::Open) {
            way.source = error.map_or(Source::Ended, Source::Failed);
        }
    }

    /// The client has said that it leaves, and the server has nothing more to say.
    pub(super) fn take_leave(&mut self, farewell: Farewell) {
        match farewell {
            Farewell::AtOnce => {
                self.leaves = true;
                self.ended(Side::Client, None);
            }
            Farewell::ByServer => {
                self.client_closed = true;
                self.from(Side::Client).source = Source::Left;
            }
        }
    }

    /// Whether it is over once the server has taken what waits for it.
    pub(super) fn leaves(&self) -> bool {
        self.leaves
    }

    /// Sending to the side failed.
    pub(super) fn refused(&mut self, to: Side, error: io::Error) -> Next {
        match to {
            Side::Client => Next::End(Ended::ClientFailed(error)),
            // The server takes no more, but what it said last is still to be read.
            Side::Server => {
                *self.from(Side::Client) = Way { source: Source::Over, ..Way::default() };
                Next::Continue
            }
        }
    }

    /// What follows from all that was told.
    pub(super) fn next(&mut self) -> Next {
        let downwards = &mut self.ways[Side::Server.index()];
        if downwards.is_clear() {
            match std::mem::take(&mut downwards.source) {
                Source::Ended | Source::Failed(_) if self.client_closed => {
                    return Next::End(Ended::ByClient);
                }
                Source::Ended => return Next::End(Ended::ServerClosed),
                Source::Failed(error) => return Next::End(Ended::ServerFailed(error)),
                open @ (Source::Open | Source::Left | Source::Over) => downwards.source = open,
            }
        }
        let upwards = &mut self.ways[Side::Client.index()];
        if upwards.is_clear() {
            match std::mem::take(&mut upwards.source) {
                Source::Failed(error) => return Next::End(Ended::ClientFailed(error)),
                Source::Ended if self.leaves => return Next::End(Ended::ByClient),
                Source::Ended => {
                    upwards.source = Source::Over;
                    self.client_closed = true;
                    return Next::ShutServer;
                }
                open @ (Source::Open | Source::Left | Source::Over) => upwards.source = open,
            }
        }
        Next::Continue
    }

    /// Takes what the client did not take yet.
    pub(super) fn into_unsent_to_client(self) -> Vec<u8> {
        let [_, downwards] = self.ways;
        downwards.rest.unsent().to_vec()
    }
}
