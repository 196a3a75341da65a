//! A network, as in `10.0.0.0/24`: who may come from elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// All addresses that begin with the same bits.
///
/// Text form as in `pg_hba.conf`: `10.0.0.0/24`, `fd00:1::/64`. A single address stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    /// No bit is set after the first `bits`.
    address: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("{text:?} is no network: write an address and a number of bits, as in 10.0.0.0/24")]
    Malformed { text: String },
    #[error("{text:?} is an address within a network: the network is written {network}")]
    Within { text: String, network: Network },
}

impl Network {
    /// The network of `bits` bits that `address` is in; none where it has not so many bits.
    fn around(address: IpAddr, bits: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits.into())?).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Some(Self { address, bits })
    }

    /// The network of one address.
    pub fn of(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Self { address, bits }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::around(address, self.bits) == Some(*self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = || NetworkError::Malformed { text: text.to_owned() };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| malformed())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let bits = bits.unwrap_or_else(|| Self::of(address).bits);
        let network = Self::around(address, bits).ok_or_else(malformed)?;
        if network.address == address {
            Ok(network)
        } else {
            // Did they mean one machine, or all of its neighbours?
            Err(NetworkError::Within { text: text.to_owned(), network })
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_begins_like_it() {
        #[rustfmt::skip]
        let cases = [
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0",   false),
            ("10.0.0.7/32", "10.0.0.7",   true),
            ("0.0.0.0/0",   "10.0.0.7",   true),
            ("0.0.0.0/0",   "::1",        false), // another kind
            ("fd00::/8",    "fdff::1",    true),
        ];
        for (network, address, expected) in cases {
            let network: Network = network.parse().unwrap();
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network.contains(address), expected, "{address} in {network}");
        }
    }

    #[test]
    fn a_network_is_read_and_shown() {
        #[rustfmt::skip]
        let cases = [
            ("10.0.0.0/24",     Ok("10.0.0.0/24")),
            ("10.0.0.7",        Ok("10.0.0.7/32")),
            ("0.0.0.0/0",       Ok("0.0.0.0/0")),
            ("fd00:1::/64",     Ok("fd00:1::/64")),
            ("::1",             Ok("::1/128")),
            ("::/0",            Ok("::/0")),
            ("10.0.0.7/24",     Err("is written 10.0.0.0/24")),
            ("fd00::1/64",      Err("is written fd00::/64")),
            ("10.0.0.0/33",     Err("is no network")), // too many bits
            ("fd00::/129",      Err("is no network")),
            ("10.0.0.0/",       Err("is no network")), // no bits
            ("10.0.0/24",       Err("is no network")), // three numbers
            ("10.0.0.0/255.255.255.0", Err("is no network")), // a mask
            ("example.org",     Err("is no network")), // a name
            ("10.0.0.0/24 trust", Err("is no network")), // more than that
            ("",                Err("is no network")),
        ];
        for (text, expected) in cases {
            let read = text.parse::<Network>();
            match expected {
                Ok(shown) => assert_eq!(read.unwrap().to_string(), shown, "{text:?}"),
                Err(words) => {
                    let error = read.unwrap_err().to_string();
                    assert!(error.contains(words), "{text:?} is answered with {error:?}");
                }
            }
        }
    }
}
