//! What a session knows of its server's messages: where they end, the cancel key, a last word.
//!
//! Sans-IO: sees each chunk as it arrives, by the relay's [`Observer`]. Of bodies it keeps the cancel
//! key, once, and the beginning of an error, which tells how severe it is.

use crate::relay::Observer;
use crate::wire::message::{self, CancelKey};
use crate::wire::scan::{Piece, Scanner, Tag};

/// Enough of an error's body for its two severities, the first of them in any language.
const ERROR_BYTES: usize = 64;

/// Follows the server's side of one session.
#[derive(Debug)]
pub struct Tracker<F> {
    scanner: Scanner,
    /// The message that is being kept, and how much of it is wanted.
    keeping: Option<(Tag, usize)>,
    kept: Vec<u8>,
    told_fatal: bool,
    /// Called with the key, before the client can have it; none once the startup is over.
    on_key: Option<F>,
}

impl<F: FnOnce(CancelKey)> Tracker<F> {
    /// A tracker for a server that has said nothing yet.
    pub fn new(on_key: F) -> Self {
        Self {
            scanner: Scanner::default(),
            keeping: None,
            kept: Vec::with_capacity(CancelKey::BYTES_MAX),
            told_fatal: false,
            on_key: Some(on_key),
        }
    }

    /// Whether everything that arrived is whole messages: only then may another one follow.
    pub fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }

    /// Whether the server's last message was that the session is over.
    pub fn told_fatal(&self) -> bool {
        self.told_fatal
    }
}

impl<F: FnOnce(CancelKey)> Observer for Tracker<F> {
    fn arrived(&mut self, bytes: &[u8]) {
        let Self { scanner, keeping, kept, told_fatal, on_key } = self;
        scanner.scan(bytes, |piece| match piece {
            Piece::Header { tag, body_bytes } => {
                *told_fatal = false;
                kept.clear();
                *keeping = match tag {
                    Tag::ERROR => Some((tag, body_bytes.min(ERROR_BYTES))),
                    Tag::KEY if on_key.is_some() && body_bytes <= CancelKey::BYTES_MAX => {
                        Some((tag, body_bytes))
                    }
                    Tag::READY => {
                        *on_key = None;
                        None
                    }
                    _ => None,
                };
            }
            Piece::Body(body) => {
                let Some((tag, wanted)) = *keeping else { return };
                let missing = wanted - kept.len();
                kept.extend_from_slice(&body[..missing.min(body.len())]);
                if kept.len() < wanted {
                    return;
                }
                *keeping = None;
                if tag == Tag::ERROR {
                    *told_fatal = message::is_fatal(kept);
                } else if let (Some(key), Some(on_key)) = (CancelKey::read(kept), on_key.take()) {
                    on_key(key);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const STARTUP: &[u8] =
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x07ab\0K\0\0\0\x0c\0\0\0\x01abcdZ\0\0\0\x05I";
    const FATAL: &[u8] = b"E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0";
    const ERROR: &[u8] = b"E\0\0\0\x1aSERROR\0VERROR\0C42601\0\0";
    /// After the startup this would be a message of a future version, not a key.
    const LATER_KEY: &[u8] = b"K\0\0\0\x0c\0\0\0\x02efgh";

    #[test]
    fn the_key_and_a_last_word_are_found_however_the_stream_was_cut() {
        for size in [1, 3, 5, 8, 1000] {
            let keys = RefCell::new(Vec::new());
            let mut tracker = Tracker::new(|key| keys.borrow_mut().push(key));
            let mut feed = |bytes: &[u8]| {
                bytes.chunks(size).for_each(|chunk| tracker.arrived(chunk));
                (tracker.at_boundary(), tracker.told_fatal())
            };
            assert_eq!(feed(STARTUP), (true, false), "chunks of {size}");
            assert_eq!(feed(LATER_KEY), (true, false), "chunks of {size}");
            assert_eq!(feed(ERROR), (true, false), "chunks of {size}");
            assert_eq!(feed(FATAL), (true, true), "chunks of {size}");
            assert_eq!(feed(b"Z\0\0"), (false, true), "chunks of {size}");
            assert_eq!(feed(b"\0\x05I"), (true, false), "chunks of {size}");
            let expected = CancelKey::read(b"\0\0\0\x01abcd").unwrap();
            assert_eq!(*keys.borrow(), [expected], "chunks of {size}");
        }
    }
}
