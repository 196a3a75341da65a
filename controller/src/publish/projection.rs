//! From a snapshot to what clients see.

use std::time::{Duration, SystemTime};

use dugong_machine::{Instance, Presence, Record, ServerState, Session, Snapshot};
use dugong_topology::document::Lag;
use dugong_topology::{InstanceId, Member, Phase, Role, Topology};

/// The topology that `snapshot` means.
pub fn topology(cluster: &str, snapshot: &Snapshot) -> Topology {
    let Some(declared) = &snapshot.declared else {
        let mut topology = Topology::unformed(cluster.to_owned(), snapshot.revision);
        topology.newcomers =
            snapshot.instances.keys().map(|id| member(snapshot, None, id)).collect();
        topology.waiting = first_note(snapshot);
        return topology;
    };
    let record = &declared.record;
    let role = |role| move |id: &InstanceId| member(snapshot, Some((record, role)), id);
    let newcomers = snapshot.instances.values().filter(|instance| {
        instance.session == Session::Alive && record.role_of(&instance.presence.id).is_none()
    });
    let phase = snapshot.phase();
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(declared.since_unix_ms);
    Topology {
        cluster: record.cluster.clone(),
        generation: record.generation,
        revision: snapshot.revision,
        phase,
        primary: Some(role(Role::Primary)(&record.primary)),
        sync: record.sync.as_ref().map(role(Role::Sync)),
        asyncs: record.asyncs.iter().map(role(Role::Async)).collect(),
        deposed: record.deposed.iter().map(|d| role(Role::Deposed)(&d.id)).collect(),
        newcomers: newcomers.map(|i| member(snapshot, None, &i.presence.id)).collect(),
        began_at: Some(record.began_at),
        frozen: record.frozen.clone(),
        one_node: record.is_one_node(),
        reason: Some(record.reason.as_str().to_owned()),
        since: Some(humantime::format_rfc3339_millis(since).to_string()),
        waiting: waiting(snapshot, record, phase),
        published_at_ms: None,
    }
}

/// Why writes wait: in the words of the primary, or of the sync whose turn it is.
fn waiting(snapshot: &Snapshot, record: &Record, phase: Phase) -> Option<String> {
    let word = |id: &InstanceId| {
        let presence = &snapshot.instances.get(id)?.presence;
        presence.note.as_ref().map(|note| format!("{id}: {note}"))
    };
    let primary = || word(&record.primary);
    let sync = || record.sync.as_ref().and_then(word);
    let lapsed = snapshot.present(&record.primary).is_none();
    match phase {
        Phase::ReadWrite | Phase::HandingOver if lapsed => {
            Some(sync().unwrap_or_else(|| {
                format!("{} has lost its session and may be gone", record.primary)
            }))
        }
        Phase::ReadWrite | Phase::HandingOver | Phase::CatchingUp => primary(),
        Phase::NoPrimary => sync().or_else(primary),
        Phase::Unformed => None,
    }
}

/// Before there is a record, everybody waits for much the same.
fn first_note(snapshot: &Snapshot) -> Option<String> {
    snapshot.all_present().find_map(|presence| presence.note.clone())
}

fn member(snapshot: &Snapshot, part: Option<(&Record, Role)>, id: &InstanceId) -> Member {
    let Some(instance) = snapshot.instances.get(id) else { return stranger(id) };
    let presence = &instance.presence;
    let runs_as = |role| match role {
        Role::Primary => presence.server == ServerState::Primary,
        Role::Sync | Role::Async => {
            matches!(presence.server, ServerState::Standby | ServerState::Ready)
        }
        Role::Deposed => false,
    };
    let alive = instance.session == Session::Alive;
    let is_standby = part.is_none_or(|(_, role)| role != Role::Primary);
    Member {
        id: id.clone(),
        address: Some(presence.postgres.clone()),
        healthy: alive && part.is_some_and(|(_, role)| runs_as(role)),
        position: presence.position,
        http: Some(presence.http.clone()),
        state: state_of(snapshot, instance).to_owned(),
        upstream: presence.upstream.clone(),
        lag_bytes: is_standby.then(|| lag_bytes(snapshot, presence, 0)).flatten(),
        lag_seconds: presence.lag.filter(|_| is_standby).map(|lag| Lag::from(lag.age)),
        making: presence.making.filter(|_| alive),
        note: presence.note.clone(),
    }
}

/// An instance of the record that has never said a word to this store.
fn stranger(id: &InstanceId) -> Member {
    Member {
        id: id.clone(),
        address: None,
        healthy: false,
        position: None,
        http: None,
        state: "unknown".to_owned(),
        upstream: None,
        lag_bytes: None,
        lag_seconds: None,
        making: None,
        note: None,
    }
}

fn state_of(snapshot: &Snapshot, instance: &Instance) -> &'static str {
    if instance.session == Session::Lapsed {
        return "unreachable";
    }
    match instance.presence.server {
        ServerState::Stopped => "stopped",
        ServerState::Starting => "starting",
        ServerState::Copying if snapshot.declared.is_none() => "initialising",
        ServerState::Copying => "copying",
        ServerState::Standby => "running",
        ServerState::Ready => "streaming",
        ServerState::Primary => "running",
    }
}

/// What a standby does not show yet of its upstream's WAL, and that of its upstream's, and so on.
fn lag_bytes(snapshot: &Snapshot, presence: &Presence, depth: usize) -> Option<u64> {
    let lag = presence.lag?;
    let own = lag.upstream_end.bytes_after(lag.replayed);
    let upstream = presence.upstream.as_ref().and_then(|id| snapshot.present(id));
    // A chain is never longer than the number of instances; a circle of stale words might be.
    let further = upstream
        .filter(|up| up.server != ServerState::Primary && depth < snapshot.instances.len())
        .and_then(|up| lag_bytes(snapshot, up, depth + 1));
    Some(own + further.unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use dugong_machine::{Declared, LagAge, Reason, StandbyLag, SystemIdentifier};
    use dugong_topology::{Address, Generation, Lsn, Position, Revision, TimelineId};

    use super::*;

    pub(crate) fn id(name: &str) -> InstanceId {
        name.parse().unwrap()
    }

    fn lag(upstream_end: u64, replayed: u64) -> Option<StandbyLag> {
        let age = LagAge(250);
        Some(StandbyLag { upstream_end: Lsn(upstream_end), replayed: Lsn(replayed), age })
    }

    pub(crate) fn presence(name: &str, server: ServerState) -> Presence {
        Presence {
            id: id(name),
            postgres: Address::loopback(5000),
            http: Address::loopback(6000),
            server,
            system_identifier: Some(SystemIdentifier(7)),
            seen: Generation(3),
            open: None,
            position: None,
            history: None,
            upstream: None,
            lag: None,
            making: None,
            drains: false,
            hands_over: None,
            note: None,
        }
    }

    /// pg-1 is the primary, pg-2 its sync, pg-3 an async, in generation 3.
    pub(crate) fn snapshot(presences: Vec<(Presence, Session)>) -> Snapshot {
        let record = Record {
            cluster: "main".to_owned(),
            system_identifier: SystemIdentifier(7),
            generation: Generation(3),
            primary: id("pg-1"),
            sync: Some(id("pg-2")),
            asyncs: vec![id("pg-3")],
            deposed: Vec::new(),
            began_at: Position::new(TimelineId(2), Lsn(0x100)),
            timeline: TimelineId(2),
            frozen: None,
            one_node: false,
            reason: Reason::PrimaryLost,
        };
        let instances: BTreeMap<_, _> = presences
            .into_iter()
            .map(|(presence, session)| (presence.id.clone(), Instance { presence, session }))
            .collect();
        let declared = Some(Declared { record, revision: Revision(9), since_unix_ms: 1_500 });
        Snapshot { revision: Revision(12), declared, instances, ..Snapshot::default() }
    }

    #[test]
    fn the_phase_is_what_the_primary_last_said() {
        let open = |generation| Presence {
            open: Some(Generation(generation)),
            ..presence("pg-1", ServerState::Primary)
        };
        let drains = |presence| Presence { drains: true, ..presence };
        let stopped = || presence("pg-1", ServerState::Stopped);
        #[rustfmt::skip]
        let cases = [
            ("open in this generation",      open(3),                                  Session::Alive,  Phase::ReadWrite),
            ("the same, session lapsed",     open(3),                                  Session::Lapsed, Phase::ReadWrite),
            ("open in an older generation",  open(2),                                  Session::Alive,  Phase::CatchingUp),
            ("not open",                     presence("pg-1", ServerState::Primary),   Session::Alive,  Phase::CatchingUp),
            ("open, but about to leave",     drains(open(3)),                          Session::Alive,  Phase::HandingOver),
            ("stopped to hand over",         drains(stopped()),                        Session::Alive,  Phase::HandingOver),
            ("being promoted",               presence("pg-1", ServerState::Ready),     Session::Alive,  Phase::CatchingUp),
            ("stopped",                      presence("pg-1", ServerState::Stopped),   Session::Alive,  Phase::NoPrimary),
            ("starting, session lapsed",     presence("pg-1", ServerState::Starting),  Session::Lapsed, Phase::NoPrimary),
        ];
        for (what, primary, session, expected) in cases {
            let topology = topology("main", &snapshot(vec![(primary, session)]));
            assert_eq!(topology.phase, expected, "{what}");
        }
        assert_eq!(topology("main", &snapshot(vec![])).phase, Phase::NoPrimary);
        assert_eq!(topology("main", &Snapshot::default()).phase, Phase::Unformed);
    }

    #[test]
    fn a_chain_adds_its_lags_up() {
        let sync = Presence {
            upstream: Some(id("pg-1")),
            lag: lag(0x150, 0x140),
            ..presence("pg-2", ServerState::Ready)
        };
        let last = Presence {
            upstream: Some(id("pg-2")),
            lag: lag(0x140, 0x120),
            ..presence("pg-3", ServerState::Ready)
        };
        let primary = presence("pg-1", ServerState::Primary);
        let all = [primary, sync, last].map(|presence| (presence, Session::Alive)).to_vec();
        let topology = topology("main", &snapshot(all));
        let lags: Vec<_> = topology.standbys().map(|member| member.lag_bytes).collect();
        assert_eq!(lags, [Some(0x10), Some(0x30)]);
        assert_eq!(topology.since.as_deref(), Some("1970-01-01T00:00:01.500Z"));
    }

    #[test]
    fn who_is_away_is_not_healthy_and_keeps_its_place() {
        let away = (presence("pg-2", ServerState::Ready), Session::Lapsed);
        let topology = topology("main", &snapshot(vec![away]));
        let sync = topology.sync.unwrap();
        assert_eq!((sync.healthy, sync.state.as_str()), (false, "unreachable"));
        assert_eq!(topology.asyncs[0].state, "unknown", "never seen");
    }
}
