//! From an address to a connection: all that its host stands for, one after the other.
//!
//! The next address is tried when the one before failed, or has not answered for [`STAGGER`]; the
//! first that connects is taken. An address that leads nowhere costs a moment, not the whole limit.
//!
//! Source: RFC 8305, section 5.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dugong_topology::Address;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::names::{NameError, Names};

/// "Connection Attempt Delay", recommended value.
const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Name(#[from] NameError),
    /// What the last address failed with.
    #[error(transparent)]
    Refused(#[from] io::Error),
}

impl Names {
    /// Connects. The limit in time is the caller's.
    ///
    /// # Errors
    ///
    /// The name stands for nothing, or nothing that it stands for takes the connection.
    pub async fn connect(&self, address: &Address) -> Result<TcpStream, ConnectError> {
        let answer = self.addresses(&address.host).await?;
        let socket = |ip: &IpAddr| SocketAddr::new(*ip, address.port);
        Ok(first(answer.found.iter().map(socket), TcpStream::connect).await?)
    }
}

/// The first of `addresses` that `connect` reaches.
async fn first<S, F: Future<Output = io::Result<S>>>(
    mut addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S> {
    let mut tries = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let next = addresses.next();
        let more = next.is_some();
        tries.extend(next.map(&connect));
        if tries.is_empty() {
            return Err(last);
        }
        // The tries live on whichever branch loses.
        tokio::select! {
            Some(result) = tries.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = sleep(STAGGER), if more => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn of(last_parts: &[u8]) -> Vec<SocketAddr> {
        last_parts.iter().map(|n| SocketAddr::from(([127, 0, 0, *n], 1))).collect()
    }

    /// Addresses that end in 1 refuse, in 2 are silent, in 3 accept.
    async fn connect(to: SocketAddr) -> io::Result<SocketAddr> {
        match to {
            SocketAddr::V4(v4) if v4.ip().octets()[3] == 1 => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            SocketAddr::V4(v4) if v4.ip().octets()[3] == 2 => pending().await,
            SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(to),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_gets_its_turn() {
        #[rustfmt::skip]
        let cases: [(&[u8], bool); 5] = [
            (&[3],          true),
            (&[1, 3],       true),  // refused, then accepted
            (&[2, 1, 3],    true),  // silent, then refused, then accepted
            (&[1, 1],       false),
            (&[],           false),
        ];
        for (addresses, expected) in cases {
            let connected = first(of(addresses).into_iter(), connect).await;
            assert_eq!(connected.is_ok(), expected, "{addresses:?}: {connected:?}");
        }
    }
}
