//! A task that lives on a host: its sockets are the host's, but faults do not end it.
//!
//! **Invariant:** it ends when it is told to, within the time that its own waits are bounded by.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::namespace::Namespace;

/// Says when it is over. Cheap to copy; every resident has one.
#[derive(Clone, Debug)]
pub struct Over(watch::Receiver<bool>);

/// Ends all residents that were given the other half.
#[derive(Debug)]
pub struct Ender(watch::Sender<bool>);

/// Both halves.
pub fn ending() -> (Ender, Over) {
    let (sender, receiver) = watch::channel(false);
    (Ender(sender), Over(receiver))
}

impl Ender {
    /// It is over.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

impl Over {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        // One whose ender is gone has nobody left to tell it.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// What `work` gives; none where it is over before.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // Its error says the same: there is nobody left.
            _ = self.0.wait_for(|over| *over) => None,
            done = work => Some(done),
        }
    }
}

/// A running resident.
#[derive(Debug)]
pub struct Resident<T>(JoinHandle<anyhow::Result<io::Result<T>>>);

impl<T: Send + 'static> Resident<T> {
    /// Runs what `work` makes on a thread of the host.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn settle<F: Future<Output = T>>(
        on: &Namespace,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> anyhow::Result<Self> {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work()))
        };
        Ok(Self(on.thread(run)?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It panicked, or could not enter its host.
    pub async fn end(self) -> anyhow::Result<T> {
        let join = move || self.0.join().map_err(|_| anyhow::anyhow!("a resident panicked"));
        Ok(tokio::task::spawn_blocking(join).await????)
    }
}
