//! Data made anew of what is here: a prefix is left as it is, anything else is rewound.
//!
//! [`Workshop::rewind`] first has the data replay all of its own WAL, as a standby of nobody. If
//! that ends where the primary's history left it or before, it is a prefix: whoever follows needs
//! nothing else. If not, `pg_rewind` brings back every page that the surplus of WAL has touched, and
//! the data replays the primary's WAL until it is consistent.
//!
//! **Invariant:** `data` stays whole until it is certain that `pg_rewind` will not refuse. From its
//! first write on the data is in `data.rewind`, which nobody ever starts or counts as data; then,
//! marked as a standby's, in `data.rewound`, until it is consistent, on the primary's history, and
//! knows whose it is. Only then does it become `data` again. Each step is one rename, so whatever
//! ends in the middle of this leaves data that is followed up on, or none.
//!
//! Source: PROTOCOL.md, R7; PostgreSQL manual, `pg_rewind`.

use std::fs;
use std::io;
use std::path::Path;

use dugong_machine::Upstream;
use dugong_topology::{History, Position};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::watch;

use super::configuration::{connection, write_passfile};
use super::data_dir::{
    ControlFile, mark_standby, new_identity, read_identity, remove_source_marks, write_identity,
};
use super::diverged::{Surplus, give_back, keep_wal, set_aside};
use super::helper::{run_and_hear, run_helper};
use super::layout::{Layout, remove_all, sync_directory};
use super::making::{MakingError, Stamp, Workshop, remove_in_background, tell};
use super::private::Replayed;
use super::progress::Progress;

/// How data was made of what was here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reused {
    /// All of its WAL was the primary's, too.
    AsPrefix,
    Rewound,
}

/// `need to copy 39 MB (total source directory size is 57 MB)`, in bytes.
fn needed(line: &str) -> Option<u64> {
    let (megabytes, _) = line.split_once("need to copy ")?.1.split_once(" MB")?;
    megabytes.parse::<u64>().ok()?.checked_mul(1 << 20)
}

impl Workshop<'_> {
    /// Makes the data here one that can follow `primary`. Dropping the future kills whatever works
    /// on it; it may take as long as its caller has patience.
    ///
    /// # Errors
    ///
    /// Why a copy is needed. The data here is whole, or not there.
    pub(super) async fn rewind(
        self,
        primary: &Upstream,
        stamp: Stamp,
        progress: &watch::Sender<Progress>,
    ) -> Result<Reused, MakingError> {
        let layout = self.layout;
        write_passfile(self.settings, layout)?;
        if !layout.data.exists() && layout.data_rewound.exists() {
            tracing::info!("a rewind that was interrupted is brought to its end");
            return self.follow_up(primary, stamp).await;
        }
        if read_identity(&layout.data)?.is_none() {
            return Err(MakingError::NotRewound("there is no data to rewind".to_owned()));
        }
        let theirs = self.lineage_of(primary).await?.history;
        let own = self.own_end().await?;
        let end = Position::new(own.history.timeline, own.lsn);
        let is_prefix = theirs.left_behind(&own.history, own.lsn);
        tracing::info!(%end, is_prefix, primary = %primary.id, "all of the WAL here is replayed");
        if is_prefix {
            let control = ControlFile::read(self.settings, self.spawner, &layout.data).await?;
            let identity = new_identity(self.settings, &control, stamp, end);
            write_identity(&layout.data, &identity)?;
            return Ok(Reused::AsPrefix);
        }
        let surplus = Surplus::of(&own.history, own.lsn, &theirs);
        let segment_bytes = self.prepare(primary, &own, &theirs, &surplus).await?;
        self.go_over(primary, &surplus, segment_bytes, progress).await?;
        self.follow_up(primary, stamp).await
    }

    /// Where all that is here ends, once it is replayed: what crashed is consistent after that.
    async fn own_end(self) -> Result<Replayed, MakingError> {
        let data = &self.layout.data;
        let server = self.stand_by_privately(data, String::new()).await?;
        let session = server.session().await?;
        let end = server.end_of_wal(&session, data).await?;
        drop(session);
        server.stop().await?;
        Ok(end)
    }

    /// Refuses what `pg_rewind` would refuse, or judge by the wrong timeline, before any write.
    /// Returns the size of a file of WAL.
    async fn prepare(
        self,
        primary: &Upstream,
        own: &Replayed,
        theirs: &History,
        surplus: &Surplus,
    ) -> Result<u64, MakingError> {
        let refuse = |why: String| Err(MakingError::NotRewound(why));
        let control = ControlFile::read(self.settings, self.spawner, &self.layout.data).await?;
        if !control.changes_logged {
            return refuse(
                "neither checksums nor wal_log_hints were on, so that its WAL does not name every \
                 page that differs"
                    .to_owned(),
            );
        }
        if control.checkpoint.timeline != own.history.timeline {
            return refuse(format!(
                "its last checkpoint is on timeline {}, and its WAL on timeline {}",
                control.checkpoint.timeline, own.history.timeline
            ));
        }
        if self.settled_lineage_of(primary).await?.history != *theirs {
            return refuse(format!("{} has begun another timeline meanwhile", primary.id));
        }
        if own.history.timeline >= theirs.timeline {
            // By the number alone nobody can tell whether it is the same one.
            return refuse(format!(
                "it is on timeline {}, and {} on timeline {}",
                own.history.timeline, primary.id, theirs.timeline
            ));
        }
        let mut trial = self.pg_rewind(&self.layout.data, primary);
        trial.arg("--dry-run");
        let output = run_helper(self.spawner, trial, Signal::KILL).await?;
        let size = output.stderr.lines().find_map(needed).unwrap_or(0);
        self.make_room("a rewind".to_owned(), &self.layout.dir, size)?;
        if self.settings.repair.keep_diverged > 0 {
            let (kept, data) = (self.layout.diverged.clone(), self.layout.data.clone());
            let surplus = surplus.clone();
            let bytes = control.segment_bytes;
            let keeping = move || keep_wal(&kept, &data, &surplus, bytes);
            let kept = tokio::task::spawn_blocking(keeping).await.map_err(io::Error::other)??;
            tracing::info!(kept = %kept.display(), "the WAL that is taken back is kept");
            self.prune().await?;
        }
        Ok(control.segment_bytes)
    }

    fn pg_rewind(self, data: &Path, primary: &Upstream) -> Command {
        let mut command = Command::new(self.settings.bin.join("pg_rewind"));
        command
            .arg("--target-pgdata")
            .arg(data)
            .args(["--source-server", &self.connection_to(primary)])
            // What was not stopped in order is none of its business: that was seen to.
            .args(["--progress", "--no-ensure-shutdown"])
            .env("LC_ALL", "C");
        command
    }

    /// From the first write to the last.
    async fn go_over(
        self,
        primary: &Upstream,
        surplus: &Surplus,
        segment_bytes: u64,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), MakingError> {
        let Layout { dir, data, data_rewind, rewind_wal, data_rewound, .. } = self.layout;
        remove_in_background(data_rewind).await?;
        remove_in_background(data_rewound).await?;
        if let Err(error) = set_aside(rewind_wal, data, surplus, segment_bytes) {
            // On another disk, say. Perhaps the primary still has what replay needs.
            tracing::warn!(%error, "the WAL from before the fork cannot be set aside");
            remove_all(rewind_wal)?;
        }
        fs::rename(data, data_rewind)?;
        sync_directory(dir)?;
        let command = self.pg_rewind(data_rewind, primary);
        let hear = |line: &str| tell(progress, line);
        run_and_hear(self.spawner, command, Signal::KILL, hear).await?;
        if rewind_wal.exists() {
            give_back(rewind_wal, data_rewind)?;
        }
        remove_source_marks(data_rewind)?;
        mark_standby(data_rewind)?;
        sync_directory(data_rewind)?;
        fs::rename(data_rewind, data_rewound)?;
        Ok(sync_directory(dir)?)
    }

    /// Replays what belongs to the pages that were brought, until all of it is consistent.
    async fn follow_up(self, primary: &Upstream, stamp: Stamp) -> Result<Reused, MakingError> {
        let Layout { dir, data, data_rewound, .. } = self.layout;
        // Without a name of its own: nobody's commit waits for this.
        let conninfo = connection(self.settings, self.layout, primary);
        let server = self.stand_by_privately(data_rewound, conninfo).await?;
        let session = server.session().await?;
        let place = server.place(&session, data_rewound).await?;
        let theirs = self.lineage_of(primary).await?.history;
        drop(session);
        server.stop().await?;
        if place.history != theirs && !theirs.left_behind(&place.history, place.lsn) {
            return Err(MakingError::NotRewound(format!(
                "what was rewound is on timeline {}, which is not that of {}",
                place.history.timeline, primary.id
            )));
        }
        let end = Position::new(place.history.timeline, place.lsn);
        let control = ControlFile::read(self.settings, self.spawner, data_rewound).await?;
        write_identity(data_rewound, &new_identity(self.settings, &control, stamp, end))?;
        fs::rename(data_rewound, data)?;
        sync_directory(dir)?;
        Ok(Reused::Rewound)
    }
}
