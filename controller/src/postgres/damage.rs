//! What is known of damaged pages in the data here.
//!
//! PostgreSQL counts the pages that fail their checksum, whoever reads them (`pg_stat_database`). A
//! crash makes it forget that, and a standby that dies of such a page in its WAL has counted nothing:
//! so what was found is kept in a file beside the data, and says in which data. Other data is not
//! judged by it, and begins with statistics of its own.
//!
//! **Invariant:** data is given up for damage at most once in [`AGAIN_AFTER`], whatever ends meanwhile:
//! a copy that is damaged again comes from a damaged source, or goes to a damaged disk.
//!
//! Source: PostgreSQL manual, "Data Checksums", "pg_stat_database".

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dugong_machine::Identity;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::layout::{Durability, remove_all, replace_file};
use super::look::Failures;
use crate::config::OnDamage;
use crate::metrics;

/// The file, beside the data.
const FILE: &str = "damage.json";

/// Between two looks at what PostgreSQL has counted.
const EVERY: Duration = Duration::from_secs(2);

/// For so long no second copy is made by itself.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A standby that a page has ended so often in a row cannot replay on: each restart begins before the
/// last image of every page that its WAL has, and so repairs what can be repaired.
const DEATHS: u32 = 3;

/// What is known, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// What is wrong with which data.
    found: Option<Found>,
    /// When data was last given up for that.
    given_up_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    data: Which,
    /// In words.
    what: String,
}

/// Which data: by how it was made. A new copy has another beginning, if not another number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Which(String);

impl Which {
    pub(super) fn of(identity: &Identity) -> Self {
        let Identity { making, made_in, made_at, .. } = identity;
        Self(format!("{making} in g{} at {made_at}", made_in.0))
    }
}

/// What may be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing is wrong.
    Unneeded,
    /// The data is copied anew, once nobody needs it.
    Copy,
    /// A person has to see to it.
    Person(Because),
}

/// Why a person has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// The data is a primary's.
    InOffice,
    /// `[repair] damaged = "report"`.
    Told,
    /// A copy was made not long ago.
    Again,
}

/// What is known of the data here.
#[derive(Debug)]
pub(super) struct Damage {
    path: PathBuf,
    known: Known,
    looked: Option<Instant>,
    /// What the server had counted then.
    counted: u64,
    /// How often in a row a page has ended the server.
    deaths: u32,
}

impl Damage {
    /// As it was kept in the instance's directory.
    pub(super) fn kept(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let known = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, "{} is not understood", path.display());
                Known::default()
            }),
            Err(_none) => Known::default(),
        };
        Self { path, known, looked: None, counted: 0, deaths: 0 }
    }

    /// Whether it is time to ask the server.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.looked.is_none_or(|at| at.elapsed() > EVERY);
        if due {
            self.looked = Some(Instant::now());
            // Whoever has mended it by hand says so by removing the file.
            if self.known.found.is_some() && !self.path.exists() {
                self.known = Known::default();
            }
        }
        due
    }

    /// What the server on that data has counted.
    pub(super) fn counted(&mut self, failures: &Failures, data: &Which) {
        // It begins anew where statistics were lost.
        let more = failures.count.checked_sub(self.counted).unwrap_or(failures.count);
        self.counted = failures.count;
        metrics::count_damaged_pages(more);
        if failures.count > 0 {
            let of = &failures.databases;
            self.find(data, format!("pages of the data here fail their checksum ({of})"));
        }
    }

    /// A standby's server has ended by itself; `page`: in words, if a page was the reason.
    pub(super) fn died(&mut self, page: Option<&str>, data: Option<&Which>) {
        self.counted = 0;
        match (page, data) {
            (Some(words), Some(data)) => {
                self.deaths += 1;
                if self.deaths >= DEATHS {
                    self.find(
                        data,
                        format!("the WAL cannot be replayed on the data here: {words}"),
                    );
                }
            }
            _ => self.deaths = 0,
        }
    }

    /// The server has lived for a while.
    pub(super) fn lives(&mut self) {
        self.deaths = 0;
    }

    fn find(&mut self, data: &Which, what: String) {
        if self.is_known(data) {
            return; // Words that change all the time are no news.
        }
        tracing::error!("{what}");
        self.known.found = Some(Found { data: data.clone(), what });
        if let Err(error) = self.keep() {
            tracing::error!(%error, "{} cannot be written", self.path.display());
        }
    }

    /// Whether that data is damaged.
    pub(super) fn is_known(&self, data: &Which) -> bool {
        self.known.found.as_ref().is_some_and(|found| found.data == *data)
    }

    /// The data is about to be given up for it. On disk when this returns: it must count even if
    /// this is the last thing that this process does.
    pub(super) fn give_up(&mut self, now_unix_ms: u64) -> io::Result<()> {
        self.known.given_up_unix_ms = Some(now_unix_ms);
        self.keep()
    }

    fn keep(&self) -> io::Result<()> {
        if self.known == Known::default() {
            return remove_all(&self.path);
        }
        let text = serde_json::to_string(&self.known)?;
        replace_file(&self.path, &text, Durability::Durable)
    }

    /// What may be done about that data.
    pub(super) fn remedy(
        &self,
        data: Option<&Which>,
        is_primary: bool,
        told: OnDamage,
        now_unix_ms: u64,
    ) -> Remedy {
        let recent = self.known.given_up_unix_ms.is_some_and(|at| {
            let span = u64::try_from(AGAIN_AFTER.as_millis()).unwrap_or(u64::MAX);
            now_unix_ms < at.saturating_add(span)
        });
        match (data.is_some_and(|data| self.is_known(data)), told) {
            (false, _) => Remedy::Unneeded,
            (true, _) if is_primary => Remedy::Person(Because::InOffice),
            (true, OnDamage::Report) => Remedy::Person(Because::Told),
            (true, OnDamage::Copy) if recent => Remedy::Person(Because::Again),
            (true, OnDamage::Copy) => Remedy::Copy,
        }
    }

    /// What is wrong, and the next step; none where nothing is.
    pub(super) fn words(&self, remedy: Remedy) -> Option<String> {
        let next = match remedy {
            Remedy::Unneeded => return None,
            Remedy::Copy => {
                "it is copied anew by itself, once it is an async's and the sync follows"
            }
            Remedy::Person(Because::InOffice) => {
                "this is the primary, which is never repaired: postgres.log names the pages, and \
                 reads of them fail; run `dugong switchover`, so that another one takes over and \
                 this data is copied anew"
            }
            Remedy::Person(Because::Told) => "run `dugong reinit` for this instance",
            Remedy::Person(Because::Again) => {
                "it was copied anew for that less than a day ago: look at the disks and the memory \
                 of both, then run `dugong reinit` for this instance, with another --from"
            }
        };
        self.known.found.as_ref().map(|found| format!("{}: {next}", found.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn data(number: u32) -> Which {
        Which(number.to_string())
    }

    fn failures(count: u64) -> Failures {
        Failures { count, databases: "app".to_owned() }
    }

    #[test]
    fn damage_is_repaired_by_itself_once_a_day_and_never_a_primarys() {
        use Because::{Again, InOffice, Told};
        use OnDamage::{Copy, Report};
        #[rustfmt::skip]
        let cases = [
            // what is so                    failed  data    primary  told    given up        what is done
            ("nothing failed",               0,      Some(2), false,  Copy,   None,           Remedy::Unneeded),
            ("pages failed",                 3,      Some(2), false,  Copy,   None,           Remedy::Copy),
            ("a primary's",                  3,      Some(2), true,   Copy,   None,           Remedy::Person(InOffice)),
            ("the operator sees to it",      3,      Some(2), false,  Report, None,           Remedy::Person(Told)),
            ("copied an hour ago",           3,      Some(2), false,  Copy,   Some(9 * DAY),  Remedy::Person(Again)),
            ("copied a day ago",             3,      Some(2), false,  Copy,   Some(8 * DAY),  Remedy::Copy),
            ("it was other data",            3,      Some(3), false,  Copy,   None,           Remedy::Unneeded),
            ("the data is gone",             3,      None,    false,  Copy,   None,           Remedy::Unneeded),
        ];
        for (what, failed, number, is_primary, told, given_up, remedy) in cases {
            let folder = tempfile::tempdir().unwrap();
            let mut damage = Damage::kept(folder.path());
            damage.counted(&failures(failed), &data(2));
            if let Some(at) = given_up {
                damage.give_up(at).unwrap();
            }
            // By whoever comes next, too.
            for damage in [&damage, &Damage::kept(folder.path())] {
                let found = damage.remedy(number.map(data).as_ref(), is_primary, told, 9 * DAY + 1);
                assert_eq!(found, remedy, "{what}");
                let words = damage.words(found);
                assert_eq!(words.is_some(), remedy != Remedy::Unneeded, "{what}: {words:?}");
            }
        }
    }

    #[test]
    fn a_page_that_ends_the_server_again_and_again_is_damage_and_once_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut damage = Damage::kept(folder.path());
        let page = Some("FATAL:  invalid page in block 0 of relation base/5/2608");
        for page in [page, page, None, page, page] {
            damage.died(page, Some(&data(2)));
            assert!(!damage.is_known(&data(2)));
        }
        damage.lives();
        for _ in 0..2 {
            damage.died(page, Some(&data(2)));
            assert!(!damage.is_known(&data(2)));
        }
        damage.died(page, Some(&data(2)));
        assert!(damage.is_known(&data(2)) && !damage.is_known(&data(3)));
        assert!(damage.words(Remedy::Copy).unwrap().contains("relation base/5/2608"));
    }

    #[test]
    fn what_was_mended_by_hand_is_forgotten_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut damage = Damage::kept(folder.path());
        damage.counted(&failures(1), &data(2));
        assert!(damage.is_due() && damage.is_known(&data(2)));
        fs::remove_file(folder.path().join(FILE)).unwrap();
        damage.looked = None;
        assert!(damage.is_due() && !damage.is_known(&data(2)));
    }
}
