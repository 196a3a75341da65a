//! A server whose disk does not write any more.

use dugong_machine::{Goal, Run};

use super::{SEARCH, Supervisor};

impl Supervisor {
    /// Nobody needs the server here, and its disk is sick: it is ended at once, as if it had died.
    pub(super) async fn end_beside_a_sick_disk(&mut self) {
        if let Some(words) = self.storage.sick() {
            tracing::error!("the server is ended at once: {words}");
        }
        if let Some(Goal::Primary(goal)) = &*self.goals.borrow() {
            self.died_in = Some(goal.life);
        }
        self.end_everything().await;
        self.trouble = self.words_of_rest();
        self.report(Run::Down).await;
    }

    /// While no server runs, and a disk is sick: none is started, and nothing is made. None: nothing is
    /// in the way of a turn.
    pub(super) async fn rest_beside_a_sick_disk(&mut self) -> Option<Run> {
        if self.running.is_some() {
            return None;
        }
        let words = self.words_of_rest()?;
        if self.searched.is_none_or(|at| at.elapsed() > SEARCH) {
            self.end_everything().await;
        }
        self.trouble = Some(words);
        Some(Run::Down)
    }

    fn words_of_rest(&self) -> Option<String> {
        let words = self.storage.sick()?;
        Some(format!("{words}; no server is started here before it does: look at that disk"))
    }

    /// What is told of a sick disk while its server runs.
    pub(super) fn words_beside_a_sick_disk(&self) -> Option<String> {
        let words = self.storage.sick().filter(|_| self.running.is_some())?;
        Some(format!("{words}; the server is left as it is, since nobody could take its place now"))
    }
}
