//! What moves the bytes of a shard's sessions: the interface that both engines have.
//!
//! [`epoll`] asks which sockets are ready and calls for each; [`io_uring`] has the kernel do it, one
//! system call a turn. [`choose`] says which one a process has. A shard's loop is a sequence of turns:
//! an engine waits, moves what there is, and names the sessions that are done.
//!
//! **Invariant:** bounded work per turn and session: one read a side, of at most [`READ_BYTES`]. No
//! allocation, lock, log line or timer per message. Memory is kept only for a side that does not
//! take what it is sent.
//!
//! **Invariant:** a session that is done has nothing under way in the engine any more: its sockets
//! may be closed, or used by somebody else.

mod endings;
pub(super) mod epoll;
pub(super) mod io_uring;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::Deserialize;
use slab::Slab;

use crate::relay::pair::Side;
use crate::relay::session::{Fate, Session};
use crate::relay::tally::Tally;

/// The most that is read from one side in one turn.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// A session's place in its shard.
pub(super) type Key = usize;

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EngineChoice {
    /// io_uring where the kernel has it and lets us, else epoll
    #[default]
    Auto,
    /// One call for each socket that is ready
    Epoll,
    /// One call for all; an error where the kernel refuses
    IoUring,
}

/// What a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Epoll,
    IoUring,
}

impl EngineKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Epoll, Self::IoUring];

    /// The name in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }
}

/// Chooses by what the operator wants and what the kernel answers to a probe.
///
/// # Errors
///
/// The probe's, where nothing else is wanted.
pub(super) fn choose(
    wanted: EngineChoice,
    probe: impl FnOnce() -> io::Result<()>,
) -> io::Result<EngineKind> {
    match wanted {
        EngineChoice::Epoll => Ok(EngineKind::Epoll),
        EngineChoice::IoUring => probe().map(|()| EngineKind::IoUring),
        EngineChoice::Auto => match probe() {
            Ok(()) => Ok(EngineKind::IoUring),
            Err(error) => Ok(instead(&error)),
        },
    }
}

/// What there is where the kernel refuses the other one.
pub(super) fn instead(refusal: &io::Error) -> EngineKind {
    tracing::warn!(
        "the kernel refuses io_uring ({refusal}): epoll is used, which costs a little more; allow \
         io_uring_setup and memory for it (ulimit -l), or say relay_engine = \"epoll\""
    );
    EngineKind::Epoll
}

/// The name of a socket that is none of a session's.
pub type Token = u64;

/// What a socket is waited for to be; one that is broken is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Readable,
    Writable,
}

/// Waits for sockets that are none of a session's, along with the others.
pub trait Watch {
    /// Names a socket among those that have [stirred](Sessions::stirred) as soon as it is ready. Asked
    /// once, it may be named once, or in each turn while it is.
    ///
    /// # Errors
    ///
    /// The system has no room for it.
    fn watch(&mut self, token: Token, socket: BorrowedFd<'_>, awaited: Readiness)
    -> io::Result<()>;

    /// Lets go of a socket that was ever watched: it may be closed, or used by somebody else. A name
    /// that was told of already is told all the same.
    fn unwatch(&mut self, token: Token, socket: BorrowedFd<'_>);
}

/// The interface of an engine.
pub(super) trait Engine: Watch {
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
    /// Sides that are in bulk. Some may not be any more.
    pub(super) bulk: Vec<(Key, Side)>,
    /// Sockets that were watched, and are ready. Some may not be any more.
    pub(super) stirred: Vec<Token>,
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
        Self { all: Slab::new(), done: Vec::new(), bulk: Vec::new(), stirred: Vec::new(), tally }
    }

    pub(super) fn insert(&mut self, session: Box<Session>) -> Key {
        self.all.insert(Entry { session, state: S::default() })
    }

    pub(super) fn remove(&mut self, key: Key) -> Box<Session> {
        self.all.remove(key).session
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_engine_is_replaced_only_where_any_will_do() {
        let granted = || Ok(());
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        #[rustfmt::skip]
        let cases = [
            (EngineChoice::Auto,    choose(EngineChoice::Auto, granted),    Some(EngineKind::IoUring)),
            (EngineChoice::Auto,    choose(EngineChoice::Auto, refused),    Some(EngineKind::Epoll)),
            (EngineChoice::Epoll,   choose(EngineChoice::Epoll, refused),   Some(EngineKind::Epoll)),
            (EngineChoice::IoUring, choose(EngineChoice::IoUring, granted), Some(EngineKind::IoUring)),
            (EngineChoice::IoUring, choose(EngineChoice::IoUring, refused), None),
        ];
        for (wanted, chosen, expected) in cases {
            assert_eq!(chosen.ok(), expected, "{wanted:?}");
        }
    }
}
