//! The heartbeat of the synchronous link: a tiny commit that comes back only through the sync.
//!
//! **Invariant:** one is outstanding at most, and none is ever cancelled: that would commit
//! locally what nobody else has (R9). One that waits for ever ends with its server.
//!
//! Source: PROTOCOL.md, "The two leases".

use std::time::Duration;

use dugong_machine::{Access, Names, PrimaryView, Run};
use tokio::sync::{mpsc, watch};

use super::Seen;
use super::control::{Door, LookError, Session, only, text};
use crate::clock::Clock;

/// A transactional message: it takes a transaction id, so that its commit waits for the sync like
/// any other, and leaves no row behind. The names are read to be sure that it did wait.
const BEAT: &str = "SELECT current_setting('synchronous_standby_names') <> '', \
                           pg_logical_emit_message(true, 'dugong', '')";

/// Whether there is anything to confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beating {
    /// The server is no open primary, or not known to be one; or its commits wait for nobody.
    Still,
    On,
}

impl Beating {
    pub(super) fn of(run: &Run) -> Self {
        match run {
            Run::Primary(PrimaryView { access: Access::ReadWrite, names, .. }) => match names {
                Names::Each(_) => Self::On,
                Names::OneNode => Self::Still,
            },
            Run::Unknown | Run::Down | Run::Busy(_) | Run::Standby(_) | Run::Primary(_) => {
                Self::Still
            }
        }
    }
}

/// Beats while `beating` is on, until its sender is gone.
pub(super) async fn beat(
    door: Door,
    clock: Clock,
    interval: Duration,
    mut beating: watch::Receiver<Beating>,
    seen: mpsc::Sender<Seen>,
) {
    let mut session = None;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if beating.wait_for(|beating| *beating == Beating::On).await.is_err() {
            return;
        }
        ticks.tick().await;
        let begun = clock.now();
        match beat_once(&door, &mut session).await {
            Ok(true) if seen.send(Seen::LinkConfirmed { begun }).await.is_err() => return,
            Ok(true) => (),
            Ok(false) => tracing::error!("a commit waited for nobody: it confirms nothing"),
            Err(error) => {
                // The looks at the server report what is wrong with it.
                tracing::debug!(%error, "a heartbeat failed");
                session = None;
            }
        }
    }
}

/// Whether the commit came back through a synchronous standby.
async fn beat_once(door: &Door, session: &mut Option<Session>) -> Result<bool, LookError> {
    let open = match session.take() {
        Some(open) => open,
        None => door.open("postgres", "-c synchronous_commit=on").await?,
    };
    let sets = open.ask_without_deadline(BEAT).await?;
    *session = Some(open);
    Ok(text(only(&sets, 0)?, 0) == Some("t"))
}
