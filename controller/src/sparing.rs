//! Whether the other instances can do without the server here, should its disk be sick.
//!
//! Where nobody could take its place, a server that hangs is worth more than none: it answers reads,
//! and goes on when its disk does. So it is while the store is away, too: nobody takes over then. (A
//! primary whose disk hangs then has no lease, and is fenced for that.)
//!
//! Source: PROTOCOL.md, R3 and R11.

use dugong_machine::{Presence, Record, ServerState, Snapshot};
use dugong_topology::{InstanceId, Role};
use tokio::sync::watch;

use crate::store::Reading;

/// Tells it, with each reading of the store, for as long as there are any.
pub(crate) async fn tell(
    me: InstanceId,
    mut readings: watch::Receiver<Reading>,
    spared: watch::Sender<bool>,
) {
    loop {
        let can = match &*readings.borrow_and_update() {
            Reading::Whole(snapshot) => can_be_spared(snapshot, &me),
            Reading::Pending | Reading::Failed(_) => false,
        };
        spared.send_if_modified(|known| std::mem::replace(known, can) != can);
        if readings.changed().await.is_err() {
            return;
        }
    }
}

fn can_be_spared(snapshot: &Snapshot, me: &InstanceId) -> bool {
    let Some(record) = snapshot.record() else { return false };
    if snapshot.present(me).is_none() {
        return false; // The store takes nothing, or shows what was.
    }
    match record.role_of(me) {
        // R3: the sync takes over, and only where it has somebody who becomes its sync.
        Some(Role::Primary) => record.sync.as_ref().is_some_and(|sync| {
            let follows = snapshot.present(sync).is_some_and(follows);
            follows && record.frozen.is_none() && has_another(snapshot, record, sync)
        }),
        // R2: the primary replaces it.
        Some(Role::Sync) => record.frozen.is_none() && has_another(snapshot, record, me),
        Some(Role::Async | Role::Deposed) | None => true,
    }
}

/// Whether an async could become the sync, or somebody who is about to be one.
fn has_another(snapshot: &Snapshot, record: &Record, sync: &InstanceId) -> bool {
    snapshot.all_present().any(|presence| {
        let another = presence.id != *sync && presence.id != record.primary;
        another && follows(presence)
    })
}

fn follows(presence: &Presence) -> bool {
    matches!(presence.server, ServerState::Standby | ServerState::Ready)
}

#[cfg(test)]
mod tests {
    use dugong_machine::Session;

    use super::*;
    use crate::publish::samples::{id, presence, snapshot};

    #[test]
    fn a_server_is_spared_where_somebody_takes_its_place() {
        use ServerState::{Copying, Primary, Ready, Standby, Starting, Stopped};
        #[rustfmt::skip]
        let cases = [
            // what is so                     whose    primary, sync, async            spared
            ("all is well",                   "pg-1",  [Primary,  Ready,    Ready],    true),
            ("it starts",                     "pg-1",  [Starting, Standby,  Standby],  true),
            ("the sync is down",              "pg-1",  [Primary,  Stopped,  Ready],    false),
            ("the sync would be alone",       "pg-1",  [Primary,  Ready,    Copying],  false),
            ("the sync's, all is well",       "pg-2",  [Primary,  Standby,  Ready],    true),
            ("the sync's, and nobody else",   "pg-2",  [Primary,  Ready,    Stopped],  false),
            ("the async's",                   "pg-3",  [Primary,  Stopped,  Ready],    true),
            ("of one that has no session",    "pg-4",  [Primary,  Ready,    Ready],    false),
        ];
        for (what, me, states, spared) in cases {
            let named = ["pg-1", "pg-2", "pg-3"].into_iter().zip(states);
            let all = named.map(|(name, state)| (presence(name, state), Session::Alive));
            assert_eq!(can_be_spared(&snapshot(all.collect()), &id(me)), spared, "{what}");
        }
        assert!(!can_be_spared(&Snapshot::default(), &id("pg-1")));
    }
}
