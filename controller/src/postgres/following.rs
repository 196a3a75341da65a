//! A copy of a foreign primary, followed until an operator ends that: a migration with a short switch.
//!
//! The copy is made as any other is, with a slot there that keeps WAL for us. Then a server follows,
//! for nobody but us, for as long as it takes; a controller that is started again goes on with what
//! it has. How the end is found to be safe is in `finishing`.
//!
//! **Invariant:** what follows has a `standby.signal`, from its first moment under this name to the
//! operator's word, which is written down. So it never takes a write before.
//!
//! Source: PostgreSQL manual, "Log-Shipping Standby Servers", "Replication Slots".

use std::fs;
use std::io;
use std::path::Path;

use dugong_topology::Way;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior};

use super::carried;
use super::control::{LookError, Session, only, text};
use super::copying::Source;
use super::data_dir::{self, mark_standby, remove_identity};
use super::foreign::not_followed;
use super::layout::{Durability, remove_all, replace_file, sync_directory};
use super::look::{StandbyLook, look_at_standby};
use super::making::{MakingError, Workshop};
use super::migration::{Finish, Hearing};
use super::private::Private;
use super::progress::Progress;
use super::recovering::{LOCAL_ONLY, recovered};
use crate::config::Foreign;

/// Between two looks at how far it is.
const GLANCE: Duration = Duration::from_secs(1);

/// Between two words about that: everybody gets them.
const TELL: Duration = Duration::from_secs(3);

/// Between two tries to get a slot that is gone.
const AGAIN: Duration = Duration::from_secs(10);

/// In the data, while a slot there keeps WAL for it: its name.
const SLOT: &str = "dugong.slot";

/// In the data, once an operator has ended the following.
pub(super) const MIGRATED: &str = "dugong.migrated";

const STANDBY: &str = "standby.signal";
const RECOVERY: &str = "recovery.signal";

/// Where words of operators are heard.
pub(super) type Desk = watch::Sender<Option<mpsc::Sender<Finish>>>;

/// Why a server that follows is stopped.
enum Stopped {
    /// An operator has said so, and it is on disk.
    Finished,
    /// It needs more of some setting, as its primary has.
    ToStartAgain,
    /// Its primary does not have the WAL any more.
    Lost(String),
}

/// Whom we follow, and how.
#[derive(Clone, Copy)]
pub(super) struct Following<'a> {
    pub workshop: Workshop<'a>,
    pub foreign: &'a Foreign,
    pub server: &'a Private<'a>,
    pub data: &'a Path,
}

impl<'a> Workshop<'a> {
    /// Follows `foreign`, until an operator ends it.
    pub(super) async fn follow(
        self,
        foreign: &Foreign,
        words: &watch::Sender<String>,
        desk: &Desk,
    ) -> Result<(), MakingError> {
        let data = &self.layout.data_followed;
        if !data.try_exists()? {
            self.copy_foreign(foreign, words).await?;
        }
        while data.join(STANDBY).try_exists()? {
            let server = self.start_to_follow(foreign, data).await?;
            let following = Following { workshop: self, foreign, server: &server, data };
            let stopped = following.accompany(words, desk).await?;
            words.send_replace(format!("the server that followed {foreign} stops"));
            server.stop().await?;
            match stopped {
                Stopped::Finished | Stopped::ToStartAgain => (),
                Stopped::Lost(why) => {
                    // Under this name it is whole or not there.
                    self.clear().await?;
                    fs::rename(data, &self.layout.data_new)?;
                    self.clear().await?;
                    return Err(not_followed(
                        foreign,
                        format!(
                            "it does not have the WAL any more that is next: {why}; it is copied again"
                        ),
                    ));
                }
            }
        }
        if !data.join(MIGRATED).try_exists()? {
            return Err(not_followed(
                foreign,
                format!(
                    "{} is no standby any more, and nobody has said so here: remove it, and it is \
                     copied again",
                    data.display()
                ),
            ));
        }
        remove_all(&data.join(SLOT))?;
        Ok(())
    }

    /// Makes the copy.
    async fn copy_foreign(
        self,
        foreign: &Foreign,
        words: &watch::Sender<String>,
    ) -> Result<(), MakingError> {
        words.send_replace(format!("looks whether {foreign} can be followed"));
        self.can_be_followed(foreign).await?;
        let slot = self.reserve_wal(foreign).await?;
        if let Err(why) = &slot {
            tracing::warn!(
                "no slot on {foreign} keeps WAL for this instance ({why}): its wal_keep_size says for \
                 how long the following may be interrupted"
            );
        }
        self.clear().await?;
        let slot = slot.is_ok().then(|| self.slot_there());
        let tablespaces = self.tablespaces_of_foreign(foreign).await?;
        let source = Source {
            name: foreign.to_string(),
            connection: self.connection_to_foreign(foreign)?,
            slot: slot.clone(),
        };
        let (progress, heard) = watch::channel(Progress::begun(Way::Copy));
        let filling = self.fill(&source, &tablespaces, &progress);
        tokio::select! {
            filled = filling => filled?,
            never = tell(heard, foreign, words) => match never {},
        };
        let data = &self.layout.data_new;
        // Whatever instance's it was, in whatever cluster.
        remove_identity(data)?;
        remove_all(&data.join(RECOVERY))?;
        carried::keep_files(self.layout, data)?;
        if let Some(slot) = &slot {
            replace_file(&data.join(SLOT), slot, Durability::Durable)?;
        }
        mark_standby(data)?;
        fs::rename(data, &self.layout.data_followed)?;
        sync_directory(&self.layout.dir)?;
        Ok(())
    }

    /// Starts the server that follows.
    async fn start_to_follow(
        self,
        foreign: &Foreign,
        data: &Path,
    ) -> Result<Private<'a>, MakingError> {
        let hba = self.layout.run.join("recovery.hba.conf");
        let text = format!("{LOCAL_ONLY}local replication all trust\n");
        replace_file(&hba, &text, Durability::Atomic)?;
        let slot = match fs::read_to_string(data.join(SLOT)) {
            Ok(slot) => slot,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let mut settings = self.private_settings(data, &hba)?;
        settings.extend(self.followed_settings()?);
        settings.extend([
            ("hot_standby", "on".to_owned()),
            ("primary_conninfo", self.connection_to_foreign(foreign)?),
            ("primary_slot_name", slot),
            // Reads here are only ours, and its primary need not keep anything for them.
            ("hot_standby_feedback", "off".to_owned()),
            ("max_standby_streaming_delay", "0".to_owned()),
            ("wal_receiver_create_temp_slot", "off".to_owned()),
            ("wal_receiver_status_interval", "1s".to_owned()),
            ("wal_receiver_timeout", "10s".to_owned()),
            ("wal_retrieve_retry_interval", "2s".to_owned()),
            // For whoever reads the last record.
            ("wal_keep_size", "64MB".to_owned()),
        ]);
        // Its configuration may be from before its primary had more, or not be in its data.
        let floors = data_dir::floors(self.settings, self.spawner, data).await?;
        settings.extend(floors.all().map(|(name, least)| (name, least.to_string())));
        self.start_privately(data, settings).await
    }
}

impl Following<'_> {
    /// Looks how far it is, and hears words, until it is to be stopped.
    async fn accompany(
        self,
        words: &watch::Sender<String>,
        desk: &Desk,
    ) -> Result<Stopped, MakingError> {
        let mut session = self.session(words).await?;
        let mut hearing = Hearing::begin(desk);
        let mut ticks = tokio::time::interval(GLANCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked_for_slot = None;
        let mut told = (None, Instant::now());
        loop {
            tokio::select! {
                word = hearing.next() => {
                    if self.hear(&session, word).await? {
                        return Ok(Stopped::Finished);
                    }
                }
                _ = ticks.tick() => (),
            }
            if self.server.has_exited() {
                return Err(MakingError::Server(self.server.end_words()));
            }
            let look = match look_at_standby(&session).await {
                Ok(look) => look,
                // It may be busy; whether it has ended is seen next.
                Err(error) => {
                    tracing::warn!(%error, "the server that follows cannot be looked at");
                    session = self.session(words).await?;
                    continue;
                }
            };
            if look.replay_paused {
                return Ok(Stopped::ToStartAgain);
            }
            if let Some(why) = self.server.lacks_wal() {
                return Ok(Stopped::Lost(why));
            }
            let said = self.said(&look);
            let is_due = asked_for_slot.is_none_or(|at: Instant| at.elapsed() > AGAIN);
            if look.receiver.is_none() && lacks_slot(&said) && is_due {
                asked_for_slot = Some(Instant::now());
                self.reserve_again().await;
            }
            let connected = look.lag.is_some();
            let (before, since) = told;
            if before != Some(connected) || since.elapsed() > TELL {
                told = (Some(connected), Instant::now());
                words.send_if_modified(|before| std::mem::replace(before, said.clone()) != said);
            }
        }
    }

    /// A session of a superuser, as all the following steps need one.
    async fn session(self, words: &watch::Sender<String>) -> Result<Session, MakingError> {
        let session = recovered(self.server, self.data, words).await?;
        let sets = session.ask("SHOW is_superuser").await?;
        if text(only(&sets, 0)?, 0) == Some("on") {
            return Ok(session);
        }
        let user = &self.workshop.settings.credentials.superuser.name;
        Err(MakingError::Look(LookError::Refused(format!(
            "the role {user} of credentials.json is no superuser there: make it one, or name another"
        ))))
    }

    /// How far it is, for people.
    fn said(self, look: &StandbyLook) -> String {
        let foreign = self.foreign;
        match &look.lag {
            Some(lag) => {
                let bytes = lag.upstream_end.bytes_after(lag.replayed);
                format!(
                    "follows {foreign}, {} and {} behind; to switch, stop that server in order, then \
                     `dugong migrate`",
                    amount(bytes >> 20, "MB"),
                    amount(lag.age.0 / 1000, "s")
                )
            }
            None => {
                let why = self.server.upstream_words().unwrap_or_else(|| "connecting".to_owned());
                format!(
                    "follows {foreign}, without a connection to it just now, and has it up to {}: \
                     {why}; when it was stopped in order, `dugong migrate`",
                    look.replayed
                )
            }
        }
    }

    async fn reserve_again(self) {
        let made = self.workshop.reserve_wal(self.foreign).await;
        match made {
            Ok(Ok(())) => tracing::info!("the slot on {} was gone, and is made anew", self.foreign),
            Ok(Err(why)) => tracing::warn!("the slot on {} is gone: {why}", self.foreign),
            Err(error) => tracing::warn!("the slot on {} is gone: {error}", self.foreign),
        }
    }
}

/// What is next to nothing is always said in the same words: each change of them is written down.
fn amount(count: u64, unit: &str) -> String {
    if count == 0 { format!("less than 1 {unit}") } else { format!("{count} {unit}") }
}

fn lacks_slot(said: &str) -> bool {
    said.contains("replication slot ") && said.contains("does not exist")
}

/// From now on it does not follow, but ends its recovery with the WAL that it has.
pub(super) fn mark_finished(data: &Path) -> io::Result<()> {
    replace_file(&data.join(MIGRATED), "", Durability::Durable)?;
    // One step: there is no moment at which a server would start on it as neither.
    fs::rename(data.join(STANDBY), data.join(RECOVERY))?;
    sync_directory(data)
}

/// Tells how far the copy has come.
async fn tell(
    mut heard: watch::Receiver<Progress>,
    foreign: &Foreign,
    words: &watch::Sender<String>,
) -> std::convert::Infallible {
    loop {
        let now = heard.borrow_and_update().told();
        words.send_replace(format!("the primary at {foreign} is copied, to be followed; {now}"));
        if heard.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
