//! What others want of a shard, and the bell that wakes it.
//!
//! **Invariant:** nobody rings twice before the shard has looked: a burst of letters wakes it once.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::relay::balance::Move;
use crate::relay::session::Session;

/// What a shard is asked to do.
#[derive(Debug)]
pub(super) enum Letter {
    /// Take a session over.
    Adopt(Box<Session>),
    /// Instances have other seats, or the proxy stops: look whose sessions must leave.
    Look,
    /// Open or close the lobby, as the door of its post is.
    Door,
    /// Give sessions to other shards.
    Give(Move),
    /// End the thread. Sent once there is no session any more.
    Stop,
    /// Panic, as a bug would have it.
    #[cfg(test)]
    Panic,
}

/// A queue with any number of writers and one reader, which sleeps in its engine.
///
/// A mutex, because a channel would not wake an engine; taken once per session or change of the
/// topology, never per message.
#[derive(Debug)]
pub(super) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: OwnedFd,
    rung: AtomicBool,
}

impl Mailbox {
    /// # Errors
    ///
    /// The system has no descriptor left.
    pub(super) fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { letters: Mutex::default(), bell, rung: AtomicBool::new(false) })
    }

    /// Readable when there may be letters.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    pub(super) fn send(&self, letter: Letter) {
        self.letters().push(letter);
        if !self.rung.swap(true, SeqCst) {
            // It fails only where the bell is full of rings, and then it rings.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Takes all letters, and stops the bell.
    pub(super) fn take(&self) -> Vec<Letter> {
        // Before the letters are taken: what comes later rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.rung.store(false, SeqCst);
        std::mem::take(&mut *self.letters())
    }

    fn letters(&self) -> MutexGuard<'_, Vec<Letter>> {
        // A list is whole after each of its operations, whatever panicked around it.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
