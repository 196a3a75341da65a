//! Data that came from elsewhere recovers, on a server for nobody but us, until it takes writes.
//!
//! Whatever the data's own configuration says of recovery holds: `recovery.signal`,
//! `restore_command`, a target. What would let anybody in, wait for anybody, or write into an
//! archive, does not.
//!
//! **Invariant:** nothing is read before the recovery has ended: the server takes no connection
//! until then, so that it neither pauses at a target nor asks for as many connections as its
//! former primary had.
//!
//! Source: PostgreSQL manual, "Recovery Target"; `hot_standby`, `recovery_target_action`.

use std::fs;
use std::path::Path;

use tokio::sync::watch;
use tokio::time::Duration;

use super::carried::{self, Found};
use super::control::{LookError, Session};
use super::failover_slots::FailoverSlots;
use super::layout::{Durability, replace_file};
use super::making::{MakingError, Workshop};
use super::private::Private;
use super::process::{number, servers_in};
use super::programs::version_of;
use super::roles;
use super::versions::promoting_file;

/// Between two looks at a recovery, which may take hours.
const GLANCE: Duration = Duration::from_millis(50);

/// What PostgreSQL says where its target lies beyond the archive.
const TOO_EARLY: &str = "recovery ended before configured recovery target was reached";

/// Nobody but whoever reaches the socket.
pub(super) const LOCAL_ONLY: &str = "local all all trust\n";

impl Workshop<'_> {
    /// Recovers `data` to the end, makes the roles, and stops. What its configuration said.
    /// `settings` go before what is there.
    pub(super) async fn recover(
        self,
        data: &Path,
        settings: Vec<(&str, String)>,
        words: &watch::Sender<String>,
    ) -> Result<Vec<Found>, MakingError> {
        let hba = self.layout.run.join("recovery.hba.conf");
        replace_file(&hba, LOCAL_ONLY, Durability::Atomic)?;
        let mut all = self.private_settings(data, &hba)?;
        all.extend(settings);
        let server = self.start_privately(data, all).await?;
        let session = recovered(&server, data, words).await?;
        words.send_replace("the roles of the cluster are made".to_owned());
        let found = carried::ask(&session).await?;
        roles::make(&self.settings.credentials, &session).await?;
        drop(session);
        server.stop().await?;
        Ok(found)
    }

    /// What keeps everybody out, and the server from waiting for anybody.
    pub(super) fn private_settings(
        self,
        data: &Path,
        hba: &Path,
    ) -> Result<Vec<(&'static str, String)>, MakingError> {
        let config = carried::main_file(data)?;
        if !config.try_exists()? {
            // A backup need not have it, and the program insists on one.
            replace_file(&config, "", Durability::Atomic)?;
        }
        let set = |name, value: &str| (name, value.to_owned());
        let external_pid_file = self.layout.run.join("recovery.pid");
        let slots = FailoverSlots::default().settings(self.settings.version.major);
        let ours = vec![
            // Whatever the file says: this is the data that is meant.
            set("config_file", &config.to_string_lossy()),
            set("data_directory", &data.to_string_lossy()),
            set("hba_file", &hba.to_string_lossy()),
            set("ssl", "off"),
            set("hot_standby", "off"),
            set("recovery_target_action", "promote"),
            // Its archive may be another cluster's.
            set("archive_mode", "off"),
            set("synchronous_standby_names", ""),
            set("default_transaction_read_only", "off"),
            set("primary_conninfo", ""),
            set("wal_level", "replica"),
            set("wal_log_hints", "on"),
            set("fsync", "on"),
            set("full_page_writes", "on"),
            set("restart_after_crash", "off"),
            set("logging_collector", "off"),
            set("log_destination", "stderr"),
            set("log_min_messages", "warning"),
            set("lc_messages", "C"),
            // Not where another server may have its own.
            set("external_pid_file", &external_pid_file.to_string_lossy()),
            set("password_encryption", "scram-sha-256"),
        ];
        Ok(ours.into_iter().chain(slots).collect())
    }

    /// What data says that followed a primary, of a recovery that is long over, or of an archive that
    /// may be its primary's: nothing of it counts.
    pub(super) fn followed_settings(self) -> Result<Vec<(&'static str, String)>, MakingError> {
        let ours = version_of(&self.settings.bin)
            .map_err(|error| MakingError::Server(error.to_string()))?;
        let unset = [
            "archive_cleanup_command",
            "recovery_end_command",
            "recovery_target",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_xid",
        ];
        // What is not in its WAL is nowhere; and PostgreSQL wants a command.
        let set = [
            ("restore_command", "false"),
            ("recovery_target_timeline", "latest"),
            ("recovery_min_apply_delay", "0"),
        ];
        let old = promoting_file(ours.major).map(|name| (name, ""));
        let all = unset.map(|name| (name, "")).into_iter().chain(set).chain(old);
        Ok(all.map(|(name, value)| (name, value.to_owned())).collect())
    }
}

/// A session, once it answers: the recovery has ended, or what a standby has is consistent.
pub(super) async fn recovered(
    server: &Private<'_>,
    data: &Path,
    words: &watch::Sender<String>,
) -> Result<Session, MakingError> {
    loop {
        match server.try_session().await {
            Ok(session) => return Ok(session),
            Err(_) if server.has_exited() => {
                let said = server.end_words();
                return Err(if said.contains(TOO_EARLY) {
                    MakingError::TargetNotReached(said)
                } else {
                    MakingError::Server(said)
                });
            }
            Err(LookError::NotYet | LookError::Silent | LookError::Broken(_)) => (),
            Err(LookError::Refused(said)) => {
                return Err(MakingError::Server(format!(
                    "{said}; the controllers need the superuser that credentials.json names, and \
                     the database postgres: make them there, or name a superuser of that data"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        let so_far = replayed_in(data).map_or_else(
            || "its server starts".to_owned(),
            |segment| format!("its server recovers, WAL {segment}"),
        );
        words.send_if_modified(|before| std::mem::replace(before, so_far.clone()) != so_far);
        tokio::time::sleep(GLANCE).await;
    }
}

/// The file of WAL that is replayed, as the startup process shows it.
fn replayed_in(data: &Path) -> Option<String> {
    let pids = servers_in(&[data.to_owned()]).ok()?;
    pids.into_iter().find_map(|pid| {
        let title = fs::read(format!("/proc/{}/cmdline", number(pid))).ok()?;
        let title = String::from_utf8_lossy(&title).into_owned();
        let (_, segment) = title.split_once("startup recovering ")?;
        Some(segment.chars().take_while(char::is_ascii_hexdigit).collect())
    })
}
