//! The one thing that the switch reads in a packet: where it goes.
//!
//! Source: RFC 791, section 3.1.

use std::net::Ipv4Addr;

/// The length of a header without options.
const HEADER_BYTES: usize = 20;

/// The destination of an IPv4 packet; none for anything else.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    if packet.len() < HEADER_BYTES || packet[0] >> 4 != 4 {
        return None;
    }
    Some(Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_goes_anywhere() {
        let mut packet = vec![0; HEADER_BYTES];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 99, 0, 2]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 99, 0, 2)));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
    }
}
