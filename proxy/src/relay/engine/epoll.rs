//! The engine of readiness: one epoll instance, one buffer, one read and one write a burst.
//!
//! Level-triggered, so that nothing is asked twice: a read that did not empty its socket is told of
//! again in the next turn, and then the others have had theirs.
//!
//! **Invariant:** a socket is registered for exactly what its session waits for; one that waits for
//! nothing is not registered at all, because its end would be told of over and over.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::relay::Ended;
use crate::relay::engine::endings::Endings;
use crate::relay::engine::{
    Bell, Engine, Entry, Key, READ_BYTES, Readiness, Sessions, Token, Watch,
};
use crate::relay::mailbox::Mailbox;
use crate::relay::pair::{Next, Side};
use crate::relay::session::Fate;
use crate::relay::tally::Tally;

/// Sockets that are looked at in one turn; the others come first in the next one.
const EVENTS: usize = 256;

/// The bell's place among the keys of sockets.
const BELL: u64 = u64::MAX;

/// Marks the name of a socket that is no session's; no key reaches it.
const WATCHED: u64 = 1 << 63;

pub(in crate::relay) struct Epoll {
    epoll: OwnedFd,
    events: Vec<Event>,
    buffer: Box<[u8]>,
    watched: HashMap<Token, Readiness>,
    /// Sessions that are given up, and still to be parted with.
    ending: VecDeque<Key>,
    endings: Endings,
}

/// What each socket of a session is registered for, by [`Side::index`].
#[derive(Default)]
pub(in crate::relay) struct Registered([Interest; 2]);

impl Registered {
    fn reads(&self, side: Side) -> bool {
        self.0[side.index()].reading
    }

    fn writes(&self, side: Side) -> bool {
        self.0[side.index()].writing
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interest {
    reading: bool,
    writing: bool,
}

impl Interest {
    const NONE: Self = Self { reading: false, writing: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.reading);
        flags.set(EventFlags::OUT, self.writing);
        flags
    }
}

impl Epoll {
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub(in crate::relay) fn new(mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.bell(), EventData::new_u64(BELL), EventFlags::IN)?;
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            buffer,
            watched: HashMap::new(),
            ending: VecDeque::new(),
            endings: Endings::default(),
        })
    }

    /// One read from a side, and one write of it to the other.
    fn receive(&mut self, side: Side, entry: &mut Entry<Registered>, tally: &Tally) -> Next {
        let session = &mut entry.session;
        let bytes = match recv(session.socket(side), &mut *self.buffer, RecvFlags::empty()) {
            Ok((_, 0)) => {
                session.pair.ended(side, None);
                return session.pair.next();
            }
            Ok((bytes, _)) => &self.buffer[..bytes],
            Err(Errno::AGAIN | Errno::INTR) => return Next::Continue,
            Err(error) => {
                session.pair.ended(side, Some(error.into()));
                return session.pair.next();
            }
        };
        session.arrived(side, bytes);
        let to = side.other();
        let mut flags = SendFlags::NOSIGNAL;
        // What is said last leaves in one packet with the end.
        flags.set(SendFlags::MORE, session.pair.leaves());
        match send(session.socket(to), bytes, flags) {
            Ok(sent) => {
                tally.add(session.listener, to, sent);
                if sent < bytes.len() {
                    session.pair.keep(to, &bytes[sent..]);
                } else if session.pair.leaves() {
                    return session.pair.next();
                }
                Next::Continue
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                session.pair.keep(to, bytes);
                Next::Continue
            }
            Err(error) => session.pair.refused(to, error.into()),
        }
    }

    /// One write of what waits for a side.
    fn flush(to: Side, entry: &mut Entry<Registered>, tally: &Tally) -> Next {
        let session = &mut entry.session;
        match send(session.socket(to), session.pair.unsent(to), SendFlags::NOSIGNAL) {
            Ok(sent) => {
                session.pair.sent(to, sent);
                tally.add(session.listener, to, sent);
                session.pair.next()
            }
            Err(Errno::AGAIN | Errno::INTR) => Next::Continue,
            Err(error) => session.pair.refused(to, error.into()),
        }
    }

    /// Does what follows from a change, and registers the sockets for what the session waits for.
    fn go_on(&mut self, key: Key, mut next: Next, sessions: &mut Sessions<Registered>) {
        let Some(entry) = sessions.all.get_mut(key) else { return };
        let ended = loop {
            match next {
                Next::Continue => match self.register(key, entry) {
                    Ok(()) => return,
                    Err(error) => break Ended::ServerFailed(error),
                },
                Next::ShutServer => {
                    // A server that is gone already cannot be told that the client is: not an error.
                    let _ = shutdown(entry.session.socket(Side::Server), Shutdown::Write);
                    next = entry.session.pair.next();
                }
                Next::End(ended) => break ended,
            }
        };
        self.give_up(key, Fate::Ended(ended), sessions);
    }

    /// Registers the sockets for what their session waits for now.
    fn register(&self, key: Key, entry: &mut Entry<Registered>) -> io::Result<()> {
        for side in Side::ALL {
            let pair = &entry.session.pair;
            let wanted = Interest { reading: pair.reads(side), writing: pair.waits(side) };
            let current = &mut entry.state.0[side.index()];
            if *current == wanted {
                continue;
            }
            let socket = entry.session.socket(side);
            let data = EventData::new_u64((key as u64) << 1 | side.index() as u64);
            match (*current, wanted) {
                (_, Interest::NONE) => epoll::delete(&self.epoll, socket)?,
                (Interest::NONE, _) => epoll::add(&self.epoll, socket, data, wanted.flags())?,
                _ => epoll::modify(&self.epoll, socket, data, wanted.flags())?,
            }
            *current = wanted;
        }
        Ok(())
    }

    fn give_up(&mut self, key: Key, fate: Fate, sessions: &mut Sessions<Registered>) {
        let Some(entry) = sessions.all.get_mut(key) else { return };
        if entry.session.fate.is_some() {
            return;
        }
        for side in Side::ALL {
            if std::mem::take(&mut entry.state.0[side.index()]) != Interest::NONE {
                // It was registered; that it cannot be taken out would be news.
                let _ = epoll::delete(&self.epoll, entry.session.socket(side));
            }
        }
        match fate {
            // It goes on elsewhere, at once.
            Fate::Moved(_) => sessions.done.push(key),
            Fate::Ended(_) | Fate::Dismissed(_) => self.ending.push_back(key),
        }
        entry.session.fate = Some(Box::new(fate));
    }

    /// What the system told of one socket.
    fn serve(&mut self, event: Event, sessions: &mut Sessions<Registered>) {
        let (flags, data) = (event.flags, event.data.u64());
        let side = Side::ALL[usize::from(data & 1 == 1)];
        let Ok(key) = Key::try_from(data >> 1) else { return };
        let Sessions { all, tally, bulk, .. } = &mut *sessions;
        // It may be done since the system told of it.
        let Some(entry) = all.get_mut(key).filter(|entry| entry.session.fate.is_none()) else {
            return;
        };
        let mut next = Next::Continue;
        // An error or a hang-up is told by the call that meets it.
        let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if (failed || flags.contains(EventFlags::OUT)) && entry.state.writes(side) {
            next = Self::flush(side, entry, tally);
        }
        if (failed || flags.contains(EventFlags::IN)) && entry.state.reads(side) && next.goes_on() {
            next = self.receive(side, entry, tally);
            if entry.session.begins_bulk(side) {
                bulk.push((key, side));
            }
        }
        let parts = entry.session.parts_now();
        self.go_on(key, next, sessions);
        if let Some(fate) = parts {
            self.give_up(key, fate, sessions);
        }
    }
}

impl Watch for Epoll {
    fn watch(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        awaited: Readiness,
    ) -> io::Result<()> {
        let data = EventData::new_u64(token | WATCHED);
        let flags = match awaited {
            Readiness::Readable => EventFlags::IN,
            Readiness::Writable => EventFlags::OUT,
        };
        match self.watched.get(&token) {
            None => epoll::add(&self.epoll, socket, data, flags)?,
            Some(before) if *before != awaited => {
                epoll::modify(&self.epoll, socket, data, flags)?;
            }
            Some(_) => return Ok(()),
        }
        // Only what the system has taken is taken out again.
        self.watched.insert(token, awaited);
        Ok(())
    }

    fn unwatch(&mut self, token: Token, socket: BorrowedFd<'_>) {
        if self.watched.remove(&token).is_some() {
            // It is registered; that it cannot be taken out would be news.
            let _ = epoll::delete(&self.epoll, socket);
        }
    }
}

impl Engine for Epoll {
    type State = Registered;

    fn begin(&mut self, key: Key, sessions: &mut Sessions<Registered>) {
        let Sessions { all, tally, .. } = &mut *sessions;
        let Some(entry) = all.get_mut(key) else { return };
        let mut next = Next::Continue;
        for side in Side::ALL {
            if entry.session.pair.waits(side) && next.goes_on() {
                next = Self::flush(side, entry, tally);
            }
        }
        self.go_on(key, next, sessions);
    }

    fn turn(
        &mut self,
        sessions: &mut Sessions<Registered>,
        wait: Option<Duration>,
    ) -> io::Result<Bell> {
        let wait = if self.ending.is_empty() {
            wait
        } else {
            let due = self.endings.due(self.ending.len(), self.events.len());
            sessions.done.extend(self.ending.drain(..due.min(self.ending.len())));
            Some(Duration::ZERO)
        };
        let timeout = wait.map(|wait| Timespec::try_from(wait).unwrap_or_default());
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
        let mut bell = Bell::Silent;
        for index in 0..self.events.len() {
            let event = self.events[index];
            let data = event.data;
            match data.u64() {
                BELL => bell = Bell::Rang,
                name if name & WATCHED != 0 => sessions.stirred.push(name & !WATCHED),
                _ => self.serve(event, sessions),
            }
        }
        Ok(bell)
    }

    fn release(&mut self, key: Key, fate: Fate, sessions: &mut Sessions<Registered>) {
        self.give_up(key, fate, sessions);
    }
}
