//! The store in etcd, for a cluster on many machines.
//!
//! [`EtcdStore`] is a handle. `members` asks one member of etcd after the other; `keys` says where
//! what lies; `session`, `declare`, `requests` and `settings` are the writes, each one transaction;
//! `lapse` ends the sessions that are not renewed, by a `glance` at whoever answers; `watcher`
//! follows everything, `content` makes snapshots of it; `trouble` is every failure, in words.
//!
//! **Invariant:** whatever is decided is compared in the transaction that writes it. What was read
//! before it only finds the words for a refusal.
//!
//! **Invariant:** the revision of a snapshot is etcd's own at which the content was so. Others may
//! write into the same etcd, so it may grow where nothing here has changed.
//!
//! Source: PROTOCOL.md, "The store's contract"; etcd, "etcd API guarantees".

mod content;
mod declare;
mod glance;
mod keys;
mod lapse;
mod members;
mod requests;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod trouble;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use dugong_machine::{Ask, Declaration, Outcome, Presence, RequestNumber, Snapshot};
use dugong_topology::{InstanceId, Revision};
use etcd_client::{ConnectOptions, GetOptions, SortOrder, SortTarget};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use self::content::{Kept, Value, as_revision};
use self::declare::Refusal;
use self::glance::Glance;
use self::keys::Keys;
use self::lapse::Lapse;
use self::members::{Kept as Renewal, Members};
use self::session::Session;
use self::trouble::Trouble;
use self::watcher::Watcher;
use super::codec;
use super::{
    AmendError, AskError, ClusterSettings, DeclareError, Edition, HistoryEntry, Reading,
    RenewError, Store, StoreError,
};

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// URLs, `http://host:port`; `https` where `options` has TLS. Never empty.
    pub endpoints: Vec<String>,
    /// All keys are below `prefix/cluster/`.
    pub prefix: String,
    /// The user, and TLS.
    pub options: ConnectOptions,
    /// The longest that one member may take to answer.
    pub request_timeout: Duration,
}

/// A controller's, or an observer's, handle of the store in etcd.
pub struct EtcdStore {
    members: Arc<Members>,
    keys: Keys,
    /// None: an observer's. Words are said one after the other.
    session: Option<Mutex<Session>>,
    readings: watch::Receiver<Reading>,
    settings: watch::Receiver<Option<Arc<Edition>>>,
    highest: Arc<AtomicI64>,
    watcher: JoinHandle<()>,
    lapse: Option<JoinHandle<()>>,
}

impl EtcdStore {
    /// A handle for one instance, in a runtime of tokio. Waits for nothing: an etcd that cannot be
    /// reached shows in the watch, and in every request.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn open(
        access: Access,
        cluster: &str,
        instance: InstanceId,
        session_ttl: Duration,
    ) -> Result<Self, StoreError> {
        let session = Session::new(instance.clone(), session_ttl)
            .map_err(|error| StoreError(format!("/dev/urandom cannot be read: {error}")))?;
        // Instances begin with different members, so that no member serves them all.
        let first = instance.as_str().bytes().map(usize::from).sum();
        let glance = Glance::new(access.clone(), first);
        let mut store = Self::start(access, cluster, Some(session), first);
        let lapse = Lapse::new(store.members.clone(), glance, store.keys.clone(), instance);
        store.lapse = Some(tokio::spawn(lapse.run()));
        Ok(store)
    }

    /// A handle without being an instance: to look, and for the operator's word.
    pub fn observe(access: Access, cluster: &str) -> Self {
        Self::start(access, cluster, None, 0)
    }

    fn start(access: Access, cluster: &str, session: Option<Session>, first: usize) -> Self {
        let Access { endpoints, prefix, options, request_timeout } = access;
        let options = options
            .with_connect_timeout(request_timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let members = Arc::new(Members::new(endpoints, options, request_timeout, first));
        let keys = Keys::new(&prefix, cluster);
        let highest = Arc::new(AtomicI64::new(0));
        let (publish, readings) = watch::channel(Reading::Pending);
        let (publish_settings, settings) = watch::channel(None);
        let publish = (publish, publish_settings);
        let watcher = Watcher::new(members.clone(), keys.clone(), publish, highest.clone());
        let watcher = tokio::spawn(watcher.run());
        let session = session.map(Mutex::new);
        Self { members, keys, session, readings, settings, highest, watcher, lapse: None }
    }

    fn session(&self) -> Result<&Mutex<Session>, Trouble> {
        self.session.as_ref().ok_or(Trouble::Observer)
    }

    async fn try_declare(
        &self,
        declaration: &Declaration,
    ) -> Result<Result<Revision, Refusal>, Trouble> {
        let condition = match &self.session {
            Some(session) => session.lock().await.condition(&self.keys),
            None => None,
        };
        declare::declare(&self.members, &self.keys, condition, declaration).await
    }

    async fn try_announce(&self, presence: &Presence) -> Result<(), Trouble> {
        let mut session = self.session()?.lock().await;
        session.announce(&self.members, &self.keys, presence).await
    }

    async fn try_renew(&self) -> Result<Renewal, Trouble> {
        self.session()?.lock().await.renew(&self.members, &self.keys).await
    }

    async fn try_resign(&self) -> Result<(), Trouble> {
        self.session()?.lock().await.resign(&self.members).await
    }

    async fn try_history(&self, limit: u32) -> Result<Vec<HistoryEntry>, Trouble> {
        let newest_first = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Key, SortOrder::Descend)
            .with_limit(i64::from(limit));
        let answer = self.members.get(self.keys.history(), Some(newest_first)).await?;
        let entry = |pair| {
            let value = Value::of(pair)?;
            let Kept { at_unix_ms, record, since_unix_ms: _ } = codec::decode(&value.text)?;
            Ok(HistoryEntry { revision: as_revision(value.revision), at_unix_ms, record })
        };
        answer.kvs().iter().map(entry).collect()
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.watcher.abort();
        if let Some(lapse) = &self.lapse {
            lapse.abort();
        }
    }
}

fn words(trouble: Trouble) -> StoreError {
    trouble.in_words()
}

impl Store for EtcdStore {
    fn declare(&self, declaration: Declaration) -> BoxFuture<'_, Result<Revision, DeclareError>> {
        async move {
            match self.try_declare(&declaration).await.map_err(words)? {
                Ok(revision) => Ok(revision),
                Err(Refusal::Raced) => Err(DeclareError::Raced),
                Err(Refusal::Guarded) => Err(DeclareError::Guarded),
                Err(Refusal::Replaced) => {
                    let why = "another controller of this instance has begun a session since";
                    Err(DeclareError::Store(StoreError(why.to_owned())))
                }
            }
        }
        .boxed()
    }

    fn announce(&self, presence: Presence) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.try_announce(&presence).await.map_err(words) }.boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), RenewError>> {
        async {
            match self.try_renew().await.map_err(words)? {
                Renewal::Alive => Ok(()),
                Renewal::Gone => Err(RenewError::Lapsed),
            }
        }
        .boxed()
    }

    fn resign(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async { self.try_resign().await.map_err(words) }.boxed()
    }

    fn ask(&self, by: String, what: Ask) -> BoxFuture<'_, Result<RequestNumber, AskError>> {
        async move {
            let asked = requests::ask(&self.members, &self.keys, &by, &what).await;
            asked.map_err(words)?.map_err(|request| AskError::Busy { request })
        }
        .boxed()
    }

    fn answer(
        &self,
        request: RequestNumber,
        outcome: Outcome,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            requests::answer(&self.members, &self.keys, request, &outcome).await.map_err(words)
        }
        .boxed()
    }

    fn read(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        async {
            let (_, _, snapshot) =
                watcher::whole(&self.members, &self.keys, &self.highest).await.map_err(words)?;
            Ok(snapshot)
        }
        .boxed()
    }

    fn watch(&self) -> watch::Receiver<Reading> {
        self.readings.clone()
    }

    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryEntry>, StoreError>> {
        async move { self.try_history(limit).await.map_err(words) }.boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<Edition, StoreError>> {
        async { settings::read(&self.members, &self.keys).await.map_err(words) }.boxed()
    }

    fn amend(
        &self,
        next: ClusterSettings,
        at: Revision,
    ) -> BoxFuture<'_, Result<Revision, AmendError>> {
        async move {
            let written = settings::amend(&self.members, &self.keys, &next, at).await;
            written.map_err(words)?.ok_or(AmendError::Raced)
        }
        .boxed()
    }

    fn watch_settings(&self) -> watch::Receiver<Option<Arc<Edition>>> {
        self.settings.clone()
    }
}
