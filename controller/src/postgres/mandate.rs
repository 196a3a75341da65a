//! What a controller that ends in order leaves to the next one: the server, by its warden, and a
//! note about it.
//!
//! **Invariant:** a note is written only about a server that does, and was seen to do, exactly what
//! the note says: nothing is in doubt that only the old controller knew of (R6).
//!
//! **Invariant:** a note that is not understood to the last word is not believed. Then the server
//! is ended, as that of a controller that was killed.

use dugong_machine::{Access, Time, Upstream};
use dugong_topology::{Address, Generation, InstanceId};
use serde::{Deserialize, Serialize};

use super::configuration::Live;
use super::data_dir::StartsAs;

/// What the controller knows of the office that its server may hold, and cannot see anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mandate {
    /// The ends of the two leases, by the clock of this machine.
    pub session_until: Time,
    pub link_until: Time,
    /// Until when its primary may serve: never an end where nobody could take over.
    pub until: Time,
    /// The newest generation whose sync had caught up with this server (R5).
    pub open: Option<Generation>,
}

/// One line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    pub mandate: Mandate,
    /// Where the server listens, which cannot change while it runs.
    pub listen: Address,
    pub role: StartsAs,
    /// The settings that are in force.
    pub live: Live,
}

/// How [`Access`] is written in a note.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Access", rename_all = "snake_case")]
pub(super) enum AccessText {
    ReadOnly,
    ReadWrite,
}

/// How [`Upstream`] is written in a note.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Upstream", deny_unknown_fields)]
pub(super) struct UpstreamText {
    id: InstanceId,
    address: Address,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::configuration::{Clients, Source};
    use crate::postgres::failover_slots::FailoverSlots;
    use crate::postgres::names::Names;

    fn note(source: Source) -> Note {
        Note {
            mandate: Mandate {
                session_until: Time(5),
                link_until: Time(7),
                until: Time(7),
                open: Some(Generation(3)),
            },
            listen: Address::loopback(5432),
            role: StartsAs::Primary,
            live: Live {
                names: Names::Each(vec!["pg-2".parse().unwrap()]),
                access: Access::ReadWrite,
                clients: Clients::Admitted,
                source,
                failover_slots: FailoverSlots::default(),
            },
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let upstream = Upstream { id: "pg-1".parse().unwrap(), address: Address::loopback(5433) };
        let sealed = [Source::Sealed, Source::SealedSlowly];
        for source in [Source::Nobody, Source::From(upstream)].into_iter().chain(sealed) {
            let note = note(source);
            let text = serde_json::to_string(&note).unwrap();
            assert!(!text.contains('\n'), "one line: {text}");
            assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), note);
        }
    }

    #[test]
    fn a_note_that_says_more_than_is_understood_is_refused() {
        let text = serde_json::to_string(&note(Source::Nobody)).unwrap();
        let more = text.replacen('{', r#"{"moon":"full","#, 1);
        assert!(serde_json::from_str::<Note>(&more).is_err());
        assert!(serde_json::from_str::<Note>("{}").is_err());
    }
}
