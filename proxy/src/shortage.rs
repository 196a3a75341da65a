//! What the proxy itself may run out of, and what helps: no client's fault, and no server's.
//!
//! Sources: accept(2), connect(2), "ERRORS"; ip(7), `ip_local_port_range`; the kernel's
//! `ip-sysctl`, `tcp_tw_reuse`.

use std::io;

use rustix::io::Errno;

/// Something that comes back when connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Files,
    /// To connect from. One that was in use rests for a minute after its connection.
    Ports,
    Memory,
}

impl Shortage {
    /// Whether a system call failed for want of something.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Self::Files),
            Errno::ADDRNOTAVAIL => Some(Self::Ports),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Files => "raise the limit of open files (LimitNOFILE=, ulimit -n)",
            Self::Ports => {
                "widen net.ipv4.ip_local_port_range or set net.ipv4.tcp_tw_reuse to 1, if it is not \
                 that this machine has no such address at all"
            }
            Self::Memory => {
                "give the machine more memory, or its sockets more of it (net.ipv4.tcp_mem)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_system_lacks_is_a_shortage() {
        #[rustfmt::skip]
        let cases = [
            (Errno::MFILE,        Some(Shortage::Files)),
            (Errno::NFILE,        Some(Shortage::Files)),
            (Errno::ADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::NOMEM,        Some(Shortage::Memory)),
            (Errno::CONNREFUSED,  None),
            (Errno::CONNABORTED,  None),
        ];
        for (error, expected) in cases {
            assert_eq!(Shortage::of(&error.into()), expected, "{error}");
        }
        // Nobody's but our own word for a name without an address.
        assert_eq!(Shortage::of(&io::ErrorKind::AddrNotAvailable.into()), None);
    }
}
