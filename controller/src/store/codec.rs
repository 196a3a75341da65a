//! Records as bytes: JSON with a version, so that a later form is refused and never misread.
//!
//! **Invariant:** what [`encode`] writes, every later version's [`decode`] reads. Within a version
//! keys may be added; readers pass over those that they do not know.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// `body` as one line: `{"version":1,…}`. Equal values give equal text.
pub(super) fn encode<T: Serialize>(body: &T) -> Result<String, CodecError> {
    serde_json::to_string(&Versioned { version: VERSION, body }).map_err(CodecError::Malformed)
}

/// What [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, CodecError> {
    let Head { version } = serde_json::from_str(text).map_err(CodecError::Malformed)?;
    if version != VERSION {
        return Err(CodecError::Version { version });
    }
    serde_json::from_str(text).map_err(CodecError::Malformed)
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error(
        "a record has version {version}, this program reads version {VERSION}: use the Dugong \
         that wrote it, or a newer one"
    )]
    Version { version: u32 },
    #[error("a record is malformed ({0}): restore the store from a backup")]
    Malformed(serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        size: Option<u64>,
    }

    #[test]
    fn only_the_known_version_reads() {
        let text = encode(&Body { size: Some(u64::MAX) }).unwrap();
        assert_eq!(text, r#"{"version":1,"size":18446744073709551615}"#);
        assert_eq!(decode::<Body>(&text).unwrap(), Body { size: Some(u64::MAX) });
        let newer = r#"{"version":1,"size":null,"added_later":true}"#;
        assert_eq!(decode::<Body>(newer).unwrap(), Body { size: None });
        #[rustfmt::skip]
        let cases = [
            (r#"{"version":2,"size":1}"#, "version 2"),
            (r#"{"size":1}"#,             "malformed"), // no version
            (r#"{"version":1,"size":-1}"#, "malformed"), // another type
            ("",                          "malformed"),
        ];
        for (text, expected) in cases {
            let message = decode::<Body>(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
