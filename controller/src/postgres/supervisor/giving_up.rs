//! The data of a standby is given up, to have it copied anew: by an operator, or for damaged pages.

use dugong_machine::{Data, Goal, Run, Upstream};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Duration;

use super::super::given_up;
use super::Supervisor;
use crate::clock::unix_ms;

/// The longest that the last question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of the one owner of the data.
pub struct GiveUp {
    pub why: Why,
    /// Whom to copy; none: whom the machine chooses.
    pub from: Option<Upstream>,
    /// Whether nobody needs the data; asked when no server runs on it any more, so that the answer
    /// stays true: nobody waits for an instance that does not follow.
    pub unneeded: BoxFuture<'static, Result<(), String>>,
    /// What became of it, or why nothing did.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Why data is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An operator's word.
    Asked,
    /// Its pages are damaged.
    Damaged,
}

impl Supervisor {
    pub(super) async fn give_up(&mut self, order: GiveUp) {
        let GiveUp { why, from, unneeded, answer } = order;
        let outcome = self.try_to_give_up(why, from.as_ref(), unneeded).await;
        match &outcome {
            Ok(()) => match why {
                Why::Asked => tracing::warn!("the data here is given up by an operator's word"),
                Why::Damaged => tracing::warn!("the data here is given up: it is damaged"),
            },
            Err(why) => tracing::info!("the data here is not given up: {why}"),
        }
        // Whoever asked may be gone.
        let _ = answer.send(outcome);
    }

    async fn try_to_give_up(
        &mut self,
        why: Why,
        from: Option<&Upstream>,
        unneeded: BoxFuture<'static, Result<(), String>>,
    ) -> Result<(), String> {
        let refuse = |why: &str| Err(why.to_owned());
        match &*self.goals.borrow() {
            Some(Goal::Standby(_)) => (),
            Some(Goal::Copied { .. }) => return refuse("its data is being made anew already"),
            Some(Goal::Primary(_)) => return refuse("it is becoming a primary"),
            Some(Goal::Down(_) | Goal::Initialised | Goal::Sealed { .. }) | None => {
                return refuse("it is no standby just now; ask again in a moment");
            }
        }
        if !matches!(self.data, Data::Own(_)) {
            return refuse("it has no data to give up");
        }
        if why == Why::Damaged && !self.is_damaged() {
            return refuse("it is other data by now");
        }
        self.end_everything().await;
        match tokio::time::timeout(PATIENCE, unneeded).await {
            Ok(answer) => answer?,
            Err(_elapsed) => return Err(format!("the store gave no answer within {PATIENCE:?}")),
        }
        let noted = match why {
            Why::Asked => Ok(()),
            // First: nobody is to give up a second copy for lack of that.
            Why::Damaged => self.damage.give_up(unix_ms()),
        };
        noted.and_then(|()| given_up::mark(&self.layout.data, from)).map_err(|error| {
            format!("{} cannot be written to: {error}", self.layout.dir.display())
        })?;
        self.examine().await;
        self.report(Run::Down).await;
        Ok(())
    }
}

/// The next order; never where nobody gives any.
pub(super) async fn asked(orders: &mut mpsc::Receiver<GiveUp>) -> GiveUp {
    match orders.recv().await {
        Some(order) => order,
        None => std::future::pending().await,
    }
}
