//! The ring that this thread shares with the kernel, and all memory that the kernel reads or writes.
//!
//! The one place of the proxy with unsafe code. What it offers is safe to use, because whatever the
//! kernel may touch is owned here: buffers that it fills are handed out as [`Held`], which only
//! [`Ring::give_back`] returns to it; what it sends is moved in, and comes out with its completion.
//!
//! **Invariant:** memory that an operation refers to is neither moved nor freed before its completion
//! was seen. A ring that is dropped leaks all of it, as the kernel may still be at work: that happens
//! once a thread's life, or after a panic.
//!
//! Source: io_uring(7), io_uring_setup(2), io_uring_enter(2), io_uring_register(2).

#![expect(unsafe_code, reason = "the kernel reads and writes memory that it is told of")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::relay::buffer::Rest;
use crate::relay::engine::{Key, Readiness, Token};
use crate::relay::pair::Side;

/// Operations that may wait for the next enter; more make one of their own.
const SUBMISSIONS: u32 = 512;

/// Completions that fit. More are kept by the kernel, at a price.
const COMPLETIONS: u32 = 8 * 1024;

/// Sends of several buffers in one enter; more wait for the next one.
const MESSAGES: usize = 32;

/// Buffers of one send.
pub(super) const PIECES: usize = 16;

/// Which buffers a receive fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Group {
    /// For queries and their answers.
    #[default]
    Small,
    /// For bulk.
    Large,
}

impl Group {
    const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// How many; a power of two.
    fn count(self) -> u16 {
        match self {
            Self::Small => 128,
            Self::Large => 8,
        }
    }

    /// Bytes of each.
    pub(super) fn buffer_bytes(self) -> usize {
        match self {
            Self::Small => 4 * 1024,
            Self::Large => 64 * 1024,
        }
    }

    fn id(self) -> u16 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
        }
    }
}

/// A buffer that the kernel has filled, and that is ours until it is given back.
#[derive(Debug)]
pub(super) struct Held {
    group: Group,
    index: u16,
    bytes: u32,
}

/// Buffers in order, to be sent as one. Empty by default.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// First and last, as places in [`Ring::links`].
    ends: Option<(u16, u16)>,
    count: usize,
    bytes: usize,
}

impl Chain {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// What a send was given, and gives back.
pub(super) enum Load {
    Chain(Chain),
    Rest(Rest),
}

/// What has been completed.
pub(super) enum Event {
    /// The bell was rung; and whether the next time will be told.
    Bell { goes_on: bool },
    /// Bytes, the end (none), or an error of a receive; and whether it goes on by itself.
    Received { key: Key, from: Side, result: io::Result<Option<Held>>, goes_on: bool },
    /// How many bytes a side took.
    Sent { key: Key, to: Side, result: io::Result<usize>, load: Load },
    /// A socket that was watched is ready, or its watch was stopped.
    Stirred(Token),
}

struct Flight {
    key: Key,
    to: Side,
    load: Load,
}

/// Where a buffer of a chain is, and which one follows.
#[derive(Clone, Copy, Default)]
struct Link {
    next: u16,
    bytes: u32,
}

/// A message header and what it points to; filled for one enter.
struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES],
}

pub(super) struct Ring {
    ring: IoUring,
    pools: [Pool; 2],
    /// By place: small buffers first, then large ones.
    links: Box<[Link]>,
    flights: ManuallyDrop<Slab<Flight>>,
    messages: ManuallyDrop<Vec<Message>>,
    /// Flights that the next enter starts and ends.
    quick: Vec<usize>,
    /// What is complete and not told yet, in order.
    completed: Vec<cqueue::Entry>,
    /// How much of it was told.
    told: usize,
}

/// The buffers of one group.
struct Pool {
    group: Group,
    memory: NonNull<u8>,
    /// What the kernel takes buffers from; as many entries as there are buffers.
    entries: NonNull<BufRingEntry>,
    tail: u16,
}

/// What an operation is, in the low bits of its user data.
mod kind {
    pub(super) const RECEIVE: u64 = 0;
    pub(super) const SEND: u64 = 1;
    pub(super) const BELL: u64 = 2;
    pub(super) const CANCEL: u64 = 3;
    pub(super) const WATCH: u64 = 4;
    pub(super) const BITS: u32 = 3;
}

fn receive_data(key: Key, from: Side) -> u64 {
    (key as u64) << (kind::BITS + 1) | (from.index() as u64) << kind::BITS | kind::RECEIVE
}

fn watch_data(token: Token) -> u64 {
    token << kind::BITS | kind::WATCH
}

fn send_data(flight: usize) -> u64 {
    (flight as u64) << kind::BITS | kind::SEND
}

impl Ring {
    /// A ring for this thread alone.
    ///
    /// # Errors
    ///
    /// The kernel has no io_uring, an old one, or does not let us have it.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let pools = Group::ALL.map(Pool::new);
        for pool in &pools {
            let (count, id) = (pool.group.count(), pool.group.id());
            // SAFETY: the entries are page-aligned, as many as is said, and are never freed.
            unsafe {
                ring.submitter().register_buf_ring_with_flags(
                    pool.entries.as_ptr() as u64,
                    count,
                    id,
                    0,
                )?;
            }
        }
        let places = usize::from(Group::Small.count() + Group::Large.count());
        let mut ring = Self {
            ring,
            pools,
            links: vec![Link::default(); places].into_boxed_slice(),
            flights: ManuallyDrop::new(Slab::new()),
            messages: ManuallyDrop::new(Vec::with_capacity(MESSAGES)),
            quick: Vec::new(),
            completed: Vec::with_capacity(COMPLETIONS as usize),
            told: 0,
        };
        for group in Group::ALL {
            for index in 0..group.count() {
                ring.give_back(Held { group, index, bytes: 0 });
            }
        }
        Ok(ring)
    }

    /// Begins to receive from a socket, into buffers of a group, until an event says that it ended.
    pub(super) fn receive(&mut self, key: Key, from: Side, socket: BorrowedFd<'_>, group: Group) {
        let fd = Fd(socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, group.id()).build();
        // SAFETY: it refers to no memory but the registered buffers.
        unsafe { self.push(&entry.user_data(receive_data(key, from))) }
    }

    /// Asks a receive to end. Its last event says that it did.
    pub(super) fn stop_receiving(&mut self, key: Key, from: Side) {
        let entry = opcode::AsyncCancel::new(receive_data(key, from)).build();
        // SAFETY: it refers to no memory.
        unsafe { self.push(&entry.user_data(kind::CANCEL)) }
    }

    /// Sends buffers, at most [`PIECES`], as far as the socket takes them at once; over with the next
    /// enter. Gives the chain back where that enter has no room for it.
    ///
    /// `is_last`: the socket is closed once it has taken them.
    ///
    /// Where the socket takes all, as it nearly always does, the kernel says nothing: it must not wake
    /// us for that. To take only a part is a failure (`MSG_WAITALL`), and failures are told.
    pub(super) fn send_now(
        &mut self,
        key: Key,
        to: Side,
        socket: BorrowedFd<'_>,
        chain: Chain,
        is_last: bool,
    ) -> Result<(), Chain> {
        let fd = Fd(socket.as_raw_fd());
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        // It leaves in one packet with the end.
        let flags = if is_last { flags | libc::MSG_MORE } else { flags };
        let Some((first, _)) = chain.ends else { return Ok(()) };
        let entry = if chain.count == 1 {
            let bytes = self.place(first);
            opcode::Send::new(fd, bytes.as_ptr(), self.links[usize::from(first)].bytes)
                .flags(flags)
                .build()
        } else {
            let Some(header) = self.message(&chain) else { return Err(chain) };
            opcode::SendMsg::new(fd, header).flags(flags.cast_unsigned()).build()
        };
        let flight = self.flights.insert(Flight { key, to, load: Load::Chain(chain) });
        // SAFETY: the buffers are ours until the flight ends; the header until the next enter, which
        // is when the kernel has read it.
        unsafe {
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(send_data(flight));
            self.push(&entry);
        }
        self.quick.push(flight);
        Ok(())
    }

    /// Sends all of a rest, however long that takes. Says by what number it can be stopped.
    pub(super) fn send_all(
        &mut self,
        key: Key,
        to: Side,
        socket: BorrowedFd<'_>,
        rest: Rest,
    ) -> usize {
        let bytes = rest.unsent();
        let (start, length) = (bytes.as_ptr(), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        let flight = self.flights.insert(Flight { key, to, load: Load::Rest(rest) });
        // SAFETY: the rest lives on the heap, where nobody moves it, until the flight ends.
        unsafe { self.push(&entry.user_data(send_data(flight))) }
        flight
    }

    /// Asks a [`Self::send_all`] to end.
    pub(super) fn stop_sending(&mut self, flight: usize) {
        let entry = opcode::AsyncCancel::new(send_data(flight)).build();
        // SAFETY: it refers to no memory.
        unsafe { self.push(&entry.user_data(kind::CANCEL)) }
    }

    /// Tells whenever the bell has been rung.
    pub(super) fn listen(&mut self, bell: BorrowedFd<'_>) {
        let readable = u32::try_from(libc::POLLIN).unwrap_or_default();
        let entry = opcode::PollAdd::new(Fd(bell.as_raw_fd()), readable).multi(true).build();
        // SAFETY: it refers to no memory.
        unsafe { self.push(&entry.user_data(kind::BELL)) }
    }

    /// Tells once when a socket is ready, or broken.
    pub(super) fn watch(&mut self, token: Token, socket: BorrowedFd<'_>, awaited: Readiness) {
        let flag = match awaited {
            Readiness::Readable => libc::POLLIN,
            Readiness::Writable => libc::POLLOUT,
        };
        let flags = u32::try_from(flag).unwrap_or_default();
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), flags).build();
        // SAFETY: it refers to no memory.
        unsafe { self.push(&entry.user_data(watch_data(token))) }
    }

    /// Asks a [`Self::watch`] to end.
    pub(super) fn stop_watching(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(watch_data(token)).build();
        // SAFETY: it refers to no memory.
        unsafe { self.push(&entry.user_data(kind::CANCEL)) }
    }

    /// Submits what was asked for, and waits, for `wait` at most, until there is something to tell.
    ///
    /// # Errors
    ///
    /// The kernel's: the ring is of no use any more.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        // A full queue may have been emptied since, and then something is complete already.
        let wait = if self.completed.is_empty() { wait } else { Some(Duration::ZERO) };
        self.enter_once(wait)?;
        // What could not be submitted for want of room can be once the completions are taken.
        while !self.ring.submission().is_empty() {
            self.enter_once(Some(Duration::ZERO))?;
        }
        self.messages.clear();
        Ok(())
    }

    fn enter_once(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let submit = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let flags = EnterFlags::GETEVENTS.bits();
        let submitter = self.ring.submitter();
        let entered = match wait {
            // SAFETY: no argument is passed.
            None => unsafe { submitter.enter::<libc::sigset_t>(submit, 1, flags, None) },
            // SAFETY: no argument is passed.
            Some(Duration::ZERO) => unsafe {
                submitter.enter::<libc::sigset_t>(submit, 0, flags, None)
            },
            Some(wait) => {
                let wait = Timespec::from(wait);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&wait))
            }
        };
        if let Err(error) = entered {
            match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => (),
                Some(_) | None => return Err(error),
            }
        }
        self.completed.extend(self.ring.completion());
        Ok(())
    }

    /// The next of what the last enter has completed.
    pub(super) fn next(&mut self) -> Option<Event> {
        loop {
            let Some(entry) = self.completed.get(self.told) else {
                self.completed.clear();
                self.told = 0;
                return self.next_quick();
            };
            let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.told += 1;
            let index = usize::try_from(data >> kind::BITS).unwrap_or(usize::MAX);
            match data & ((1 << kind::BITS) - 1) {
                kind::RECEIVE => {
                    let (key, from) = (index >> 1, Side::ALL[index & 1]);
                    let held = cqueue::buffer_select(flags).map(|id| self.hold(id, result));
                    let result = result_of(result).map(|_| self.filled(held));
                    let goes_on = cqueue::more(flags);
                    return Some(Event::Received { key, from, result, goes_on });
                }
                kind::SEND => {
                    let Flight { key, to, load } = self.flights.remove(index);
                    return Some(Event::Sent { key, to, result: result_of(result), load });
                }
                kind::BELL => return Some(Event::Bell { goes_on: cqueue::more(flags) }),
                kind::WATCH => return Some(Event::Stirred(data >> kind::BITS)),
                // What was cancelled tells by itself.
                _ => (),
            }
        }
    }

    /// A send of which nothing was told: the socket took all of it.
    fn next_quick(&mut self) -> Option<Event> {
        loop {
            let flight = self.quick.pop()?;
            if let Some(Flight { key, to, load }) = self.flights.try_remove(flight) {
                let bytes = match &load {
                    Load::Chain(chain) => chain.bytes,
                    Load::Rest(_) => unreachable!("a rest is not sent quickly"),
                };
                return Some(Event::Sent { key, to, result: Ok(bytes), load });
            }
        }
    }

    /// The bytes of a buffer.
    pub(super) fn bytes(&self, held: &Held) -> &[u8] {
        let start = self.pools[usize::from(held.group.id())].start(held.index);
        // SAFETY: the kernel has filled so many bytes, and does not touch the buffer before it is
        // given back, which ends `held`.
        unsafe { slice::from_raw_parts(start.as_ptr(), held.bytes as usize) }
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_back(&mut self, held: Held) {
        self.pools[usize::from(held.group.id())].give(held.index);
    }

    /// Puts a buffer at the end of a chain.
    pub(super) fn append(&mut self, chain: &mut Chain, held: Held) {
        let place = match held.group {
            Group::Small => held.index,
            Group::Large => Group::Small.count() + held.index,
        };
        self.links[usize::from(place)] = Link { next: place, bytes: held.bytes };
        chain.count += 1;
        chain.bytes += held.bytes as usize;
        chain.ends = Some(match chain.ends {
            None => (place, place),
            Some((first, last)) => {
                self.links[usize::from(last)].next = place;
                (first, place)
            }
        });
    }

    /// Takes the first buffer of a chain.
    pub(super) fn take_first(&self, chain: &mut Chain) -> Option<Held> {
        let (first, last) = chain.ends?;
        let link = self.links[usize::from(first)];
        chain.count -= 1;
        chain.bytes -= link.bytes as usize;
        chain.ends = (first != last).then_some((link.next, last));
        let (group, index) = group_of(first);
        Some(Held { group, index, bytes: link.bytes })
    }

    /// The buffer that a receive has filled.
    fn hold(&self, id: u16, bytes: i32) -> Held {
        // Both groups number their buffers by their places, so that one number says which it is.
        let (group, index) = group_of(id);
        Held { group, index, bytes: u32::try_from(bytes).unwrap_or_default() }
    }

    /// None where nothing came: an end may take a buffer, too.
    fn filled(&mut self, held: Option<Held>) -> Option<Held> {
        match held {
            Some(held) if held.bytes == 0 => {
                self.give_back(held);
                None
            }
            Some(_) | None => held,
        }
    }

    fn place(&self, place: u16) -> NonNull<u8> {
        let (group, index) = group_of(place);
        self.pools[usize::from(group.id())].start(index)
    }

    /// A message of all buffers of a chain, valid until the next enter; none where there is no room.
    fn message(&mut self, chain: &Chain) -> Option<*const libc::msghdr> {
        let ((mut place, _), true) = (chain.ends?, self.messages.len() < MESSAGES) else {
            return None;
        };
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut pieces = [empty; PIECES];
        for piece in pieces.iter_mut().take(chain.count) {
            let link = self.links[usize::from(place)];
            piece.iov_base = self.place(place).as_ptr().cast();
            piece.iov_len = link.bytes as usize;
            place = link.next;
        }
        // SAFETY: all zeroes is a header that points to nothing.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        self.messages.push(Message { header, pieces });
        // The list was made with room for all of them, so that none moves any more.
        let message = self.messages.last_mut()?;
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = chain.count;
        Some(&raw const message.header)
    }

    /// Queues an operation, after an enter where the queue is full.
    ///
    /// # Safety
    ///
    /// What it refers to must live until it is complete.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // It takes the completions, too, so that the kernel has room for more. Where the ring is
            // of no use any more, the next turn says so.
            if self.enter_once(Some(Duration::ZERO)).is_err() {
                return;
            }
        }
    }
}

fn result_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn group_of(place: u16) -> (Group, u16) {
    match place.checked_sub(Group::Small.count()) {
        None => (Group::Small, place),
        Some(index) => (Group::Large, index),
    }
}

impl Pool {
    fn new(group: Group) -> Self {
        let count = usize::from(group.count());
        let memory = allocate(count * group.buffer_bytes());
        let entries = allocate(count * size_of::<BufRingEntry>()).cast();
        Self { group, memory, entries, tail: 0 }
    }

    fn start(&self, index: u16) -> NonNull<u8> {
        // SAFETY: the memory has so many buffers, and an index comes from one of them.
        unsafe { self.memory.add(usize::from(index) * self.group.buffer_bytes()) }
    }

    fn give(&mut self, index: u16) {
        let place = self.tail & (self.group.count() - 1);
        let start = self.start(index);
        let id = match self.group {
            Group::Small => index,
            Group::Large => Group::Small.count() + index,
        };
        // SAFETY: an entry behind the tail is ours. The kernel reads the tail, and what was written
        // before it; it lies in a part of the first entry that the writes below leave alone.
        unsafe {
            let entry = self.entries.add(usize::from(place)).as_mut();
            entry.set_addr(start.as_ptr() as u64);
            entry.set_len(u32::try_from(self.group.buffer_bytes()).unwrap_or(u32::MAX));
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed memory that begins with a page, and is never freed.
fn allocate(bytes: usize) -> NonNull<u8> {
    const PAGE: usize = 4096;
    let Ok(layout) = Layout::from_size_align(bytes, PAGE) else { unreachable!("a few megabytes") };
    // SAFETY: no group is empty.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
