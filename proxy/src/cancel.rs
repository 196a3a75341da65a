//! Cancel requests: which server a key belongs to, and the way there.
//!
//! The client has the server's own key. Between a session's start and its end the table knows the
//! server's address; a request with a key that is not in it goes nowhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dugong_topology::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::metrics;
use crate::runtime::Shared;
use crate::session::dial::{self, DialError};
use crate::wire::message::CancelKey;

/// The keys of all sessions.
///
/// A mutex: a session takes it twice in its life, for one look-up, and a request must be able to
/// find any session from its own task.
#[derive(Debug, Default)]
pub struct Cancels {
    keys: Mutex<HashMap<CancelKey, Entry>>,
    sessions: AtomicU64,
}

#[derive(Clone, Debug)]
struct Entry {
    address: Address,
    /// Whose entry it is: two servers may hand out the same key, and then the later one counts.
    session: u64,
}

/// One session's key is in the table until this is dropped.
#[derive(Debug)]
pub struct Registered {
    cancels: Arc<Cancels>,
    key: CancelKey,
    session: u64,
}

impl Cancels {
    /// Enters a session's key.
    pub fn register(self: &Arc<Self>, key: CancelKey, address: Address) -> Registered {
        let session = self.sessions.fetch_add(1, Relaxed);
        self.keys().insert(key.clone(), Entry { address, session });
        Registered { cancels: Arc::clone(self), key, session }
    }

    /// The server that a key belongs to.
    pub fn address(&self, key: &CancelKey) -> Option<Address> {
        self.keys().get(key).map(|entry| entry.address.clone())
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<CancelKey, Entry>> {
        // A map is whole after each of its operations, whatever panicked around it.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut keys = self.cancels.keys();
        if keys.get(&self.key).is_some_and(|entry| entry.session == self.session) {
            keys.remove(&self.key);
        }
    }
}

/// Sends a cancel request where it belongs, and waits until the server has closed.
///
/// Nobody is answered, as in PostgreSQL: the client only sees its connection close.
pub async fn forward(shared: &Shared, key: &CancelKey, packet: &[u8]) {
    let limit = shared.config.connect_timeout;
    let outcome = match shared.cancels.address(key) {
        None => "unknown_key",
        Some(address) => match timeout(limit, send(shared, &address, packet)).await {
            Ok(Ok(())) => "forwarded",
            Ok(Err(error)) => {
                tracing::debug!(%error, %address, "a cancel request did not get through");
                "failed"
            }
            Err(_) => "failed",
        },
    };
    tracing::debug!(?key, outcome, "cancel request");
    metrics::count_by(metrics::CANCELS, "outcome", outcome);
}

async fn send(shared: &Shared, address: &Address, packet: &[u8]) -> Result<(), DialError> {
    let mut server = dial::connect(shared, address).await?;
    server.write_all(packet).await.map_err(DialError::Lost)?;
    server.flush().await.map_err(DialError::Lost)?;
    // The server says nothing, and closes once it has passed the signal on; how, does not matter.
    let _closed = server.read(&mut [0]).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_as_long_as_its_session_lives() {
        let cancels = Arc::<Cancels>::default();
        let key = CancelKey::read(b"\0\0\0\x01abcd").unwrap();
        let first = cancels.register(key.clone(), Address::loopback(1));
        assert_eq!(cancels.address(&key), Some(Address::loopback(1)));
        let second = cancels.register(key.clone(), Address::loopback(2));
        drop(first);
        assert_eq!(cancels.address(&key), Some(Address::loopback(2)), "the later one counts");
        drop(second);
        assert_eq!(cancels.address(&key), None);
    }
}
