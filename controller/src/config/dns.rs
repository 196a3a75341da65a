//! `[dns]`: the name server of this controller, off without the section.

use std::time::Duration;

use dugong_topology::{Address, InstanceId, units};
use serde::Deserialize;

use super::error::ConfigProblem;
use crate::publish::dns::is_taken;

/// `[dns]`: where this controller answers for which zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Host and port, UDP and TCP; a wildcard will do. Required.
    pub listen: Address,
    /// The zone, as in `dugong.internal`; the cluster's names are below `<cluster>.<zone>`.
    /// In lower case, at most 120 characters. Required.
    pub zone: String,
    /// How long an answer may be believed, negative ones included: 1 s to 1 h, in whole seconds.
    /// Default 1 s.
    pub ttl: Duration,
}

/// What the file may say, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    listen: Address,
    zone: String,
    #[serde(default = "default_ttl", with = "units::duration")]
    ttl: Duration,
}

fn default_ttl() -> Duration {
    Duration::from_secs(1)
}

/// The longest name in front of it has 119: service, protocol, instance and cluster. A name has 253.
const ZONE_LENGTH_MAX: usize = 120;

impl RawDns {
    /// Checks the section of the controller of `instance`; `others` are the listeners of other
    /// sections, by their keys.
    pub(super) fn checked(
        self,
        instance: &InstanceId,
        others: &[(&'static str, &Address)],
    ) -> Result<DnsConfig, ConfigProblem> {
        let Self { listen, zone, ttl } = self;
        let zone = zone.strip_suffix('.').unwrap_or(&zone).to_ascii_lowercase();
        if zone.len() > ZONE_LENGTH_MAX || !zone.split('.').all(is_label) {
            return Err(ConfigProblem::Zone { text: zone });
        }
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(3600));
        // No address may be kept for longer than people wait for a failover to be seen.
        if !(shortest..=longest).contains(&ttl) {
            let key = "dns.ttl";
            return Err(ConfigProblem::OutOfRange { key, value: ttl, shortest, longest });
        }
        if is_taken(instance.as_str()) {
            return Err(ConfigProblem::InstanceLikeRole { instance: instance.clone() });
        }
        for (key, other) in others {
            if listen == **other {
                return Err(ConfigProblem::SameListener { key, other: "dns.listen", listen });
            }
            let host = other.host.trim_end_matches('.').to_ascii_lowercase();
            // Others would have to ask this zone for it, and would be sent to the name itself.
            if host == zone || host.ends_with(&format!(".{zone}")) {
                return Err(ConfigProblem::WithinZone { key, listen: (*other).clone(), zone });
            }
        }
        Ok(DnsConfig { listen, zone, ttl })
    }
}

/// A label of a host name. Source: RFC 1123, section 2.1.
fn is_label(label: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=63).contains(&label.len())
        && label.chars().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
