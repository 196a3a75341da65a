//! Bulk: whoever has sent much without a pause is listened to only once there is a large piece of it.
//!
//! A sender of bulk writes a few kilobytes at a time, and a reader that is quick enough is woken for
//! each of them, which costs more than moving them. So the kernel is told to wake us later. What comes
//! last may be less than a piece: who was silent for a [`TICK`] is listened to as before, and taken for
//! a sender of bulk again if that brings much.
//!
//! **Invariant:** nothing waits for longer than two ticks and a turn: a side in bulk is on the list that
//! its shard looks through at each tick. Whoever leaves the shard is in bulk no more.

mod wake;

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use self::wake::wake_at;

/// What has to come without a pause, or a word of the other side: some milliseconds of a fast server. A
/// shorter answer is never held up.
const BULK_BYTES: u32 = 1024 * 1024;

/// Less than this at once is a pause.
const PAUSE_BYTES: usize = 4 * 1024;

/// How much a side in bulk must have sent before its reader is woken. Of 64 KiB to 512 KiB the one that
/// costs the least by io_uring, whose buffers for bulk are 512 KiB; by epoll all cost the same.
const PIECE_BYTES: u32 = 128 * 1024;

/// How often sides in bulk are looked at.
pub(super) const TICK: Duration = Duration::from_micros(500);

/// How much one side of a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// So many bytes since the last pause.
    Counted(u32),
    /// Enough of them: it may be taken for bulk.
    Due,
    /// Its reader is woken for large pieces only; whether one came since the last tick.
    Bulk { heard: bool },
    /// It was in bulk until now; what comes next says whether it is again.
    Flushed,
}

impl Default for Flow {
    fn default() -> Self {
        Self::Counted(0)
    }
}

impl Flow {
    /// So many bytes have come.
    pub(super) fn took(&mut self, bytes: usize) {
        *self = match *self {
            Self::Counted(_) if bytes < PAUSE_BYTES => Self::Counted(0),
            Self::Counted(before) => {
                let all = before.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
                if all < BULK_BYTES { Self::Counted(all) } else { Self::Due }
            }
            Self::Due => Self::Due,
            Self::Bulk { .. } => Self::Bulk { heard: true },
            Self::Flushed if bytes < PIECE_BYTES as usize / 4 => Self::Counted(0),
            Self::Flushed => Self::Due,
        }
    }

    /// The other side has said something, so that what comes next is something new.
    pub(super) fn answered(&mut self) {
        match self {
            Self::Counted(_) | Self::Flushed => *self = Self::Counted(0),
            Self::Due | Self::Bulk { .. } => (),
        }
    }

    /// Takes it for bulk where that is due. Says whether it did.
    pub(super) fn begin(&mut self, socket: impl AsFd) -> bool {
        if *self != Self::Due {
            return false;
        }
        let begun = wake_at(socket, PIECE_BYTES).is_ok();
        // Whose kernel does not know that is listened to as ever.
        *self = if begun { Self::Bulk { heard: true } } else { Self::Counted(0) };
        begun
    }

    /// A tick is over. Says whether it is in bulk still.
    ///
    /// # Errors
    ///
    /// The system's: the connection is of no use any more.
    pub(super) fn tick(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let Self::Bulk { heard } = self else { return Ok(false) };
        if std::mem::take(heard) {
            return Ok(true);
        }
        *self = Self::Flushed;
        wake_at(socket, 1).map(|()| false)
    }

    /// It shall not be in bulk.
    ///
    /// # Errors
    ///
    /// See [`Self::tick`].
    pub(super) fn end(&mut self, socket: impl AsFd) -> io::Result<()> {
        match std::mem::take(self) {
            Self::Bulk { .. } => wake_at(socket, 1),
            Self::Counted(_) | Self::Due | Self::Flushed => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_much_without_a_pause_is_bulk() {
        let after = |pieces: &[usize]| {
            let mut flow = Flow::default();
            pieces.iter().for_each(|bytes| flow.took(*bytes));
            flow
        };
        let (much, little) = (8 * 1024, 100);
        #[rustfmt::skip]
        let cases = [
            ("answers",            vec![little; 100_000],                        Flow::Counted(0)),
            ("just too little",    vec![much; 127],                              Flow::Counted(127 * 8 * 1024)),
            ("enough",             vec![much; 128],                              Flow::Due),
            ("a pause within",     [vec![much; 127], vec![little, much]].concat(), Flow::Counted(8 * 1024)),
        ];
        for (what, pieces, expected) in cases {
            assert_eq!(after(&pieces), expected, "{what}");
        }
    }

    #[test]
    fn who_was_silent_is_in_bulk_again_only_if_it_has_more_to_say() {
        let after = |what: &dyn Fn(&mut Flow)| {
            let mut flow = Flow::Flushed;
            what(&mut flow);
            flow
        };
        assert_eq!(after(&|flow| flow.took(64 * 1024)), Flow::Due);
        assert_eq!(after(&|flow| flow.took(1000)), Flow::Counted(0));
        assert_eq!(after(&|flow| flow.answered()), Flow::Counted(0));
        assert_eq!(after(&|flow| (flow.answered(), flow.took(64 * 1024)).0), Flow::Counted(65_536));
    }

    #[test]
    fn many_answers_are_no_bulk() {
        let mut flow = Flow::default();
        for _ in 0..100 {
            flow.took(64 * 1024);
            flow.answered();
        }
        assert_eq!(flow, Flow::Counted(0));
    }

    #[test]
    fn a_reader_in_bulk_is_woken_for_a_piece_or_after_two_ticks_of_silence() {
        use std::io::Write;
        use std::net::{TcpListener, TcpStream};

        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        let is_woken_within = |span: Duration| {
            let span = Timespec::try_from(span).unwrap();
            poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&span)).unwrap() == 1
        };
        let mut flow = Flow::Due;
        assert!(flow.begin(&reader));

        sender.write_all(b"little").unwrap();
        assert!(!is_woken_within(TICK * 20), "woken for little");
        assert!(flow.tick(&reader).unwrap(), "it has only just begun");
        assert!(!flow.tick(&reader).unwrap(), "nothing came since the last tick");
        assert_eq!(flow, Flow::Flushed);
        assert!(is_woken_within(Duration::from_secs(20)), "little is all that there is");

        flow.took(PIECE_BYTES as usize);
        assert!(flow.begin(&reader));
        sender.write_all(&vec![0; PIECE_BYTES as usize]).unwrap();
        assert!(is_woken_within(Duration::from_secs(20)), "a piece is there");
    }
}
