//! Every metric of a controller, in one table, so that manual, code and scrape agree.

use std::time::Duration;

use dugong_machine::{Answer, ServerState, State};
use dugong_topology::{Making, Way};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Name, kind, help. Counters end in `_total`.
#[rustfmt::skip]
const TABLE: [(&str, Kind, &str); 22] = [
    ("dugong_controller_info",             Kind::Gauge,   "1; labels: instance, cluster, version."),
    ("dugong_generation",                  Kind::Gauge,   "Generation of the state record; 0 before there is one."),
    ("dugong_revision",                    Kind::Gauge,   "The store's revision, as last read."),
    ("dugong_role",                        Kind::Gauge,   "1 for the role of this instance; label: role (primary, sync, async, deposed, none)."),
    ("dugong_server_state",                Kind::Gauge,   "1 for what the server does; label: state."),
    ("dugong_position_bytes",              Kind::Gauge,   "End of the WAL here, as bytes from the beginning of WAL."),
    ("dugong_lag_bytes",                   Kind::Gauge,   "WAL of the upstream that reads here do not show yet; 0 on a primary."),
    ("dugong_writable",                    Kind::Gauge,   "1 while this instance is a primary whose sync has caught up."),
    ("dugong_declarations_total",          Kind::Counter, "Compare-and-swaps of the state record; label: outcome (won, raced, guarded, unknown)."),
    ("dugong_making_done_bytes",           Kind::Gauge,   "What has been brought of data that is made anew here; 0 while none is. Label: way (copy, rewind)."),
    ("dugong_making_total_bytes",          Kind::Gauge,   "The same, all of it, once that is known. Label: way."),
    ("dugong_making_left_seconds",         Kind::Gauge,   "How long it still takes at the pace so far; 0 where that is not known. Label: way."),
    ("dugong_data_made_total",             Kind::Counter, "Data made anew here; label: how (initdb, command, adopt, copy, rewind, prefix: its WAL was found to be one)."),
    ("dugong_checksum_failures_total",     Kind::Counter, "Pages that failed their checksum here, as PostgreSQL counts them."),
    ("dugong_data_damaged",                Kind::Gauge,   "1 while the data here is known to be damaged."),
    ("dugong_storage_probe_seconds",       Kind::Gauge,   "How long the last small write to the disk took, or takes already; label: disk (wal, data: 0 where it is the same)."),
    ("dugong_session_renewals_failed_total", Kind::Counter, "Renewals of the store's session that failed."),
    ("dugong_settings_revision",           Kind::Gauge,   "Revision of the cluster's settings that the server here is told; 0: none were ever set."),
    ("dugong_settings_refused",            Kind::Gauge,   "1 while the server here does not take later settings of the cluster."),
    ("dugong_settings_pending_restart",    Kind::Gauge,   "Settings that wait for a restart of the server here."),
    ("dugong_dns_responses_total",         Kind::Counter, "Answers of the name server; label: code (noerror, formerr, servfail, nxdomain, notimp, refused)."),
    ("dugong_dns_connections_waited_total", Kind::Counter, "Connections to the name server that came while all places were taken."),
];

/// Installs the recorder; what it returns renders the scrape.
///
/// # Errors
///
/// A recorder was installed before.
pub fn install(instance: &str, cluster: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, kind, help) in TABLE {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
        }
    }
    let labels = [
        ("instance", instance.to_owned()),
        ("cluster", cluster.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    metrics::gauge!("dugong_controller_info", &labels).set(1.0);
    metrics::counter!("dugong_session_renewals_failed_total").absolute(0);
    metrics::counter!("dugong_checksum_failures_total").absolute(0);
    Ok(handle)
}

/// Shows how the settings of the cluster do here.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats; these are small")]
pub(crate) fn show_settings(revision: u64, refused: bool, pending: usize) {
    metrics::gauge!("dugong_settings_revision").set(revision as f64);
    metrics::gauge!("dugong_settings_refused").set(f64::from(u8::from(refused)));
    metrics::gauge!("dugong_settings_pending_restart").set(pending as f64);
}

/// Shows what the machine knows.
#[expect(clippy::cast_precision_loss, reason = "gauges are floats; WAL below 8 PiB is exact")]
pub(crate) fn show(state: &State) {
    let snapshot = state.snapshot.as_ref();
    let revision = snapshot.map_or(0, |snapshot| snapshot.revision.0);
    metrics::gauge!("dugong_generation").set(state.generation().0 as f64);
    metrics::gauge!("dugong_revision").set(revision as f64);
    let role = snapshot
        .and_then(|snapshot| snapshot.record())
        .and_then(|record| record.role_of(&state.me));
    let role = role.map_or_else(|| "none".to_owned(), |role| role.to_string());
    for name in ["primary", "sync", "async", "deposed", "none"] {
        metrics::gauge!("dugong_role", "role" => name).set(f64::from(u8::from(role == name)));
    }
    let Some((said, _)) = &state.said else { return };
    for (server, name) in SERVER_STATES {
        let here = f64::from(u8::from(said.server == server));
        metrics::gauge!("dugong_server_state", "state" => name).set(here);
    }
    if let Some(position) = state.position {
        metrics::gauge!("dugong_position_bytes").set(position.lsn.0 as f64);
    }
    let lag = said.lag.map_or(0, |lag| lag.upstream_end.bytes_after(lag.replayed));
    metrics::gauge!("dugong_lag_bytes").set(lag as f64);
    for way in [Way::Copy, Way::Rewind, Way::Verify] {
        let making = said.making.filter(|making| making.way == way);
        let of = |value: fn(Making) -> Option<u64>| making.and_then(value).unwrap_or(0) as f64;
        let name = way.as_str();
        metrics::gauge!("dugong_making_done_bytes", "way" => name).set(of(|m| Some(m.done_bytes)));
        metrics::gauge!("dugong_making_total_bytes", "way" => name).set(of(|m| m.total_bytes));
        metrics::gauge!("dugong_making_left_seconds", "way" => name).set(of(|m| m.seconds_left));
    }
    let writable = said.open == Some(said.seen);
    metrics::gauge!("dugong_writable").set(f64::from(u8::from(writable)));
}

const SERVER_STATES: [(ServerState, &str); 6] = [
    (ServerState::Stopped, "stopped"),
    (ServerState::Starting, "starting"),
    (ServerState::Copying, "copying"),
    (ServerState::Standby, "standby"),
    (ServerState::Ready, "streaming"),
    (ServerState::Primary, "primary"),
];

/// Counts data that was made anew.
pub(crate) fn count_making(how: &'static str) {
    metrics::counter!("dugong_data_made_total", "how" => how).increment(1);
}

/// Counts pages that failed their checksum.
pub(crate) fn count_damaged_pages(more: u64) {
    metrics::counter!("dugong_checksum_failures_total").increment(more);
}

/// Shows whether the data here is known to be damaged.
pub(crate) fn show_damaged(damaged: bool) {
    metrics::gauge!("dugong_data_damaged").set(f64::from(u8::from(damaged)));
}

/// Shows how long a disk takes to write.
pub(crate) fn show_probe(disk: &'static str, took: Duration) {
    metrics::gauge!("dugong_storage_probe_seconds", "disk" => disk).set(took.as_secs_f64());
}

/// Counts the answer to a declaration.
pub(crate) fn declared(answer: Answer) {
    let outcome = match answer {
        Answer::Won { .. } => "won",
        Answer::Raced => "raced",
        Answer::Guarded => "guarded",
        Answer::Unknown => "unknown",
    };
    metrics::counter!("dugong_declarations_total", "outcome" => outcome).increment(1);
}

/// Counts a renewal that failed.
pub(crate) fn renewal_failed() {
    metrics::counter!("dugong_session_renewals_failed_total").increment(1);
}

/// Counts an answer of the name server, by the four bits of its header's code.
pub(crate) fn name_answered(code: u8) {
    let names = ["noerror", "formerr", "servfail", "nxdomain", "notimp", "refused"];
    let code = names.get(usize::from(code)).copied().unwrap_or("other");
    metrics::counter!("dugong_dns_responses_total", "code" => code).increment(1);
}

/// Counts a connection to the name server that found no place.
pub(crate) fn name_waited() {
    metrics::counter!("dugong_dns_connections_waited_total").increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for (name, kind, help) in TABLE {
            assert!(name.starts_with("dugong_") && help.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        }
    }
}
