//! The address of a controller, as people write it: a URL.

use std::fmt;
use std::str::FromStr;

use dugong_topology::Address;
use serde::Deserialize;

/// `http://host:port` or `https://host:port`; the paths below it are ours to choose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ControllerUrl {
    secure: bool,
    address: Address,
}

/// A text that is no controller's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerUrlError {
    #[error("{text:?} is no URL of a controller: write http://HOST:PORT or https://HOST:PORT")]
    Malformed { text: String },
}

impl ControllerUrl {
    /// Where the controller listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it is asked over TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

impl FromStr for ControllerUrl {
    type Err = ControllerUrlError;

    fn from_str(text: &str) -> Result<Self, ControllerUrlError> {
        let schemes = [(false, "http://"), (true, "https://")];
        let parts = schemes
            .into_iter()
            .find_map(|(secure, scheme)| Some((secure, text.strip_prefix(scheme)?)))
            .map(|(secure, rest)| (secure, rest.strip_suffix('/').unwrap_or(rest)))
            .filter(|(_, rest)| !rest.contains(['/', '?', '#', '@']));
        parts
            .and_then(|(secure, rest)| Some(Self { secure, address: rest.parse().ok()? }))
            .ok_or_else(|| ControllerUrlError::Malformed { text: text.to_owned() })
    }
}

impl TryFrom<String> for ControllerUrl {
    type Error = ControllerUrlError;

    fn try_from(text: String) -> Result<Self, ControllerUrlError> {
        text.parse()
    }
}

impl fmt::Display for ControllerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_named_by_scheme_host_and_port() {
        #[rustfmt::skip]
        let cases = [
            ("http://127.0.0.1:8001",       Some("http://127.0.0.1:8001")),
            ("http://127.0.0.1:8001/",      Some("http://127.0.0.1:8001")),
            ("http://[::1]:8001",           Some("http://[::1]:8001")),
            ("http://127.0.0.1:8001/v1",    None), // a path
            ("http://127.0.0.1",            None), // no port
            ("127.0.0.1:8001",              None), // no scheme
            ("https://127.0.0.1:8001",      Some("https://127.0.0.1:8001")),
            ("ftp://127.0.0.1:8001",        None),
            ("http://me@127.0.0.1:8001",    None), // a user
            ("",                            None),
        ];
        for (text, expected) in cases {
            let read = text.parse::<ControllerUrl>().ok().map(|url| url.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
