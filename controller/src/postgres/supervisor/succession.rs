//! How a running server comes from one controller to the next.

use dugong_machine::Run;
use tokio::time::{Duration, Instant};

use super::super::configuration;
use super::super::data_dir::StartsAs;
use super::super::layout::Layout;
use super::super::link::{Found, Link};
use super::super::mandate::{Mandate, Note};
use super::super::postmaster::Postmaster;
use super::super::process::servers_in;
use super::super::running::Running;
use super::{Supervisor, door};

/// How long a change that is under way may take before the server is ended instead of left.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// A server that runs already, and what is said about it.
#[derive(Debug)]
pub(in crate::postgres) struct Inheritance {
    found: Found,
    note: Note,
}

/// What became of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It lives on with its warden.
    Running,
    /// There is none to leave, or it cannot be left.
    Nothing,
}

impl Inheritance {
    /// What the controller before this one has left, if it has ended in order.
    pub(in crate::postgres) fn find(layout: &Layout) -> Option<Self> {
        let found = Link::find(&layout.run)?;
        match serde_json::from_str(&found.note) {
            Ok(note) => Some(Self { found, note }),
            Err(error) => {
                tracing::warn!(%error, "the note about a running server is not understood");
                None // Dropped with its link, which ends it.
            }
        }
    }

    pub(in crate::postgres) fn mandate(&self) -> Mandate {
        self.note.mandate
    }
}

impl Supervisor {
    /// Takes a running server over.
    ///
    /// # Errors
    ///
    /// Why it cannot be kept, in words; it is being killed.
    pub(super) fn inherit(&mut self, left: Option<Inheritance>) -> Result<(), String> {
        let Some(Inheritance { found: Found { link, postmaster: pid, .. }, note }) = left else {
            return Ok(());
        };
        let (settings, layout) = (&*self.settings, &*self.layout);
        let Note { listen, role, live, mandate: _ } = note;
        let here = servers_in(std::slice::from_ref(&layout.data));
        if !here.map_err(|error| error.to_string())?.contains(&pid) {
            return Err(format!("it does not work in {}", layout.data.display()));
        }
        if listen != settings.listen {
            return Err(format!("it listens on {listen}, and shall on {}", settings.listen));
        }
        let mut postmaster =
            Postmaster::adopted(link, layout).map_err(|error| error.to_string())?;
        let common = self.adopted.borrow().common();
        let told = (|| {
            if role == StartsAs::Primary {
                postmaster.bind_to(&self.lease)?;
            }
            // The configuration, or this program, may be another one; the part that matters to the
            // protocol is the same, and confirmed before anything else.
            configuration::write_all(settings, layout, &common, &live)?;
            postmaster.reload()
        })();
        told.map_err(|error| error.to_string())?;
        tracing::info!(?role, "took over the running server");
        let access = (door(settings, layout), settings.credentials.clone());
        self.running = Some(Running::new(postmaster, role, access, common, live));
        Ok(())
    }

    /// Leaves the server to the next controller, once nothing about it is in doubt.
    pub(super) async fn leave_running(&mut self, mandate: Mandate) -> Left {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        while let Some(running) = &self.running {
            if running.is_settled() {
                break;
            }
            if Instant::now() > deadline {
                tracing::warn!("a change of the server is under way: it is ended, not left");
                return Left::Nothing;
            }
            let goal = self.goals.borrow().clone();
            let turn = tokio::time::timeout_at(deadline, self.turn(goal.as_ref()));
            if let Ok(Run::Down) = turn.await {
                return Left::Nothing;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Some(Running { postmaster, role, live, .. }) = self.running.take() else {
            return Left::Nothing;
        };
        let note = Note { mandate, listen: self.settings.listen.clone(), role, live };
        let note = serde_json::to_string(&note).map_err(std::io::Error::other);
        match note.and_then(|note| postmaster.leave(note)) {
            Ok(()) => {
                tracing::info!("the server is left to the next controller");
                Left::Running
            }
            Err(error) => {
                tracing::warn!(%error, "the server cannot be left, so it is ended");
                Left::Nothing
            }
        }
    }
}
