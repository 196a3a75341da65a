//! Tells what was seen: at once where it is new, and again from time to time.

use std::time::Duration;

use dugong_machine::{Run, Server};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Seen;

/// An observation is repeated after this, even where nothing has changed.
pub(super) const REPEAT: Duration = Duration::from_millis(250);

/// Sends observations: each that is new, and the same again from time to time.
#[derive(Debug)]
pub(super) struct Reporter {
    seen: mpsc::Sender<Seen>,
    /// Each one, for whoever stands in for a supervisor that hangs.
    told: watch::Sender<Server>,
    last: Option<(Server, Instant)>,
}

impl Reporter {
    pub(super) fn new(seen: mpsc::Sender<Seen>, told: watch::Sender<Server>) -> Self {
        Self { seen, told, last: None }
    }

    /// The way to the reader, to notice its end.
    pub(super) fn reader(&self) -> mpsc::Sender<Seen> {
        self.seen.clone()
    }

    pub(super) async fn report(&mut self, server: Server) {
        self.told.send_replace(server.clone());
        let known = self.last.as_ref();
        if known.is_some_and(|(last, at)| *last == server && at.elapsed() < REPEAT) {
            return;
        }
        // A reader that is gone is noticed by the loop.
        let _ = self.seen.send(Seen::Observed(server.clone())).await;
        // Only now: a dropped future has told nobody.
        self.last = Some((server, Instant::now()));
    }

    pub(super) fn last_run(&self) -> Option<&Run> {
        self.last.as_ref().map(|(server, _)| &server.run)
    }
}
