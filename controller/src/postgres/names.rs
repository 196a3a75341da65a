//! `synchronous_standby_names`: how it is written, read back, and when it is in force (R6).
//!
//! A WAL sender decides by its own copy of the setting whom it releases, and takes a new one up
//! some time after the reload. It shows which one it has by its `sync_priority`: the place of its
//! standby in the list. So a list that grows puts its new names first: each old name moves, and
//! the sender shows that it knows.

use dugong_machine::Names as Wanted;
use dugong_topology::InstanceId;
use serde::{Deserialize, Serialize};

/// No instance can have this name: an id has no underscore.
const NOBODY: &str = "no_instance";

/// Whose flush a commit waits for, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Names {
    /// All of them, in this order.
    Each(Vec<InstanceId>),
    /// Nobody's, and commits wait for nobody.
    OneNode,
}

/// What must be seen of the WAL senders after a reload, before the new names are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A checkpoint that was asked for after the reload. Before, commits waited for nobody: whether
    /// they wait is a flag that the checkpointer sets, and it reads its configuration first.
    Checkpoint,
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
    /// Nobody exists that commits could wait for, so they wait for ever.
    pub(super) fn nobody() -> Self {
        Self::Each(Vec::new())
    }

    pub(super) fn meant(&self) -> Wanted {
        match self {
            Self::Each(names) => Wanted::Each(names.clone()),
            Self::OneNode => Wanted::OneNode,
        }
    }

    /// The wanted names in an order that makes the change from `self` visible.
    pub(super) fn changed_to(&self, wanted: &Wanted) -> Self {
        let Wanted::Each(wanted) = wanted else { return Self::OneNode };
        let known = self.ids();
        let new = wanted.iter().filter(|name| !known.contains(name));
        let kept = known.iter().filter(|name| wanted.contains(name));
        Self::Each(new.chain(kept).cloned().collect())
    }

    pub(super) fn ids(&self) -> &[InstanceId] {
        match self {
            Self::Each(names) => names,
            Self::OneNode => &[],
        }
    }

    /// The setting's value. Empty means "commits wait for nobody", and nothing else does.
    pub(super) fn rendered(&self) -> String {
        let Self::Each(names) = self else { return String::new() };
        match names.as_slice() {
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
        let Self::Each(names) = self else { return Proof::None };
        if older.contains(&Self::OneNode) {
            return Proof::Checkpoint;
        }
        let may_release = |older: &&Self| {
            !older.ids().is_empty()
                && (names.is_empty() || names.iter().any(|name| !older.ids().contains(name)))
        };
        let weaker: Vec<_> = older.iter().filter(may_release).collect();
        match weaker.as_slice() {
            [] => Proof::None,
            // Senders that know the one older list show another place than the new one gives.
            [one] if older.len() == 1 && one.places_differ_in(self) => {
                let place = |name: &InstanceId| (name.clone(), self.place(name));
                Proof::Priority(one.ids().iter().map(place).collect())
            }
            several => {
                let mut names: Vec<_> = several.iter().flat_map(|n| n.ids().to_vec()).collect();
                names.sort();
                names.dedup();
                Proof::Gone(names)
            }
        }
    }

    /// 1 for the first; 0 where the name is not in the list, as PostgreSQL has it.
    fn place(&self, name: &InstanceId) -> usize {
        self.ids().iter().position(|other| other == name).map_or(0, |index| index + 1)
    }

    fn places_differ_in(&self, newer: &Self) -> bool {
        self.ids().iter().all(|name| self.place(name) != newer.place(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<InstanceId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn names(of: &[&str]) -> Names {
        Names::Each(ids(of))
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
            let after = before.changed_to(&Wanted::Each(ids(to)));
            assert_eq!(after, names(written), "{what}");
            assert_eq!(after.proof(&[before]), proof, "{what}");
        }
    }

    #[test]
    fn commits_that_waited_for_nobody_wait_once_the_checkpointer_knows() {
        assert_eq!(Names::OneNode.rendered(), "");
        let first = Names::OneNode.changed_to(&Wanted::Each(ids(&["a"])));
        assert_eq!(first, names(&["a"]));
        assert_eq!(first.proof(&[Names::OneNode]), Proof::Checkpoint);
        assert_eq!(first.proof(&[names(&["b"]), Names::OneNode]), Proof::Checkpoint);
        let back = first.changed_to(&Wanted::OneNode);
        assert_eq!((back.proof(&[first]), back), (Proof::None, Names::OneNode));
    }

    #[test]
    fn with_two_older_lists_a_place_proves_nothing() {
        let older = [names(&["a"]), names(&["b", "a"])];
        assert_eq!(names(&["c", "a"]).proof(&older), Proof::Gone(ids(&["a", "b"])));
        assert_eq!(names(&["a"]).proof(&older), Proof::None);
    }
}
