//! The chain: who replicates from whom, and who can take whose place.
//!
//! All of it is read off one snapshot, so instances with the same snapshot agree.

use std::collections::BTreeSet;

use dugong_topology::{History, InstanceId};

use crate::presence::{Presence, ServerState};
use crate::record::Record;
use crate::server::Upstream;
use crate::snapshot::Snapshot;

/// Who stands beside this instance in the chain, for whoever looks after its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    pub primary: Option<InstanceId>,
    /// Of the sync alone: who would become the sync if it took over now.
    pub next_sync: Option<InstanceId>,
}

impl Neighbours {
    pub(crate) fn of(snapshot: &Snapshot, record: &Record, me: &InstanceId) -> Self {
        let is_sync = record.sync.as_ref() == Some(me);
        let next_sync = if is_sync { next_sync(snapshot, record, me) } else { None };
        Self { primary: Some(record.primary.clone()), next_sync }
    }
}

/// The instance that `id` replicates from: the nearest running one to its left. An instance that
/// is not in the chain follows the tail, where it will be appended.
///
/// The sync follows the primary whatever is seen of it. None for the primary itself.
pub(crate) fn upstream_of(
    snapshot: &Snapshot,
    record: &Record,
    id: &InstanceId,
) -> Option<Upstream> {
    if record.primary == *id {
        return None;
    }
    let left: Vec<_> = record.chain().take_while(|other| *other != id).collect();
    let nearest = left.iter().rev().find(|other| is_running(snapshot, other));
    let chosen = nearest.copied().unwrap_or(&record.primary);
    let address = snapshot.instances.get(chosen)?.presence.postgres.clone();
    Some(Upstream { id: chosen.clone(), address })
}

/// The present instances that replicate from `id`.
pub(crate) fn downstreams_of(
    snapshot: &Snapshot,
    record: &Record,
    id: &InstanceId,
) -> BTreeSet<InstanceId> {
    let members = record.chain().chain(record.deposed.iter().map(|deposed| &deposed.id)).cloned();
    let known: BTreeSet<_> =
        members.chain(snapshot.all_present().map(|presence| presence.id.clone())).collect();
    known
        .into_iter()
        .filter(|other| upstream_of(snapshot, record, other).is_some_and(|up| up.id == *id))
        .collect()
}

/// Whether WAL can be had from `id`.
pub(crate) fn is_running(snapshot: &Snapshot, id: &InstanceId) -> bool {
    snapshot.present(id).is_some_and(|presence| match presence.server {
        ServerState::Standby | ServerState::Ready | ServerState::Primary => true,
        ServerState::Stopped | ServerState::Starting | ServerState::Copying => false,
    })
}

/// Whether the record's primary runs as one.
pub(crate) fn is_in_office(snapshot: &Snapshot, record: &Record) -> bool {
    snapshot
        .present(&record.primary)
        .is_some_and(|presence| presence.server == ServerState::Primary)
}

/// Whom the instance `me` can make its sync: the first fit async, else a newcomer that is ready,
/// in the order of ids (R2, R3 d).
pub(crate) fn next_sync(
    snapshot: &Snapshot,
    record: &Record,
    me: &InstanceId,
) -> Option<InstanceId> {
    let fit_async = |id: &&InstanceId| {
        snapshot.present(id).is_some_and(|presence| match presence.server {
            ServerState::Standby | ServerState::Ready => true,
            ServerState::Stopped
            | ServerState::Starting
            | ServerState::Copying
            | ServerState::Primary => false,
        })
    };
    let newcomer = || newcomers(snapshot, record).find(|id| *id != me);
    record.asyncs.iter().find(fit_async).or_else(newcomer).cloned()
}

/// Ready instances that the record does not count among its chain: new ones, and deposed ones
/// that are repaired (R2, R8).
pub(crate) fn newcomers<'a>(
    snapshot: &'a Snapshot,
    record: &'a Record,
) -> impl Iterator<Item = &'a InstanceId> {
    snapshot
        .all_present()
        .filter(|presence| presence.server == ServerState::Ready)
        .map(|presence| &presence.id)
        .filter(|id| record.chain().all(|member| member != *id))
}

/// The history that a fit standby is on: the primary's, or that of the sync while no primary is in
/// office, since only the sync can be the next one.
pub(crate) fn office_history<'a>(snapshot: &'a Snapshot, record: &Record) -> Option<&'a History> {
    let heirs = || snapshot.present(record.sync.as_ref()?)?.history.as_ref();
    primary_history(snapshot, record).or_else(heirs)
}

/// The history of the primary's timeline, where it is known for the record's generation.
pub(crate) fn primary_history<'a>(snapshot: &'a Snapshot, record: &Record) -> Option<&'a History> {
    let in_office = |presence: &&Presence| {
        presence.server == ServerState::Primary && presence.seen == record.generation
    };
    snapshot.present(&record.primary).filter(in_office)?.history.as_ref()
}
