//! The session of one handle: what an instance says, under a lease.
//!
//! **Invariant:** a word takes effect only if no later one of this handle did, and no later handle
//! of the instance has begun a session: both are compared in the transaction that writes it.
//!
//! **Invariant:** a lease is renewed before the word that it carries is written, so that whoever
//! counts the session from before the call never counts too long.
//!
//! **Invariant:** a renewal is a write that compares the session, as `lapse` compares the renewal.
//!
//! Source: etcd, "etcd API", lease and transaction; PROTOCOL.md, "The store's contract", 5 and 6.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use dugong_machine::{Presence, ServerState};
use dugong_topology::InstanceId;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};

use super::super::codec;
use super::content::Value;
use super::keys::{Keys, OfInstance, counted};
use super::members::{Kept, Members};
use super::trouble::Trouble;

/// How often a session is opened anew where others open one at the same time.
const TRIES: usize = 3;

/// The lease of one handle.
#[derive(Debug)]
pub(super) struct Session {
    instance: InstanceId,
    ttl: Duration,
    /// Random; tells this handle's session from those of others for the same instance.
    token: String,
    lease: Option<i64>,
    /// Whether this handle ever opened it. One that was opened and then replaced stays replaced.
    opened: bool,
    /// How many words were said, or tried.
    said: u64,
    /// The last word that is known to have been taken under the lease.
    taken: Option<String>,
}

/// What a session's keys say now.
struct Found {
    epoch: Option<Value>,
    /// The lease of the session that is alive.
    lease: Option<i64>,
}

impl Session {
    pub(super) fn new(instance: InstanceId, ttl: Duration) -> std::io::Result<Self> {
        let mut random = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (lease, opened, said, taken) = (None, false, 0, None);
        Ok(Self { instance, ttl, token, lease, opened, said, taken })
    }

    /// What a declaration compares, so that it is refused once a later session has begun.
    pub(super) fn condition(&self, keys: &Keys) -> Option<Compare> {
        self.opened.then(|| self.is_newest(keys))
    }

    pub(super) async fn announce(
        &mut self,
        members: &Members,
        keys: &Keys,
        presence: &Presence,
    ) -> Result<(), Trouble> {
        if presence.id != self.instance {
            let (instance, presence) = (self.instance.clone(), presence.id.clone());
            return Err(Trouble::Misnamed { instance, presence });
        }
        let word = codec::encode(presence)?;
        let is_news = self.taken.as_ref() != Some(&word);
        if !is_news && self.renew(members, keys).await? == Kept::Alive {
            return Ok(());
        }
        let lease = self.fresh_lease(members).await?;
        self.said += 1;
        self.taken = None;
        let mut conditions = if self.opened {
            let said = keys.of(&self.instance, OfInstance::Said);
            vec![self.is_newest(keys), Compare::value(said, CompareOp::Less, counted(self.said))]
        } else {
            self.may_open(members, keys).await?
        };
        for _ in 0..TRIES {
            let txn = Txn::new().when(conditions).and_then(self.puts(keys, presence, &word, lease));
            if members.txn(txn).await?.succeeded() {
                self.opened = true;
                self.taken = Some(word);
                return Ok(());
            }
            conditions = self.may_open(members, keys).await?;
        }
        Err(Trouble::Contended)
    }

    pub(super) async fn renew(&mut self, members: &Members, keys: &Keys) -> Result<Kept, Trouble> {
        let Some(lease) = self.lease else { return Ok(Kept::Gone) };
        if members.keep_alive(lease).await? == Kept::Gone {
            self.forget_lease();
            return Ok(Kept::Gone);
        }
        // A lease may outlive the session that was under it.
        let session = keys.of(&self.instance, OfInstance::Session);
        let alive = Compare::lease(session, CompareOp::Equal, lease);
        let beat =
            Txn::new().when([self.is_newest(keys), alive]).and_then([self.beat(keys, lease)]);
        let is_ours = members.txn(beat).await?.succeeded();
        Ok(if is_ours { Kept::Alive } else { Kept::Gone })
    }

    /// Ends the session; one that has ended, or was replaced, is left as it is.
    pub(super) async fn resign(&mut self, members: &Members) -> Result<(), Trouble> {
        if let Some(lease) = self.lease {
            members.revoke(lease).await?;
            self.forget_lease();
        }
        Ok(())
    }

    /// The lease, alive from now on; another one where there was none.
    async fn fresh_lease(&mut self, members: &Members) -> Result<i64, Trouble> {
        if let Some(lease) = self.lease {
            if members.keep_alive(lease).await? == Kept::Alive {
                return Ok(lease);
            }
            self.forget_lease();
        }
        // etcd counts in whole seconds; more is given, never less.
        let whole = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        let lease = members.grant(i64::try_from(whole).unwrap_or(i64::MAX)).await?;
        self.lease = Some(lease);
        Ok(lease)
    }

    fn forget_lease(&mut self) {
        (self.lease, self.taken) = (None, None);
    }

    fn is_newest(&self, keys: &Keys) -> Compare {
        let epoch = keys.of(&self.instance, OfInstance::Epoch);
        Compare::value(epoch, CompareOp::Equal, self.token.clone())
    }

    /// What has to hold so that this handle may open a session; refused where another one has.
    async fn may_open(&self, members: &Members, keys: &Keys) -> Result<Vec<Compare>, Trouble> {
        let Found { epoch, lease } = self.find(members, keys).await?;
        let is_ours = epoch.as_ref().is_some_and(|epoch| epoch.text == self.token);
        if self.opened && !is_ours && lease.is_some() {
            return Err(Trouble::Replaced { instance: self.instance.clone() });
        }
        let seen = epoch.map_or(0, |epoch| epoch.revision);
        let key = keys.of(&self.instance, OfInstance::Epoch);
        Ok(vec![Compare::mod_revision(key, CompareOp::Equal, seen)])
    }

    fn puts(&self, keys: &Keys, presence: &Presence, word: &str, lease: i64) -> Vec<TxnOp> {
        let key = |what| keys.of(&self.instance, what);
        let leased = || Some(PutOptions::new().with_lease(lease));
        let handover = match presence.hands_over {
            Some(handover) => {
                TxnOp::put(key(OfInstance::Handover), counted(handover.request.0), leased())
            }
            None => TxnOp::delete(key(OfInstance::Handover), None),
        };
        vec![
            TxnOp::put(key(OfInstance::Epoch), self.token.clone(), None),
            TxnOp::put(key(OfInstance::Said), counted(self.said), None),
            TxnOp::put(key(OfInstance::Word), word, None),
            TxnOp::put(key(OfInstance::Session), state(presence.server), leased()),
            self.beat(keys, lease),
            handover,
        ]
    }

    /// Shows the others that the session was renewed.
    fn beat(&self, keys: &Keys, lease: i64) -> TxnOp {
        let ttl = self.ttl.as_millis().to_string();
        let leased = PutOptions::new().with_lease(lease);
        TxnOp::put(keys.beat(self.instance.as_str()), ttl, Some(leased))
    }

    async fn find(&self, members: &Members, keys: &Keys) -> Result<Found, Trouble> {
        let both = [OfInstance::Epoch, OfInstance::Session]
            .map(|what| TxnOp::get(keys.of(&self.instance, what), None));
        let answer = members.txn(Txn::new().and_then(both)).await?;
        let mut found = Found { epoch: None, lease: None };
        for (place, part) in answer.op_responses().into_iter().enumerate() {
            let TxnOpResponse::Get(part) = part else { continue };
            match (place, part.kvs().first()) {
                (0, Some(epoch)) => found.epoch = Some(Value::of(epoch)?),
                (_, Some(session)) => found.lease = Some(session.lease()),
                (_, None) => (),
            }
        }
        Ok(found)
    }
}

/// What a guard compares.
pub(super) fn state(server: ServerState) -> &'static str {
    match server {
        ServerState::Starting => "starting",
        ServerState::Copying => "copying",
        ServerState::Standby => "standby",
        ServerState::Ready => "ready",
        ServerState::Primary => "primary",
        ServerState::Stopped => "stopped",
    }
}
