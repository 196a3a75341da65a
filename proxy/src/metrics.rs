//! Every metric of the proxy: the table, and the few functions that count.
//!
//! [`TABLE`] is the one list of names, kinds and help texts; [`install`] describes all of it, so
//! that a scrape shows each from the start. `listener` is `write` or `read`.
//!
//! **Invariant:** a metric that is not in the table is not counted: the functions below take
//! constants of this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::metrics::Counter;
use dugong_topology::InstanceId;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::listener::Listener;
use crate::relay;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

pub const CONNECTIONS: &str = "dugong_proxy_connections_total";
pub const CONNECTIONS_OPEN: &str = "dugong_proxy_connections_open";
pub const CONNECTIONS_HELD: &str = "dugong_proxy_connections_held";
pub const HOLD_SECONDS: &str = "dugong_proxy_hold_seconds";
pub const BYTES: &str = "dugong_proxy_bytes_total";
pub const REJECTED: &str = "dugong_proxy_rejected_total";
pub const ENDED: &str = "dugong_proxy_sessions_ended_total";
pub const CONNECT_FAILURES: &str = "dugong_proxy_connect_failures_total";
pub const CANCELS: &str = "dugong_proxy_cancels_total";
pub const GENERATION: &str = "dugong_proxy_topology_generation";
pub const REVISION: &str = "dugong_proxy_topology_revision";
pub const TOPOLOGY_AGE_SECONDS: &str = "dugong_proxy_topology_age_seconds";
pub const DOCUMENTS: &str = "dugong_proxy_topology_documents_total";
pub const SOURCES: &str = "dugong_proxy_topology_sources";
pub const SOURCES_CONNECTED: &str = "dugong_proxy_topology_sources_connected";
pub const FAILOVERS: &str = "dugong_proxy_failovers_total";
pub const ACCEPT_PAUSES: &str = "dugong_proxy_accept_pauses_total";
pub const LEFT_OUT: &str = "dugong_proxy_replicas_left_out_total";
pub const PANICS: &str = "dugong_proxy_panics_total";
pub const LOOKUPS: &str = "dugong_proxy_name_lookups_total";
pub const NAME_ANSWERS: &str = "dugong_proxy_name_answers";

const fn row(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

/// All metrics.
#[rustfmt::skip]
pub const TABLE: [Metric; 21] = [
    row(CONNECTIONS,          Kind::Counter,   "Client connections accepted, by listener."),
    row(CONNECTIONS_OPEN,     Kind::Gauge,     "Client connections open, by listener."),
    row(CONNECTIONS_HELD,     Kind::Gauge,     "Clients that wait for a server, by listener."),
    row(HOLD_SECONDS,         Kind::Histogram, "How long held clients waited, by listener."),
    row(BYTES,                Kind::Counter,   "Bytes passed on, by listener and direction."),
    row(REJECTED,             Kind::Counter,   "Clients refused before they had a server, by listener and reason."),
    row(ENDED,                Kind::Counter,   "Sessions that had a server and ended, by listener and reason."),
    row(CONNECT_FAILURES,     Kind::Counter,   "Servers that did not take a client, by listener."),
    row(CANCELS,              Kind::Counter,   "Cancel requests, by outcome."),
    row(GENERATION,           Kind::Gauge,     "Generation of the topology in use."),
    row(REVISION,             Kind::Gauge,     "Revision of the topology in use."),
    row(TOPOLOGY_AGE_SECONDS, Kind::Histogram, "From a topology's publication to its use here, where it was pushed."),
    row(DOCUMENTS,            Kind::Counter,   "Topology documents received, by what became of them."),
    row(SOURCES,              Kind::Gauge,     "Addresses of controllers, as the configuration and the DNS name them."),
    row(SOURCES_CONNECTED,    Kind::Gauge,     "Controllers whose topology stream is open."),
    row(FAILOVERS,            Kind::Counter,   "Times that the topology named another primary."),
    row(ACCEPT_PAUSES,        Kind::Counter,   "Pauses of accepting because a resource ran out, by listener."),
    row(LEFT_OUT,             Kind::Counter,   "Times that a standby was left out for a while because it refused a client, by instance."),
    row(PANICS,               Kind::Counter,   "Sessions that ended in a panic: each is a bug."),
    row(LOOKUPS,              Kind::Counter,   "Look-ups in the DNS, by name and outcome: found, absent (there is none), failed (nobody said)."),
    row(NAME_ANSWERS,         Kind::Gauge,     "What a name stands for at present, by name: how many addresses or services."),
];

/// From a millisecond to the default limit of a hold.
const HOLD_BUCKETS: [f64; 12] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// A push over a local network takes a few milliseconds; seconds mean trouble.
const AGE_BUCKETS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Makes the recorder of this process and describes the table to it.
///
/// # Errors
///
/// A second call in one process.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(HOLD_SECONDS.to_owned()), &HOLD_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(TOPOLOGY_AGE_SECONDS.to_owned()), &AGE_BUCKETS)?
        .install_recorder()?;
    for metric in TABLE {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => ::metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    begin_at_zero();
    Ok(handle)
}

/// A counter that appears only with its first event cannot be alerted on.
fn begin_at_zero() {
    for listener in Listener::ALL {
        for name in [CONNECTIONS, CONNECT_FAILURES, ACCEPT_PAUSES] {
            ::metrics::counter!(name, "listener" => listener.as_str()).absolute(0);
        }
        for name in [CONNECTIONS_OPEN, CONNECTIONS_HELD] {
            ::metrics::gauge!(name, "listener" => listener.as_str()).set(0);
        }
        let bytes = byte_counters(listener);
        bytes.to_client.absolute(0);
        bytes.to_server.absolute(0);
    }
    for name in [FAILOVERS, PANICS] {
        ::metrics::counter!(name).absolute(0);
    }
    for name in [GENERATION, REVISION, SOURCES, SOURCES_CONNECTED] {
        ::metrics::gauge!(name).set(0);
    }
}

/// The byte counters of one listener, for a relay to hold.
pub fn byte_counters(listener: Listener) -> relay::Counters {
    let of = |direction| ::metrics::counter!(BYTES, "listener" => listener.as_str(), "direction" => direction);
    relay::Counters { to_server: of("to_server"), to_client: of("to_client") }
}

/// Adds one to a counter without labels.
pub fn count(name: &'static str) {
    ::metrics::counter!(name).increment(1);
}

/// Adds one to a counter that has the label `label`.
pub fn count_by(name: &'static str, label: &'static str, value: &'static str) {
    ::metrics::counter!(name, label => value).increment(1);
}

/// Adds one to a counter by listener.
pub fn count_at(name: &'static str, listener: Listener) {
    ::metrics::counter!(name, "listener" => listener.as_str()).increment(1);
}

/// Adds one to a counter by listener and reason.
pub fn count_reason(name: &'static str, listener: Listener, reason: &'static str) {
    ::metrics::counter!(name, "listener" => listener.as_str(), "reason" => reason).increment(1);
}

/// Counts that a standby is left out for a while.
pub fn count_left_out(id: &InstanceId) {
    ::metrics::counter!(LEFT_OUT, "instance" => id.to_string()).increment(1);
}

/// What became of a look-up.
pub const LOOKUP_OUTCOMES: [&str; 3] = ["found", "absent", "failed"];

/// Shows a name from its first look-up on. Names are few: controllers and instances.
pub fn begin_name(name: &str) {
    for outcome in LOOKUP_OUTCOMES {
        lookups(name, outcome).increment(0);
    }
    set_name(name, 0);
}

/// Counts a look-up of a name.
pub fn count_name(name: &str, outcome: &'static str) {
    lookups(name, outcome).increment(1);
}

fn lookups(name: &str, outcome: &'static str) -> Counter {
    ::metrics::counter!(LOOKUPS, "name" => name.to_owned(), "outcome" => outcome)
}

/// Sets how many addresses or services a name stands for. Exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "an answer has a few dozen records at most")]
pub fn set_name(name: &str, answers: usize) {
    ::metrics::gauge!(NAME_ANSWERS, "name" => name.to_owned()).set(answers as f64);
}

/// Sets a gauge without labels. Exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "no generation or revision comes near 2^53")]
pub fn set(name: &'static str, value: u64) {
    ::metrics::gauge!(name).set(value as f64);
}

/// Records a duration in a histogram without labels.
pub fn observe(name: &'static str, duration: Duration) {
    ::metrics::histogram!(name).record(duration);
}

/// How many clients there are, for the health page; and the gauges of the same.
#[derive(Debug, Default)]
pub struct Gauges {
    open: [AtomicU64; 2],
    held: [AtomicU64; 2],
    /// Told when the last client has left.
    deserted: Notify,
}

impl Gauges {
    /// Counts a client as open until the guard is dropped.
    pub fn open(self: &Arc<Self>, listener: Listener) -> OpenGuard {
        count_at(CONNECTIONS, listener);
        self.open[listener.index()].fetch_add(1, Relaxed);
        ::metrics::gauge!(CONNECTIONS_OPEN, "listener" => listener.as_str()).increment(1);
        OpenGuard { gauges: Arc::clone(self), listener }
    }

    /// Counts a client as held until the guard is dropped.
    pub fn held(self: &Arc<Self>, listener: Listener) -> HeldGuard {
        self.held[listener.index()].fetch_add(1, Relaxed);
        ::metrics::gauge!(CONNECTIONS_HELD, "listener" => listener.as_str()).increment(1);
        HeldGuard { gauges: Arc::clone(self), listener, since: Instant::now() }
    }

    /// Clients that are open at this moment.
    pub fn open_now(&self, listener: Listener) -> u64 {
        self.open[listener.index()].load(Relaxed)
    }

    /// Waits until no client is open. Only where none comes any more.
    pub async fn deserted(&self) {
        loop {
            // Before looking, so that the last one's leaving is not missed.
            let told = self.deserted.notified();
            if Listener::ALL.iter().all(|listener| self.open_now(*listener) == 0) {
                return;
            }
            told.await;
        }
    }

    /// Clients that are held at this moment.
    pub fn held_now(&self, listener: Listener) -> u64 {
        self.held[listener.index()].load(Relaxed)
    }
}

/// See [`Gauges::open`].
#[derive(Debug)]
pub struct OpenGuard {
    gauges: Arc<Gauges>,
    listener: Listener,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if self.gauges.open[self.listener.index()].fetch_sub(1, Relaxed) == 1 {
            self.gauges.deserted.notify_waiters();
        }
        ::metrics::gauge!(CONNECTIONS_OPEN, "listener" => self.listener.as_str()).decrement(1);
    }
}

/// See [`Gauges::held`].
pub struct HeldGuard {
    gauges: Arc<Gauges>,
    listener: Listener,
    since: Instant,
}

impl Drop for HeldGuard {
    fn drop(&mut self) {
        let listener = self.listener.as_str();
        self.gauges.held[self.listener.index()].fetch_sub(1, Relaxed);
        ::metrics::gauge!(CONNECTIONS_HELD, "listener" => listener).decrement(1);
        ::metrics::histogram!(HOLD_SECONDS, "listener" => listener).record(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn metrics_are_named_by_rule() {
        let names: BTreeSet<_> = TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), TABLE.len(), "a name twice");
        for metric in TABLE {
            let Metric { name, kind, help } = metric;
            assert!(name.starts_with("dugong_proxy_"), "{name}");
            assert!(help.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), kind == Kind::Histogram, "{name}");
        }
    }
}
