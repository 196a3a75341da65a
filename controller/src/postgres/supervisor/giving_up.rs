//! An operator gives up the data of a standby, to have it copied anew.

use dugong_machine::{Data, Goal, Run, Upstream};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Duration;

use super::super::given_up;
use super::Supervisor;

/// The longest that the last question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an operator asks of the one owner of the data.
pub struct GiveUp {
    /// Whom to copy; none: whom the machine chooses.
    pub from: Option<Upstream>,
    /// Whether nobody needs the data; asked when no server runs on it any more, so that the answer
    /// stays true: nobody waits for an instance that does not follow.
    pub unneeded: BoxFuture<'static, Result<(), String>>,
    /// What became of it, or why nothing did.
    pub answer: oneshot::Sender<Result<(), String>>,
}

impl Supervisor {
    pub(super) async fn give_up(&mut self, order: GiveUp) {
        let GiveUp { from, unneeded, answer } = order;
        let outcome = self.try_to_give_up(from.as_ref(), unneeded).await;
        match &outcome {
            Ok(()) => tracing::warn!("the data here is given up by an operator's word"),
            Err(why) => tracing::info!("the data here is not given up: {why}"),
        }
        // Whoever asked may be gone.
        let _ = answer.send(outcome);
    }

    async fn try_to_give_up(
        &mut self,
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
        self.end_everything().await;
        match tokio::time::timeout(PATIENCE, unneeded).await {
            Ok(answer) => answer?,
            Err(_elapsed) => return Err(format!("the store gave no answer within {PATIENCE:?}")),
        }
        given_up::mark(&self.layout.data, from).map_err(|error| {
            format!("{} cannot be written to: {error}", self.layout.data.display())
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
