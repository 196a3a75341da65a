//! Where controllers are, as people write it: a URL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use dugong_topology::Address;
use hickory_resolver::proto::rr::Name;
use serde::Deserialize;

/// `http://host:port` or `srv+http://_service._tcp.name`, with https as well; the paths below it are ours to choose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ControllerUrl {
    pub scheme: Scheme,
    pub place: Place,
}

/// How to speak to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
}

/// Where controllers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host, by name or address; all that the name stands for are controllers.
    Host(Address),
    /// The name of SRV records: all hosts and ports that they name are controllers.
    Service(String),
}

/// A text that is no controller's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerUrlError {
    #[error(
        "{text:?} is no URL of a controller: write http://HOST:PORT or https://HOST:PORT, or \
         srv+http://_dugong._tcp.CLUSTER.ZONE (srv+https)"
    )]
    Malformed { text: String },
    #[error("{text:?} names no SRV records: write srv+http://_dugong._tcp.CLUSTER.ZONE, no port")]
    Service { text: String },
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Place {
    /// Whether nobody else sees what is sent there: an address of this machine only.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Host(address) => address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Self::Service(_) => false,
        }
    }
}

impl FromStr for ControllerUrl {
    type Err = ControllerUrlError;

    fn from_str(text: &str) -> Result<Self, ControllerUrlError> {
        let malformed = || ControllerUrlError::Malformed { text: text.to_owned() };
        let (words, rest) = text.split_once("://").ok_or_else(malformed)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(malformed());
        }
        let scheme = match words.strip_prefix("srv+").unwrap_or(words) {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(malformed()),
        };
        let place = if words.starts_with("srv+") {
            let name = service(rest);
            Place::Service(name.ok_or_else(|| ControllerUrlError::Service { text: text.into() })?)
        } else {
            Place::Host(rest.parse().map_err(|_| malformed())?)
        };
        Ok(Self { scheme, place })
    }
}

/// A name of SRV records: two labels with an underscore, then a domain (RFC 2782).
fn service(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels: Vec<_> = name.split('.').collect();
    let plain = |label: &&str| label.starts_with('_') && label.len() > 1;
    let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = labels.len() > 2
        && labels[..2].iter().all(plain)
        && name.chars().all(host)
        && Name::from_ascii(&name).is_ok();
    good.then_some(name)
}

impl TryFrom<String> for ControllerUrl {
    type Error = ControllerUrlError;

    fn try_from(text: String) -> Result<Self, ControllerUrlError> {
        text.parse()
    }
}

impl fmt::Display for ControllerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_str();
        match &self.place {
            Place::Host(address) => write!(f, "{scheme}://{address}"),
            Place::Service(name) => write!(f, "srv+{scheme}://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_named_by_scheme_and_host_and_port_or_service() {
        #[rustfmt::skip]
        let cases = [
            ("http://127.0.0.1:8001",       Some("http://127.0.0.1:8001")),
            ("http://127.0.0.1:8001/",      Some("http://127.0.0.1:8001")),
            ("http://[::1]:8001",           Some("http://[::1]:8001")),
            ("http://127.0.0.1:8001/v1",    None), // a path
            ("http://127.0.0.1",            None), // no port
            ("127.0.0.1:8001",              None), // no scheme
            ("http://Host.example:8001",    Some("http://Host.example:8001")),
            ("https://127.0.0.1:8001",      Some("https://127.0.0.1:8001")),
            ("ftp://127.0.0.1:8001",        None),
            ("srv+http://_dugong._tcp.main.Dugong.internal.", Some("srv+http://_dugong._tcp.main.dugong.internal")),
            ("srv+https://_dugong._tcp.main.x/", Some("srv+https://_dugong._tcp.main.x")),
            ("srv+http://_dugong._tcp.main.x:8008", None), // a port
            ("srv+http://main.x",           None), // no service
            ("srv+http://_dugong._tcp.",    None), // no domain
            ("srv+http://_dugong._tcp..x",  None), // an empty label
            ("http://me@127.0.0.1:8001",    None), // a user
            ("",                            None),
        ];
        for (text, expected) in cases {
            let read = text.parse::<ControllerUrl>().ok().map(|url| url.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
