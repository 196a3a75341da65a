//! How a thread that waits for bytes hears of new pairs: a channel, and a socket as its bell.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel as queue};

use crate::relay::Pair;

/// Where pairs are put in.
pub(super) struct Outbox {
    pairs: Sender<Pair>,
    bell: UnixStream,
}

/// Where they come out.
pub(super) struct Inbox {
    pairs: Receiver<Pair>,
    /// Becomes readable when there is something.
    pub(super) bell: UnixStream,
}

/// Both ends.
pub(super) fn channel() -> io::Result<(Outbox, Inbox)> {
    let (pairs, received) = queue();
    let (rung, heard) = UnixStream::pair()?;
    heard.set_nonblocking(true)?;
    Ok((Outbox { pairs, bell: rung }, Inbox { pairs: received, bell: heard }))
}

impl Outbox {
    pub(super) fn give(&mut self, pair: Pair) -> io::Result<()> {
        self.pairs.send(pair).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.bell.write_all(&[0])
    }
}

impl Inbox {
    /// Silences the bell, and takes all that is there.
    pub(super) fn take(&self) -> impl Iterator<Item = Pair> {
        // Nothing to read: it did not ring, and there is nothing to take either.
        let _ = (&self.bell).read(&mut [0; 1024]);
        self.pairs.try_iter()
    }
}
