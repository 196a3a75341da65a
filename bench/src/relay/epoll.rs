//! The floor by epoll: one read and one write for whatever is there.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::relay::Pair;
use crate::relay::inbox::Inbox;

/// What one read takes at most: as much as the kernel usually has for one.
const BUFFER_BYTES: usize = 64 << 10;

/// Events that one wait may bring.
const EVENTS: usize = 256;

/// The name of the bell among the events; no slot reaches it.
const BELL: u64 = u64::MAX;

/// One pair, and what each side sent that the other one did not take yet.
struct Relayed {
    sockets: Pair,
    rest: [Vec<u8>; 2],
}

/// What became of a pair.
#[derive(PartialEq, Eq)]
enum Fate {
    GoesOn,
    Over,
}

struct Relay {
    epoll: OwnedFd,
    slots: Vec<Option<Relayed>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

/// Carries bytes for ever.
pub(super) fn carry(inbox: &Inbox) -> io::Result<Infallible> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &inbox.bell, EventData::new_u64(BELL), EventFlags::IN)?;
    let buffer = vec![0; BUFFER_BYTES];
    let mut relay = Relay { epoll, slots: Vec::new(), free: Vec::new(), buffer };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) => (),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (flags, name) = (event.flags, event.data.u64());
            if name == BELL {
                for pair in inbox.take() {
                    relay.admit(pair)?;
                }
                continue;
            }
            let name = usize::try_from(name).map_err(io::Error::other)?;
            let (slot, side) = (name / 2, name % 2);
            if relay.serve(slot, side, flags) == Fate::Over {
                relay.slots[slot] = None;
                relay.free.push(slot);
            }
        }
    }
}

impl Relay {
    fn admit(&mut self, sockets: Pair) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        for (side, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true)?;
            epoll::add(&self.epoll, socket, name(slot, side), EventFlags::IN)?;
        }
        self.slots[slot] = Some(Relayed { sockets, rest: Default::default() });
        Ok(())
    }

    fn serve(&mut self, slot: usize, side: usize, flags: EventFlags) -> Fate {
        // An event of a pair that ended in the same turn.
        let Some(relayed) = &mut self.slots[slot] else { return Fate::GoesOn };
        if !flags.intersects(EventFlags::IN | EventFlags::OUT) {
            return Fate::Over;
        }
        let outcome = if flags.contains(EventFlags::OUT) {
            relayed.write_rest(1 - side).and_then(|()| relayed.listen(&self.epoll, slot))
        } else {
            relayed.pass_on(side, &mut self.buffer).and_then(|rest| match rest {
                Rest::None => Ok(()),
                Rest::Some => relayed.listen(&self.epoll, slot),
            })
        };
        match outcome {
            Ok(()) => Fate::GoesOn,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Fate::GoesOn,
            Err(_) => Fate::Over,
        }
    }
}

/// Whether something was left that the other side did not take.
enum Rest {
    None,
    Some,
}

impl Relayed {
    /// One read, one write.
    fn pass_on(&mut self, side: usize, buffer: &mut [u8]) -> io::Result<Rest> {
        let length = (&self.sockets[side]).read(buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let sent = match (&self.sockets[1 - side]).write(&buffer[..length]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent == length {
            return Ok(Rest::None);
        }
        self.rest[side].extend_from_slice(&buffer[sent..length]);
        Ok(Rest::Some)
    }

    /// Tries again to pass on what `side` sent.
    fn write_rest(&mut self, side: usize) -> io::Result<()> {
        let sent = (&self.sockets[1 - side]).write(&self.rest[side])?;
        self.rest[side].drain(..sent);
        Ok(())
    }

    /// Reads only from a side whose bytes have all gone; waits for room where some have not.
    fn listen(&self, epoll: &OwnedFd, slot: usize) -> io::Result<()> {
        for side in [0, 1] {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, self.rest[side].is_empty());
            flags.set(EventFlags::OUT, !self.rest[1 - side].is_empty());
            epoll::modify(epoll, &self.sockets[side], name(slot, side), flags)?;
        }
        Ok(())
    }
}

fn name(slot: usize, side: usize) -> EventData {
    EventData::new_u64((slot * 2 + side) as u64)
}
