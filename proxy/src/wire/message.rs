//! The few messages that the proxy reads or writes whole.
//!
//! Written: ErrorResponse, encoded by pgwire. Read: what the server says first ([`first_answer`]),
//! its errors' severity, and the cancel key. Those are read by hand, because pgwire's decoders want
//! a whole message in a buffer of their own and panic on an ErrorResponse without its terminator.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::ErrorResponse;

use crate::wire::scan::{self, HEADER_BYTES, Tag};
use crate::wire::sqlstate::SqlState;

/// The most bytes of an answer that [`first_answer`] asks for before it takes it as it is.
pub const FIRST_ANSWER_BYTES_MAX: usize = 8 * 1024;

/// The most characters of one text in an error: topologies carry texts of others.
const TEXT_CHARS_MAX: usize = 1000;

/// A fatal error, as the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub sqlstate: SqlState,
    /// One sentence: what happened.
    pub message: String,
    /// More about why; none where the message says it all.
    pub detail: Option<String>,
    /// What to do; none where that is obvious.
    pub hint: Option<String>,
}

impl Answer {
    /// The bytes of an ErrorResponse of severity FATAL.
    ///
    /// # Panics
    ///
    /// Never: its texts are cut to a length far below what a message can have.
    pub fn encode(&self) -> BytesMut {
        let mut fields = vec![
            (b'S', "FATAL".to_owned()),
            (b'V', "FATAL".to_owned()),
            (b'C', self.sqlstate.to_string()),
            (b'M', field(&self.message)),
        ];
        fields.extend(self.detail.as_deref().map(|text| (b'D', field(text))));
        fields.extend(self.hint.as_deref().map(|text| (b'H', field(text))));
        let mut bytes = BytesMut::new();
        ErrorResponse::new(fields)
            .encode(&mut bytes)
            .expect("a few kilobytes are below the limit of two gigabytes");
        bytes
    }
}

/// A field ends at the first zero byte, so that a text must not have one.
fn field(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(TEXT_CHARS_MAX).collect()
}

/// Where PostgreSQL says that `pg_hba.conf` lets a client not in; its words are translated, this is
/// not. Source: `src/backend/libpq/auth.c`.
const HBA_ROUTINE: &[u8] = b"ClientAuthentication";

/// What a server's first bytes mean for a client that may still go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstAnswer {
    /// Not enough bytes to tell.
    Incomplete,
    /// The server serves this client, or refuses it for good: the client must see the answer.
    Final,
    /// The server is not up; with its own words. Another try, or another server, may succeed.
    NotUp(String),
}

/// Reads what a server answered to a startup packet.
///
/// A server that starts, stops or recovers says so (57P03), and one that is stopped just then says
/// that (57P01, 57P02), before it asks for any authentication. A version negotiation may precede.
/// A primary that was started again turns clients away by `pg_hba.conf` until its sync has caught
/// up; a topology of a moment ago may still lead to it.
pub fn first_answer(mut bytes: &[u8]) -> FirstAnswer {
    let incomplete = if bytes.len() < FIRST_ANSWER_BYTES_MAX {
        FirstAnswer::Incomplete
    } else {
        FirstAnswer::Final
    };
    loop {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return incomplete;
        };
        // A server that cannot even fork answers in the form of protocol 2: passed on as it is.
        let Some((tag, body_bytes)) = scan::header(*head) else { return FirstAnswer::Final };
        if !matches!(tag, Tag::NEGOTIATE | Tag::ERROR) || body_bytes > FIRST_ANSWER_BYTES_MAX {
            return FirstAnswer::Final;
        }
        let Some((body, rest)) = rest.split_at_checked(body_bytes) else { return incomplete };
        if tag == Tag::ERROR {
            let not_up = match error_field(body, b'C') {
                Some(b"57P01" | b"57P02" | b"57P03") => true,
                Some(b"28000") => error_field(body, b'R') == Some(HBA_ROUTINE),
                Some(_) | None => false,
            };
            let words = || error_field(body, b'M').unwrap_or_default();
            return if not_up {
                FirstAnswer::NotUp(String::from_utf8_lossy(words()).into_owned())
            } else {
                FirstAnswer::Final
            };
        }
        bytes = rest;
    }
}

/// Whether the first bytes of an ErrorResponse's body say that the session is over.
///
/// `V` is the severity that is never translated (PostgreSQL 9.6 and later); it comes second.
pub fn is_fatal(body: &[u8]) -> bool {
    matches!(error_field(body, b'V'), Some(b"FATAL" | b"PANIC"))
}

/// The text of one field of an ErrorResponse; a body that was cut ends the search.
fn error_field(mut body: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (code, rest) = body.split_first()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        if *code == wanted {
            return Some(&rest[..end]);
        }
        body = &rest[end + 1..];
    }
}

/// The key with which a session's queries are cancelled: process id and secret, as they came.
///
/// The body of BackendKeyData and the tail of a CancelRequest. The secret has 4 bytes in protocol
/// 3.0 and up to 256 from 3.2 on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey(Box<[u8]>);

impl CancelKey {
    /// The longest key: a process id and 256 bytes of secret.
    pub const BYTES_MAX: usize = 4 + 256;

    /// A key from its bytes on the wire; none where they are too few or too many.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (8..=Self::BYTES_MAX).contains(&bytes.len()).then(|| Self(bytes.into()))
    }
}

/// The secret stays out of logs.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let process = self.0.first_chunk().copied().map(u32::from_be_bytes).unwrap_or_default();
        write!(f, "CancelKey(process {process})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str) -> Vec<u8> {
        let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
        message_of(b'E', body.as_bytes())
    }

    fn message_of(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn an_answer_has_every_field_and_its_own_length() {
        let bytes = Answer {
            sqlstate: SqlState::ADMIN_SHUTDOWN,
            message: "gone\0 away".to_owned(),
            detail: None,
            hint: Some("come back".to_owned()),
        }
        .encode();
        let body = b"SFATAL\0VFATAL\0C57P01\0Mgone away\0Hcome back\0\0";
        assert_eq!(bytes, message_of(b'E', body));
        assert!(is_fatal(body));
    }

    #[test]
    fn only_a_server_that_is_not_up_is_tried_again() {
        let not_up = || FirstAnswer::NotUp("wait".to_owned());
        let negotiated = [message_of(b'v', &[0; 8]), error("57P03", "wait")].concat();
        let turned_away = message_of(b'E', b"SFATAL\0C28000\0Mwait\0RClientAuthentication\0\0");
        #[rustfmt::skip]
        let cases = [
            ("starting up",                 error("57P03", "wait"),         not_up()),
            ("stopped by an administrator", error("57P01", "wait"),         not_up()),
            ("after a negotiation",         negotiated,                     not_up()),
            ("no such role",                error("28000", "wait"),         FirstAnswer::Final),
            ("turned away by pg_hba.conf",  turned_away,                    not_up()),
            ("no code at all",              message_of(b'E', b"Mx\0\0"),    FirstAnswer::Final),
            ("an error without an end",     message_of(b'E', b"C57P03"),    FirstAnswer::Final),
            ("an authentication request",   message_of(b'R', &[0; 4]),      FirstAnswer::Final),
            ("protocol 2",                  b"Ecould not fork\0".to_vec(),  FirstAnswer::Final),
            ("nothing",                     Vec::new(),                     FirstAnswer::Incomplete),
            ("half an error",               error("57P03", "w")[..9].to_vec(), FirstAnswer::Incomplete),
        ];
        for (what, bytes, expected) in cases {
            assert_eq!(first_answer(&bytes), expected, "{what}");
        }
    }

    #[test]
    fn an_endless_answer_is_passed_on() {
        let mut bytes = Vec::new();
        while bytes.len() <= FIRST_ANSWER_BYTES_MAX {
            bytes.extend(message_of(b'v', &[0; 8]));
        }
        assert_eq!(first_answer(&bytes), FirstAnswer::Final);
    }

    #[test]
    fn severity_is_read_from_the_field_that_is_never_translated() {
        #[rustfmt::skip]
        let cases: [(&[u8], bool); 5] = [
            (b"SFATAL\0VFATAL\0C57P01\0",   true),
            (b"SPANIK\0VPANIC\0",           true),
            (b"SFEHLER\0VERROR\0",          false),
            (b"SFATAL\0VFAT",               false), // cut
            (b"",                           false),
        ];
        for (body, expected) in cases {
            assert_eq!(is_fatal(body), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_cancel_key_has_a_process_and_a_secret() {
        for (length, good) in [(0, false), (7, false), (8, true), (260, true), (261, false)] {
            assert_eq!(CancelKey::read(&vec![1; length]).is_some(), good, "{length} bytes");
        }
    }
}
