//! The state record: the one record in the store that says who is what.

use std::collections::BTreeSet;
use std::fmt;

use dugong_topology::{Freeze, Generation, InstanceId, Position, Role, TimelineId};
use serde::{Deserialize, Serialize};

/// Who is what in one generation of one cluster. Written only by compare-and-swap (R1).
///
/// Holds ids, never addresses: those change, and are what presences are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The cluster's name.
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    pub generation: Generation,
    pub primary: InstanceId,
    /// None: the primary has no standby that it may wait for, so writes wait (R6), but for
    /// [`Record::is_one_node`].
    pub sync: Option<InstanceId>,
    /// In chain order.
    pub asyncs: Vec<InstanceId>,
    pub deposed: Vec<Deposed>,
    /// Where the generation begins: its sync may take over only from here on (R3 c).
    pub began_at: Position,
    /// The primary's timeline. It grows with each takeover: no two primaries ever begin the same,
    /// not even where one of them was lost before anybody had heard of its timeline.
    #[serde(default)]
    pub timeline: TimelineId,
    /// While set, nothing in the record changes by itself.
    pub frozen: Option<Freeze>,
    /// The operator asked for a primary without a sync. Ends with the first sync, for ever.
    pub one_node: bool,
    pub reason: Reason,
}

/// A former primary that was taken over from, and the generation that began by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deposed {
    pub id: InstanceId,
    /// A copy made in this generation or later repairs it (R7).
    pub since: Generation,
}

/// PostgreSQL's number of one cluster of data directories, set by initdb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for SystemIdentifier {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<SystemIdentifier> for String {
    fn from(identifier: SystemIdentifier) -> Self {
        identifier.to_string()
    }
}

/// Why a generation was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Bootstrap,
    PrimaryLost,
    SyncLost,
    /// A primary that had no sync got one.
    SyncFound,
    Switchover,
    Operator,
}

impl Reason {
    /// The words of the topology document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::PrimaryLost => "primary lost",
            Self::SyncLost => "sync lost",
            Self::SyncFound => "sync found",
            Self::Switchover => "switchover",
            Self::Operator => "operator",
        }
    }
}

impl Record {
    /// What `id` is in this generation; none for an instance that is not in the record.
    pub fn role_of(&self, id: &InstanceId) -> Option<Role> {
        if self.primary == *id {
            Some(Role::Primary)
        } else if self.sync.as_ref() == Some(id) {
            Some(Role::Sync)
        } else if self.asyncs.contains(id) {
            Some(Role::Async)
        } else if self.deposed_since(id).is_some() {
            Some(Role::Deposed)
        } else {
            None
        }
    }

    /// The generation by which `id` was deposed, while it is.
    pub fn deposed_since(&self, id: &InstanceId) -> Option<Generation> {
        self.deposed.iter().find(|deposed| deposed.id == *id).map(|deposed| deposed.since)
    }

    /// Whether a primary of this generation or an earlier one may have begun that timeline.
    pub fn knows(&self, timeline: TimelineId) -> bool {
        // A record of a program that did not count them knows none.
        self.timeline == TimelineId::default() || timeline <= self.timeline
    }

    /// Whether commits wait for nobody, on purpose.
    pub fn is_one_node(&self) -> bool {
        self.one_node && self.sync.is_none()
    }

    /// Primary, sync, asyncs: each replicates from the one before it.
    pub fn chain(&self) -> impl DoubleEndedIterator<Item = &InstanceId> {
        std::iter::once(&self.primary).chain(&self.sync).chain(&self.asyncs)
    }

    /// R3, R4: the sync `me` takes over with everything up to `end`; `sync` is its own sync.
    #[must_use]
    pub fn taken_over_by(&self, me: &InstanceId, sync: &InstanceId, end: Position) -> Self {
        let mut next = self.without(sync);
        next.generation = self.generation.next();
        next.deposed.push(Deposed { id: self.primary.clone(), since: next.generation });
        next.primary = me.clone();
        next.sync = Some(sync.clone());
        next.began_at = end;
        next.timeline = self.timeline_after(end);
        next.reason = Reason::PrimaryLost;
        next
    }

    /// R3, R4: the sync `me` takes over from a primary that has handed over, all of whose WAL is
    /// here and ends at `end`: it stays a member, at the end of the chain.
    #[must_use]
    pub fn handed_over_to(&self, me: &InstanceId, sync: &InstanceId, end: Position) -> Self {
        let mut next = self.taken_over_by(me, sync, end);
        next.deposed.retain(|deposed| deposed.id != self.primary);
        next.asyncs.push(self.primary.clone());
        next.reason = Reason::Switchover;
        next
    }

    /// R13: the sync `me` takes over as the operator wants it; `sync` is its own sync, if there is
    /// one.
    #[must_use]
    pub fn promoted(&self, me: &InstanceId, sync: Option<&InstanceId>, end: Position) -> Self {
        let mut next = self.without(me);
        if let Some(sync) = sync {
            next = next.without(sync);
        }
        next.generation = self.generation.next();
        next.deposed.push(Deposed { id: self.primary.clone(), since: next.generation });
        next.primary = me.clone();
        next.sync = sync.cloned();
        next.one_node = false;
        next.began_at = end;
        next.timeline = self.timeline_after(end);
        next.reason = Reason::Operator;
        next
    }

    /// R13: `me` begins anew from what it has; everybody else, members and whoever else is `known`,
    /// needs a copy of that.
    #[must_use]
    pub fn promoted_alone<'a>(
        &'a self,
        me: &InstanceId,
        known: impl Iterator<Item = &'a InstanceId>,
        end: Position,
    ) -> Self {
        let mut next = self.promoted(me, None, end);
        let since = next.generation;
        next.asyncs.clear();
        let members = self.chain().chain(self.deposed.iter().map(|deposed| &deposed.id));
        let others: BTreeSet<_> = members.chain(known).filter(|id| *id != me).collect();
        next.deposed = others.into_iter().map(|id| Deposed { id: id.clone(), since }).collect();
        next
    }

    /// One that nobody ever had, for a promotion at `end`.
    fn timeline_after(&self, end: Position) -> TimelineId {
        TimelineId(self.timeline.max(end.timeline).0 + 1)
    }

    /// R2, R6: as was asked for, an async and the sync change places.
    #[must_use]
    pub fn with_sync_exchanged(&self, sync: &InstanceId, end: Position) -> Self {
        let mut next = self.with_sync(sync, end);
        next.asyncs.splice(0..0, self.sync.clone());
        next.reason = Reason::Switchover;
        next
    }

    /// R2, R6: the primary goes on with another sync. The former one leaves the record; it comes
    /// back as a newcomer, since its WAL is a prefix of the primary's.
    #[must_use]
    pub fn with_sync(&self, sync: &InstanceId, end: Position) -> Self {
        let mut next = self.without(sync);
        next.generation = self.generation.next();
        next.reason = if self.sync.is_some() { Reason::SyncLost } else { Reason::SyncFound };
        next.sync = Some(sync.clone());
        next.one_node = false;
        next.began_at = end;
        next
    }

    /// R2, R8: a newcomer, or a repaired instance, joins at the end of the chain.
    #[must_use]
    pub fn with_async(&self, id: &InstanceId) -> Self {
        let mut next = self.without(id);
        next.asyncs.push(id.clone());
        next
    }

    /// This record without an async or deposed instance; no new generation.
    #[must_use]
    pub fn without(&self, id: &InstanceId) -> Self {
        let mut next = self.clone();
        next.asyncs.retain(|other| other != id);
        next.deposed.retain(|other| other.id != *id);
        next
    }

    /// This record with the operator's word about automatic transitions; no new generation.
    #[must_use]
    pub fn with_freeze(&self, frozen: Option<Freeze>) -> Self {
        Self { frozen, ..self.clone() }
    }
}
