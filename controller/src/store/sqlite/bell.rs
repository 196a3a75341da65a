//! The bell: how processes that share the file tell each other that its content has changed.
//!
//! Whoever has committed a change touches the file's time; inotify wakes the watchers of all
//! processes. The commit itself would wake them too early: what it writes becomes visible only
//! with its last step, which is in shared memory and wakes nobody.
//!
//! **Invariant:** nothing depends on it but speed. A ring that is lost, since its process was
//! killed or the system has no inotify to give, costs at most one [`Bell::patience`].
//!
//! Source: inotify(7), utimensat(2).

use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Timestamps, UTIME_NOW, utimensat};
use rustix::io::Errno;

/// How long a watcher sleeps that can be woken. What is missed shows within 50 ms all the same.
const WITH_BELL: Duration = Duration::from_millis(40);

/// How long one sleeps that cannot.
const WITHOUT: Duration = Duration::from_millis(15);

/// Wakes the watchers of all processes.
pub(super) fn ring(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    // A file that is gone, or whose times are not ours to set: see the invariant.
    let _ = utimensat(CWD, path, &times, AtFlags::empty());
}

/// One watcher's ear.
#[derive(Debug)]
pub(super) struct Bell {
    /// None where the system has none to give: its number for each user is limited.
    inotify: Option<OwnedFd>,
    /// Hangs up when the handle is dropped.
    handle: PipeReader,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Somebody rang, or nobody for long enough.
    Look,
    /// The handle was dropped.
    Ended,
}

impl Bell {
    /// A bell, and what the handle holds as long as it lives.
    pub(super) fn new() -> std::io::Result<(Self, PipeWriter)> {
        let (handle, alive) = std::io::pipe()?;
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify for the store: looking more often instead");
            })
            .ok();
        Ok((Self { inotify, handle }, alive))
    }

    /// Listens to rings at this file: the one that is at the path just now.
    pub(super) fn listen_at(&mut self, path: &Path) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let flags = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
        if let Err(error) = inotify::add_watch(inotify, path, flags) {
            tracing::warn!(%error, "inotify cannot watch the store: looking more often instead");
            self.inotify = None;
        }
    }

    /// How long nothing may happen before the watcher looks anyway.
    pub(super) fn patience(&self) -> Duration {
        if self.inotify.is_some() { WITH_BELL } else { WITHOUT }
    }

    /// Waits for a ring, at most this long.
    pub(super) fn wait(&self, at_most: Duration) -> Woken {
        let timeout = Timespec::try_from(at_most).unwrap_or_default();
        let mut waits = Vec::with_capacity(2);
        waits.push(PollFd::new(&self.handle, PollFlags::IN));
        waits.extend(self.inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
        match poll(&mut waits, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => (),
            // Out of memory, by the manual: go on without spinning.
            Err(_) => std::thread::sleep(at_most),
        }
        if waits[0].revents().contains(PollFlags::HUP) {
            return Woken::Ended;
        }
        self.drain();
        Woken::Look
    }

    /// What rang does not matter: the watcher looks at everything.
    fn drain(&self) {
        let mut events = [0; 4096];
        if let Some(inotify) = &self.inotify {
            while rustix::io::read(inotify, &mut events).is_ok_and(|bytes| bytes > 0) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_ring_wakes_every_listener_once_and_a_dropped_handle_ends_the_wait() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut first, alive) = Bell::new().unwrap();
        let (mut second, _alive) = Bell::new().unwrap();
        first.listen_at(file.path());
        second.listen_at(file.path());
        assert_eq!(first.patience(), WITH_BELL);
        let begun = Instant::now();
        for _ in 0..3 {
            ring(file.path());
            assert_eq!((first.wait(LONG), second.wait(LONG)), (Woken::Look, Woken::Look));
        }
        assert!(begun.elapsed() < LONG / 2, "woken by the ring, not by the end of the wait");

        let brief = Duration::from_millis(20);
        let begun = Instant::now();
        assert_eq!(first.wait(brief), Woken::Look);
        assert!(begun.elapsed() >= brief, "a ring is heard once");

        drop(alive);
        assert_eq!(first.wait(LONG), Woken::Ended);
    }

    #[test]
    fn without_inotify_the_watcher_looks_more_often() {
        let (handle, _alive) = std::io::pipe().unwrap();
        let mut deaf = Bell { inotify: None, handle };
        deaf.listen_at(Path::new("/nowhere"));
        assert_eq!(deaf.patience(), WITHOUT);
        assert_eq!(deaf.wait(Duration::from_millis(1)), Woken::Look);
        ring(Path::new("/nowhere")); // Rings at nothing, and fails at nothing.
    }
}
