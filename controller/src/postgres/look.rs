//! What a look at the running server shows.
//!
//! Every look is one exchange of statements, in an order that matters: what is read later is never
//! older than what is claimed by what was read before.

use std::time::Duration;

use dugong_machine::{Access, LagAge, Leaving, Receiver, StandbyLag, StandbyRow, Waits};
use dugong_topology::{InstanceId, Lsn, Position, TimelineId};

use super::control::{LookError, Session, only, optional, text, value};
use super::process::sleeps;

/// The startup process waits for its next attempt to get WAL: the receiver was shut down before
/// it came here, and everything that lay in `pg_wal` was replayed.
const WAITS_FOR_RETRY: &str = "RecoveryRetrieveRetryInterval";

/// A server in recovery.
#[derive(Debug)]
pub(super) struct StandbyLook {
    pub conninfo: String,
    pub names: String,
    pub read_only: String,
    /// The process id of a connected WAL receiver.
    pub receiver: Option<i32>,
    /// Whether a WAL receiver process exists, connected or not.
    pub receiver_exists: bool,
    pub received: Option<Lsn>,
    pub replayed: Lsn,
    pub lag: Option<StandbyLag>,
    /// Of the startup process, while it waits for its next attempt.
    pub idle: Option<Idle>,
    pub replay_paused: bool,
    /// Its WAL can be decoded.
    pub logical: bool,
    pub slots: Vec<Slot>,
}

/// The startup process, found waiting for its next attempt to get WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle {
    pid: i32,
    /// How often it had gone to sleep until then.
    sleeps: u64,
}

/// A server out of recovery.
#[derive(Debug)]
pub(super) struct PrimaryLook {
    pub names: String,
    pub names_file: Option<String>,
    pub access: Access,
    pub end: Position,
    pub standbys: Vec<StandbyRow>,
    pub slots: Vec<Slot>,
}

/// A physical replication slot of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub name: String,
    pub active: bool,
}

/// Pages that failed their checksum, as the server has counted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failures {
    pub count: u64,
    /// In which databases, for people.
    pub databases: String,
}

/// A session that has been idle for this long is not between two statements of a busy client.
const STILL_AFTER: Duration = Duration::from_millis(100);

const SLOTS: &str = "SELECT slot_name, active FROM pg_replication_slots \
                     WHERE slot_type = 'physical' AND slot_name LIKE 'dugong\\_%'";

/// Whether the server is in recovery.
pub(super) async fn is_in_recovery(session: &Session) -> Result<bool, LookError> {
    let sets = session.ask("SELECT pg_is_in_recovery()").await?;
    Ok(text(only(&sets, 0)?, 0) == Some("t"))
}

/// Looks at a server in recovery. It may just leave recovery: then this is an error.
pub(super) async fn look_at_standby(session: &Session) -> Result<StandbyLook, LookError> {
    let statements = format!(
        "SELECT pid, wait_event FROM pg_stat_activity WHERE backend_type = 'startup'; \
         SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'; \
         SELECT current_setting('primary_conninfo'), \
                current_setting('synchronous_standby_names'), \
                current_setting('default_transaction_read_only'), \
                pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), \
                (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) \
                 * 1000)::bigint, \
                pg_is_wal_replay_paused(), current_setting('wal_level') = 'logical'; \
         SELECT pid, latest_end_lsn FROM pg_stat_wal_receiver WHERE status = 'streaming'; \
         {SLOTS}"
    );
    let sets = session.ask(&statements).await?;
    let startup = sets.first().and_then(|rows| rows.first());
    let idle = startup
        .filter(|row| text(row, 1) == Some(WAITS_FOR_RETRY))
        .and_then(|row| value::<i32>(row, 0).ok())
        .and_then(|pid| Some(Idle { pid, sleeps: sleeps(pid)? }));
    let state = only(&sets, 2)?;
    let of = |column| text(state, column).unwrap_or_default().to_owned();
    let received: Option<Lsn> = optional(state, 3)?;
    let replayed: Lsn = value(state, 4)?;
    let age: Option<i64> = optional(state, 5)?;
    let receiver = sets.get(3).and_then(|rows| rows.first());
    let upstream_end = receiver.map(|row| optional::<Lsn>(row, 1)).transpose()?.flatten();
    let shows_all = received.is_none_or(|received| replayed >= received);
    let age = if shows_all { 0 } else { age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0) };
    Ok(StandbyLook {
        conninfo: of(0),
        names: of(1),
        read_only: of(2),
        receiver: receiver.map(|row| value(row, 0)).transpose()?,
        receiver_exists: value::<u32>(only(&sets, 1)?, 0)? > 0,
        received,
        replayed,
        lag: upstream_end.map(|upstream_end| StandbyLag {
            upstream_end,
            replayed,
            age: LagAge(age),
        }),
        idle,
        replay_paused: text(state, 6) == Some("t"),
        logical: text(state, 7) == Some("t"),
        slots: slots(&sets, 4)?,
    })
}

impl StandbyLook {
    /// R4: whether everything that was ever received is replayed, for good.
    ///
    /// Asked only after the server was seen to have no upstream any more. `before` is the startup
    /// process as it was found waiting by an earlier look that was made after that, too. While it
    /// waits, no receiver runs. If all that was received is replayed, that is all. If not (the end
    /// may lie inside a record), it must have come back to waiting: then it has tried in between.
    pub(super) fn is_sealed(&self, before: Option<Idle>) -> bool {
        let Some(idle) = self.idle else { return false };
        let all_replayed = self.received.is_none_or(|received| received == self.replayed);
        let tried_again =
            before.is_some_and(|before| before.pid == idle.pid && before.sleeps < idle.sleeps);
        !self.receiver_exists && (all_replayed || tried_again)
    }

    /// `streaming_before`: the receiver that an earlier look found connected. One that connects
    /// and fails at once is connected for a moment, too.
    pub(super) fn receiver(&self, streaming_before: Option<i32>) -> Receiver {
        match self.receiver {
            Some(pid) if streaming_before == Some(pid) => Receiver::Streaming,
            Some(_) | None => Receiver::Stopped,
        }
    }
}

/// Looks at a server out of recovery.
pub(super) async fn look_at_primary(session: &Session) -> Result<PrimaryLook, LookError> {
    let statements = format!(
        "SELECT setting, sourcefile, current_setting('default_transaction_read_only') \
         FROM pg_settings WHERE name = 'synchronous_standby_names'; \
         SELECT application_name, coalesce(flush_lsn, '0/0'), \
                state = 'streaming' AND flush_lsn IS NOT NULL, sync_state = 'sync' \
         FROM pg_stat_replication ORDER BY backend_start DESC; \
         SELECT pg_current_wal_flush_lsn(), \
                substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8); \
         {SLOTS}"
    );
    let sets = session.ask(&statements).await?;
    let state = only(&sets, 0)?;
    let end = only(&sets, 2)?;
    let timeline = text(end, 1).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let timeline =
        timeline.ok_or_else(|| LookError::Odd("a WAL file without a timeline".into()))?;
    let mut standbys: Vec<StandbyRow> = Vec::new();
    for row in sets.get(1).into_iter().flatten() {
        // What has no instance's name is a backup, a probe, or somebody else's.
        let Some(id) = text(row, 0).and_then(|name| name.parse::<InstanceId>().ok()) else {
            continue;
        };
        if standbys.iter().any(|known| known.id == id) {
            continue; // An older connection that has not noticed its end yet.
        }
        let waits = match (text(row, 2), text(row, 3)) {
            (Some("t"), Some("t")) => Waits::ForIt,
            (Some("t"), _) => Waits::ForOthers,
            _ => Waits::NotYet,
        };
        standbys.push(StandbyRow { id, flushed: value(row, 1)?, waits });
    }
    Ok(PrimaryLook {
        names: text(state, 0).unwrap_or_default().to_owned(),
        names_file: text(state, 1).map(str::to_owned),
        access: match text(state, 2) {
            Some("off") => Access::ReadWrite,
            _ => Access::ReadOnly,
        },
        end: Position::new(TimelineId(timeline), value(end, 0)?),
        standbys,
        slots: slots(&sets, 3)?,
    })
}

/// Asks how many pages have failed their checksum. Where there are none, nothing is counted.
pub(super) async fn count_failures(session: &Session) -> Result<Failures, LookError> {
    let statement = "SELECT coalesce(sum(checksum_failures), 0), \
                            coalesce(string_agg(coalesce(datname, 'what all databases share'), ', ' \
                                     ORDER BY datname) FILTER (WHERE checksum_failures > 0), '') \
                     FROM pg_stat_database";
    let sets = session.ask(statement).await?;
    let row = only(&sets, 0)?;
    let databases = text(row, 1).unwrap_or_default().to_owned();
    Ok(Failures { count: value(row, 0)?, databases })
}

/// Ends sessions of clients that are between two transactions, and counts those that there were.
/// Nothing that waits for the sync is between two transactions (R9).
///
/// While transactions may write, only those end that have not moved for a while: whoever has just
/// finished one may be in the middle of the next before the signal comes, and its proxy knows better.
///
/// The controller's own sessions come through the socket, which is in a directory of its own.
pub(super) async fn see_sessions_off(
    session: &Session,
    access: Access,
) -> Result<Leaving, LookError> {
    let still = match access {
        Access::ReadWrite => STILL_AFTER.as_millis(),
        Access::ReadOnly => 0,
    };
    let statement = format!(
        "SELECT count(*), count(*) FILTER (WHERE state IS DISTINCT FROM 'idle'), \
                count(pg_terminate_backend(pid)) FILTER (WHERE state = 'idle' \
                    AND clock_timestamp() - state_change >= interval '{still} ms') \
         FROM pg_stat_activity \
         WHERE backend_type = 'client backend' AND client_addr IS NOT NULL"
    );
    let sets = session.ask(&statement).await?;
    let counts = only(&sets, 0)?;
    Ok(Leaving { sessions: value(counts, 0)?, in_transaction: value(counts, 1)? })
}

fn slots(sets: &[super::control::Rows], index: usize) -> Result<Vec<Slot>, LookError> {
    let rows = sets.get(index).into_iter().flatten();
    rows.map(|row| Ok(Slot { name: value(row, 0)?, active: text(row, 1) == Some("t") })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(received: u64, replayed: u64, idle: Option<u64>) -> StandbyLook {
        StandbyLook {
            conninfo: String::new(),
            names: String::new(),
            read_only: "on".to_owned(),
            receiver: None,
            receiver_exists: false,
            received: Some(Lsn(received)),
            replayed: Lsn(replayed),
            lag: None,
            idle: idle.map(|sleeps| Idle { pid: 7, sleeps }),
            replay_paused: false,
            logical: false,
            slots: Vec::new(),
        }
    }

    #[test]
    fn a_standby_is_sealed_once_nothing_is_left_to_replay() {
        let before = |sleeps| Some(Idle { pid: 7, sleeps });
        #[rustfmt::skip]
        let cases = [
            // what is so                              received  replayed  waits     earlier        sealed
            ("all is replayed, and it waits",          100,      100,      Some(5),  None,          true),
            ("all is replayed, but it does not wait",  100,      100,      None,     None,          false),
            ("half a record is left, first look",      108,      100,      Some(5),  None,          false),
            ("half a record is left, the same wait",   108,      100,      Some(5),  before(5),     false),
            ("half a record is left, it has tried",    108,      100,      Some(6),  before(5),     true),
        ];
        for (what, received, replayed, idle, before, sealed) in cases {
            assert_eq!(look(received, replayed, idle).is_sealed(before), sealed, "{what}");
        }
        let other = Some(Idle { pid: 8, sleeps: 1 });
        assert!(!look(108, 100, Some(6)).is_sealed(other), "another startup process");
    }
}
