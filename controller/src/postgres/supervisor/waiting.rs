//! What the supervisor waits for while a turn is under way.

use std::time::Duration;

use dugong_machine::{Goal, Stop};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::super::mandate::Mandate;
use super::super::process::Exit;

/// A copy that has been made for this long is not begun again in another way.
const YOUNG: Duration = Duration::from_secs(10);

/// Who gives the goals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    There,
    Gone,
}

/// Returns when the goal is no longer what is being done.
pub(super) async fn superseded(
    mut goals: watch::Receiver<Option<Goal>>,
    current: Option<&Goal>,
    since: Instant,
) -> Owner {
    loop {
        if goals.changed().await.is_err() {
            return Owner::Gone;
        }
        let same = match (current, goals.borrow_and_update().as_ref()) {
            // The same copy for a newer generation; what came far is not given up for a rewind.
            (
                Some(Goal::Copied { source, making, old, .. }),
                Some(Goal::Copied { source: other, making: number, old: newest, .. }),
            ) => {
                let late = since.elapsed() > YOUNG;
                source == other && making == number && (old == newest || late)
            }
            // A restore of hours goes on while another is away: nobody's data, which lets nobody in.
            (Some(Goal::Initialised), Some(Goal::Down(Stop::Immediate))) => true,
            (current, newest) => current == newest,
        };
        if !same {
            return Owner::There;
        }
    }
}

/// Returns when the server shall be left running; never where nobody says so.
pub(super) async fn told(leave_running: &mut Option<oneshot::Receiver<Mandate>>) -> Mandate {
    if let Some(waiting) = leave_running
        && let Ok(mandate) = waiting.await
    {
        return mandate;
    }
    *leave_running = None; // Whoever could have said so is gone.
    std::future::pending().await
}

/// Returns when the server process has ended; never where there is none.
pub(super) async fn ended(exit: &mut Option<Exit>) {
    match exit {
        Some(exit) => {
            exit.wait().await;
        }
        None => std::future::pending().await,
    }
}
