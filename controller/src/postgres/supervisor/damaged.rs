//! Pages that are damaged: found, told, and what may be done about it.

use dugong_machine::{Data, Goal};

use super::super::control::LookError;
use super::super::damage::{Remedy, Which};
use super::Supervisor;
use crate::clock::unix_ms;
use crate::metrics;

/// Whether the data here is damaged, and shall be given up for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damaged {
    /// As far as is known it is not, or a person has to see to it.
    #[default]
    No,
    /// As soon as nobody needs it.
    ToBeCopied,
}

impl Supervisor {
    /// Asks the running server now and then what it has counted.
    pub(super) async fn look_for_damage(&mut self) {
        if !self.damage.is_due() {
            return;
        }
        let (Some(running), Some(data)) = (&mut self.running, which(&self.data)) else { return };
        match running.failures().await {
            Ok(failures) => self.damage.counted(&failures, &data),
            // Whatever it is, the next look at the server itself says it.
            Err(error @ (LookError::NotYet | LookError::Silent | LookError::Broken(_))) => {
                tracing::debug!(%error, "not counted");
            }
            Err(error) => tracing::warn!(%error, "failures of checksums are not known"),
        }
    }

    /// The server has ended by itself.
    pub(super) fn died_of_a_page(&mut self, words: Option<&str>) {
        let standby = matches!(&*self.goals.borrow(), Some(Goal::Standby(_) | Goal::Sealed { .. }));
        self.damage.died(words.filter(|_| standby), which(&self.data).as_ref());
    }

    /// Whether the data here is known to be damaged.
    pub(super) fn is_damaged(&self) -> bool {
        which(&self.data).is_some_and(|data| self.damage.is_known(&data))
    }

    /// Tells it, in words for people, and to whoever may do something about it.
    pub(super) fn tell_damage(&self) -> Option<String> {
        let goal = self.goals.borrow();
        let is_primary = matches!(&*goal, Some(Goal::Primary(_)));
        let told = self.settings.repair.damaged;
        let remedy = self.damage.remedy(which(&self.data).as_ref(), is_primary, told, unix_ms());
        metrics::show_damaged(remedy != Remedy::Unneeded);
        let damaged = match (remedy, &*goal) {
            (Remedy::Copy, Some(Goal::Standby(_))) => Damaged::ToBeCopied,
            (Remedy::Copy | Remedy::Unneeded | Remedy::Person(_), _) => Damaged::No,
        };
        self.damaged.send_if_modified(|known| std::mem::replace(known, damaged) != damaged);
        self.damage.words(remedy)
    }
}

fn which(data: &Data) -> Option<Which> {
    match data {
        Data::Own(identity) => Some(Which::of(identity)),
        Data::Unknown | Data::Empty | Data::Foreign { .. } => None,
    }
}
