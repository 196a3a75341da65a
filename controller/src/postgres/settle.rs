//! Changes of the live settings: written, reloaded, and seen to be in force before anybody counts
//! on them (R6).

use std::time::Duration;

use dugong_machine::Access;
use dugong_topology::InstanceId;
use tokio::time::Instant;

use super::configuration::{self, Live};
use super::control::{LookError, Session, literal, only, optional, text, value};
use super::layout::Durability;
use super::names::Proof;
use super::running::{Place, Running};

/// How long a reload may take to show in a fresh connection.
const RELOAD_PATIENCE: Duration = Duration::from_secs(2);
/// How long a WAL sender may take to take up the new names, before it is made to go.
const SENDER_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at what changes within milliseconds.
const GLANCE: Duration = Duration::from_millis(5);
/// The same, where clients wait for it and no process has to be started for it.
const BLINK: Duration = Duration::from_millis(1);

/// Whether this session's process is younger than the postmaster's last reload, which ends when all of
/// its processes are told. One that was told itself shows the time of that.
///
/// Source: PostgreSQL's `process_pm_reload_request`, `PgReloadTime`.
const BEGAN_AFTER_RELOAD: &str = "(SELECT backend_start > pg_conf_load_time() \
                                   FROM pg_stat_get_activity(pg_backend_pid()))";

impl Running {
    /// Brings the settings to `wanted`, one kind of change after the other, each confirmed.
    pub(super) async fn settle(
        &mut self,
        place: Place<'_>,
        wanted: &Live,
    ) -> Result<(), LookError> {
        let failed = |what| move |error| LookError::File { what, error };
        if self.credentials != place.settings.credentials {
            let (settings, layout) = (place.settings, place.layout);
            // Passwords before whoever needs them.
            configuration::write_passfile(settings, layout)
                .map_err(failed("the passwords of replication cannot be written"))?;
            configuration::write_hba(settings, layout, self.live.clients, Durability::Atomic)
                .map_err(failed("pg_hba.conf cannot be written"))?;
            configuration::write_live(settings, layout, &self.common, &self.live)
                .map_err(failed("dugong.conf cannot be written"))?;
            self.credentials = settings.credentials.clone();
            self.confirmed = false;
            self.postmaster.reload().map_err(failed("the server cannot be signalled"))?;
        }
        if self.common != *place.common {
            // Everything else in the file stays what it is, so that this reload changes only this.
            configuration::write_live(place.settings, place.layout, place.common, &self.live)
                .map_err(failed("dugong.conf cannot be written"))?;
            self.common = place.common.clone();
            self.confirmed = false;
            self.postmaster.reload().map_err(failed("the server cannot be signalled"))?;
        }
        loop {
            let next = self.live.towards(wanted);
            let opens = self.confirmed && next.only_opens(&self.live);
            if next != self.live {
                if next.clients != self.live.clients {
                    // Read in the same reload, so that whatever shows the settings proves this.
                    let (settings, layout) = (place.settings, place.layout);
                    configuration::write_hba(settings, layout, next.clients, Durability::Atomic)
                        .map_err(failed("pg_hba.conf cannot be written"))?;
                }
                let (settings, layout) = (place.settings, place.layout);
                configuration::write_live(settings, layout, &self.common, &next)
                    .map_err(failed("dugong.conf cannot be written"))?;
                if next.names != self.live.names {
                    self.older.push(self.live.names.clone());
                }
                self.live = next;
                self.confirmed = false;
                self.postmaster.reload().map_err(failed("the server cannot be signalled"))?;
            }
            if opens {
                // Confirmed like any other change by the next turn: nobody need wait for that.
                self.wait_for_writers().await?;
            } else if !self.confirmed {
                self.confirm(place).await?;
                self.confirmed = true;
                self.older.clear();
            }
            if self.live == *wanted {
                return Ok(());
            }
        }
    }

    /// Waits until the settings are in force.
    async fn confirm(&self, place: Place<'_>) -> Result<(), LookError> {
        let confirmed = self.wait_for_reload(place).await;
        let confirmed = match confirmed {
            Ok(fresh) => self.wait_for_senders(&fresh).await,
            Err(error) => Err(error),
        };
        if confirmed.is_err() {
            // What was in the way may be gone by the next turn; an error shows there.
            let _ = self.postmaster.reload();
        }
        confirmed
    }

    /// Waits until whoever connects may write. The kept session shows that, because the postmaster reads
    /// its configuration before it tells any process to.
    ///
    /// Source: PostgreSQL's `process_pm_reload_request`.
    async fn wait_for_writers(&mut self) -> Result<(), LookError> {
        let deadline = Instant::now() + RELOAD_PATIENCE;
        let may_write = "SELECT current_setting('default_transaction_read_only') = 'off'";
        loop {
            let sets = self.session().await?.ask(may_write).await?;
            if text(only(&sets, 0)?, 0) == Some("t") || Instant::now() > deadline {
                return Ok(()); // What is not in force by then is found, and told, by the next turn.
            }
            tokio::time::sleep(BLINK).await;
        }
    }

    /// A connection that began after the reload shows what every later one will have, and that every
    /// process was told.
    async fn wait_for_reload(&self, place: Place<'_>) -> Result<Session, LookError> {
        let deadline = Instant::now() + RELOAD_PATIENCE;
        loop {
            let fresh = self.door.open("postgres", "").await?;
            match self.not_in_force(place, &fresh).await? {
                None => return Ok(fresh),
                Some(why) if Instant::now() > deadline => return Err(LookError::Overridden(why)),
                Some(_) => tokio::time::sleep(GLANCE).await,
            }
        }
    }

    /// What is not as it was written, in words.
    async fn not_in_force(
        &self,
        place: Place<'_>,
        fresh: &Session,
    ) -> Result<Option<String>, LookError> {
        let wanted = [
            ("synchronous_standby_names", self.live.names.rendered()),
            (
                "default_transaction_read_only",
                configuration::read_only(self.live.access).to_owned(),
            ),
            (
                "primary_conninfo",
                configuration::conninfo(place.settings, place.layout, &self.live.source),
            ),
        ];
        let is_set = |(name, value): &(&str, String)| {
            format!("current_setting('{name}') = {}", literal(value))
        };
        let are_set = wanted.iter().map(is_set).collect::<Vec<_>>().join(" AND ");
        let sets = fresh.ask(&format!("SELECT {are_set}, {BEGAN_AFTER_RELOAD}")).await?;
        let row = only(&sets, 0)?;
        match (text(row, 0), text(row, 1)) {
            (Some("t"), Some("t")) => Ok(None),
            // One that was there before has been told by itself, and others may not have been yet.
            (Some("t"), _) => {
                Ok(Some("the server does not finish reading its configuration".to_owned()))
            }
            (_, _) => self.why_not_in_force(place, fresh, &wanted).await,
        }
    }

    /// Which setting is not as it was written, and why, in words.
    async fn why_not_in_force(
        &self,
        place: Place<'_>,
        fresh: &Session,
        wanted: &[(&str, String)],
    ) -> Result<Option<String>, LookError> {
        let names: Vec<_> = wanted.iter().map(|(name, _)| format!("'{name}'")).collect();
        let sets = fresh
            .ask(&format!(
                "SELECT name, setting, sourcefile FROM pg_settings WHERE name IN ({}); \
                 SELECT sourcefile, sourceline, name, error FROM pg_file_settings \
                 WHERE error IS NOT NULL",
                names.join(", ")
            ))
            .await?;
        let ours = place.layout.data.join("dugong.conf");
        let ours = ours.to_string_lossy();
        for (name, value) in wanted {
            let rows = sets.first().into_iter().flatten();
            let row = rows.into_iter().find(|row| text(row, 0) == Some(*name));
            let (found, file) = row.map_or((None, None), |row| (text(row, 1), text(row, 2)));
            if file.is_some_and(|file| file != ours) {
                return Err(LookError::Overridden(format!(
                    "{name} is overridden in {}: run ALTER SYSTEM RESET {name}, or remove the \
                     line; Dugong has to set it itself",
                    file.unwrap_or_default()
                )));
            }
            if found != Some(value.as_str()) || file.is_none() {
                let refused = sets.get(1).and_then(|rows| rows.first()).map(|row| {
                    let of = |column| text(row, column).unwrap_or_default();
                    format!(" ({}, line {}: {} {})", of(0), of(1), of(2), of(3))
                });
                return Ok(Some(format!(
                    "the server has not taken up {name} from its configuration{}",
                    refused.unwrap_or_default()
                )));
            }
        }
        Ok(Some("the server is taking its configuration up".to_owned()))
    }

    /// Waits until no WAL sender is left that could release a commit by older names.
    async fn wait_for_senders(&self, fresh: &Session) -> Result<(), LookError> {
        let proof = self.live.names.proof(&self.older);
        let begun = Instant::now();
        // One that is told more often goes no sooner.
        let mut told = Vec::new();
        loop {
            let doubtful = match &proof {
                Proof::None => return Ok(()),
                Proof::Checkpoint => {
                    return fresh.ask_without_deadline("CHECKPOINT").await.map(|_| ());
                }
                Proof::Priority(places) => {
                    let expected = |name: &InstanceId| {
                        places
                            .iter()
                            .find(|(other, _)| other == name)
                            .map(|(_, place)| Some(*place))
                    };
                    doubtful_senders(fresh, expected).await?
                }
                Proof::Gone(names) => {
                    doubtful_senders(fresh, |name| names.contains(name).then_some(None)).await?
                }
            };
            if doubtful.is_empty() {
                return Ok(());
            }
            if matches!(proof, Proof::Gone(_)) || begun.elapsed() > SENDER_PATIENCE {
                for pid in doubtful {
                    if told.contains(&pid) {
                        continue;
                    }
                    told.push(pid);
                    // R9: a WAL sender only, never a client's backend.
                    tracing::warn!(pid, "a WAL sender knows only older names: it has to go");
                    fresh.ask(&format!("SELECT pg_terminate_backend({pid})")).await?;
                }
            }
            if begun.elapsed() > RELOAD_PATIENCE {
                return Err(LookError::Overridden(
                    "a WAL sender has not taken up the new synchronous names".to_owned(),
                ));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// The senders from before the reload whose names are `expected` to show a place, and do not show
/// it. An expected place of none: whatever they show.
async fn doubtful_senders(
    fresh: &Session,
    expected: impl Fn(&InstanceId) -> Option<Option<usize>>,
) -> Result<Vec<i32>, LookError> {
    let sets = fresh
        .ask(
            "SELECT pid, application_name, sync_priority FROM pg_stat_replication \
             WHERE backend_start < pg_conf_load_time()",
        )
        .await?;
    let mut doubtful = Vec::new();
    for row in sets.first().into_iter().flatten() {
        // PostgreSQL compares the names without regard to case.
        let name = text(row, 1).map(str::to_ascii_lowercase);
        let Some(name) = name.and_then(|name| name.parse::<InstanceId>().ok()) else { continue };
        let Some(place) = expected(&name) else { continue };
        let shown: Option<usize> = optional(row, 2)?;
        if place.is_none() || place != shown {
            doubtful.push(value(row, 0)?);
        }
    }
    Ok(doubtful)
}

impl Live {
    /// Whether sessions may write now, and nothing else differs.
    fn only_opens(&self, before: &Self) -> bool {
        let opened = Self { access: Access::ReadWrite, ..before.clone() };
        before.access == Access::ReadOnly && *self == opened
    }

    /// The next settings on the way to `wanted`: one kind of change for one reload.
    fn towards(&self, wanted: &Self) -> Self {
        let closes = wanted.access == Access::ReadOnly;
        let access_first = closes && self.access != wanted.access;
        let mut next = self.clone();
        if access_first {
            next.access = wanted.access;
            next.clients = wanted.clients;
        } else if self.names != wanted.names {
            next.names = wanted.names.clone();
            next.failover_slots = wanted.failover_slots.clone();
        } else if self.access != wanted.access || self.clients != wanted.clients {
            next.access = wanted.access;
            next.clients = wanted.clients;
        } else {
            next.source = wanted.source.clone();
            next.failover_slots = wanted.failover_slots.clone();
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::configuration::{Clients, Source};
    use crate::postgres::failover_slots::FailoverSlots;
    use crate::postgres::names::Names;

    fn live(names: &[&str], access: Access, source: Source) -> Live {
        let clients = match access {
            Access::ReadOnly => Clients::Refused,
            Access::ReadWrite => Clients::Admitted,
        };
        let names = Names::Each(names.iter().map(|name| name.parse().unwrap()).collect());
        Live { names, access, clients, source, failover_slots: FailoverSlots::default() }
    }

    #[test]
    fn a_server_only_opens_where_nobody_is_let_in_who_was_not_before() {
        use Access::{ReadOnly, ReadWrite};
        let open = live(&["a"], ReadWrite, Source::Nobody);
        let promoted = Live { access: ReadOnly, ..open.clone() };
        let started = live(&["a"], ReadOnly, Source::Nobody);
        let renamed = Live { access: ReadOnly, ..live(&["b"], ReadWrite, Source::Nobody) };
        #[rustfmt::skip]
        let cases = [
            ("readers have stayed", &promoted, &open,     true),
            ("it lets clients in",  &started,  &open,     false),
            ("it closes",           &open,     &promoted, false),
            ("another sync, too",   &renamed,  &open,     false),
            ("nothing changes",     &open,     &open,     false),
        ];
        for (what, before, after, expected) in cases {
            assert_eq!(after.only_opens(before), expected, "{what}");
        }
    }

    #[test]
    fn one_reload_changes_one_kind_of_setting() {
        use Access::{ReadOnly, ReadWrite};
        use Source::{Nobody, Sealed};
        #[rustfmt::skip]
        let cases = [
            // what changes              from                              to                                then
            ("closing comes first",      live(&["a"], ReadWrite, Nobody),  live(&["b"], ReadOnly, Nobody),   live(&["a"], ReadOnly, Nobody)),
            ("opening comes last",       live(&["a"], ReadOnly, Nobody),   live(&["b"], ReadWrite, Nobody),  live(&["b"], ReadOnly, Nobody)),
            ("only the access",          live(&["a"], ReadOnly, Nobody),   live(&["a"], ReadWrite, Nobody),  live(&["a"], ReadWrite, Nobody)),
            ("only the source",          live(&[], ReadOnly, Nobody),      live(&[], ReadOnly, Sealed),      live(&[], ReadOnly, Sealed)),
        ];
        for (what, from, to, then) in cases {
            assert_eq!(from.towards(&to), then, "{what}");
        }
    }
}
