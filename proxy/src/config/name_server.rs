//! The address of a name server: an IP address, with a port where that is not 53.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

const DNS_PORT: u16 = 53;

/// A name server. Itself never a name: who would look it up?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NameServerAddress(pub SocketAddr);

/// A text that is no address of a name server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address of a name server: write an IP address, as in 10.0.0.1 or 10.0.0.1:53"
)]
pub struct NameServerAddressError {
    text: String,
}

impl FromStr for NameServerAddress {
    type Err = NameServerAddressError;

    fn from_str(text: &str) -> Result<Self, NameServerAddressError> {
        let with_port = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
        let refused = || NameServerAddressError { text: text.to_owned() };
        with_port.or_else(alone).map(Self).ok_or_else(refused)
    }
}

impl TryFrom<String> for NameServerAddress {
    type Error = NameServerAddressError;

    fn try_from(text: String) -> Result<Self, NameServerAddressError> {
        text.parse()
    }
}

impl fmt::Display for NameServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_is_an_address_with_or_without_a_port() {
        #[rustfmt::skip]
        let cases = [
            ("10.0.0.1",        Some("10.0.0.1:53")),
            ("10.0.0.1:5353",   Some("10.0.0.1:5353")),
            ("::1",             Some("[::1]:53")),
            ("[::1]:5353",      Some("[::1]:5353")),
            ("10.0.0.1:0",      None),
            ("dns.example:53",  None), // a name
            ("",                None),
        ];
        for (text, expected) in cases {
            let read = text.parse::<NameServerAddress>().ok().map(|server| server.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
