//! What a machine is told, and what is done to it, where somebody has made a mistake on purpose.
//!
//! `made`: whether a mistake is made.

use dugong_machine::{Names, Snapshot, State, Time};
use dugong_topology::{History, InstanceId, Lsn, TimelineId};

use crate::bug::Bug;

/// A machine that is sure too early: of its sync (R5), or of the primary's death.
pub fn make_hasty(state: &mut State, made: impl Fn(Bug) -> bool) {
    if made(Bug::LinkIgnored) {
        state.link_quiet_since = Time::default();
    }
    let generation = state.generation();
    let Some(record) = state.snapshot.as_ref().and_then(|snapshot| snapshot.record()) else {
        return;
    };
    let began_at = record.began_at.lsn.0;
    let Some(office) = &mut state.office else { return };
    // A promotion writes two entries; a server that was started again has more.
    let restarted = office.end.0 > began_at + 3;
    if made(if restarted { Bug::OpenAfterRestart } else { Bug::OpenBeforeSync }) {
        office.open = Some(generation);
    }
}

/// The snapshot as an async would like it: itself in the place of a sync that is away.
pub fn usurped(snapshot: &Snapshot, me: &InstanceId) -> Snapshot {
    let mut lie = snapshot.clone();
    if let Some(declared) = &mut lie.declared
        && declared.record.asyncs.contains(me)
        && let Some(sync) = declared.record.sync.clone()
        && snapshot.present(&sync).is_none()
    {
        declared.record.asyncs.retain(|id| id != me);
        declared.record.asyncs.push(sync);
        declared.record.sync = Some(me.clone());
    }
    lie
}

/// The history that data go by which are repaired by following on as they are; none where they are
/// no prefix of `theirs`, and have to be made anew (R7).
pub fn history_of_prefix(
    theirs: &History,
    own: &History,
    end: Lsn,
    made: impl Fn(Bug) -> bool,
) -> Option<History> {
    if theirs.left_behind(own, end) {
        return Some(own.clone());
    }
    made(Bug::NoRepair).then(|| theirs.clone())
}

/// What is seen of the branches that led to a timeline.
pub fn history(history: &History, made: impl Fn(Bug) -> bool) -> History {
    if made(Bug::TimelinesIgnored) { History::root(TimelineId(1)) } else { history.clone() }
}

/// The names that count as in force (R6). `settled`: nobody goes by older ones any more.
pub(crate) fn names_in_force(
    wanted: Option<&Names>,
    names: &Names,
    settled: bool,
    made: impl Fn(Bug) -> bool,
) -> Names {
    if made(Bug::NameBeforeDeclare) {
        wanted.unwrap_or(names).clone()
    } else if settled || made(Bug::HalfReloaded) {
        names.clone()
    } else {
        Names::Each(Vec::new())
    }
}

/// The names that are put in force where `names` are wanted.
pub fn names_to_put(mut names: Names, made: impl Fn(Bug) -> bool) -> Names {
    if made(Bug::NameBeforeDeclare)
        && let Names::Each(names) = &mut names
        && names.len() == 2
    {
        names.remove(0);
    }
    names
}
