//! A server that is stopped in order, to be started again: for a setting that is read only then.
//!
//! **Invariant:** a primary that was stopped so is as one that died: it is started again only by the
//! machine's word, and lets nobody in before its sync has what it has (R5).

use dugong_machine::Goal;
use tokio::time::{Duration, Instant};

use super::super::advisor::bound_values;
use super::super::control::LookError;
use super::super::data_dir;
use super::Supervisor;

/// Between two questions to a standby that replays nothing.
const ASK: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Tells the server to stop; the next turns see to the rest. One that does not run needs no
    /// restart: its next start is one.
    pub(super) fn begin_restart(&mut self, why: &str) {
        let Some(running) = &mut self.running else { return };
        if running.postmaster.is_stopping() {
            return;
        }
        tracing::info!("the server is restarted: {why}");
        if let Some(Goal::Primary(goal)) = &*self.goals.borrow() {
            self.died_in = Some(goal.life);
        }
        if let Err(error) = running.postmaster.stop_fast() {
            self.trouble = Some(format!("the server cannot be told to stop: {error}"));
        }
    }

    /// Whether this is a standby that stopped replaying since its primary has more of a setting.
    /// What somebody paused by hand stays paused.
    pub(super) async fn lacks_what_its_primary_has(&mut self) -> bool {
        let paused = self.running.as_ref().is_some_and(|running| running.replay_paused);
        if !paused || self.asked_for_lack.is_some_and(|asked| asked.elapsed() < ASK) {
            return false;
        }
        self.asked_for_lack = Some(Instant::now());
        match self.is_exceeded().await {
            Ok(exceeded) => exceeded,
            Err(error) => {
                tracing::warn!(%error, "why nothing is replayed is not known");
                false
            }
        }
    }

    async fn is_exceeded(&self) -> Result<bool, LookError> {
        let Some(running) = &self.running else { return Ok(false) };
        let session = running.door.open("postgres", "").await?;
        let has = bound_values(&session).await?;
        let (settings, data) = (&*self.settings, &self.layout.data);
        let floors = data_dir::floors(settings, &self.spawner, data).await?;
        Ok(floors.exceed(|name| has.get(name).copied()))
    }
}
