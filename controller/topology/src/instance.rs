//! Names and addresses of instances, checked where they enter.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The stable name of one instance: `pg-1`.
///
/// Lower-case letters, digits and dashes, a letter first, at most 48 characters: so that it can be
/// an `application_name`, a DNS label and, with `-` as `_`, a part of a replication slot's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>); // Cloned at every step, so cheap to clone.

impl InstanceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The physical replication slot that this instance uses on its upstream.
    ///
    /// Unambiguous, since an id has no underscore. PostgreSQL allows `[a-z0-9_]` in slot names.
    pub fn slot_name(&self) -> String {
        format!("dugong_{}", self.0.replace('-', "_"))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        let begins_with_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if begins_with_letter && text.len() <= 48 && text.chars().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InstanceIdError { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InstanceIdError;

    fn try_from(text: String) -> Result<Self, InstanceIdError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.as_str().to_owned()
    }
}

/// A text that is no instance id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no instance id: use a lower-case letter, then lower-case letters, digits and \
     dashes, at most 48 characters"
)]
pub struct InstanceIdError {
    text: String,
}

/// Host and port of a TCP listener; the host is a name, an IPv4 address, or an IPv6 address.
///
/// Text form `host:port`, an IPv6 host in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// An address of this machine only.
    pub fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner,
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refused)?;
        let printable = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic());
        if printable { Ok(Self { host: host.to_owned(), port }) } else { Err(refused()) }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// A text that is no `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: write host:port, as in 127.0.0.1:5432 or [::1]:5432")]
pub struct AddressError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_is_safe_wherever_it_is_used() {
        #[rustfmt::skip]
        let cases = [
            ("pg-1",            true),
            ("a",               true),
            ("",                false), // empty
            ("1pg",             false), // a digit first
            ("Pg-1",            false), // upper case
            ("pg_1",            false), // an underscore
            ("pg 1",            false), // a space
            ("pg\"1",           false), // a quote
        ];
        for (text, good) in cases {
            assert_eq!(text.parse::<InstanceId>().is_ok(), good, "{text:?}");
        }
        assert_eq!("pg-1".parse::<InstanceId>().unwrap().slot_name(), "dugong_pg_1");
    }

    #[test]
    fn an_address_reads_and_prints_the_same() {
        #[rustfmt::skip]
        let cases = [
            ("127.0.0.1:5432",      true),
            ("db.example:1",        true),
            ("[::1]:5432",          true),
            ("::1:5432",            false), // no brackets
            ("127.0.0.1",           false), // no port
            ("127.0.0.1:0",         false), // port 0
            ("127.0.0.1:65536",     false), // too large
            (":5432",               false), // no host
            ("a b:5432",            false), // a space
        ];
        for (text, good) in cases {
            let read = text.parse::<Address>();
            assert_eq!(read.is_ok(), good, "{text:?}");
            if let Ok(address) = read {
                assert_eq!(address.to_string(), text);
            }
        }
    }
}
