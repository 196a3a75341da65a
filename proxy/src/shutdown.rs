//! The order of stopping, and the signals that ask for it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How far the proxy has come in stopping. Never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Running,
    /// Nobody new is accepted, who waits is told; sessions go on.
    Draining,
    /// Sessions are told, too.
    Ending,
}

/// What a connection knows of it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stage: watch::Receiver<Stage>,
}

impl Shutdown {
    /// The side that decides, and the side that everybody watches.
    pub fn new() -> (watch::Sender<Stage>, Self) {
        let (sender, stage) = watch::channel(Stage::Running);
        (sender, Self { stage })
    }

    /// Whether `stage` is reached.
    pub fn has_reached(&self, stage: Stage) -> bool {
        *self.stage.borrow() >= stage
    }

    /// Waits until `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        // An error means that the decider is gone: everything ends.
        let _ = self.stage.clone().wait_for(|now| *now >= stage).await;
    }
}

/// SIGTERM and SIGINT, which mean the same.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from their default, which would end the process.
    ///
    /// # Errors
    ///
    /// The system's refusal.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        // Both may lose: a signal that arrived is kept for the next call.
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}
