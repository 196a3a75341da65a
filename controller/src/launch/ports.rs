//! The ports on loopback that a launcher gives to what it starts.

use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::run::Failure;

/// Below the ephemeral range (32768 and up, see ip(7), `ip_local_port_range`): an outgoing
/// connection never takes the port of a server that is being started again.
const RANGE: Range<u16> = 20_000..32_000;

/// Ports that are ours for as long as this lives, listened on or not: what listens there is started
/// later, and started again. Another launcher, which does the same, passes them over.
pub(super) struct Ports {
    next: u16,
    /// One abstract socket for each port, `dugong-port-N`: it leaves no file behind (unix(7)), and
    /// the tests' harness knows the name.
    claims: Vec<UnixDatagram>,
}

impl Ports {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let offset = u16::from_ne_bytes(random) % (RANGE.end - RANGE.start);
        Ok(Self { next: RANGE.start + offset, claims: Vec::new() })
    }

    /// Makes `port` ours, unless another one listens there or has claimed it.
    pub(super) fn claim(&mut self, port: u16) -> io::Result<()> {
        let name = SocketAddr::from_abstract_name(format!("dugong-port-{port}"))?;
        let claim = UnixDatagram::bind_addr(&name)?;
        TcpListener::bind(("127.0.0.1", port))?;
        self.claims.push(claim);
        Ok(())
    }

    /// Claims any port.
    pub(super) fn any(&mut self) -> io::Result<u16> {
        for _ in RANGE {
            let port = self.next;
            self.next = if port + 1 < RANGE.end { port + 1 } else { RANGE.start };
            if self.claim(port).is_ok() {
                return Ok(port);
            }
        }
        Err(io::Error::other(format!("no free port in {RANGE:?}")))
    }

    /// Claims the port to use for one of the proxy's listeners: what was asked for, what it was
    /// before, or the usual one.
    pub(super) fn choose(
        &mut self,
        flag: &str,
        asked: Option<u16>,
        before: Option<u16>,
        usual: u16,
    ) -> Result<u16, Failure> {
        let port = match (asked, before) {
            (Some(0), Some(before)) if self.claim(before).is_ok() => return Ok(before),
            (Some(0), _) => return self.any().map_err(Failure::runtime),
            (Some(asked), _) => asked,
            (None, Some(before)) => before,
            (None, None) => usual,
        };
        self.claim(port).map_err(|error| {
            Failure::Runtime(format!(
                "cannot listen on 127.0.0.1:{port}: {error}; end what uses the port, or choose \
                 another one with {flag}"
            ))
        })?;
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let mut others = Ports::new().unwrap();
        let port = others.any().unwrap();
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        drop(others);
        let choose = |asked| Ports::new().unwrap().choose("--write-port", asked, Some(port), 6432);
        let refused = choose(Some(port)).unwrap_err().to_string();
        assert!(
            refused.contains(&port.to_string()) && refused.contains("--write-port"),
            "{refused}"
        );
        assert_ne!(choose(Some(0)).unwrap(), port, "any free one, where the former one is taken");
        drop(taken);
        assert_eq!(choose(Some(0)).unwrap(), port);
        assert_eq!(choose(None).unwrap(), port);
    }

    #[test]
    fn what_one_has_claimed_no_other_takes_before_the_claim_ends() {
        let (mut one, mut other) = (Ports::new().unwrap(), Ports::new().unwrap());
        let port = one.any().unwrap();
        assert_eq!(one.claim(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(other.claim(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        other.next = port;
        assert_ne!(other.any().unwrap(), port);
        drop(one);
        other.claim(port).unwrap();
    }

    #[test]
    fn what_a_test_has_claimed_no_launcher_takes() {
        let port = dugong_tests::free_port();
        let refused = Ports::new().unwrap().claim(port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn any_ports_differ_and_are_not_ephemeral() {
        let mut ports = Ports::new().unwrap();
        ports.next = RANGE.end - 3;
        let mut found: Vec<u16> = (0..20).map(|_| ports.any().unwrap()).collect();
        assert!(found.iter().all(|port| RANGE.contains(port)));
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 20);
    }
}
