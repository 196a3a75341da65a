//! Data made as a copy of another instance's.
//!
//! `pg_basebackup` brings it, with the WAL that comes meanwhile, and a manifest: each file with its
//! size and checksum. `pg_verifybackup` compares what is on this disk with that, and reads the WAL.
//!
//! **Invariant:** a copy is nobody's data until it is complete and verified: the marks of this
//! instance are written last.
//!
//! Source: PostgreSQL manual, `pg_basebackup`, `pg_verifybackup`, "Backup Manifest Format".

use std::fs;
use std::path::Path;

use dugong_machine::Upstream;
use dugong_topology::{Lsn, Position, TimelineId, Way};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::watch;

use super::configuration::{connection, write_passfile};
use super::data_dir::{
    ControlFile, StartsAs, mark_standby, new_identity, read_identity, remove_source_marks,
    starts_as, write_identity,
};
use super::given_up;
use super::helper::{HelperError, Output, run_and_hear, run_helper};
use super::making::{MakingError, Replaced, Stamp, Workshop, tell};
use super::progress::Progress;
use super::tablespaces::{self, Tablespace};

/// What is copied.
#[derive(Debug)]
pub(super) struct Source {
    /// For people.
    pub name: String,
    /// As libpq takes it.
    pub connection: String,
    /// The slot there that keeps the WAL; none: it is kept for as long as the copy takes.
    pub slot: Option<String>,
}

impl Workshop<'_> {
    /// Makes a copy of `source`'s data. Dropping the future kills whatever works on it.
    pub(super) async fn copy(
        self,
        source: &Upstream,
        stamp: Stamp,
        old: Replaced,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), MakingError> {
        let Self { settings, layout, spawner, .. } = self;
        let data = &layout.data_new;
        // What cannot be told is kept; and so is what somebody has given up.
        let worth_keeping = old == Replaced::Forked || given_up::is_marked(&layout.data);
        let forked = worth_keeping || self.may_have_forked().await.unwrap_or(true);
        let old = if forked { Replaced::Forked } else { Replaced::Prefix };
        write_passfile(settings, layout)?;
        let tablespaces = self.begin_anew(source).await?;
        let named = Source {
            name: source.id.to_string(),
            connection: connection(settings, layout, source),
            slot: None,
        };
        let output = match self.fill(&named, &tablespaces, progress).await {
            Err(error @ MakingError::Unverified { .. }) => {
                self.begin_anew(source).await?;
                return Err(error);
            }
            other => other?,
        };
        remove_source_marks(data)?;
        // From its first moment as data it is a standby's: it can never start as a second primary.
        mark_standby(data)?;
        let control = ControlFile::read(settings, spawner, data).await?;
        let end = end_of_backup(&output.stderr).unwrap_or(control.checkpoint);
        write_identity(data, &new_identity(settings, &control, stamp, end))?;
        self.put_in_place(old).await
    }

    /// Fills the directory of new data, which is not there, with a verified copy.
    pub(super) async fn fill(
        self,
        source: &Source,
        tablespaces: &[Tablespace],
        progress: &watch::Sender<Progress>,
    ) -> Result<Output, MakingError> {
        let Self { settings, layout, spawner, .. } = self;
        let mut backup = Command::new(settings.bin.join("pg_basebackup"));
        backup
            .arg("-D")
            .arg(&layout.data_new)
            .args(["-d", &source.connection])
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-password", "--verbose"])
            .arg("--progress")
            .args(source.slot.iter().map(|slot| format!("--slot={slot}")))
            .env("LC_ALL", "C");
        if let Some(rate) = settings.repair.copy_max_rate {
            backup.arg(format!("--max-rate={}k", rate.kilobytes()));
        }
        backup.args(tablespaces::places(layout, tablespaces).iter().map(tablespaces::mapping));
        let hear = |line: &str| tell(progress, line);
        let output = tokio::select! {
            output = run_and_hear(spawner, backup, Signal::KILL, hear) => output,
            // Dropped with what it has copied so far, which is next to nothing.
            error = self.short_of_room(source, tablespaces, progress.subscribe()) => return Err(error),
        };
        let source_id = source.name.clone();
        let output = match output {
            Ok(output) => output,
            // The source reads each page, and compares; it has counted them, too.
            Err(error) if error.to_string().contains(DAMAGED) => {
                return Err(MakingError::DamagedSource { source_id });
            }
            Err(error) => return Err(MakingError::Copy { source_id, error }),
        };
        progress.send_replace(Progress::begun(Way::Verify));
        match self.verify().await {
            Ok(()) => Ok(output),
            Err(error) => Err(MakingError::Unverified { source_id, error }),
        }
    }

    /// Removes what an attempt before this one has left, and learns what tablespaces there are.
    async fn begin_anew(self, source: &Upstream) -> Result<Vec<Tablespace>, MakingError> {
        let mut known = tablespaces::used(self.layout)?;
        self.clear().await?;
        let found = self.tablespaces_of(source).await.unwrap_or_else(|error| {
            // The copy will tell, if that is more than this question.
            tracing::warn!("the tablespaces of {} are not known: {error}", source.id);
            Vec::new()
        });
        known.extend(tablespaces::places(self.layout, &found).into_iter().map(|(_, new)| new));
        self.sweep(known).await?;
        Ok(found)
    }

    /// Compares what was copied with its manifest, before anything of it is changed.
    async fn verify(self) -> Result<(), HelperError> {
        let mut command = Command::new(self.settings.bin.join(VERIFIER));
        command.args(["--exit-on-error", "--quiet"]);
        match Verifier::find(&self.settings.bin) {
            Verifier::OfAll => (),
            Verifier::OfFiles => {
                command.arg("--no-parse-wal");
            }
            Verifier::Missing => return Ok(()), // Said when the controller began.
        }
        command.arg(&self.layout.data_new).env("LC_ALL", "C");
        run_helper(self.spawner, command, Signal::KILL).await.map(|_| ())
    }

    /// Returns when it is known that the copy will find no room: once its size is known.
    async fn short_of_room(
        self,
        source: &Source,
        tablespaces: &[Tablespace],
        mut progress: watch::Receiver<Progress>,
    ) -> MakingError {
        // An error: nobody tells any more.
        let size = progress.wait_for(|progress| progress.total > 0).await.map(|known| known.total);
        let what = format!("a copy of {}", source.name);
        let on_each_disk = |size| {
            let mut needs = tablespaces::needs(self.layout, size, tablespaces).into_iter();
            needs.try_for_each(|(dir, bytes)| self.make_room(what.clone(), &dir, bytes))
        };
        match size.map(on_each_disk) {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether what is here has WAL of its own: that of a primary may.
    async fn may_have_forked(self) -> Result<bool, MakingError> {
        let Self { settings, layout, spawner, .. } = self;
        if read_identity(&layout.data)?.is_none() {
            return Ok(false);
        }
        Ok(starts_as(settings, spawner, &layout.data).await? == StartsAs::Primary)
    }
}

/// What `pg_basebackup` says when all is brought, and some of it is damaged.
const DAMAGED: &str = "checksum error occurred";

const VERIFIER: &str = "pg_verifybackup";

/// What PostgreSQL's programs here can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verifier {
    /// Files and WAL.
    OfAll,
    /// `pg_waldump` is missing.
    OfFiles,
    Missing,
}

impl Verifier {
    fn find(bin: &Path) -> Self {
        // It looks for its helper where it lies itself, past symbolic links.
        match fs::canonicalize(bin.join(VERIFIER)) {
            Ok(path) if path.with_file_name("pg_waldump").exists() => Self::OfAll,
            Ok(_) => Self::OfFiles,
            Err(_missing) => Self::Missing,
        }
    }

    /// Says what copies will not be verified for, if something is missing.
    pub(super) fn announce(bin: &Path) {
        let missing = match Self::find(bin) {
            Self::OfAll => return,
            Self::OfFiles => "pg_waldump: of copies the files are verified, and not the WAL",
            Self::Missing => "pg_verifybackup: copies are not verified",
        };
        tracing::warn!("{} has no {missing}; install all of PostgreSQL's programs", bin.display());
    }
}

/// Where the copied WAL ends, from `pg_basebackup --verbose`; none where it does not say.
fn end_of_backup(said: &str) -> Option<Position> {
    let after = |mark: &str| {
        let line = said.lines().find_map(|line| line.split_once(mark))?;
        Some(line.1.trim())
    };
    let timeline = after("write-ahead log start point: ")?.split_once(" on timeline ")?.1;
    let end: Lsn = after("write-ahead log end point: ")?.parse().ok()?;
    Some(Position::new(TimelineId(timeline.parse().ok()?), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_where_its_wal_ends() {
        let said = "pg_basebackup: write-ahead log start point: 0/2000028 on timeline 3\n\
                    pg_basebackup: write-ahead log end point: 0/2000138\n";
        assert_eq!(end_of_backup(said).unwrap().to_string(), "3@0/2000138");
        assert_eq!(end_of_backup("pg_basebackup: error: no route\n"), None);
    }
}
