//! What PostgreSQL says and does about WAL, for whoever plays a server: positions, and how far a
//! WAL sender lets commits go.

use dugong_machine::Names;
use dugong_topology::{History, InstanceId, Lsn};

/// What a WAL sender knows.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub standby: &'a InstanceId,
    /// How many entries its standby has flushed, as far as it has heard.
    pub flushed: usize,
    /// The standby has been where the upstream was when it connected.
    pub streaming: bool,
    /// The synchronous names that it goes by (R6).
    pub names: &'a Names,
}

/// A WAL sender of a server that is played.
pub trait WalSender {
    /// `ids`: of all instances, by their numbers.
    fn shown<'a>(&'a self, ids: &'a [InstanceId]) -> Shown<'a>;
}

/// How much WAL `sender` lets go, one of `all`: what everybody has whom it knows to be waited for.
/// None: nobody waits for its standby, or somebody is missing.
pub fn released_by<S: WalSender>(sender: &S, all: &[S], ids: &[InstanceId]) -> Option<usize> {
    let sender = sender.shown(ids);
    let Names::Each(names) = sender.names else { return None };
    if !names.contains(sender.standby) || !sender.streaming {
        return None;
    }
    let flushed = |name: &InstanceId| {
        let its = |other: &Shown<'_>| other.streaming && other.standby == name;
        all.iter().map(|other| other.shown(ids)).find(its).map(|other| other.flushed)
    };
    names.iter().map(flushed).try_fold(usize::MAX, |least, one| Some(least.min(one?)))
}

/// The position that counts `length` entries.
pub fn lsn(length: usize) -> Lsn {
    Lsn(length as u64)
}

/// The part of `history` that WAL up to `end` has gone through.
#[must_use]
pub fn as_far_as(history: &History, end: Lsn) -> History {
    let gone = history.ancestors.iter().take_while(|left| left.lsn <= end).count();
    let timeline = history.ancestors.get(gone).map_or(history.timeline, |left| left.timeline);
    History { timeline, ancestors: history.ancestors[..gone].to_vec() }
}
