//! `synchronous_standby_names`: how it is written, read back, and when it is in force (R6).
//!
//! A WAL sender decides by its own copy of the setting whom it releases, and takes a new one up
//! some time after the reload. It shows which one it has by its `sync_priority`: the place of its
//! standby in the list. So a list that grows puts its new names first: each old name moves, and
//! the sender shows that it knows.

use dugong_topology::InstanceId;
use serde::{Deserialize, Serialize};

/// No instance can have this name: an id has no underscore.
const NOBODY: &str = "no_instance";

/// Whose flush a commit waits for, all of them, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Names(Vec<InstanceId>);

/// What must be seen of the WAL senders after a reload, before the new names are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: a sender that knows only the older names waits for at least the new ones, or
    /// releases nobody.
    None,
    /// Each older name's senders show this priority.
    Priority(Vec<(InstanceId, usize)>),
    /// Senders of these names that are older than the reload are gone: what they know cannot be
    /// told from what they show.
    Gone(Vec<InstanceId>),
}

impl Names {
    /// The names in the order given.
    pub(super) fn of(names: &[InstanceId]) -> Self {
        Self(names.to_vec())
    }

    /// The names in the order in which they are written.
    pub(super) fn as_slice(&self) -> &[InstanceId] {
        &self.0
    }

    /// The wanted names in an order that makes the change from `self` visible.
    pub(super) fn changed_to(&self, wanted: &[InstanceId]) -> Self {
        if self.means(wanted) {
            return self.clone();
        }
        let new = wanted.iter().filter(|name| !self.0.contains(name));
        let kept = self.0.iter().filter(|name| wanted.contains(name));
        Self(new.chain(kept).cloned().collect())
    }

    /// Whether these are the wanted names, in whatever order: all of them are waited for.
    pub(super) fn means(&self, wanted: &[InstanceId]) -> bool {
        self.0.len() == wanted.len() && wanted.iter().all(|name| self.0.contains(name))
    }

    /// The setting's value. Never empty: that would be "commits wait for nobody".
    pub(super) fn rendered(&self) -> String {
        match self.0.as_slice() {
            [] => format!("\"{NOBODY}\""),
            [one] => format!("\"{one}\""),
            several => {
                let quoted: Vec<_> = several.iter().map(|name| format!("\"{name}\"")).collect();
                format!("FIRST {} ({})", several.len(), quoted.join(", "))
            }
        }
    }

    /// What must be seen before these names, which follow `older` ones, are in force.
    pub(super) fn proof(&self, older: &[Self]) -> Proof {
        let may_release = |older: &&Self| {
            !older.0.is_empty()
                && (self.0.is_empty() || self.0.iter().any(|name| !older.0.contains(name)))
        };
        let weaker: Vec<_> = older.iter().filter(may_release).collect();
        match weaker.as_slice() {
            [] => Proof::None,
            // Senders that know the one older list show another place than the new one gives.
            [one] if older.len() == 1 && one.places_differ_in(self) => {
                let place = |name: &InstanceId| (name.clone(), self.place(name));
                Proof::Priority(one.0.iter().map(place).collect())
            }
            several => {
                let mut names: Vec<_> = several.iter().flat_map(|n| n.0.clone()).collect();
                names.sort();
                names.dedup();
                Proof::Gone(names)
            }
        }
    }

    /// 1 for the first; 0 where the name is not in the list, as PostgreSQL has it.
    fn place(&self, name: &InstanceId) -> usize {
        self.0.iter().position(|other| other == name).map_or(0, |index| index + 1)
    }

    fn places_differ_in(&self, newer: &Self) -> bool {
        self.0.iter().all(|name| self.place(name) != newer.place(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<InstanceId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn names(of: &[&str]) -> Names {
        Names::of(&ids(of))
    }

    #[test]
    fn a_list_is_never_empty_and_always_quoted() {
        #[rustfmt::skip]
        let cases: [(&[&str], &str); 3] = [
            (&[],               "\"no_instance\""),
            (&["pg-2"],         "\"pg-2\""),
            (&["pg-2", "pg-3"], "FIRST 2 (\"pg-2\", \"pg-3\")"),
        ];
        for (given, expected) in cases {
            assert_eq!(names(given).rendered(), expected);
        }
        assert!(NOBODY.parse::<InstanceId>().is_err(), "no instance can have the name");
    }

    /// What happens, from, to, written as, proof.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], Proof);

    #[test]
    fn a_change_shows_in_every_sender_that_could_release_too_early() {
        let priority = |of: &[(&str, usize)]| {
            Proof::Priority(of.iter().map(|(n, place)| (n.parse().unwrap(), *place)).collect())
        };
        #[rustfmt::skip]
        let cases: [Case<'_>; 6] = [
            // what happens       from              to                written as        proof
            ("one joins",         &["a"],           &["a", "b"],      &["b", "a"],      priority(&[("a", 2)])),
            ("the old one goes",  &["b", "a"],      &["b"],           &["b"],           Proof::None),
            ("replaced at once",  &["a"],           &["b"],           &["b"],           priority(&[("a", 0)])),
            ("the first one",     &[],              &["a"],           &["a"],           Proof::None),
            ("only the order",    &["b", "a"],      &["a", "b"],      &["b", "a"],      Proof::None),
            ("nobody is left",    &["a"],           &[],              &[],              priority(&[("a", 0)])),
        ];
        for (what, from, to, written, proof) in cases {
            let before = names(from);
            let after = before.changed_to(&ids(to));
            assert_eq!(after, names(written), "{what}");
            assert_eq!(after.proof(&[before]), proof, "{what}");
        }
    }

    #[test]
    fn with_two_older_lists_a_place_proves_nothing() {
        let older = [names(&["a"]), names(&["b", "a"])];
        assert_eq!(names(&["c", "a"]).proof(&older), Proof::Gone(ids(&["a", "b"])));
        assert_eq!(names(&["a"]).proof(&older), Proof::None);
    }
}
