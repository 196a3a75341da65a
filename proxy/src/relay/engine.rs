//! What moves the bytes of a shard's sessions: the interface that both engines have.
//!
//! [`epoll`] asks which sockets are ready and calls for each. A shard's loop is a sequence of turns:
//! an engine waits, moves what there is, and names the sessions that are done.
//!
//! **Invariant:** bounded work per turn and session: one read a side, of at most [`READ_BYTES`]. No
//! allocation, lock, log line or timer per message. Memory is kept only for a side that does not
//! take what it is sent.
//!
//! **Invariant:** a session that is done has nothing under way in the engine any more: its sockets
//! may be closed, or used by somebody else.

pub(super) mod epoll;

use std::io;
use std::time::Duration;

use slab::Slab;

use crate::relay::session::{Fate, Session};
use crate::relay::tally::Tally;

/// The most that is read from one side in one turn.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// A session's place in its shard.
pub(super) type Key = usize;

/// The interface of an engine.
pub(super) trait Engine {
    /// What it keeps beside each session.
    type State: Default;

    /// Begins to move a session's bytes, first those that it came with.
    fn begin(&mut self, key: Key, sessions: &mut Sessions<Self::State>);

    /// Waits until there is something to do, for `wait` at most, and does it. Says whether the bell
    /// was among it.
    ///
    /// # Errors
    ///
    /// The system call that waits fails: the engine is of no use any more.
    fn turn(
        &mut self,
        sessions: &mut Sessions<Self::State>,
        wait: Option<Duration>,
    ) -> io::Result<Bell>;

    /// Gives a session up. It is done at once or after one of the next turns.
    fn release(&mut self, key: Key, fate: Fate, sessions: &mut Sessions<Self::State>);
}

/// Whether there may be letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bell {
    Silent,
    Rang,
}

/// The sessions of one shard.
pub(super) struct Sessions<S> {
    pub(super) all: Slab<Entry<S>>,
    /// Those that have left the engine.
    pub(super) done: Vec<Key>,
    pub(super) tally: Tally,
}

/// A session, and what its engine keeps beside it.
pub(super) struct Entry<S> {
    /// In a box: it stays where it is while the table grows.
    pub(super) session: Box<Session>,
    pub(super) state: S,
}

impl<S: Default> Sessions<S> {
    pub(super) fn new(tally: Tally) -> Self {
        Self { all: Slab::new(), done: Vec::new(), tally }
    }

    pub(super) fn insert(&mut self, session: Box<Session>) -> Key {
        self.all.insert(Entry { session, state: S::default() })
    }

    pub(super) fn remove(&mut self, key: Key) -> Box<Session> {
        self.all.remove(key).session
    }
}
