//! What every socket is set to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{getpeername, sockopt};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted; the kernel has a limit of its own (`net.core.somaxconn`).
///
/// After a failover everybody connects at the same moment, and whom the queue has no room for is only
/// heard when its system tries again, a second later.
const BACKLOG: u32 = 65_535;

/// A peer that vanished without a word is noticed after 30 s + 3 × 5 s of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Small messages leave at once, and dead peers are noticed.
///
/// # Errors
///
/// The system's: the connection is gone already.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Whether the other end is within this machine, by its address; a connection that is gone is nowhere
/// else.
pub fn is_within_machine(socket: impl AsFd) -> bool {
    let Ok(peer) = getpeername(socket) else { return true };
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// Listens for connections, each of which is prepared: Linux has them inherit that.
///
/// # Errors
///
/// The system's: the address is in use, or is none of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a proxy that has just ended do not keep the next one from its port.
    socket.set_reuseaddr(true)?;
    prepare(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_is_prepared() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::try_join!(connecting, listener.accept()).unwrap();
        let (accepted, _) = accepted;
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVE_PROBES);
    }
}
