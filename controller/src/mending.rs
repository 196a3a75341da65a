//! Gives up the data of a standby whose pages are damaged, so that it is copied anew.
//!
//! What is damaged, and how often data may be given up for it, its server's side knows; here it is
//! seen to that nobody needs the data: the same as where an operator gives it up.
//!
//! **Invariant:** only the data of an async, or of nobody, is given up, while the primary takes writes
//! and its sync follows. Both are looked at again once the server is down.
//!
//! Source: PROTOCOL.md, "Data made anew".

use std::sync::Arc;
use std::time::Duration;

use dugong_topology::InstanceId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::postgres::{Damaged, GiveUp, Why};
use crate::publish::reinit::may_be_given_up;
use crate::store::Store;

/// Between two looks at whether somebody needs the data.
const EVERY: Duration = Duration::from_secs(2);

/// Until nobody says any more whether data is damaged.
pub(crate) async fn mend(
    me: InstanceId,
    store: Arc<dyn Store>,
    mut damaged: watch::Receiver<Damaged>,
    give_up: mpsc::Sender<GiveUp>,
) {
    let mut told = None;
    while damaged.wait_for(|damaged| *damaged == Damaged::ToBeCopied).await.is_ok() {
        let outcome = try_to_give_up(&me, &store, &give_up).await;
        match outcome {
            Err(why) if told.as_ref() != Some(&why) => {
                tracing::warn!("damaged data is not given up yet: {why}");
                told = Some(why);
            }
            Err(_) => (),
            Ok(()) => told = None,
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// # Errors
///
/// Why the data stays, in words.
async fn try_to_give_up(
    me: &InstanceId,
    store: &Arc<dyn Store>,
    give_up: &mpsc::Sender<GiveUp>,
) -> Result<(), String> {
    is_unneeded(me.clone(), store.clone()).await?;
    let unneeded = Box::pin(is_unneeded(me.clone(), store.clone()));
    let (answer, answered) = oneshot::channel();
    let order = GiveUp { why: Why::Damaged, from: None, unneeded, answer };
    let ending = || "the controller is ending".to_owned();
    give_up.send(order).await.map_err(|_| ending())?;
    answered.await.map_err(|_| ending())?
}

async fn is_unneeded(me: InstanceId, store: Arc<dyn Store>) -> Result<(), String> {
    let snapshot = store.read().await.map_err(|trouble| trouble.to_string())?;
    may_be_given_up(&snapshot, &me)
}
