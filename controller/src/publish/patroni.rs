//! The health checks that load balancers know from Patroni: `GET /primary` and its kin.
//!
//! Each answers 200 where this instance is what the path names, and 503 where it is not, with a
//! short JSON body; `HEAD` and `OPTIONS` the same without a body.
//!
//! Source: Patroni's manual, "Patroni REST API", "Health check endpoints".

use dugong_topology::{InstanceId, Member, Phase, Role, Topology, units};

/// What a load balancer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// `/primary`, `/read-write`, `/leader`: takes writes.
    Primary,
    /// `/replica`: a running standby; with `?lag=`, at most so many bytes behind.
    Replica { lag_bytes_max: Option<u64> },
    /// `/sync`, `/synchronous`.
    Sync,
    /// `/async`, `/asynchronous`.
    Async,
    /// `/read-only`: answers reads, whatever its role.
    ReadOnly,
    /// `/health`: the server runs.
    Health,
    /// `/readiness`: takes writes, or streams.
    Readiness,
}

impl Check {
    /// Whether `me` is what is asked for.
    pub(super) fn holds(self, topology: &Topology, me: &InstanceId) -> bool {
        let Some((role, member)) = topology.members().find(|(_, member)| member.id == *me) else {
            return false;
        };
        let standby =
            |role: Option<Role>| member.healthy && matches!(role, Some(Role::Sync | Role::Async));
        let writable =
            role == Some(Role::Primary) && member.healthy && topology.phase == Phase::ReadWrite;
        match self {
            Self::Primary => writable,
            Self::Replica { lag_bytes_max } => standby(role) && within(member, lag_bytes_max),
            Self::Sync => standby(role) && role == Some(Role::Sync),
            Self::Async => standby(role) && role == Some(Role::Async),
            Self::ReadOnly => writable || standby(role),
            Self::Health => member.healthy,
            Self::Readiness => writable || (standby(role) && member.upstream.is_some()),
        }
    }
}

/// An unknown lag is too much for any limit.
fn within(member: &Member, lag_bytes_max: Option<u64>) -> bool {
    lag_bytes_max.is_none_or(|max| member.lag_bytes.is_some_and(|lag| lag <= max))
}

/// Reads Patroni's `lag`: bytes, or with a unit (`16MB`, `1024kB`), in powers of 1024.
pub(super) fn parse_lag(text: &str) -> Result<u64, String> {
    let refused = |_| format!("{text:?} is no lag: write bytes, or a size as in 16MB");
    text.parse().or_else(|_| units::parse_size(text)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_reads_as_patroni_reads_it() {
        #[rustfmt::skip]
        let cases = [
            ("0",       Some(0)),
            ("1024",    Some(1024)),
            ("16MB",    Some(16 << 20)),
            ("1kB",     Some(1024)),
            ("",        None),
            ("MB",      None),
            ("-1",      None),
            ("1 MB",    None),
            ("99999999999TB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_lag(text).ok(), expected, "{text:?}");
        }
    }
}
