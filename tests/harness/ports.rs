//! Ports on loopback that no other test, and no cluster under test, uses at the same time.

use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

/// Below the ephemeral range, as `dugong up` takes them.
const RANGE: Range<u16> = 20_000..32_000;

/// Claims in the way of `dugong up` (`launch/ports.rs`); the end of the process is their end.
static CLAIMS: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port that is free, and this process's own until it ends.
pub fn free_port() -> u16 {
    // Processes begin at different places, so that few find the first ports claimed.
    let size = u32::from(RANGE.end - RANGE.start);
    let offset = u16::try_from(std::process::id() * 37 % size).unwrap_or_default();
    (RANGE.start + offset..RANGE.end).chain(RANGE).find(|port| claim(*port)).expect("a free port")
}

fn claim(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("dugong-port-{port}"));
    let Ok(claim) = name.and_then(|name| UnixDatagram::bind_addr(&name)) else { return false };
    let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
    if free {
        CLAIMS.lock().expect("no holder of the lock panics").push(claim);
    }
    free
}
