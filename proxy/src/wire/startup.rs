//! The first packet of a client: startup, a request for encryption, or a cancel request.
//!
//! It has a length and no type byte. Parsed by hand: pgwire's decoder takes one shared buffer that
//! it advances, and we forward the very bytes that came; nothing in them is changed or put together
//! again.
//!
//! Source: PostgreSQL manual, "Message Formats"; `ProcessStartupPacket` in `backend_startup.c`.

use crate::wire::message::CancelKey;

/// The most bytes that may follow the length, as in PostgreSQL (`MAX_STARTUP_PACKET_LENGTH`).
pub const BODY_BYTES_MAX: usize = 10_000;

/// Bytes of the length that every first packet begins with.
pub const LENGTH_BYTES: usize = 4;

/// SSLRequest, as it is sent.
pub const TLS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

const CANCEL: u32 = 1234 << 16 | 5678;
const TLS: u32 = 1234 << 16 | 5679;
const GSS: u32 = 1234 << 16 | 5680;

/// What a client opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// Asks for TLS; answered with one byte, then comes another first packet.
    TlsRequest,
    /// The same for GSSAPI encryption.
    GssRequest,
    /// Wants a query of another connection cancelled.
    Cancel(CancelKey),
    /// Wants a session, in a version 3.x of the protocol.
    Startup,
}

/// A first packet that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error("this is an HTTP request, and this port speaks PostgreSQL's protocol")]
    Http,
    #[error("TLS is not offered at this port: use sslmode=prefer or disable")]
    DirectTls,
    #[error("direct TLS needs the application protocol \"postgresql\" (ALPN), and none was named")]
    NoAlpn,
    #[error("bytes came unencrypted after the request for encryption")]
    Unencrypted,
    #[error("the first packet claims {claimed} bytes: 8 to {} are possible", BODY_BYTES_MAX + 4)]
    Length { claimed: u32 },
    #[error("protocol {major}.{minor} is not supported: 3.0 and later 3.x are")]
    Version { major: u16, minor: u16 },
    #[error("the startup packet does not end in a zero byte")]
    NoTerminator,
    #[error(
        "the cancel request has {bytes} bytes of key: 8 to {} are possible",
        CancelKey::BYTES_MAX
    )]
    CancelKey { bytes: usize },
    #[error("encryption was asked for twice")]
    AskedTwice,
    #[error("the connection was closed in the middle of the first packet")]
    CutShort,
}

/// What a client has said of its first packet, and what it was told before.
#[derive(Debug, Default)]
pub struct Beginning {
    /// What there is of it, with its length.
    pub packet: Vec<u8>,
    /// Whether it was told already that there is no TLS, no GSSAPI encryption.
    pub asked_tls: bool,
    pub asked_gss: bool,
}

impl Beginning {
    /// How many bytes more are to be read, and none that come after them; 0: the packet is whole.
    ///
    /// # Errors
    ///
    /// A length that no first packet has.
    pub fn missing(&self) -> Result<usize, StartupError> {
        let whole = match self.packet.first_chunk() {
            None => LENGTH_BYTES,
            Some(length) => LENGTH_BYTES + body_bytes(*length)?,
        };
        Ok(whole.saturating_sub(self.packet.len()))
    }

    /// What the packet is, once it is whole.
    ///
    /// # Errors
    ///
    /// See [`StartupError`].
    pub fn read(&self) -> Result<FirstPacket, StartupError> {
        parse(self.packet.get(LENGTH_BYTES..).unwrap_or_default())
    }
}

/// How many bytes follow the length, as the length claims.
///
/// # Errors
///
/// A length that no first packet has; where it is recognisably something else, that is named.
fn body_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, StartupError> {
    let claimed = u32::from_be_bytes(length);
    let body = usize::try_from(claimed).ok().and_then(|all| all.checked_sub(LENGTH_BYTES));
    match body {
        Some(bytes @ 4..=BODY_BYTES_MAX) => Ok(bytes),
        Some(_) | None => Err(match &length {
            b"GET " | b"HEAD" | b"POST" | b"PUT " | b"OPTI" | b"DELE" | b"CONN" | b"PATC" => {
                StartupError::Http
            }
            [0x16, 0x03, ..] => StartupError::DirectTls,
            _ => StartupError::Length { claimed },
        }),
    }
}

/// Reads a first packet from what follows its length.
///
/// # Errors
///
/// See [`StartupError`].
fn parse(body: &[u8]) -> Result<FirstPacket, StartupError> {
    let Some((code, rest)) = body.split_first_chunk() else {
        return Err(StartupError::CutShort);
    };
    let [a, b, c, d] = *code;
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    match u32::from_be_bytes(*code) {
        TLS => Ok(FirstPacket::TlsRequest),
        GSS => Ok(FirstPacket::GssRequest),
        CANCEL => CancelKey::read(rest)
            .map(FirstPacket::Cancel)
            .ok_or(StartupError::CancelKey { bytes: rest.len() }),
        _ if major != 3 => Err(StartupError::Version { major, minor }),
        _ if rest.last() != Some(&0) => Err(StartupError::NoTerminator),
        _ => Ok(FirstPacket::Startup),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_checked_before_anything_is_allocated() {
        #[rustfmt::skip]
        let cases = [
            ("the shortest",        [0, 0, 0, 8],           Ok(4)),
            ("the longest",         [0, 0, 0x27, 0x14],     Ok(10_000)),
            ("one more",            [0, 0, 0x27, 0x15],     Err(StartupError::Length { claimed: 10_005 })),
            ("too short",           [0, 0, 0, 7],           Err(StartupError::Length { claimed: 7 })),
            ("less than itself",    [0, 0, 0, 3],           Err(StartupError::Length { claimed: 3 })),
            ("two gigabytes",       [0x7F, 0, 0, 0],        Err(StartupError::Length { claimed: 0x7F00_0000 })),
            ("HTTP",                *b"GET ",               Err(StartupError::Http)),
            ("a TLS ClientHello",   [0x16, 3, 1, 2],        Err(StartupError::DirectTls)),
        ];
        for (what, length, expected) in cases {
            assert_eq!(body_bytes(length), expected, "{what}");
        }
    }

    #[test]
    fn a_first_packet_is_one_of_four() {
        let key = CancelKey::read(b"\0\0\0\x01abcd").unwrap();
        #[rustfmt::skip]
        let cases: [(&str, &[u8], Result<FirstPacket, StartupError>); 11] = [
            ("startup 3.0",         b"\0\x03\0\0user\0me\0\0",  Ok(FirstPacket::Startup)),
            ("startup 3.2",         b"\0\x03\0\x02user\0me\0\0", Ok(FirstPacket::Startup)),
            ("TLS",                 b"\x04\xd2\x16\x2f",        Ok(FirstPacket::TlsRequest)),
            ("GSS",                 b"\x04\xd2\x16\x30",        Ok(FirstPacket::GssRequest)),
            ("cancel",              b"\x04\xd2\x16\x2e\0\0\0\x01abcd", Ok(FirstPacket::Cancel(key))),
            ("cancel, no secret",   b"\x04\xd2\x16\x2e\0\0\0\x01", Err(StartupError::CancelKey { bytes: 4 })),
            ("protocol 2",          b"\0\x02\0\0me\0",          Err(StartupError::Version { major: 2, minor: 0 })),
            ("protocol 4",          b"\0\x04\0\0\0",            Err(StartupError::Version { major: 4, minor: 0 })),
            ("no terminator",       b"\0\x03\0\0user",          Err(StartupError::NoTerminator)),
            ("only a version",      b"\0\x03\0\0",              Err(StartupError::NoTerminator)),
            ("nothing",             b"",                        Err(StartupError::CutShort)),
        ];
        for (what, body, expected) in cases {
            assert_eq!(parse(body), expected, "{what}");
        }
    }
}
