//! The checkpoint before a planned stop: what it writes while clients are served, the stop need not
//! write while they wait.

use dugong_machine::RequestNumber;
use tokio::task::JoinHandle;

use super::control::{Door, LookError};

/// The last one that was asked for. Ends with the server at the latest.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    under_way: Option<(RequestNumber, JoinHandle<Result<(), LookError>>)>,
    done: Option<RequestNumber>,
}

impl Checkpoint {
    /// Begins it if it is not begun, and returns the last one that has ended.
    pub(super) async fn keep(
        &mut self,
        wanted: Option<RequestNumber>,
        door: &Door,
    ) -> Option<RequestNumber> {
        if let Some((number, task)) = self.under_way.take_if(|(_, task)| task.is_finished()) {
            match task.await {
                Ok(Ok(())) => self.done = Some(number),
                Ok(Err(error)) => tracing::warn!(%error, "no checkpoint before the stop"),
                Err(error) => tracing::error!(%error, "a checkpoint ended in a panic"),
            }
        }
        if let Some(number) = wanted.filter(|_| self.under_way.is_none() && self.done != wanted) {
            let door = door.clone();
            let task = tokio::spawn(async move {
                let session = door.open("postgres", "").await?;
                session.ask_without_deadline("CHECKPOINT").await.map(|_| ())
            });
            self.under_way = Some((number, task));
        }
        self.done
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.under_way {
            task.abort();
        }
    }
}
