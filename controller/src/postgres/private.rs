//! A server that runs for nobody but us while data is being made: it listens on no address, only on
//! the local socket.
//!
//! **Invariant:** dropping it kills it.

use std::path::Path;

use dugong_topology::{History, Lsn};
use tokio::time::Duration;

use super::configuration::{self, Common, Live};
use super::control::{Door, LookError, Session};
use super::data_dir::{self, mark_standby};
use super::layout::Layout;
use super::look::look_at_standby;
use super::making::{MakingError, Workshop};
use super::postmaster::Postmaster;
use super::replay::ReplayProbe;
use super::storage::Starts;
use super::warden::Term;

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Private<'a> {
    layout: &'a Layout,
    postmaster: Postmaster,
    door: Door,
}

/// Up to where a standby has replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    pub history: History,
    pub lsn: Lsn,
}

impl<'a> Workshop<'a> {
    /// Starts a server on `data`; `settings` go before those in files.
    pub(super) async fn start_privately(
        self,
        data: &Path,
        settings: Vec<(&str, String)>,
    ) -> Result<Private<'a>, MakingError> {
        let Self { settings: own, layout, .. } = self;
        let port = own.listen.port;
        let sockets = layout.run.to_string_lossy().into_owned();
        let always = [
            ("listen_addresses", String::new()),
            ("port", port.to_string()),
            ("unix_socket_directories", sockets),
        ];
        let arguments: Vec<_> = always
            .into_iter()
            .chain(settings)
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect();
        let postmaster =
            Postmaster::start(own, layout, data, &arguments, Term::Free, &Starts::default())
                .await?;
        let user = own.credentials.superuser.name.clone();
        let door = Door { socket_dir: layout.run.clone(), port, user };
        Ok(Private { layout, postmaster, door })
    }

    /// Starts a standby on `data` that receives WAL by `conninfo`; from nobody where that is empty.
    ///
    /// From this moment on the data can never start as a primary.
    pub(super) async fn stand_by_privately(
        self,
        data: &Path,
        conninfo: String,
    ) -> Result<Private<'a>, MakingError> {
        mark_standby(data)?;
        let there = Layout { data: data.to_owned(), ..self.layout.clone() };
        let live = Live::standby(configuration::Source::Sealed);
        let floors = data_dir::floors(self.settings, self.spawner, data).await?;
        let common = Common { floors, ..self.common.clone() };
        configuration::write_all(self.settings, &there, &common, &live)?;
        // Once all that is here is replayed, it pauses, and only in a pause can that be seen. There is
        // none if the end of a very long record takes longer to read again than the pause would last.
        let alone = conninfo.is_empty().then(|| ("wal_retrieve_retry_interval", "1min".to_owned()));
        let mut settings =
            vec![("primary_conninfo", conninfo), ("primary_slot_name", String::new())];
        settings.extend(alone);
        self.start_privately(data, settings).await
    }
}

impl Private<'_> {
    /// A session, once it answers, however long that takes: a standby does when what it has is
    /// consistent.
    pub(super) async fn session(&self) -> Result<Session, MakingError> {
        loop {
            match self.door.open("postgres", "").await {
                Ok(session) => return Ok(session),
                Err(_) if self.postmaster.has_exited() => return Err(self.failed()),
                Err(_) => (),
            }
            if let Some(why) = self.lacks_wal() {
                return Err(MakingError::Server(why));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// A session, if it answers.
    pub(super) async fn try_session(&self) -> Result<Session, LookError> {
        self.door.open("postgres", "").await
    }

    pub(super) fn has_exited(&self) -> bool {
        self.postmaster.has_exited()
    }

    /// Where a standby that receives nothing has replayed all that it has.
    pub(super) async fn end_of_wal(
        &self,
        session: &Session,
        data: &Path,
    ) -> Result<Replayed, MakingError> {
        let mut idle_before = None;
        loop {
            let look = look_at_standby(session).await?;
            if look.replay_paused {
                session.ask("SELECT pg_wal_replay_resume()").await?;
            }
            if look.is_sealed(idle_before) {
                return Ok(self.replayed(look.replayed, data).await?);
            }
            idle_before = idle_before.or(look.idle);
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// How far a standby has come that answers.
    pub(super) async fn place(
        &self,
        session: &Session,
        data: &Path,
    ) -> Result<Replayed, MakingError> {
        let look = look_at_standby(session).await?;
        Ok(self.replayed(look.replayed, data).await?)
    }

    /// After the place that was replayed: the timeline is never one that it was not yet on.
    async fn replayed(&self, lsn: Lsn, data: &Path) -> Result<Replayed, LookError> {
        let mut probe = ReplayProbe::open(&self.door).await?;
        let history = data_dir::history(data, probe.look().await?.timeline)?;
        Ok(Replayed { history, lsn })
    }

    /// Stops it in order, however long that takes: what it has in memory is written first.
    pub(super) async fn stop(mut self) -> Result<(), MakingError> {
        self.postmaster.stop_fast()?;
        match self.postmaster.exit().wait().await {
            Some(status) if status.success() => Ok(()),
            Some(_) | None => Err(self.failed()),
        }
    }

    /// Why no WAL comes, in its own words.
    pub(super) fn upstream_words(&self) -> Option<String> {
        self.postmaster.words_about_upstream(&self.layout.log)
    }

    /// What it needs, and nobody has any more, in its own words.
    pub(super) fn lacks_wal(&self) -> Option<String> {
        let words = self.upstream_words()?;
        words.contains("has already been removed").then_some(words)
    }

    /// Why it has ended.
    pub(super) fn end_words(&self) -> String {
        let words = self.postmaster.last_words(&self.layout.log);
        words.unwrap_or_else(|| "it said nothing".to_owned())
    }

    fn failed(&self) -> MakingError {
        MakingError::Server(self.end_words())
    }
}
