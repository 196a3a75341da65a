//! What a session knows of its server's messages: where they end, whether a transaction is open, the
//! cancel key, a last word.
//!
//! Sans-IO: sees each chunk as it arrives. Of bodies it reads the status of a ReadyForQuery, and keeps
//! the cancel key, until it is taken, and the beginning of an error, which tells how severe it is.
//!
//! **Invariant:** no allocation but for those two, however many messages there are.

use crate::wire::message::{self, CancelKey};
use crate::wire::scan::{Piece, Scanner, Tag};

/// Enough of an error's body for its two severities, the first of them in any language.
const ERROR_BYTES: usize = 64;

/// Follows the server's side of one session.
#[derive(Debug, Default)]
pub struct Tracker {
    scanner: Scanner,
    /// The message that is being kept, and how much of it is wanted.
    keeping: Option<(Tag, usize)>,
    kept: Vec<u8>,
    told_fatal: bool,
    readies: u32,
    /// The last ReadyForQuery's status is awaited.
    awaits_status: bool,
    /// What it was: outside of any transaction.
    outside: bool,
    /// The startup is over: what looks like a key is none.
    started: bool,
    key: Option<CancelKey>,
}

impl Tracker {
    /// Whether everything that arrived is whole messages: only then may another one follow.
    pub fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }

    /// Whether the server's last message was that the session is over.
    pub fn told_fatal(&self) -> bool {
        self.told_fatal
    }

    /// Whether the server has said last that no transaction is open.
    pub fn is_outside_transaction(&self) -> bool {
        self.outside && self.at_boundary()
    }

    /// How often the server has said since the last call that it waits for the client.
    pub fn take_readies(&mut self) -> u32 {
        std::mem::take(&mut self.readies)
    }

    /// The cancel key, once, after the chunk that completed it.
    pub fn take_key(&mut self) -> Option<CancelKey> {
        self.key.take()
    }

    /// The next bytes of the stream.
    pub fn arrived(&mut self, bytes: &[u8]) {
        let Self {
            scanner,
            keeping,
            kept,
            told_fatal,
            readies,
            awaits_status,
            outside,
            started,
            key,
        } = self;
        scanner.scan(bytes, |piece| match piece {
            Piece::Header { tag, body_bytes } => {
                *told_fatal = false;
                *awaits_status = tag == Tag::READY;
                kept.clear();
                *keeping = match tag {
                    Tag::ERROR => Some((tag, body_bytes.min(ERROR_BYTES))),
                    Tag::KEY if !*started && body_bytes <= CancelKey::BYTES_MAX => {
                        Some((tag, body_bytes))
                    }
                    Tag::READY => {
                        *readies += 1;
                        if !std::mem::replace(started, true) {
                            // A thousand idle sessions keep nothing.
                            *kept = Vec::new();
                        }
                        None
                    }
                    _ => None,
                };
            }
            Piece::Body(body) => {
                if std::mem::take(awaits_status) {
                    *outside = body == b"I";
                    return;
                }
                let Some((tag, wanted)) = *keeping else { return };
                let missing = wanted - kept.len();
                kept.extend_from_slice(&body[..missing.min(body.len())]);
                if kept.len() < wanted {
                    return;
                }
                *keeping = None;
                if tag == Tag::ERROR {
                    *told_fatal = message::is_fatal(kept);
                } else {
                    *key = CancelKey::read(kept);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTUP: &[u8] =
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x07ab\0K\0\0\0\x0c\0\0\0\x01abcdZ\0\0\0\x05I";
    const FATAL: &[u8] = b"E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0";
    const ERROR: &[u8] = b"E\0\0\0\x1aSERROR\0VERROR\0C42601\0\0";
    /// After the startup this would be a message of a future version, not a key.
    const LATER_KEY: &[u8] = b"K\0\0\0\x0c\0\0\0\x02efgh";

    #[test]
    fn the_server_says_whether_a_transaction_is_open() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8], bool); 6] = [
            ("nothing yet",              b"R\0\0\0\x08\0\0\0\0",                   false),
            ("none",                     b"Z\0\0\0\x05I",                            true),
            ("none, and a notice",       b"Z\0\0\0\x05IN\0\0\0\x05\0",               true),
            ("one is open",              b"Z\0\0\0\x05IZ\0\0\0\x05T",                 false),
            ("one has failed",           b"Z\0\0\0\x05E",                            false),
            ("in the middle of a word",  b"Z\0\0\0\x05IZ\0\0",                       false),
        ];
        for (what, bytes, expected) in cases {
            for size in [1, 2, 5, 100] {
                let mut tracker = Tracker::default();
                bytes.chunks(size).for_each(|chunk| tracker.arrived(chunk));
                assert_eq!(tracker.is_outside_transaction(), expected, "{what}: chunks of {size}");
            }
        }
    }

    #[test]
    fn the_key_and_a_last_word_are_found_however_the_stream_was_cut() {
        for size in [1, 3, 5, 8, 1000] {
            let mut keys = Vec::new();
            let mut tracker = Tracker::default();
            let mut feed = |bytes: &[u8]| {
                for chunk in bytes.chunks(size) {
                    tracker.arrived(chunk);
                    keys.extend(tracker.take_key());
                }
                (tracker.at_boundary(), tracker.told_fatal())
            };
            assert_eq!(feed(STARTUP), (true, false), "chunks of {size}");
            assert_eq!(feed(LATER_KEY), (true, false), "chunks of {size}");
            assert_eq!(feed(ERROR), (true, false), "chunks of {size}");
            assert_eq!(feed(FATAL), (true, true), "chunks of {size}");
            assert_eq!(feed(b"Z\0\0"), (false, true), "chunks of {size}");
            assert_eq!(feed(b"\0\x05I"), (true, false), "chunks of {size}");
            let expected = CancelKey::read(b"\0\0\0\x01abcd").unwrap();
            assert_eq!(keys, [expected], "chunks of {size}");
        }
    }
}
