//! The relay: moves bytes between a client and a server, both ways, until one side ends.
//!
//! There are two. Plain sockets go to a thread that moves bytes between sockets and nothing else:
//! [`crew`] starts those threads, `shard` is the loop of one, `engine` its system calls, `pair` the
//! state of a session's two ways. Streams that are encrypted are relayed by the session's own task:
//! [`Relay::run`] is that loop, over any two streams.
//!
//! In both, what was read is written before more is read, so that a slow reader slows its writer down
//! and nothing piles up here. Bytes are read into a buffer of the thread and written on at once; a
//! session owns memory only for the [`Rest`] that the other side did not take.
//!
//! **Invariant:** no protocol knowledge, no log line, and no allocation per burst that is taken as it
//! comes. Whoever needs to know what the server says hands in an [`Observer`], which sees each chunk
//! as it arrives.
//!
//! **Invariant:** dropping the future of [`Relay::run`] at any time loses no byte that was read: what
//! is not written yet is in the rests.

mod balance;
mod buffer;
mod bulk;
pub mod crew;
pub mod engine;
mod mailbox;
mod pair;
pub mod session;
mod shard;
mod tally;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::relay::buffer::Rest;

pub use crate::relay::buffer::BUFFER_BYTES;

/// Sees what goes through a relay.
pub trait Observer {
    /// The next bytes of the client's stream.
    fn asked(&mut self, _bytes: &[u8]) {}

    /// The next bytes of the server's stream, before the client has them.
    fn arrived(&mut self, bytes: &[u8]);

    /// Whether the client has said that it leaves, so that the server closes by itself.
    fn has_heard_farewell(&self) -> bool {
        false
    }

    /// Whether it wants the relay to end before more bytes come.
    fn wants_end(&self) -> bool {
        false
    }
}

impl<O: Observer> Observer for Option<O> {
    fn asked(&mut self, bytes: &[u8]) {
        if let Some(observer) = self {
            observer.asked(bytes);
        }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if let Some(observer) = self {
            observer.arrived(bytes);
        }
    }

    fn has_heard_farewell(&self) -> bool {
        self.as_ref().is_some_and(O::has_heard_farewell)
    }
}

/// Both directions of one session.
pub struct Relay {
    to_server: Direction,
    to_client: Direction,
}

/// What counts the bytes that were written on, by direction.
#[derive(Clone)]
pub struct Counters {
    pub to_server: Counter,
    pub to_client: Counter,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum Ended {
    /// The client said its last byte, or that it leaves, and then the server ended.
    ByClient,
    /// The server closed while the client was there. Everything it said was passed on.
    ServerClosed,
    /// The connection to the server broke. Everything that arrived was passed on.
    ServerFailed(io::Error),
    /// The connection to the client broke.
    ClientFailed(io::Error),
}

/// One direction.
struct Direction {
    rest: Rest,
    progress: Progress,
    written: Counter,
}

/// How far a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes may come.
    Reading,
    /// What was written may still be on its way out, as with TLS.
    Flushing,
    /// The reading side said its last byte.
    Ended,
}

/// Which of its two sides ended a direction.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

thread_local! {
    /// What is read goes through here, and is nowhere else while nothing is on its way.
    static PASSAGE: RefCell<Box<[MaybeUninit<u8>]>> =
        RefCell::new(Box::new_uninit_slice(BUFFER_BYTES));
}

impl Relay {
    /// A relay whose server has said `spoken` already: the client gets that first.
    pub fn new(spoken: Vec<u8>, counters: Counters) -> Self {
        let Counters { to_server, to_client } = counters;
        let mut relay =
            Self { to_server: Direction::new(to_server), to_client: Direction::new(to_client) };
        relay.to_client.rest.keep(spoken);
        relay
    }

    /// Moves bytes until one side has ended, or the observer wants it: then there is no reason. May
    /// be dropped at any time.
    ///
    /// A client that closes only its sending half still gets the rest of what the server says.
    pub async fn run<C, S>(
        &mut self,
        client: &mut C,
        server: &mut S,
        observer: &mut impl Observer,
    ) -> Option<Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut client_closed = false;
        let mut upwards_done = false;
        poll_fn(|cx| {
            if !upwards_done {
                match self.to_server.poll(cx, client, server, |bytes| observer.asked(bytes)) {
                    // A server that is gone already cannot be told that the client is: no error.
                    Poll::Ready(Ok(())) => {
                        client_closed = true;
                        // Who closes first keeps a port from others for a minute (TIME_WAIT).
                        upwards_done = observer.has_heard_farewell()
                            || Pin::new(&mut *server).poll_shutdown(cx).is_ready();
                    }
                    Poll::Ready(Err(Broken::Reading(error))) => {
                        return Poll::Ready(Some(Ended::ClientFailed(error)));
                    }
                    // The server takes no more, but what it said last is still to be read.
                    Poll::Ready(Err(Broken::Writing(_))) => upwards_done = true,
                    Poll::Pending => (),
                }
            }
            let downwards =
                self.to_client.poll(cx, server, client, |bytes| observer.arrived(bytes));
            Poll::Ready(match downwards {
                Poll::Pending if observer.wants_end() => None,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(()) | Err(Broken::Reading(_)))
                    if client_closed || observer.has_heard_farewell() =>
                {
                    Some(Ended::ByClient)
                }
                Poll::Ready(Ok(())) => Some(Ended::ServerClosed),
                Poll::Ready(Err(Broken::Reading(error))) => Some(Ended::ServerFailed(error)),
                Poll::Ready(Err(Broken::Writing(error))) => Some(Ended::ClientFailed(error)),
            })
        })
        .await
    }

    /// What the server sent and the client did not take yet.
    pub fn unsent_to_client(&self) -> &[u8] {
        self.to_client.rest.unsent()
    }
}

impl Direction {
    fn new(written: Counter) -> Self {
        // Flushing: a handshake may have left something behind.
        Self { rest: Rest::default(), progress: Progress::Flushing, written }
    }

    /// Moves what there is, until its reading side ends.
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut arrived: impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.rest.unsent().is_empty() {
                let bytes = ready!(write(cx, to, self.rest.unsent()))?;
                self.rest.sent(bytes);
                self.written.increment(bytes as u64);
            }
            match self.progress {
                Progress::Flushing => {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Writing)?;
                    self.progress = Progress::Reading;
                }
                Progress::Reading => ready!(self.burst(cx, from, to, &mut arrived))?,
                Progress::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// One read, and one write of all of it.
    fn burst<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        arrived: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        PASSAGE.with_borrow_mut(|passage| {
            let mut buffer = ReadBuf::uninit(passage);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Broken::Reading)?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.progress = Progress::Ended;
                return Poll::Ready(Ok(()));
            }
            arrived(bytes);
            self.progress = Progress::Flushing;
            let taken = match write(cx, to, bytes) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => 0,
            };
            self.written.increment(taken as u64);
            if taken < bytes.len() {
                self.rest.keep(bytes[taken..].to_vec());
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Writes some of `bytes`, which are not nothing.
fn write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Broken>> {
    let written = match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    };
    Poll::Ready(written.map_err(Broken::Writing))
}

#[cfg(test)]
mod tests;
