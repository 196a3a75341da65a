//! The floor by io_uring: single operations, and one system call for all that a turn starts.
//!
//! What was received is sent on by two linked entries: the send, which completes silently, and the
//! next receive into the same buffer, which the kernel begins when the send has ended.
//!
//! **Invariant:** a pair is dropped only when no entry that points to its buffers is in the
//! kernel's hands: each side has one chain at a time, and its end is a receive that completes.

use std::convert::Infallible;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use io_uring::squeue::{self, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use crate::relay::Pair;
use crate::relay::inbox::Inbox;

/// Entries that are started at once at most; more of them are started in two calls.
const ENTRIES: u32 = 1024;

/// What one receive takes at most.
const BUFFER_BYTES: u32 = 64 << 10;

/// The name of the bell among the completions; no slot reaches it.
const BELL: u64 = u64::MAX;

/// The name of a send that failed; the receive after it says so, too.
const SEND: u64 = u64::MAX - 1;

/// One pair, with the buffer of what each side sends.
struct Relayed {
    sockets: Pair,
    buffers: [Box<[u8]>; 2],
    /// Sides that have a chain in the kernel's hands.
    busy: usize,
}

struct Relay {
    ring: IoUring,
    slots: Vec<Option<Relayed>>,
    free: Vec<usize>,
    /// Where the bell is read into.
    rung: Box<[u8; 1]>,
}

/// Carries bytes for ever.
pub(super) fn carry(inbox: &Inbox) -> io::Result<Infallible> {
    let mut builder = IoUring::builder();
    let ring =
        builder.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(ENTRIES)?;
    let mut relay = Relay { ring, slots: Vec::new(), free: Vec::new(), rung: Box::new([0]) };
    relay.hear(inbox)?;
    let mut completed = Vec::new();
    loop {
        match relay.ring.submit_and_wait(1) {
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        completed.extend(relay.ring.completion().map(|one| (one.user_data(), one.result())));
        for (name, result) in completed.drain(..) {
            match name {
                BELL => {
                    for pair in inbox.take() {
                        relay.admit(pair)?;
                    }
                    relay.hear(inbox)?;
                }
                SEND => (),
                name => relay.received(name, result)?,
            }
        }
    }
}

/// Whether there can be one.
pub(super) fn is_there() -> bool {
    ring().is_ok()
}

fn ring() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(ENTRIES)
}

impl Relay {
    /// Waits for the next pair.
    fn hear(&mut self, inbox: &Inbox) -> io::Result<()> {
        let fd = Fd(inbox.bell.as_raw_fd());
        // The byte that rings is left to the inbox: this only looks at it.
        let entry = opcode::Recv::new(fd, self.rung.as_mut_ptr(), 1)
            .flags(rustix::net::RecvFlags::PEEK.bits().cast_signed())
            .build();
        self.push(&[entry.user_data(BELL)])
    }

    fn admit(&mut self, sockets: Pair) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let buffers = [(); 2].map(|()| vec![0; BUFFER_BYTES as usize].into_boxed_slice());
        let mut relayed = Relayed { sockets, buffers, busy: 2 };
        let entries = [0, 1].map(|side| relayed.receive(slot, side));
        self.slots[slot] = Some(relayed);
        self.push(&entries)
    }

    /// One side's chain has ended: with bytes, or for good.
    fn received(&mut self, name: u64, result: i32) -> io::Result<()> {
        let name = usize::try_from(name).map_err(io::Error::other)?;
        let (slot, side) = (name / 2, name % 2);
        let Some(relayed) = &mut self.slots[slot] else {
            return Err(io::Error::other("a completion of a pair that is gone"));
        };
        match u32::try_from(result) {
            Ok(length) if length > 0 => {
                let entries = [relayed.send(side, length), relayed.receive(slot, side)];
                self.push(&entries)
            }
            Ok(_) | Err(_) => {
                relayed.busy -= 1;
                for socket in &relayed.sockets {
                    // Ends the other side's receive; a socket that is gone needs no end.
                    let _ = socket.shutdown(Shutdown::Both);
                }
                if relayed.busy == 0 {
                    self.slots[slot] = None;
                    self.free.push(slot);
                }
                Ok(())
            }
        }
    }

    /// Hands a whole chain over to the kernel, at the latest with the next wait.
    fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: the buffers that the entries point to are owned by `self` and outlive them: see
        // the module's invariant; `rung` is as old as the ring.
        if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
            return Ok(());
        }
        self.ring.submit()?;
        // SAFETY: as above.
        unsafe { self.ring.submission().push_multiple(entries) }.map_err(io::Error::other)
    }
}

impl Relayed {
    fn receive(&mut self, slot: usize, side: usize) -> squeue::Entry {
        let fd = Fd(self.sockets[side].as_raw_fd());
        let entry = opcode::Recv::new(fd, self.buffers[side].as_mut_ptr(), BUFFER_BYTES).build();
        entry.user_data((slot * 2 + side) as u64)
    }

    fn send(&self, side: usize, length: u32) -> squeue::Entry {
        let fd = Fd(self.sockets[1 - side].as_raw_fd());
        // Without WAITALL a send that finds little room would end the chain.
        let flags = rustix::net::RecvFlags::WAITALL.bits().cast_signed();
        let entry = opcode::Send::new(fd, self.buffers[side].as_ptr(), length).flags(flags).build();
        entry.user_data(SEND).flags(Flags::IO_LINK | Flags::SKIP_SUCCESS)
    }
}
