//! One relay thread: its sessions, its engine, and the letters that it gets.
//!
//! [`Shard::run`] is the loop: a turn of the engine, then the sessions that are done, the letters,
//! and a stretch of whatever walk through all sessions is under way.
//!
//! **Invariant:** a shard never speaks to a client in words, and waits for nothing but its engine: a
//! session whose client has to be told goes back to the control side.
//!
//! **Invariant:** bounded work between two turns of the engine, however many sessions must leave.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dugong_topology::Topology;
use tokio::sync::mpsc::UnboundedSender;

use crate::error::SessionError;
use crate::lobby::Lobby;
use crate::relay::balance::Move;
use crate::relay::bulk::TICK;
use crate::relay::crew::Post;
use crate::relay::engine::{Bell, Engine, Key, Sessions};
use crate::relay::mailbox::Letter;
use crate::relay::session::{Fate, Parted, Session};
use crate::shutdown::{Shutdown, Stage};
use crate::watch::Topologies;

/// Sessions that are looked at between two turns of the engine.
const STRETCH: usize = 64;

/// Turns between two looks at the processor's clock: that is a system call.
const TURNS: u32 = 64;

/// What a shard can reach besides its sessions.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Which of `posts` is its own.
    pub(super) index: usize,
    pub(super) posts: Arc<[Post]>,
    /// Which one new sessions go to.
    pub(super) newcomers: Arc<AtomicUsize>,
    /// To the control side. As many as there are sessions at most.
    pub(super) parted: UnboundedSender<Parted>,
    pub(super) topologies: Topologies,
    pub(super) shutdown: Shutdown,
}

impl Surroundings {
    pub(super) fn own(&self) -> &Post {
        &self.posts[self.index]
    }

    /// Who must leave, as things are.
    fn judge(&self) -> Judge {
        let ending = self.shutdown.has_reached(Stage::Ending);
        Judge { ending, topology: self.topologies.seats.borrow().clone() }
    }
}

/// Says which sessions must leave.
struct Judge {
    ending: bool,
    topology: Option<Arc<Topology>>,
}

impl Judge {
    /// Why a session may not stay; none: it may.
    fn sends_away(&self, session: &mut Session) -> Option<Fate> {
        if self.ending {
            return Some(Fate::Dismissed(SessionError::ShuttingDown));
        }
        session.look_at(self.topology.as_deref()?)
    }
}

/// Sessions on their way to another shard.
struct Giving {
    /// The next session to be looked at.
    next: Key,
    /// Grows by the sessions to give with each that there is; one goes whenever it reaches all.
    due: usize,
    /// Sessions that there were when it began.
    all: usize,
    what: Move,
}

pub(super) struct Shard<E: Engine> {
    engine: E,
    sessions: Sessions<E::State>,
    around: Surroundings,
    /// The next session to be looked at; none: all have been.
    walk: Option<Key>,
    giving: Option<Giving>,
    lobby: Option<Lobby>,
    /// Whether the lobby has something to do when nothing stirs: remembered, since it is asked for twice
    /// a turn.
    lobby_waits: bool,
    /// When sides in bulk are looked at again.
    next_tick: Instant,
    /// Turns since the processor time was told.
    turns: u32,
    stopped: bool,
}

impl<E: Engine> Shard<E> {
    pub(super) fn new(engine: E, around: Surroundings) -> Self {
        let sessions = Sessions::new(around.own().tally.clone());
        Self {
            engine,
            sessions,
            around,
            walk: None,
            giving: None,
            lobby: None,
            lobby_waits: false,
            next_tick: Instant::now(),
            turns: 0,
            stopped: false,
        }
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    ///
    /// The engine cannot wait any more.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // One that panicked may have left its door behind.
        self.look_at_door();
        while !self.stopped {
            let patience = self.patience();
            let bell = self.engine.turn(&mut self.sessions, patience)?;
            if !self.sessions.done.is_empty() {
                self.let_go();
            }
            if self.lobby_waits || !self.sessions.stirred.is_empty() {
                self.let_in();
            }
            if !self.sessions.bulk.is_empty() {
                self.look_at_bulk();
            }
            if bell == Bell::Rang {
                self.read_letters();
            }
            if let Some(from) = self.walk {
                self.walk_on(from);
            }
            if let Some(giving) = self.giving.take() {
                self.give(giving);
            }
            self.turns += 1;
            if self.turns == TURNS {
                self.turns = 0;
                self.around.own().tell_time();
            }
        }
        Ok(())
    }

    /// How long it may wait; none: until something happens.
    fn patience(&self) -> Option<Duration> {
        if self.walk.is_some() || self.giving.is_some() {
            return Some(Duration::ZERO);
        }
        if !self.sessions.bulk.is_empty() {
            return Some(TICK);
        }
        self.lobby.as_ref().filter(|_| self.lobby_waits).map(Lobby::patience)
    }

    /// Opens its lobby, or closes it.
    fn look_at_door(&mut self) {
        let door = self.around.own().door().clone();
        match (door, self.lobby.take()) {
            (Some(door), None) => self.lobby = Some(Lobby::open(door, &mut self.engine)),
            (None, Some(lobby)) => lobby.close(&mut self.engine),
            (_, lobby) => self.lobby = lobby,
        }
        self.lobby_waits = self.lobby.as_ref().is_some_and(Lobby::waits);
    }

    /// Has the lobby go on, and takes those whom it lets in.
    fn let_in(&mut self) {
        let Some(lobby) = &mut self.lobby else { return self.sessions.stirred.clear() };
        lobby.turn(&mut self.sessions.stirred, &mut self.engine);
        self.lobby_waits = lobby.waits();
        while let Some(session) = self.lobby.as_mut().and_then(Lobby::take_admitted) {
            let newcomers = self.around.newcomers.load(Relaxed);
            if newcomers == self.around.index {
                self.around.own().came();
                self.adopt(Box::new(session));
            } else {
                self.around.posts[newcomers].adopt(Box::new(session));
            }
        }
    }

    /// Parts with the sessions that are done.
    fn let_go(&mut self) {
        while let Some(key) = self.sessions.done.pop() {
            let mut session = self.sessions.remove(key);
            session.ends_bulk();
            self.around.own().left();
            match session.fate.take().map(|fate| *fate) {
                None => unreachable!("an engine gives nothing up without a reason"),
                Some(Fate::Moved(to)) => self.around.posts[to].adopt(session),
                Some(fate @ (Fate::Ended(_) | Fate::Dismissed(_))) => {
                    if let Some(parted) = session.part(fate) {
                        // The control side is gone only when the process ends.
                        let _ = self.around.parted.send(parted);
                    }
                }
            }
        }
    }

    /// Once a tick: who is in bulk, and was silent?
    fn look_at_bulk(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let Sessions { all, bulk, .. } = &mut self.sessions;
        bulk.retain(|(key, side)| {
            all.get_mut(*key).is_some_and(|entry| entry.session.stays_in_bulk(*side))
        });
    }

    fn read_letters(&mut self) {
        for letter in self.around.own().mailbox.take() {
            match letter {
                Letter::Adopt(session) => self.adopt(session),
                Letter::Look => {
                    self.walk = Some(0);
                    if let Some(lobby) = &mut self.lobby {
                        lobby.hurry();
                    }
                }
                Letter::Door => self.look_at_door(),
                Letter::Give(what) => {
                    self.giving = Some(Giving { next: 0, due: 0, all: 0, what });
                }
                Letter::Stop => self.stopped = true,
                #[cfg(test)]
                Letter::Panic => panic!("as it was told to"),
            }
        }
    }

    fn adopt(&mut self, mut session: Box<Session>) {
        let fate = self.around.judge().sends_away(&mut session);
        let key = self.sessions.insert(session);
        self.engine.begin(key, &mut self.sessions);
        if let Some(fate) = fate {
            self.engine.release(key, fate, &mut self.sessions);
        }
        self.let_go();
    }

    /// Looks at the next few sessions of all.
    fn walk_on(&mut self, from: Key) {
        let judge = self.around.judge();
        let end = self.sessions.all.capacity();
        let until = end.min(from + STRETCH);
        for key in from..until {
            let Some(entry) = self.sessions.all.get_mut(key) else { continue };
            if let Some(fate) = judge.sends_away(&mut entry.session) {
                self.engine.release(key, fate, &mut self.sessions);
            }
        }
        self.walk = (until < end).then_some(until);
        self.let_go();
    }

    /// Gives the next few sessions away, evenly spread over all: nobody knows which ones are busy.
    fn give(&mut self, mut giving: Giving) {
        let Giving { next, due, all, what } = &mut giving;
        if *next == 0 {
            *all = self.sessions.all.len();
        }
        let end = self.sessions.all.capacity();
        let until = end.min(*next + STRETCH);
        for key in *next..until {
            if self.sessions.all.contains(key) {
                *due += what.sessions;
                if *due >= *all {
                    *due -= *all;
                    self.engine.release(key, Fate::Moved(what.to), &mut self.sessions);
                }
            }
        }
        *next = until;
        if until < end {
            self.giving = Some(giving);
        }
        self.let_go();
    }

    /// How many sessions end with it.
    pub(super) fn session_count(&self) -> usize {
        self.sessions.all.len()
    }
}
