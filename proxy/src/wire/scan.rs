//! The header scanner: finds where messages begin and end in a stream, five bytes a message.
//!
//! A message is a type byte, a length of four bytes that counts itself, and a body. [`Scanner::scan`]
//! takes the stream in whatever pieces it arrives and continues in the middle of a header or body.
//!
//! **Invariant:** bodies are skipped, not read; no allocation; the cost of a chunk depends on the
//! number of messages in it, not on their size.

/// The type byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u8);

impl Tag {
    /// AuthenticationRequest, of whatever kind.
    pub const AUTHENTICATION: Self = Self(b'R');
    /// ErrorResponse, from the server.
    pub const ERROR: Self = Self(b'E');
    /// BackendKeyData: the key with which this session's queries are cancelled.
    pub const KEY: Self = Self(b'K');
    /// ReadyForQuery: the startup is over, and later each command.
    pub const READY: Self = Self(b'Z');
    /// Query, from the client.
    pub const QUERY: Self = Self(b'Q');
    /// FunctionCall, from the client.
    pub const FUNCTION_CALL: Self = Self(b'F');
    /// Parse, from the client.
    pub const PARSE: Self = Self(b'P');
    /// Bind, from the client.
    pub const BIND: Self = Self(b'B');
    /// Execute, from the client. The server's ErrorResponse has the same letter.
    pub const EXECUTE: Self = Self(b'E');
    /// Describe, from the client.
    pub const DESCRIBE: Self = Self(b'D');
    /// Close, from the client.
    pub const CLOSE: Self = Self(b'C');
    /// Sync: the end of what is answered together, from the client.
    pub const SYNC: Self = Self(b'S');
    /// CopyDone.
    pub const COPY_DONE: Self = Self(b'c');
    /// CopyFail, from the client.
    pub const COPY_FAIL: Self = Self(b'f');
    /// NegotiateProtocolVersion: the server speaks an older minor version.
    pub const NEGOTIATE: Self = Self(b'v');
    /// Terminate, of the client.
    pub const TERMINATE: Self = Self(b'X');
}

/// The bytes of a message's header: its type, then its length.
pub const HEADER_BYTES: usize = 5;

/// What [`Scanner::scan`] reports, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A header is complete; the message has `body_bytes` bytes to come.
    Header { tag: Tag, body_bytes: usize },
    /// The next bytes of the body of the message whose header came last. Never empty.
    Body(&'a [u8]),
}

/// Where in a stream of messages its reader stands.
#[derive(Debug, Default)]
pub struct Scanner {
    header: [u8; HEADER_BYTES],
    /// How many bytes of `header` are there; 0 between two headers.
    header_bytes: usize,
    /// How much of the body of the last message is still to come.
    body_bytes_left: usize,
    /// A length was impossible: whatever follows cannot be told apart.
    lost: bool,
}

impl Scanner {
    /// Moves over the next bytes of the stream and reports what they are.
    pub fn scan(&mut self, mut bytes: &[u8], mut see: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() && !self.lost {
            if self.body_bytes_left > 0 {
                let (body, rest) = bytes.split_at(self.body_bytes_left.min(bytes.len()));
                self.body_bytes_left -= body.len();
                see(Piece::Body(body));
                bytes = rest;
                continue;
            }
            let missing = HEADER_BYTES - self.header_bytes;
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header[self.header_bytes..self.header_bytes + part.len()].copy_from_slice(part);
            self.header_bytes += part.len();
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                let Some((tag, body_bytes)) = header(self.header) else {
                    self.lost = true;
                    return;
                };
                self.body_bytes_left = body_bytes;
                see(Piece::Header { tag, body_bytes });
            }
        }
    }

    /// Whether the bytes so far end exactly where a message ends.
    ///
    /// False for ever once a header made no sense: nobody knows where the next message begins.
    pub fn at_boundary(&self) -> bool {
        self.header_bytes == 0 && self.body_bytes_left == 0 && !self.lost
    }
}

/// Type and body length of a message; none where the length does not even count itself.
pub fn header(bytes: [u8; HEADER_BYTES]) -> Option<(Tag, usize)> {
    let [tag, length @ ..] = bytes;
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    Some((Tag(tag), length.checked_sub(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ReadyForQuery, a message without a body, a DataRow of 300 bytes.
    fn three_messages() -> Vec<u8> {
        let mut bytes = b"Z\0\0\0\x05I".to_vec();
        bytes.extend(b"n\0\0\0\x04");
        bytes.extend(b"D\0\0\x01\x30");
        bytes.extend([7; 300]);
        bytes
    }

    #[test]
    fn messages_are_found_however_the_stream_was_cut() {
        for size in [1, 2, 3, 4, 5, 6, 7, 100, 1000] {
            let mut scanner = Scanner::default();
            let mut headers = Vec::new();
            let mut bodies = 0;
            for chunk in three_messages().chunks(size) {
                scanner.scan(chunk, |piece| match piece {
                    Piece::Header { tag, body_bytes } => headers.push((tag.0, body_bytes)),
                    Piece::Body(bytes) => bodies += bytes.len(),
                });
            }
            assert_eq!(headers, [(b'Z', 1), (b'n', 0), (b'D', 300)], "chunks of {size}");
            assert_eq!(bodies, 301, "chunks of {size}");
            assert!(scanner.at_boundary(), "chunks of {size}");
        }
    }

    #[test]
    fn a_boundary_is_only_where_a_message_ends() {
        let bytes = three_messages();
        let boundaries: Vec<usize> = (0..=bytes.len())
            .filter(|end| {
                let mut scanner = Scanner::default();
                scanner.scan(&bytes[..*end], |_| ());
                scanner.at_boundary()
            })
            .collect();
        assert_eq!(boundaries, [0, 6, 11, 316]);
    }

    #[test]
    fn after_an_impossible_length_there_is_no_boundary_any_more() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8]); 3] = [
            ("shorter than itself",  b"Z\0\0\0\x03"),
            ("zero",                 b"Z\0\0\0\0"),
            ("negative",             b"Z\xff\xff\xff\xff"),
        ];
        for (what, bytes) in cases {
            let mut scanner = Scanner::default();
            scanner.scan(bytes, |piece| panic!("{what}: {piece:?}"));
            scanner.scan(b"Z\0\0\0\x05I", |piece| panic!("{what}: {piece:?}"));
            assert!(!scanner.at_boundary(), "{what}");
        }
    }
}
