//! What a standby must have at least: as much as the primary had when it wrote the WAL that is here.
//!
//! A standby with less does not start, or stops replaying when such a change comes in. The control
//! file says how much that is. So a standby starts with the greater of that and what is wanted: then
//! none fails to start, in whatever order servers are restarted. What is wanted and lower stays
//! pending there until the primary has it.
//!
//! Source: PostgreSQL manual, "Hot Standby", "Administrator's Overview".

use std::collections::BTreeMap;

/// Name, as `pg_controldata` calls it, and PostgreSQL's default.
#[rustfmt::skip]
const BOUND: [(&str, &str, u64); 5] = [
    ("max_connections",           "max_connections setting",      100),
    ("max_worker_processes",      "max_worker_processes setting", 8),
    ("max_wal_senders",           "max_wal_senders setting",      10),
    ("max_prepared_transactions", "max_prepared_xacts setting",   0),
    ("max_locks_per_transaction", "max_locks_per_xact setting",   64),
];

/// The names of the settings that a standby must not have less of than its primary.
pub(super) fn bound() -> impl Iterator<Item = &'static str> {
    BOUND.iter().map(|(name, ..)| *name)
}

/// PostgreSQL's own default of such a setting; none for any other.
pub fn default_of_bound(name: &str) -> Option<u64> {
    BOUND.iter().find(|(bound, ..)| *bound == name).map(|(.., default)| *default)
}

/// The least of each setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floors(BTreeMap<&'static str, u64>);

impl Floors {
    /// As the control file has them; `value` finds what stands behind a label.
    pub(super) fn of_control<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Self {
        let found = |(name, label, _): &(&'static str, &str, u64)| {
            Some((*name, value(label)?.parse().ok()?))
        };
        Self(BOUND.iter().filter_map(found).collect())
    }

    /// Those that are above what is said.
    pub(super) fn above(&self, said: &BTreeMap<String, String>) -> Vec<(&'static str, u64)> {
        let wanted = |name: &str| match said.get(name) {
            // What is no plain number is the server's to judge; the floor is certain to do.
            Some(value) => value.trim().parse().unwrap_or(0),
            None => default_of_bound(name).unwrap_or(0),
        };
        self.0
            .iter()
            .filter(|(name, floor)| **floor > wanted(name))
            .map(|(n, f)| (*n, *f))
            .collect()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, least)| (*name, *least))
    }

    /// Whether any of them is above what a running server has.
    pub(super) fn exceed(&self, has: impl Fn(&str) -> Option<u64>) -> bool {
        self.0.iter().any(|(name, floor)| has(name).is_some_and(|has| *floor > has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_starts_with_the_greater_value() {
        let label = |label: &str| match label {
            "max_connections setting" => Some("300"),
            "max_worker_processes setting" => Some("8"),
            "max_wal_senders setting" => Some("16"),
            "max_prepared_xacts setting" => Some("5"),
            _ => None,
        };
        let floors = Floors::of_control(label);
        let said = |said: &[(&str, &str)]| {
            said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let senders = ("max_wal_senders", "16");
        #[rustfmt::skip]
        let cases = [
            // what is so                     what is said                          what has to be more
            ("raised: its own is greater",    vec![senders, ("max_connections", "400")], vec![("max_prepared_transactions", 5)]),
            ("lowered: the primary's is",     vec![senders, ("max_connections", "200")], vec![("max_connections", 300), ("max_prepared_transactions", 5)]),
            ("not said: the default is less", vec![senders],                             vec![("max_connections", 300), ("max_prepared_transactions", 5)]),
            ("as it is",                      vec![senders, ("max_connections", "300"), ("max_prepared_transactions", "5")], vec![]),
        ];
        for (what, words, expected) in cases {
            assert_eq!(floors.above(&said(&words)), expected, "{what}");
        }
        assert!(floors.exceed(|name| (name == "max_connections").then_some(200)));
        assert!(!floors.exceed(|name| (name == "max_connections").then_some(300)));
    }
}
