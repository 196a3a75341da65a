//! The engine of completion: one ring, one system call a turn, however many sessions have moved.
//!
//! Each socket has a receive that goes on by itself (multishot) and takes a buffer of the ring only
//! when bytes have come. What came is sent from that very buffer in the next enter, as far as the
//! socket takes it at once. What it does not take is copied into memory of the session and sent as
//! the socket allows, and then the other side is not received from.
//!
//! One turn is: settle the sessions that something happened to, which queues operations; enter the
//! kernel, which starts them and waits; hear what is complete.
//!
//! **Invariant:** no buffer of the ring is held over more than the next enter, so that a side that
//! takes nothing costs nobody else a buffer.
//!
//! **Invariant:** of the sessions that end, which may be thousands at the same moment, some are settled
//! in a turn, and those who go on wait for no more ([`Endings`]).

mod ring;

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::relay::engine::endings::Endings;
use crate::relay::engine::io_uring::ring::{Chain, Event, Group, Held, Load, PIECES, Ring};
use crate::relay::engine::{Bell, Engine, Entry, Key, Readiness, Sessions, Token, Watch};
use crate::relay::mailbox::Mailbox;
use crate::relay::pair::{Next, Side};
use crate::relay::session::{Fate, Session};

/// Buffers in a row that come full, or that bulk comes in too thinly, before others are chosen.
const MISFITS: u8 = 4;

/// The longest that a probe's byte may take, and how often it is waited for: signals interrupt.
const PROBE_WAIT: Duration = Duration::from_secs(1);
const PROBES: usize = 5;

pub(in crate::relay) struct IoUring {
    ring: Ring,
    mailbox: Arc<Mailbox>,
    unsettled: Unsettled,
    /// Sockets that are watched, and of which nothing was told yet.
    watched: HashSet<Token>,
    /// Whether something follows from the next enter, whatever is told of it.
    again: bool,
    endings: Endings,
    /// How many the last turn has brought.
    events: usize,
}

/// Sessions that something happened to.
#[derive(Default)]
struct Unsettled {
    /// To be settled in the next turn.
    next: Vec<Key>,
    /// Those that end, and hold no buffer of the ring: a few of them each turn.
    ending: VecDeque<Key>,
}

/// Among which of the unsettled a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Queue {
    #[default]
    None,
    Next,
    Ending,
}

impl Unsettled {
    fn add(&mut self, key: Key, entry: &mut Entry<Lanes>) {
        let Entry { session, state } = entry;
        if state.queue != Queue::None {
            return;
        }
        let holds = state.lanes.iter().any(|lane| !lane.ready.is_empty());
        let goes_on = match session.fate.as_deref() {
            None => !session.pair.is_ending(),
            // Elsewhere, at once.
            Some(Fate::Moved(_)) => true,
            Some(Fate::Ended(_) | Fate::Dismissed(_)) => false,
        };
        if holds || goes_on {
            state.queue = Queue::Next;
            self.next.push(key);
        } else {
            state.queue = Queue::Ending;
            self.ending.push_back(key);
        }
    }
}

/// Both ways of a session, by [`Side::index`] of the side that is received from.
#[derive(Default)]
pub(in crate::relay) struct Lanes {
    lanes: [Lane; 2],
    queue: Queue,
}

/// What is under way from one side to the other.
#[derive(Default)]
struct Lane {
    receive: Receive,
    group: Group,
    /// Buffers in a row that would have been better of the other group.
    misfits: u8,
    /// Received, and not sent yet.
    ready: Chain,
    send: Send,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Receive {
    #[default]
    Idle,
    Armed(Group),
    Stopping,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Send {
    #[default]
    Idle,
    /// Buffers of the ring: over with the next enter.
    Quick,
    /// What a socket did not take at once; by what number it can be stopped.
    Waiting(usize),
    Stopping,
}

impl Send {
    /// Whether the socket did not take something at once.
    fn waits(self) -> bool {
        match self {
            Self::Waiting(_) | Self::Stopping => true,
            Self::Idle | Self::Quick => false,
        }
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.receive == Receive::Idle && self.send == Send::Idle
    }

    /// Whether something follows once its quick send is over, of whose success nothing is told.
    fn is_waited_for(&self) -> bool {
        let goes_on = matches!(self.receive, Receive::Armed(_)) && self.ready.is_empty();
        self.send == Send::Quick && !goes_on
    }

    /// Whether it has bytes that are not kept in the session.
    fn has_bytes(&self) -> bool {
        self.send != Send::Idle || !self.ready.is_empty()
    }

    /// Chooses the group of the next receive by how full buffers come.
    fn judge(&mut self, bytes: usize) {
        let (fits, other) = match self.group {
            Group::Small => (bytes < Group::Small.buffer_bytes(), Group::Large),
            Group::Large => (bytes > Group::Small.buffer_bytes(), Group::Small),
        };
        self.misfits = if fits { 0 } else { self.misfits + 1 };
        if self.misfits >= MISFITS {
            (self.group, self.misfits) = (other, 0);
        }
    }
}

/// Moves one byte the way that sessions will, on a thread of its own.
///
/// # Errors
///
/// The kernel has no io_uring, an old one, or does not let us have it.
pub(in crate::relay) fn probe() -> io::Result<()> {
    let probing = thread::spawn(|| {
        let (near, far) = UnixStream::pair()?;
        let mut ring = Ring::new()?;
        ring.receive(0, Side::Client, near.as_fd(), Group::Small);
        (&far).write_all(b"?")?;
        let Some(Event::Received { result, .. }) = first_event(&mut ring)? else {
            return Err(io::Error::other("it does not receive"));
        };
        let Some(held) = result? else {
            return Err(io::Error::other("it receives nothing"));
        };
        // A socket that is full must say so, though success is not told.
        far.set_nonblocking(true)?;
        while (&far).write(&[0; 4096]).is_ok() {}
        let mut chain = Chain::default();
        ring.append(&mut chain, held);
        let sending = ring.send_now(0, Side::Server, far.as_fd(), chain, false);
        sending.map_err(|_| io::Error::other("it has no room"))?;
        match first_event(&mut ring)? {
            Some(Event::Sent { result: Err(_), .. }) => Ok(()),
            Some(_) | None => Err(io::Error::other("it does not tell of failures")),
        }
    });
    probing.join().unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
}

/// What a probe hears first, apart from what it received before.
fn first_event(ring: &mut Ring) -> io::Result<Option<Event>> {
    for _ in 0..PROBES {
        ring.enter(Some(PROBE_WAIT))?;
        if let Some(event) = ring.next() {
            return Ok(Some(event));
        }
    }
    Ok(None)
}

impl IoUring {
    /// An engine for the thread that calls, and for no other.
    ///
    /// # Errors
    ///
    /// The kernel has no io_uring, an old one, or does not let us have it.
    pub(in crate::relay) fn new(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        ring.listen(mailbox.bell().as_fd());
        Ok(Self {
            ring,
            mailbox: Arc::clone(mailbox),
            unsettled: Unsettled::default(),
            watched: HashSet::new(),
            again: false,
            endings: Endings::default(),
            events: 0,
        })
    }

    /// Starts what follows from all that happened to a session.
    fn settle(&mut self, key: Key, sessions: &mut Sessions<Lanes>) {
        let Some(entry) = sessions.all.get_mut(key) else { return };
        entry.state.queue = Queue::None;
        let Entry { session, state } = entry;
        for from in Side::ALL {
            session.pair.set_in_flight(from.other(), state.lanes[from.index()].has_bytes());
        }
        while session.fate.is_none() {
            match session.pair.next() {
                Next::Continue => break,
                Next::ShutServer => {
                    // A server that is gone already cannot be told that the client is: not an error.
                    let _ = shutdown(session.socket(Side::Server), Shutdown::Write);
                }
                Next::End(ended) => session.fate = Some(Box::new(Fate::Ended(ended))),
            }
        }
        for from in Side::ALL {
            let lane = &mut state.lanes[from.index()];
            if session.fate.is_none() {
                self.send(key, from.other(), session, lane);
            } else {
                self.stop_sending(from.other(), session, lane);
            }
            self.receive(key, from, session, lane);
            self.again |= lane.is_waited_for();
        }
        if session.fate.is_some() && state.lanes.iter().all(Lane::is_idle) {
            sessions.done.push(key);
        }
    }

    /// Starts to send what is to be sent, if nothing is being sent already.
    fn send(&mut self, key: Key, to: Side, session: &mut Session, lane: &mut Lane) {
        if lane.send == Send::Idle {
            if session.pair.waits(to) {
                self.keep(to, session, lane);
                let rest = session.pair.take_rest(to);
                let flight = self.ring.send_all(key, to, session.socket(to).as_fd(), rest);
                lane.send = Send::Waiting(flight);
            } else if !lane.ready.is_empty() {
                let now = self.first_pieces(&mut lane.ready);
                let socket = session.socket(to).as_fd();
                match self.ring.send_now(key, to, socket, now, session.pair.leaves()) {
                    Ok(()) => lane.send = Send::Quick,
                    Err(chain) => {
                        // Rare: so many sessions have so much to send that one enter cannot take it.
                        self.keep_chain(to, session, chain);
                        self.keep(to, session, lane);
                        return self.send(key, to, session, lane);
                    }
                }
            }
        }
        session.pair.set_in_flight(to, lane.has_bytes());
    }

    /// As much of a chain as one send takes.
    fn first_pieces(&mut self, ready: &mut Chain) -> Chain {
        if ready.count() <= PIECES {
            return std::mem::take(ready);
        }
        let mut first = Chain::default();
        while first.count() < PIECES
            && let Some(held) = self.ring.take_first(ready)
        {
            self.ring.append(&mut first, held);
        }
        first
    }

    /// Ends what waits for a socket, and keeps the rest for whoever takes the session.
    fn stop_sending(&mut self, to: Side, session: &mut Session, lane: &mut Lane) {
        match lane.send {
            Send::Idle => self.keep(to, session, lane),
            Send::Waiting(flight) => {
                self.ring.stop_sending(flight);
                lane.send = Send::Stopping;
            }
            Send::Quick | Send::Stopping => (),
        }
    }

    /// Receives or not, as the session wants it.
    fn receive(&mut self, key: Key, from: Side, session: &Session, lane: &mut Lane) {
        let wanted = session.fate.is_none() && session.pair.reads(from) && !lane.send.waits();
        match lane.receive {
            // What is sent gives buffers back, and their want may be why it is idle.
            Receive::Idle if wanted && lane.send == Send::Idle => {
                self.ring.receive(key, from, session.socket(from).as_fd(), lane.group);
                lane.receive = Receive::Armed(lane.group);
            }
            Receive::Armed(group) if !wanted || group != lane.group => {
                self.ring.stop_receiving(key, from);
                lane.receive = Receive::Stopping;
            }
            Receive::Idle | Receive::Armed(_) | Receive::Stopping => (),
        }
    }

    /// Moves what is ready into the session's own memory.
    fn keep(&mut self, to: Side, session: &mut Session, lane: &mut Lane) {
        let ready = std::mem::take(&mut lane.ready);
        self.keep_chain(to, session, ready);
    }

    fn keep_chain(&mut self, to: Side, session: &mut Session, mut chain: Chain) {
        while let Some(held) = self.ring.take_first(&mut chain) {
            session.pair.keep(to, self.ring.bytes(&held));
            self.ring.give_back(held);
        }
    }

    /// Bytes have come, or their end.
    fn received(
        &mut self,
        from: Side,
        result: io::Result<Option<Held>>,
        session: &mut Session,
        lane: &mut Lane,
    ) {
        let held = match result {
            Ok(Some(held)) => held,
            Ok(None) => return session.pair.ended(from, None),
            Err(error) => match Errno::from_io_error(&error) {
                // It was stopped, or has to be asked for again: settling it does that.
                Some(Errno::CANCELED | Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => return,
                Some(_) | None => return session.pair.ended(from, Some(error)),
            },
        };
        let to = from.other();
        let bytes = self.ring.bytes(&held);
        session.arrived(from, bytes);
        lane.judge(bytes.len());
        self.ring.append(&mut lane.ready, held);
        if lane.send.waits() || session.pair.waits(to) || session.pair.is_over(to) {
            self.keep(to, session, lane);
        }
        if session.fate.is_none() {
            session.fate = session.parts_now().map(Box::new);
        }
    }

    /// A side has taken bytes, or refused them.
    fn sent(&mut self, to: Side, result: io::Result<usize>, load: Load, session: &mut Session) {
        let (taken, refusal) = match result {
            Ok(bytes) => (bytes, None),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::CANCELED | Errno::INTR) => (0, None),
                Some(_) | None => (0, Some(error)),
            },
        };
        match load {
            Load::Rest(mut rest) => {
                rest.sent(taken);
                session.pair.put_back(to, rest);
            }
            Load::Chain(mut chain) => {
                let mut taken = taken;
                while let Some(held) = self.ring.take_first(&mut chain) {
                    let bytes = self.ring.bytes(&held);
                    let gone = taken.min(bytes.len());
                    if gone < bytes.len() {
                        session.pair.keep(to, &bytes[gone..]);
                    }
                    taken -= gone;
                    self.ring.give_back(held);
                }
            }
        }
        if let Some(error) = refusal
            && let Next::End(ended) = session.pair.refused(to, error)
            && session.fate.is_none()
        {
            session.fate = Some(Box::new(Fate::Ended(ended)));
        }
    }

    /// Takes note of what one operation has come to.
    fn hear(&mut self, event: Event, sessions: &mut Sessions<Lanes>) -> Bell {
        let Sessions { all, tally, bulk, stirred, .. } = sessions;
        match event {
            Event::Stirred(token) => {
                self.watched.remove(&token);
                stirred.push(token);
            }
            Event::Bell { goes_on } => {
                if !goes_on {
                    self.ring.listen(self.mailbox.bell().as_fd());
                }
                return Bell::Rang;
            }
            Event::Received { key, from, result, goes_on } => {
                let Some(entry) = all.get_mut(key) else {
                    unreachable!("a session goes only when nothing of it is under way")
                };
                let lane = &mut entry.state.lanes[from.index()];
                if !goes_on {
                    lane.receive = Receive::Idle;
                }
                self.received(from, result, &mut entry.session, lane);
                if entry.session.begins_bulk(from) {
                    bulk.push((key, from));
                }
                if entry.state.queue == Queue::Ending {
                    self.keep(from.other(), &mut entry.session, lane);
                }
                self.unsettled.add(key, entry);
            }
            Event::Sent { key, to, result, load } => {
                let Some(entry) = all.get_mut(key) else {
                    unreachable!("a session goes only when nothing of it is under way")
                };
                if let Ok(bytes) = result {
                    tally.add(entry.session.listener, to, bytes);
                }
                entry.state.lanes[to.other().index()].send = Send::Idle;
                self.sent(to, result, load, &mut entry.session);
                self.unsettled.add(key, entry);
            }
        }
        Bell::Silent
    }
}

impl Watch for IoUring {
    fn watch(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        awaited: Readiness,
    ) -> io::Result<()> {
        self.watched.insert(token);
        self.ring.watch(token, socket, awaited);
        Ok(())
    }

    fn unwatch(&mut self, token: Token, _: BorrowedFd<'_>) {
        if self.watched.remove(&token) {
            self.ring.stop_watching(token);
        }
    }
}

impl Engine for IoUring {
    type State = Lanes;

    fn begin(&mut self, key: Key, sessions: &mut Sessions<Lanes>) {
        let Sessions { all, tally, .. } = sessions;
        let Some(entry) = all.get_mut(key) else { return };
        let Entry { session, .. } = entry;
        for to in Side::ALL {
            // At once, as far as the socket takes it: a completion would cost a turn.
            if session.pair.waits(to)
                && let Ok(sent) = send(
                    session.socket(to),
                    session.pair.unsent(to),
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )
            {
                session.pair.sent(to, sent);
                tally.add(session.listener, to, sent);
            }
        }
        self.unsettled.add(key, entry);
    }

    fn turn(&mut self, sessions: &mut Sessions<Lanes>, wait: Option<Duration>) -> io::Result<Bell> {
        let mut settling = std::mem::take(&mut self.unsettled.next);
        for key in settling.drain(..) {
            self.settle(key, sessions);
        }
        self.unsettled.next = settling;
        if !self.unsettled.ending.is_empty() {
            for _ in 0..self.endings.due(self.unsettled.ending.len(), self.events) {
                let Some(key) = self.unsettled.ending.pop_front() else { break };
                self.settle(key, sessions);
            }
        }
        let again = std::mem::take(&mut self.again)
            || !sessions.done.is_empty()
            || !self.unsettled.ending.is_empty();
        let wait = if again { Some(Duration::ZERO) } else { wait };
        self.ring.enter(wait)?;
        let mut bell = Bell::Silent;
        self.events = 0;
        while let Some(event) = self.ring.next() {
            self.events += 1;
            if self.hear(event, sessions) == Bell::Rang {
                bell = Bell::Rang;
            }
        }
        Ok(bell)
    }

    fn release(&mut self, key: Key, fate: Fate, sessions: &mut Sessions<Lanes>) {
        let Some(entry) = sessions.all.get_mut(key) else { return };
        if entry.session.fate.is_none() {
            entry.session.fate = Some(Box::new(fate));
            self.unsettled.add(key, entry);
        }
    }
}
