//! Failover slots: logical slots of users that the sync has, too, where PostgreSQL can (17 and later).
//!
//! Whoever makes a logical slot with `failover` wants it on the next primary as well. A standby whose
//! upstream is the primary copies such slots, and so does the sync, the one that may take over; who
//! follows a standby cannot. Consumers are sent nothing that the sync has not flushed, so that what
//! they have seen is never taken back.
//!
//! **Invariant:** a standby copies only while its server runs with `wal_level = logical`: with less, the
//! postmaster itself fails of it.
//!
//! Source: PostgreSQL manual, "Replication Slot Synchronization", `synchronized_standby_slots`;
//! `ValidateSlotSyncParams`, `check_synchronized_standby_slots`.

use dugong_topology::InstanceId;
use serde::{Deserialize, Serialize};

use super::control::{LookError, Rows, Session, text};
use super::look::Slot;
use super::versions::has_failover_slots;

/// The database that a standby asks its primary for slots in; it is in every cluster.
const DATABASE: &str = "postgres";

/// What the server does for failover slots just now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailoverSlots {
    /// A standby copies them from its upstream.
    pub copied: bool,
    /// A primary sends their consumers only what these have. Their slots are there: PostgreSQL refuses
    /// to be told of others.
    pub behind: Vec<InstanceId>,
}

impl FailoverSlots {
    /// A primary's, which has these slots; nothing where the server knows nothing of them, so that no
    /// reload is made for it.
    pub(super) fn behind(standbys: &[InstanceId], there: &[Slot], major: u32) -> Self {
        if !has_failover_slots(major) {
            return Self::default();
        }
        let has_slot = |id: &&InstanceId| there.iter().any(|slot| slot.name == id.slot_name());
        Self { copied: false, behind: standbys.iter().filter(has_slot).cloned().collect() }
    }

    /// What the server is told.
    pub(super) fn settings(&self, major: u32) -> Vec<(&'static str, String)> {
        if !has_failover_slots(major) {
            return Vec::new();
        }
        let behind: Vec<_> = self.behind.iter().map(InstanceId::slot_name).collect();
        let copied = if self.copied { "on" } else { "off" };
        vec![
            ("sync_replication_slots", copied.to_owned()),
            ("synchronized_standby_slots", behind.join(", ")),
        ]
    }
}

/// What a connection to an upstream needs beside, so that slots can be copied by it.
pub(super) fn database(major: u32) -> String {
    if has_failover_slots(major) { format!(" dbname={DATABASE}") } else { String::new() }
}

/// Drops what a standby has kept from when it was a primary: in their place the new primary's slots
/// of those names are copied, which goes on without them.
pub(super) async fn drop_left_over(session: &Session) -> Result<(), LookError> {
    let statement = "SELECT slot_name, pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                     WHERE pg_is_in_recovery() AND failover AND NOT synced AND NOT active";
    let sets = session.ask(statement).await?;
    for row in sets.iter().flatten() {
        let name = text(row, 0).unwrap_or_default();
        tracing::info!("the failover slot {name} is dropped here: the primary has it now");
    }
    Ok(())
}

/// Users' permanent slots of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Nobody else has them.
    pub here_only: Vec<String>,
    /// A primary's, which its sync should have.
    pub failover: Vec<String>,
    /// A standby's copies that can be used once it is the primary.
    pub copied: Vec<String>,
}

/// What to ask for them.
pub(super) fn question(major: u32) -> String {
    let (failover, copied) = if has_failover_slots(major) {
        ("failover", "pg_is_in_recovery() AND synced AND invalidation_reason IS NULL")
    } else {
        ("false", "false")
    };
    format!(
        "SELECT slot_name, {failover} AND NOT pg_is_in_recovery(), {copied} \
         FROM pg_replication_slots \
         WHERE NOT temporary AND slot_name NOT LIKE 'dugong\\_%' ORDER BY slot_name"
    )
}

impl Kept {
    /// What the answer means.
    pub(super) fn answered(rows: &Rows) -> Self {
        let mut kept = Self::default();
        for row in rows {
            let name = text(row, 0).unwrap_or_default().to_owned();
            match (text(row, 1), text(row, 2)) {
                (Some("t"), _) => kept.failover.push(name),
                (_, Some("t")) => kept.copied.push(name),
                _ => kept.here_only.push(name),
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_wait_for_standbys_whose_slots_are_there_and_only_where_postgresql_can() {
        let ids = ["pg-2", "pg-3"].map(|id| id.parse().unwrap());
        let slot = |name: &str| Slot { name: name.to_owned(), active: true };
        let there = [slot("dugong_pg_3"), slot("dugong_pg_9")];
        let slots = FailoverSlots::behind(&ids, &there, 17);
        assert_eq!(slots.behind, [ids[1].clone()]);
        assert_eq!(FailoverSlots::behind(&ids, &there, 16), FailoverSlots::default());
        let set = |name, value: &str| (name, value.to_owned());
        assert_eq!(
            slots.settings(17),
            [
                set("sync_replication_slots", "off"),
                set("synchronized_standby_slots", &ids[1].slot_name())
            ]
        );
        assert_eq!(slots.settings(16), []);
    }
}
