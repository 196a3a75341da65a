//! Free ports on loopback.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::ops::Range;

use crate::run::Failure;

/// Below the ephemeral range (32768 and up, see ip(7), `ip_local_port_range`): an outgoing
/// connection never takes the port of a server that is being started again.
const RANGE: Range<u16> = 20_000..32_000;

/// So many ports that nobody listens on just now.
///
/// # Errors
///
/// There are none, or no random numbers to begin with.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut random = [0; 2];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let size = RANGE.end - RANGE.start;
    let offset = u16::from_ne_bytes(random) % size;
    let ports: Vec<u16> = (0..size)
        .map(|step| RANGE.start + (offset + step) % size)
        .filter(|port| is_free(*port).is_ok())
        .take(count)
        .collect();
    if ports.len() == count {
        Ok(ports)
    } else {
        Err(io::Error::other(format!("fewer than {count} free ports in {RANGE:?}")))
    }
}

/// Whether somebody could listen there.
pub(super) fn is_free(port: u16) -> io::Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map(drop)
}

/// The port to use for one of the proxy's listeners: what was asked for, what it was before, or the
/// usual one.
pub(super) fn choose(
    flag: &str,
    asked: Option<u16>,
    before: Option<u16>,
    usual: u16,
) -> Result<u16, Failure> {
    let any = || free_ports(1).map(|ports| ports[0]);
    let port = match (asked, before) {
        (Some(0), Some(before)) if is_free(before).is_ok() => before,
        (Some(0), _) => any().map_err(Failure::runtime)?,
        (Some(asked), _) => asked,
        (None, Some(before)) => before,
        (None, None) => usual,
    };
    is_free(port).map_err(|error| {
        Failure::Runtime(format!(
            "cannot listen on 127.0.0.1:{port}: {error}; end what uses the port, or choose another \
             one with {flag}"
        ))
    })?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let taken = TcpListener::bind(("127.0.0.1", free_ports(1).unwrap()[0])).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = choose("--write-port", Some(port), None, 6432).unwrap_err().to_string();
        assert!(
            refused.contains(&port.to_string()) && refused.contains("--write-port"),
            "{refused}"
        );
        let other = choose("--write-port", Some(0), Some(port), 6432).unwrap();
        assert_ne!(other, port, "any free one, where the former one is taken");
        drop(taken);
        assert_eq!(choose("--write-port", Some(0), Some(port), 6432).unwrap(), port);
        assert_eq!(choose("--write-port", None, Some(port), 6432).unwrap(), port);
    }

    #[test]
    fn free_ports_differ_and_are_not_ephemeral() {
        let mut ports = free_ports(20).unwrap();
        assert!(ports.iter().all(|port| RANGE.contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
}
