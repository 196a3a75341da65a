//! Where what lies: the keys of one cluster below its prefix.
//!
//! | key | what it is |
//! | --- | --- |
//! | `now/record` | the state record |
//! | `now/settings` | the settings of the cluster |
//! | `now/instances/ID/word` | the last presence of an instance; stays when its session lapses |
//! | `now/instances/ID/session` | what its server does, for guards; under the session's lease |
//! | `now/instances/ID/handover` | the request for which it is stopped; under the lease, too |
//! | `now/instances/ID/epoch` | the token of the handle that opened the newest session |
//! | `now/instances/ID/said` | the number of that handle's last word |
//! | `now/asked` | how many requests there ever were |
//! | `now/request` | the open request, if one is |
//! | `now/outcomes/N` | how request N ended |
//! | `history/R` | the record that replaced the one of revision R (0: the first) |
//! | `beats/ID` | the session's time to live in milliseconds, written with each renewal; under the lease, too |
//!
//! A watch follows all of `now/`; beats are outside, so that a renewal is news to nobody. Numbers have leading zeros, so that etcd's order is theirs.

use dugong_topology::InstanceId;

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// With a slash at its end.
    root: String,
}

/// What a key below `now/` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Record,
    Request,
    Settings,
    Outcome(u64),
    Instance(&'a str, OfInstance),
    /// Nothing that a snapshot shows.
    Other,
}

/// What there is of each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfInstance {
    Word,
    Session,
    Handover,
    Epoch,
    Said,
}

impl OfInstance {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Word, "word"),
        (Self::Session, "session"),
        (Self::Handover, "handover"),
        (Self::Epoch, "epoch"),
        (Self::Said, "said"),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Session => "session",
            Self::Handover => "handover",
            Self::Epoch => "epoch",
            Self::Said => "said",
        }
    }
}

impl Keys {
    /// `prefix` as configured, with or without slashes at its end.
    pub(super) fn new(prefix: &str, cluster: &str) -> Self {
        Self { root: format!("{}/{cluster}/", prefix.trim_end_matches('/')) }
    }

    /// Everything that a snapshot is made of begins with this.
    pub(super) fn now(&self) -> String {
        format!("{}now/", self.root)
    }

    pub(super) fn record(&self) -> String {
        format!("{}now/record", self.root)
    }

    pub(super) fn settings(&self) -> String {
        format!("{}now/settings", self.root)
    }

    pub(super) fn asked(&self) -> String {
        format!("{}now/asked", self.root)
    }

    pub(super) fn request(&self) -> String {
        format!("{}now/request", self.root)
    }

    pub(super) fn outcomes(&self) -> String {
        format!("{}now/outcomes/", self.root)
    }

    pub(super) fn outcome(&self, number: u64) -> String {
        format!("{}now/outcomes/{}", self.root, counted(number))
    }

    pub(super) fn of(&self, instance: &InstanceId, what: OfInstance) -> String {
        format!("{}now/instances/{instance}/{}", self.root, what.name())
    }

    pub(super) fn beats(&self) -> String {
        format!("{}beats/", self.root)
    }

    pub(super) fn beat(&self, instance: &str) -> String {
        format!("{}beats/{instance}", self.root)
    }

    pub(super) fn history(&self) -> String {
        format!("{}history/", self.root)
    }

    pub(super) fn history_after(&self, replaced: u64) -> String {
        format!("{}history/{}", self.root, counted(replaced))
    }

    /// What a key stands for.
    pub(super) fn meaning<'a>(&self, key: &'a str) -> Key<'a> {
        let Some(name) = key.strip_prefix(&self.now()) else { return Key::Other };
        match name {
            "record" => return Key::Record,
            "request" => return Key::Request,
            "settings" => return Key::Settings,
            _ => (),
        }
        if let Some(number) = name.strip_prefix("outcomes/") {
            return number.parse().map_or(Key::Other, Key::Outcome);
        }
        let of_instance = || {
            let (instance, what) = name.strip_prefix("instances/")?.split_once('/')?;
            let (what, _) = OfInstance::ALL.into_iter().find(|(_, name)| *name == what)?;
            Some(Key::Instance(instance, what))
        };
        of_instance().unwrap_or(Key::Other)
    }
}

/// Twenty digits: as many as the greatest u64 has.
pub(super) fn counted(number: u64) -> String {
    format!("{number:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_what_it_was_made_for() {
        let keys = Keys::new("/dugong/", "main");
        let id: InstanceId = "pg-1".parse().unwrap();
        assert_eq!(keys.record(), "/dugong/main/now/record");
        assert_eq!(keys.meaning(&keys.record()), Key::Record);
        assert_eq!(keys.meaning(&keys.request()), Key::Request);
        assert_eq!(keys.meaning(&keys.settings()), Key::Settings);
        assert_eq!(keys.meaning(&keys.outcome(7)), Key::Outcome(7));
        for (what, _) in OfInstance::ALL {
            assert_eq!(keys.meaning(&keys.of(&id, what)), Key::Instance("pg-1", what));
        }
        assert_eq!(keys.beat("pg-1"), format!("{}pg-1", keys.beats()));
        for other in [
            keys.asked(),
            keys.beat("pg-1"),
            keys.history_after(5),
            "/other/main/now/record".to_owned(),
        ] {
            assert_eq!(keys.meaning(&other), Key::Other, "{other}");
        }
        assert!(keys.outcome(9) < keys.outcome(10) && counted(u64::MAX).len() == 20);
    }
}
