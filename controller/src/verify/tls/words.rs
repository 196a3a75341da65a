//! What a connection string says about TLS, and the rest of it.

use std::path::PathBuf;

use super::TlsError;

/// `sslmode`, in the order of what it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What was said about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub mode: Mode,
    /// `sslrootcert`: whom to believe.
    pub root: Option<PathBuf>,
    /// `sslcert` and `sslkey`: who we are.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Takes the words about TLS out of a connection string or URL. What cannot be read at all stays in
/// what is left, for whoever reads that to complain of.
///
/// # Errors
///
/// A word that is not supported.
pub fn split(dsn: &str) -> Result<(String, Words), TlsError> {
    let mut words = Words::default();
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| dsn.starts_with(scheme));
    let rest = if is_url { of_url(dsn, &mut words)? } else { of_pairs(dsn, &mut words)? };
    Ok((rest, words))
}

/// Whether a key is about TLS and ours to read.
fn is_ours(key: &str) -> bool {
    // How to begin is read by whoever connects.
    key.starts_with("ssl") && key != "sslnegotiation"
}

impl Words {
    fn hear(&mut self, key: &str, value: String) -> Result<(), TlsError> {
        // As for libpq: an empty value says nothing.
        if value.is_empty() {
            return Ok(());
        }
        match key {
            "sslmode" => {
                self.mode = match value.as_str() {
                    "disable" => Mode::Disable,
                    "prefer" => Mode::Prefer,
                    "require" => Mode::Require,
                    "verify-ca" => Mode::VerifyCa,
                    "verify-full" => Mode::VerifyFull,
                    _ => return Err(TlsError::Mode(value)),
                }
            }
            "sslrootcert" if value == "system" => {
                return Err(TlsError::Unsupported { key: "sslrootcert=system".to_owned() });
            }
            "sslrootcert" => self.root = Some(value.into()),
            "sslcert" => self.cert = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            _ => return Err(TlsError::Unsupported { key: key.to_owned() }),
        }
        Ok(())
    }
}

fn of_url(dsn: &str, words: &mut Words) -> Result<String, TlsError> {
    let Some((before, query)) = dsn.split_once('?') else { return Ok(dsn.to_owned()) };
    let mut left = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((key, value)) if is_ours(key) => words.hear(key, decoded(value))?,
            Some(_) | None => left.push(pair),
        }
    }
    Ok(if left.is_empty() { before.to_owned() } else { format!("{before}?{}", left.join("&")) })
}

/// As in a URL: `%2F` is a slash.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn of_pairs(dsn: &str, words: &mut Words) -> Result<String, TlsError> {
    let mut left = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let Some((key, value, after)) = pair(rest) else {
            left.push(rest);
            break;
        };
        if is_ours(key) {
            words.hear(key, value)?;
        } else {
            left.push(rest[..rest.len() - after.len()].trim_end());
        }
        rest = after.trim_start();
    }
    Ok(left.join(" "))
}

/// The first `key = value`, with what follows it: quotes and backslashes are libpq's.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (key, after) = text.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return None;
    }
    let after = after.trim_start();
    let quoted = after.strip_prefix('\'');
    let body = quoted.unwrap_or(after);
    let mut value = String::new();
    let mut letters = body.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => return Some((key, value, &body[at + 1..])),
            space if quoted.is_none() && space.is_whitespace() => {
                return Some((key, value, &body[at..]));
            }
            other => value.push(other),
        }
    }
    // A quote that never ends is no value.
    quoted.is_none().then_some((key, value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_about_tls_are_taken_out_and_the_rest_stays_as_it_is() {
        let words = |mode, root: Option<&str>, pair: Option<(&str, &str)>| Words {
            mode,
            root: root.map(Into::into),
            cert: pair.map(|(cert, _)| cert.into()),
            key: pair.map(|(_, key)| key.into()),
        };
        let nothing = || words(Mode::Prefer, None, None);
        #[rustfmt::skip]
        let cases = [
            ("host=a user=b",                         "host=a user=b",          nothing()),
            ("host=a sslmode=require user=b",         "host=a user=b",          words(Mode::Require, None, None)),
            ("sslmode = verify-full sslrootcert='/a b/c' host=a", "host=a", words(Mode::VerifyFull, Some("/a b/c"), None)),
            (r"sslrootcert='/it\'s' sslmode=verify-ca", "",                     words(Mode::VerifyCa, Some("/it's"), None)),
            ("sslcert=/c sslkey=/k password='a b' sslmode=disable", "password='a b'", words(Mode::Disable, None, Some(("/c", "/k")))),
            (r"password=a\ sslmode=x sslmode=prefer",  r"password=a\ sslmode=x", nothing()),
            ("sslnegotiation=direct sslmode=",        "sslnegotiation=direct",  nothing()),
            ("nonsense",                              "nonsense",               nothing()),
            ("password='no end sslmode=require",      "password='no end sslmode=require", nothing()),
            ("postgres://u@h/d",                      "postgres://u@h/d",       nothing()),
            ("postgresql://u:p@h:1/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fa%20b", "postgresql://u:p@h:1/d?application_name=x", words(Mode::VerifyFull, Some("/a b"), None)),
            ("postgres://h/d?sslmode=require",        "postgres://h/d",         words(Mode::Require, None, None)),
        ];
        for (dsn, rest, expected) in cases {
            let (left, heard) = split(dsn).unwrap();
            assert_eq!((left.as_str(), heard), (rest, expected), "{dsn}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        #[rustfmt::skip]
        let cases = [
            ("host=a sslmode=allow",                "sslmode=allow is not supported: write"),
            ("host=a sslcrl=/x",                    "sslcrl is not supported"),
            ("host=a sslrootcert=system",           "sslrootcert=system is not supported"),
            ("postgres://h/d?sslmode=sometimes",    "sslmode=sometimes is not supported"),
        ];
        for (dsn, expected) in cases {
            let refused = split(dsn).unwrap_err().to_string();
            assert!(refused.contains(expected), "{dsn}: {refused}");
        }
    }
}
