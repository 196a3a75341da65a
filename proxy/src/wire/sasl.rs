//! The two messages in which a server and a client agree on how a password is proven.
//!
//! `SCRAM-SHA-256-PLUS` binds the proof to the certificate that the client has seen. Where that is not
//! the server's own, as behind a proxy with TLS of its own, the proof cannot hold: then it must not be
//! offered. A client that could have bound it says so (`y`), and a server that offered it takes that
//! for an attack.
//!
//! Source: PostgreSQL manual, "SASL Authentication"; RFC 5802, section 6.

use crate::wire::scan::{self, HEADER_BYTES, Tag};

/// AuthenticationSASL.
const SASL: [u8; 4] = 10_u32.to_be_bytes();

/// What a mechanism with channel binding ends in.
const BINDING: &[u8] = b"-PLUS";

/// What became of a server's offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Not all of it is there yet.
    Incomplete,
    /// It has nothing that would have to go.
    Kept,
    /// Channel binding is not in it any more.
    Withheld,
}

/// Takes channel binding out of what a server has said first.
pub fn withhold_binding(spoken: &mut Vec<u8>) -> Offer {
    let mut at = 0;
    loop {
        let Some(head) = spoken[at..].first_chunk::<HEADER_BYTES>() else {
            return Offer::Incomplete;
        };
        let Some((tag, body_bytes)) = scan::header(*head) else { return Offer::Kept };
        let begin = at + HEADER_BYTES;
        if tag == Tag::AUTHENTICATION {
            let Some(body) = spoken[begin..].get(..body_bytes) else { return Offer::Incomplete };
            let Some(mechanisms) = body.strip_prefix(&SASL) else { return Offer::Kept };
            let kept: Vec<u8> = mechanisms
                .split_inclusive(|byte| *byte == 0)
                .filter(|name| !name.strip_suffix(&[0]).unwrap_or(name).ends_with(BINDING))
                .flatten()
                .copied()
                .collect();
            // Only the end of the list: nothing would be left to choose from.
            if kept.len() == mechanisms.len() || kept.len() <= 1 {
                return Offer::Kept;
            }
            let bytes = u32::try_from(4 + SASL.len() + kept.len()).unwrap_or(u32::MAX);
            let message = [b"R", &bytes.to_be_bytes()[..], &SASL, &kept].concat();
            spoken.splice(at..begin + body_bytes, message);
            return Offer::Withheld;
        }
        if tag != Tag::NEGOTIATE {
            return Offer::Kept;
        }
        at = begin + body_bytes;
        if at > spoken.len() {
            return Offer::Incomplete;
        }
    }
}

/// What a client's first word about a password means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstWord {
    Incomplete,
    /// The server's business.
    Other,
    /// "I could have bound it, but you did not offer that."
    WouldBind,
}

/// The most bytes that are needed to tell.
pub const FIRST_WORD_BYTES: usize = HEADER_BYTES + MECHANISM.len() + 4 + 1;

/// The one mechanism that has a variant with channel binding.
const MECHANISM: &[u8] = b"SCRAM-SHA-256\0";

/// Reads the beginning of a client's answer to an offer.
pub fn first_word(bytes: &[u8]) -> FirstWord {
    let Some((tag, rest)) = bytes.split_first() else { return FirstWord::Incomplete };
    if *tag != b'p' {
        return FirstWord::Other;
    }
    let Some(name) = rest.get(HEADER_BYTES - 1..) else { return FirstWord::Incomplete };
    let known = name.len().min(MECHANISM.len());
    if name[..known] != MECHANISM[..known] {
        return FirstWord::Other;
    }
    match bytes.get(FIRST_WORD_BYTES - 1) {
        None => FirstWord::Incomplete,
        Some(b'y') => FirstWord::WouldBind,
        Some(_) => FirstWord::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(names: &[&str]) -> Vec<u8> {
        let list: Vec<u8> =
            names.iter().flat_map(|name| [name.as_bytes(), &[0]].concat()).chain([0]).collect();
        let bytes = u32::try_from(8 + list.len()).unwrap();
        [b"R", &bytes.to_be_bytes()[..], &SASL, &list].concat()
    }

    #[test]
    fn channel_binding_is_taken_out_of_an_offer_and_nothing_else() {
        const BOTH: [&str; 2] = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
        let negotiated = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0";
        let (both, one) = (offer(&BOTH), offer(&BOTH[1..]));
        let more = |first: &[u8], then: &[u8]| [first, then].concat();
        let md5 = b"R\0\0\0\x0c\0\0\0\x05salt".to_vec();
        #[rustfmt::skip]
        let cases = [
            ("both",                both.clone(),                   Offer::Withheld,   one.clone()),
            ("after a negotiation", more(negotiated, &both),        Offer::Withheld,   more(negotiated, &one)),
            ("with more behind",    more(&both, b"N"),              Offer::Withheld,   more(&one, b"N")),
            ("without",             one.clone(),                    Offer::Kept,       one.clone()),
            ("nothing else",        offer(&BOTH[..1]),              Offer::Kept,       offer(&BOTH[..1])),
            ("another way",         md5.clone(),                    Offer::Kept,       md5),
            ("an error",            b"E\0\0\0\x05\0".to_vec(),      Offer::Kept,       b"E\0\0\0\x05\0".to_vec()),
            ("nothing",             Vec::new(),                     Offer::Incomplete, Vec::new()),
        ];
        for (what, mut spoken, expected, left) in cases {
            assert_eq!((withhold_binding(&mut spoken), spoken), (expected, left), "{what}");
        }
        for cut in 0..both.len() {
            let mut spoken = both[..cut].to_vec();
            assert_eq!(withhold_binding(&mut spoken), Offer::Incomplete, "{cut} bytes");
        }
    }

    #[test]
    fn a_client_that_would_bind_says_so_in_its_first_word() {
        let said = |name: &str, word: &str| {
            [b"p\0\0\0\x40", name.as_bytes(), &[0, 0, 0, 0, 30], word.as_bytes()].concat()
        };
        #[rustfmt::skip]
        let cases = [
            ("would",           said("SCRAM-SHA-256", "y,,n=,r=abc"),       FirstWord::WouldBind),
            ("would not",       said("SCRAM-SHA-256", "n,,n=,r=abc"),       FirstWord::Other),
            ("does",            said("SCRAM-SHA-256-PLUS", "p=tls-server"), FirstWord::Other),
            ("a password",      b"p\0\0\0\x0bsecret\0".to_vec(),            FirstWord::Other),
            ("something else",  b"X\0\0\0\x04".to_vec(),                    FirstWord::Other),
        ];
        for (what, bytes, expected) in cases {
            assert_eq!(first_word(&bytes), expected, "{what}");
            assert!(first_word(&bytes[..bytes.len().min(FIRST_WORD_BYTES)]) == expected, "{what}");
        }
        let whole = said("SCRAM-SHA-256", "y,,");
        for cut in 0..FIRST_WORD_BYTES {
            assert_eq!(first_word(&whole[..cut]), FirstWord::Incomplete, "{cut} bytes");
        }
    }
}
