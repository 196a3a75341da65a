//! The keys: which there are, and what a person probably meant by another one.
//!
//! What each is for, with its default, unit and range, is said in one place: `proxy.toml.example`.

/// Every key, in the order of the example.
pub(super) const KEYS: [&str; 36] = [
    "controllers",
    "controller_ca",
    "controller_cert",
    "controller_key",
    "controller_token_file",
    "primary",
    "replicas",
    "resolvers",
    "mode",
    "listen",
    "write_port",
    "read_port",
    "http_port",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "write_tls",
    "read_tls",
    "server_tls",
    "server_ca",
    "server_cert",
    "server_key",
    "hold_timeout",
    "max_held",
    "handshake_timeout",
    "connect_timeout",
    "drain_timeout",
    "max_lag",
    "max_lag_time",
    "slow_start",
    "read_near",
    "read_weights",
    "read_fallback",
    "relay_engine",
    "relay_threads",
    "log_level",
];

/// Whose values are lists.
pub(super) const LISTS: [&str; 5] =
    ["controllers", "replicas", "resolvers", "read_near", "read_weights"];

/// Whose values are numbers.
pub(super) const NUMBERS: [&str; 6] =
    ["write_port", "read_port", "http_port", "max_held", "max_lag", "relay_threads"];

/// The known key that is most like a misspelt one; none where it is like none of them.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let likeness = |known: &&str| strsim::jaro_winkler(key, known);
    KEYS.into_iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|known| likeness(known) > 0.75)
}
