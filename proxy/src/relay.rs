//! The relay: moves bytes between a client and a server, both ways, until one side ends.
//!
//! [`Relay::run`] is the loop. Each direction has one [`Buffer`], allocated when the relay is made:
//! what was read is written before more is read, so that a slow reader slows its writer down and
//! nothing piles up here.
//!
//! **Invariant:** no protocol knowledge, no allocation and no log line per burst. Whoever needs to
//! know what the server says hands in an [`Observer`], which sees each chunk as it arrives.
//!
//! **Invariant:** dropping the future of [`Relay::run`] at any await loses no byte that was read:
//! what is not written yet is still in the buffers.

mod buffer;

use std::io;

use metrics::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::relay::buffer::Buffer;

pub use crate::relay::buffer::BUFFER_BYTES;

/// Sees what the server sends, before the client does.
pub trait Observer {
    /// The next bytes of the stream.
    fn arrived(&mut self, bytes: &[u8]);
}

/// Both directions of one session.
pub struct Relay {
    to_server: Buffer,
    to_client: Buffer,
    counters: Counters,
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
    /// The client said its last byte, and then the server did.
    ByClient,
    /// The server closed while the client was there. Everything it said was passed on.
    ServerClosed,
    /// The connection to the server broke. Everything that arrived was passed on.
    ServerFailed(io::Error),
    /// The connection to the client broke.
    ClientFailed(io::Error),
}

/// Which of its two sides ended a direction.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Relay {
    /// A relay whose server has said `spoken` already: the client gets that first.
    ///
    /// # Panics
    ///
    /// If `spoken` is longer than [`BUFFER_BYTES`].
    pub fn new(spoken: &[u8], counters: Counters) -> Self {
        let mut to_client = Buffer::default();
        to_client.fill(spoken);
        Self { to_server: Buffer::default(), to_client, counters }
    }

    /// Moves bytes until one side has ended. May be dropped at any time.
    ///
    /// A client that closes only its sending half still gets the rest of what the server says.
    pub async fn run(
        &mut self,
        client: &mut TcpStream,
        server: &mut TcpStream,
        server_bytes: &mut impl Observer,
    ) -> Ended {
        let (mut client_reads, mut client_writes) = client.split();
        let (mut server_reads, mut server_writes) = server.split();
        let Counters { to_server, to_client } = &self.counters;
        let upwards = async {
            let buffer = &mut self.to_server;
            pump(buffer, &mut client_reads, &mut server_writes, to_server, |_| ()).await?;
            // A server that is gone already cannot be told that the client is: not an error.
            let _ = server_writes.shutdown().await;
            Ok(())
        };
        let downwards =
            pump(&mut self.to_client, &mut server_reads, &mut client_writes, to_client, |bytes| {
                server_bytes.arrived(bytes)
            });
        tokio::pin!(upwards, downwards);

        let mut client_closed = false;
        let mut upwards_done = false;
        loop {
            // Neither branch loses anything: both futures live until the function returns.
            tokio::select! {
                result = &mut upwards, if !upwards_done => {
                    upwards_done = true;
                    match result {
                        Ok(()) => client_closed = true,
                        Err(Broken::Reading(error)) => return Ended::ClientFailed(error),
                        // The server takes no more, but what it said last is still to be read.
                        Err(Broken::Writing(_)) => (),
                    }
                }
                result = &mut downwards => return match result {
                    Ok(()) | Err(Broken::Reading(_)) if client_closed => Ended::ByClient,
                    Ok(()) => Ended::ServerClosed,
                    Err(Broken::Reading(error)) => Ended::ServerFailed(error),
                    Err(Broken::Writing(error)) => Ended::ClientFailed(error),
                },
            }
        }
    }

    /// What the server sent and the client did not take yet.
    pub fn unsent_to_client(&self) -> &[u8] {
        self.to_client.unsent()
    }
}

/// One direction, until its reading side ends: one read and one write a burst.
async fn pump(
    buffer: &mut Buffer,
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    written: &Counter,
    mut arrived: impl FnMut(&[u8]),
) -> Result<(), Broken> {
    loop {
        while !buffer.unsent().is_empty() {
            let bytes = to.write(buffer.unsent()).await.map_err(Broken::Writing)?;
            if bytes == 0 {
                return Err(Broken::Writing(io::ErrorKind::WriteZero.into()));
            }
            buffer.sent(bytes);
            written.increment(bytes as u64);
        }
        let bytes = from.read(buffer.space()).await.map_err(Broken::Reading)?;
        if bytes == 0 {
            return Ok(());
        }
        buffer.filled(bytes);
        arrived(buffer.unsent());
    }
}

#[cfg(test)]
mod tests;
