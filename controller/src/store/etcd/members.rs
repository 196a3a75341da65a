//! The members of the etcd cluster: one of them is asked, until it fails.
//!
//! **Invariant:** every wait is bounded by the request timeout. A member that did not answer is not
//! asked again before the others were, and not over the connection on which it fell silent. Where
//! one is left, the next is who never fell silent, or whose silence is the longest ago: a host that
//! is gone is not come back to while the others elect a leader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{
    Client, ConnectOptions, Error, GetOptions, GetResponse, Txn, TxnResponse, WatchOptions,
    WatchStream,
};
use tokio::time::timeout;

use super::trouble::Trouble;

/// Who can be asked.
pub(super) struct Members {
    endpoints: Vec<String>,
    options: ConnectOptions,
    timeout: Duration,
    chosen: Mutex<Chosen>,
    /// The id of the etcd cluster, once it is known; it is never 0.
    cluster: AtomicU64,
}

/// Who is asked now, and why not another.
struct Chosen {
    place: usize,
    /// The connection, if there is one.
    client: Option<Client>,
    /// When each member was last waited for in vain.
    silences: Vec<Option<Instant>>,
}

/// The member that is asked.
#[derive(Clone)]
pub(super) struct Member {
    place: usize,
    client: Client,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Alive,
    /// There is no such lease any more.
    Gone,
}

impl Members {
    /// `endpoints` is not empty.
    pub(super) fn new(
        endpoints: Vec<String>,
        options: ConnectOptions,
        timeout: Duration,
        first: usize,
    ) -> Self {
        let place = first % endpoints.len().max(1);
        let chosen = Chosen { place, client: None, silences: vec![None; endpoints.len()] };
        let (chosen, cluster) = (Mutex::new(chosen), AtomicU64::new(0));
        Self { endpoints, options, timeout, chosen, cluster }
    }

    pub(super) fn count(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn endpoint(&self, member: &Member) -> String {
        self.endpoints[member.place].clone()
    }

    /// The member that is asked now, connected.
    pub(super) async fn member(&self) -> Result<Member, Trouble> {
        let place = {
            let chosen = self.chosen();
            if let Some(client) = chosen.client.clone() {
                return Ok(Member { place: chosen.place, client });
            }
            chosen.place
        };
        let endpoint = &self.endpoints[place];
        // Connects when it is used; but with a user it logs in first.
        let connecting = Client::connect([endpoint.as_str()], Some(self.options.clone()));
        let client = self.bounded(place, Box::pin(connecting)).await?;
        let mut chosen = self.chosen();
        if chosen.place == place && chosen.client.is_none() {
            chosen.client = Some(client.clone());
        }
        Ok(Member { place, client })
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse, Trouble> {
        let Member { place, mut client } = self.member().await?;
        let answer = self.bounded(place, Box::pin(client.txn(txn))).await?;
        self.knows(answer.header())?;
        Ok(answer)
    }

    /// A linearizable read.
    pub(super) async fn get(
        &self,
        key: String,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, Trouble> {
        let Member { place, mut client } = self.member().await?;
        let answer = self.bounded(place, Box::pin(client.get(key, options))).await?;
        self.knows(answer.header())?;
        Ok(answer)
    }

    /// A new lease of at least `seconds`.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64, Trouble> {
        let Member { place, mut client } = self.member().await?;
        Ok(self.bounded(place, Box::pin(client.lease_grant(seconds, None))).await?.id())
    }

    pub(super) async fn keep_alive(&self, lease: i64) -> Result<Kept, Trouble> {
        let Member { place, mut client } = self.member().await?;
        // The client asks once, and waits for the answer; more is not asked on this stream.
        match self.bounded(place, Box::pin(client.lease_keep_alive(lease))).await {
            Ok(_stream) => Ok(Kept::Alive),
            Err(Trouble::Failed { error: Error::LeaseKeepAliveError(_), .. }) => Ok(Kept::Gone),
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Trouble> {
        let Member { place, mut client } = self.member().await?;
        match self.bounded(place, Box::pin(client.lease_revoke(lease))).await {
            Ok(_) => Ok(()),
            Err(Trouble::Failed { error: Error::GRpcStatus(status), .. })
                if status.code() == tonic::Code::NotFound =>
            {
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    pub(super) async fn watch(
        &self,
        member: &Member,
        key: String,
        options: WatchOptions,
    ) -> Result<WatchStream, Trouble> {
        let Member { place, mut client } = member.clone();
        self.bounded(place, Box::pin(client.watch(key, Some(options)))).await
    }

    /// What `member` answers within the limit; a member that fails is left for the next one.
    pub(super) async fn answer_of<T>(
        &self,
        member: &Member,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        self.bounded(member.place, answer).await
    }

    async fn bounded<T>(
        &self,
        place: usize,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        let endpoint = || self.endpoints[place].clone();
        let trouble = match timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Trouble::Failed { endpoint: endpoint(), error },
            Err(_elapsed) => {
                self.is_silent(place);
                Trouble::Silent { endpoint: endpoint(), waited: self.timeout }
            }
        };
        if trouble.is_the_members() {
            self.leave(place);
        }
        Err(trouble)
    }

    /// Asks the next one from now on, unless somebody else saw to that.
    pub(super) fn leave_member(&self, member: &Member) {
        self.leave(member.place);
    }

    /// A member was waited for in vain.
    pub(super) fn is_silent(&self, place: usize) {
        self.chosen().silences[place] = Some(Instant::now());
    }

    fn leave(&self, place: usize) {
        let mut chosen = self.chosen();
        if chosen.place == place {
            chosen.place = next(place, &chosen.silences);
            chosen.client = None;
        }
    }

    /// Refuses what another etcd cluster says.
    pub(super) fn knows(
        &self,
        header: Option<&etcd_client::ResponseHeader>,
    ) -> Result<(), Trouble> {
        let Some(found) = header.map(etcd_client::ResponseHeader::cluster_id) else {
            return Ok(());
        };
        let known = self.cluster.compare_exchange(0, found, Relaxed, Relaxed);
        if known.is_err_and(|known| known != found) {
            return Err(Trouble::Exchanged);
        }
        Ok(())
    }

    fn chosen(&self) -> MutexGuard<'_, Chosen> {
        // Nothing that panics happens under it.
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is asked after the member at `left`: of all others the one that has been silent the longest
/// ago, or never, and of such the next.
fn next(left: usize, silences: &[Option<Instant>]) -> usize {
    let others = (1..silences.len()).map(|step| (left + step) % silences.len());
    others.min_by_key(|place| silences[*place]).unwrap_or(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_member_is_whose_silence_is_the_longest_ago() {
        let now = Instant::now();
        let ago = |ms| Some(now - Duration::from_millis(ms));
        let [never, later, sooner] = [None, ago(10), ago(20)];
        assert_eq!(next(2, &[never, never, never]), 0, "in their order");
        assert_eq!(next(2, &[later, never, never]), 1, "not whom nobody hears");
        assert_eq!(next(0, &[later, later, sooner]), 2, "who may be back");
        assert_eq!(next(1, &[later, never, never]), 2);
        assert_eq!(next(0, &[later]), 0, "there is no other");
    }
}
