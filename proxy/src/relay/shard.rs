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
use std::time::Duration;

use dugong_topology::Topology;
use tokio::sync::mpsc::UnboundedSender;

use crate::error::SessionError;
use crate::relay::crew::Post;
use crate::relay::engine::{Bell, Engine, Key, Sessions};
use crate::relay::mailbox::Letter;
use crate::relay::session::{Fate, Parted, Session};
use crate::shutdown::{Shutdown, Stage};
use crate::watch::Topologies;

/// Sessions that are looked at between two turns of the engine.
const STRETCH: usize = 64;

/// What a shard can reach besides its sessions.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Which of `posts` is its own.
    pub(super) index: usize,
    pub(super) posts: Arc<[Post]>,
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
    fn sends_away(&self, session: &Session) -> Option<Fate> {
        let why = if self.ending {
            SessionError::ShuttingDown
        } else {
            SessionError::Leave(session.must_leave(self.topology.as_deref()?)?)
        };
        Some(Fate::Dismissed(why))
    }
}

pub(super) struct Shard<E: Engine> {
    engine: E,
    sessions: Sessions<E::State>,
    around: Surroundings,
    /// The next session to be looked at; none: all have been.
    walk: Option<Key>,
    stopped: bool,
}

impl<E: Engine> Shard<E> {
    pub(super) fn new(engine: E, around: Surroundings) -> Self {
        let sessions = Sessions::new(around.own().tally.clone());
        Self { engine, sessions, around, walk: None, stopped: false }
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    ///
    /// The engine cannot wait any more.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while !self.stopped {
            let wait = self.walk.map(|_| Duration::ZERO);
            let bell = self.engine.turn(&mut self.sessions, wait)?;
            self.let_go();
            if bell == Bell::Rang {
                self.read_letters();
            }
            if let Some(from) = self.walk {
                self.walk_on(from);
            }
        }
        Ok(())
    }

    /// Parts with the sessions that are done.
    fn let_go(&mut self) {
        while let Some(key) = self.sessions.done.pop() {
            let mut session = self.sessions.remove(key);
            self.around.own().left();
            let Some(fate) = session.fate.take() else {
                unreachable!("an engine gives nothing up without a reason");
            };
            if let Some(parted) = session.part(*fate) {
                // The control side is gone only when the process ends.
                let _ = self.around.parted.send(parted);
            }
        }
    }

    fn read_letters(&mut self) {
        for letter in self.around.own().mailbox.take() {
            match letter {
                Letter::Adopt(session) => self.adopt(session),
                Letter::Look => self.walk = Some(0),
                Letter::Stop => self.stopped = true,
            }
        }
    }

    fn adopt(&mut self, session: Box<Session>) {
        let fate = self.around.judge().sends_away(&session);
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
            let Some(entry) = self.sessions.all.get(key) else { continue };
            if let Some(fate) = judge.sends_away(&entry.session) {
                self.engine.release(key, fate, &mut self.sessions);
            }
        }
        self.walk = (until < end).then_some(until);
        self.let_go();
    }

    /// How many sessions end with it.
    pub(super) fn session_count(&self) -> usize {
        self.sessions.all.len()
    }
}
