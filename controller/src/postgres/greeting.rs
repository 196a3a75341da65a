//! Whether a server answers whoever is new to it.
//!
//! Only the postmaster lets anybody in. One that hangs alone leaves every open connection as it
//! was, those of the controller too, so a new one is asked for now and then.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::control::{Door, LookError};

/// Between two new connections.
const EVERY: Duration = Duration::from_secs(3);

/// How the server took the last new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    /// It said something, if only that it takes nobody.
    Answered,
    Silent,
}

/// Connects to a server anew again and again, until it is dropped.
#[derive(Debug)]
pub(super) struct Greeter {
    last: watch::Receiver<Greeting>,
    _task: JoinSet<()>,
}

impl Greeter {
    pub(super) fn start(door: Door) -> Self {
        let (told, last) = watch::channel(Greeting::Answered);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                told.send_replace(match door.open("postgres", "").await {
                    Err(LookError::Silent) => Greeting::Silent,
                    Ok(_) | Err(_) => Greeting::Answered,
                });
            }
        });
        Self { last, _task: task }
    }

    /// # Errors
    ///
    /// The last new connection was never answered.
    pub(super) fn check(&self) -> Result<(), LookError> {
        match *self.last.borrow() {
            Greeting::Answered => Ok(()),
            Greeting::Silent => Err(LookError::Silent),
        }
    }
}
