//! What can be asked about the settings of the server beside this controller.
//!
//! [`Advisor::weigh`] says what a change would do, or why it is not taken; [`Advisor::here`] what
//! holds here. Both ask the running server itself; `judge` asks its program.

use std::collections::BTreeMap;
use std::sync::Arc;

use dugong_topology::{InstanceId, Revision};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Settings;
use super::adoption::Adopted;
use super::configuration::{Common, REVISION, owned};
use super::control::{Door, LookError, Session, optional, text, value};
use super::failover_slots::{self, Kept};
use super::floors::bound;
use super::judge::{Judge, Verdict};
use crate::config::feeds_standbys;

/// Asks about settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Advisor {
    settings: Arc<Settings>,
    door: Door,
    judge: Arc<Judge>,
    adopted: watch::Receiver<Adopted>,
    restarts: watch::Sender<u64>,
}

/// When a changed setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// At once.
    Reload,
    /// In sessions that begin later.
    NewSessions,
    Restart,
}

/// One change of the cluster's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub name: String,
    /// None: it was not set.
    pub before: Option<String>,
    /// None: it is not set any more.
    pub after: Option<String>,
    pub takes: Takes,
}

/// Why a change is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error("{name} is Dugong's to set: {reason}")]
    Owned { name: String, reason: &'static str },
    #[error("PostgreSQL has no setting {name}{}", nearest.as_ref().map_or_else(String::new, |it| format!(": did you mean {it}?")))]
    NotKnown { name: String, nearest: Option<String> },
    #[error("{name} cannot be changed: it was decided when PostgreSQL was built, or the data made")]
    Internal { name: String },
    #[error("the value of {name} has a line break, which no setting can have")]
    Value { name: String },
    #[error("{name} must be at least {least}: standbys, and copies for new ones, need that many")]
    TooFew { name: String, least: u64 },
    #[error("wal_level must be replica, or logical: anything less has too little for standbys")]
    WalLevel,
    #[error(transparent)]
    Verdict(#[from] Verdict),
    #[error("the server could not be asked: {0}")]
    Server(String),
}

/// What holds on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    pub instance: InstanceId,
    /// The edition of the cluster's settings that the server has read, or will start with; 0: none.
    pub revision: Revision,
    /// Why it does not have a later one.
    pub refused: Option<String>,
    /// Names of the cluster's settings of which the instance's own configuration says another value.
    pub own: Vec<String>,
    /// What waits for a restart of the server.
    pub pending: Vec<Pending>,
    /// What the server complained of when it read its files.
    pub complaints: Vec<String>,
    /// When the server was started, in milliseconds since 1970; none while it does not answer.
    pub started_unix_ms: Option<u64>,
    /// Its permanent replication slots that are not Dugong's, and that nobody else has.
    #[serde(default)]
    pub slots: Vec<String>,
    /// A primary's permanent slots that its sync should have, too.
    #[serde(default)]
    pub failover_slots: Vec<String>,
    /// A standby's copies of such slots that could take over.
    #[serde(default)]
    pub copied_slots: Vec<String>,
}

/// A setting that waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub name: String,
    /// What the server has.
    pub has: String,
    /// What it will have; none: PostgreSQL's default.
    pub wants: Option<String>,
}

/// Replication and copies take some of each.
const LEAST: [(&str, u64); 2] = [("max_wal_senders", 6), ("max_replication_slots", 6)];

impl Advisor {
    pub(super) fn new(
        settings: Arc<Settings>,
        door: Door,
        judge: Arc<Judge>,
        adopted: watch::Receiver<Adopted>,
        restarts: watch::Sender<u64>,
    ) -> Self {
        Self { settings, door, judge, adopted, restarts }
    }

    /// What would change with `after` in the place of `before`. Names are in lower case.
    ///
    /// # Errors
    ///
    /// See [`Objection`].
    pub async fn weigh(
        &self,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<Vec<Change>, Objection> {
        let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
        let changed: Vec<&String> = changed.collect();
        for name in &changed {
            // What is taken out may be anything.
            let Some(value) = after.get(*name) else { continue };
            if let Some(reason) = owned(name) {
                return Err(Objection::Owned { name: (*name).clone(), reason });
            }
            if value.contains(['\n', '\r', '\0']) {
                return Err(Objection::Value { name: (*name).clone() });
            }
            if *name == "wal_level" && !feeds_standbys(value) {
                return Err(Objection::WalLevel);
            }
            let least = LEAST.iter().find(|(least, _)| least == name);
            if let Some((_, least)) = least
                && value.trim().parse::<u64>().is_ok_and(|value| value < *least)
            {
                return Err(Objection::TooFew { name: (*name).clone(), least: *least });
            }
        }
        let contexts =
            self.contexts().await.map_err(|error| Objection::Server(error.to_string()))?;
        let mut changes = Vec::new();
        for name in changed {
            let (before, after) = (before.get(name).cloned(), after.get(name).cloned());
            let takes = match contexts.get(name).map(String::as_str) {
                Some("internal") if after.is_some() => {
                    return Err(Objection::Internal { name: name.clone() });
                }
                Some("postmaster") => Takes::Restart,
                Some("backend" | "superuser-backend") => Takes::NewSessions,
                Some(_) => Takes::Reload,
                // A setting of an extension, which may not be loaded.
                None if is_custom(name) || after.is_none() => Takes::Reload,
                None => {
                    let nearest = nearest(name, contexts.keys());
                    return Err(Objection::NotKnown { name: name.clone(), nearest });
                }
            };
            changes.push(Change { name: name.clone(), before, after, takes });
        }
        let common = Common { cluster: Arc::new(after.clone()), ..Common::default() };
        self.judge.judge(&common).await?;
        Ok(changes)
    }

    /// What holds on this instance.
    pub async fn here(&self) -> Here {
        let Adopted { edition, refused } = self.adopted.borrow().clone();
        let values = &edition.settings.values;
        let own = self.settings.extra.iter().filter(|(name, value)| {
            values.get(&name.to_ascii_lowercase()).is_some_and(|cluster| cluster != *value)
        });
        let mut here = Here {
            instance: self.settings.instance.clone(),
            revision: edition.revision,
            refused: refused.map(|(revision, why)| format!("revision {}: {why}", revision.0)),
            own: own.map(|(name, _)| name.to_ascii_lowercase()).collect(),
            pending: Vec::new(),
            complaints: Vec::new(),
            started_unix_ms: None,
            slots: Vec::new(),
            failover_slots: Vec::new(),
            copied_slots: Vec::new(),
        };
        if let Err(error) = self.ask_server(&mut here).await {
            here.complaints.push(format!("the server could not be asked: {error}"));
        }
        here
    }

    /// Has the server stopped in order and started again.
    pub fn restart(&self) {
        self.restarts.send_modify(|asked| *asked += 1);
    }

    async fn ask_server(&self, here: &mut Here) -> Result<(), LookError> {
        let session = self.door.open("postgres", "").await?;
        let sets = session
            .ask(&format!(
                "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint, \
                        nullif(current_setting('{REVISION}', true), '')::bigint; \
                 SELECT s.name, s.setting || coalesce(CASE WHEN s.unit ~ '^[0-9]' THEN ' x ' END, \
                        '') || coalesce(s.unit, ''), \
                        (SELECT f.setting FROM pg_file_settings f \
                         WHERE lower(f.name) = lower(s.name) ORDER BY f.seqno DESC LIMIT 1) \
                 FROM pg_settings s WHERE s.pending_restart ORDER BY s.name; \
                 SELECT f.name, f.error FROM pg_file_settings f WHERE f.error IS NOT NULL \
                 AND lower(f.name) NOT IN \
                     (SELECT lower(name) FROM pg_settings WHERE pending_restart); \
                 {}",
                failover_slots::question(self.settings.version.major)
            ))
            .await?;
        let rows = |index: usize| sets.get(index).into_iter().flatten();
        if let Some(row) = rows(0).next() {
            here.started_unix_ms = Some(value(row, 0)?);
            // What waits for a restart shows in the same connection only once the file was read.
            here.revision = Revision(optional(row, 1)?.unwrap_or_default());
        }
        for row in rows(1) {
            let name = text(row, 0).unwrap_or_default().to_ascii_lowercase();
            let has = text(row, 1).unwrap_or_default().to_owned();
            here.pending.push(Pending { name, has, wants: optional(row, 2)? });
        }
        for row in rows(2) {
            let of = |column| text(row, column).unwrap_or_default();
            here.complaints.push(format!("{}: {}", of(0), of(1)));
        }
        let kept = sets.get(3).map(Kept::answered).unwrap_or_default();
        here.slots = kept.here_only;
        here.failover_slots = kept.failover;
        here.copied_slots = kept.copied;
        Ok(())
    }

    /// The context of each setting that the running server knows, by its name in lower case.
    async fn contexts(&self) -> Result<BTreeMap<String, String>, LookError> {
        let session = self.door.open("postgres", "").await?;
        let sets = session.ask("SELECT lower(name), context FROM pg_settings").await?;
        let rows = sets.first().into_iter().flatten();
        rows.map(|row| Ok((value(row, 0)?, value(row, 1)?))).collect()
    }
}

/// What a running server has of the settings that a standby must not have less of.
pub(super) async fn bound_values(
    session: &Session,
) -> Result<BTreeMap<&'static str, u64>, LookError> {
    let columns: Vec<_> = bound().map(|name| format!("current_setting('{name}')")).collect();
    let sets = session.ask(&format!("SELECT {}", columns.join(", "))).await?;
    let row = super::control::only(&sets, 0)?;
    bound().enumerate().map(|(column, name)| Ok((name, value(row, column)?))).collect()
}

/// `extension.setting`: PostgreSQL takes it as it is until the extension says more.
fn is_custom(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    name.contains('.') && name.split('.').all(is_word)
}

/// The known name that was probably meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    let alike = |known: &'a String| (strsim::damerau_levenshtein(name, known), known);
    let (distance, found) = known.map(alike).min()?;
    (distance <= name.len() / 3).then(|| found.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_own() {
        let known = ["work_mem", "max_connections", "max_wal_size"].map(str::to_owned);
        #[rustfmt::skip]
        let cases = [
            ("work_men",        Some("work_mem")),
            ("max_conections",  Some("max_connections")),
            ("include",         None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, known.iter()).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_custom_setting_is_words_with_a_dot() {
        #[rustfmt::skip]
        let cases = [
            ("auto_explain.log_min_duration", true),
            ("a.b.c",                         true),
            ("work_mem",                      false),
            ("a.",                            false),
            ("a.b = 'x'",                     false),
            ("a.b#",                          false),
        ];
        for (name, custom) in cases {
            assert_eq!(is_custom(name), custom, "{name}");
        }
    }
}
