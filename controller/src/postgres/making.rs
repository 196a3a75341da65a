//! Data made anew: by `initdb`, or as a copy of another instance's. `rewind.rs` makes it of what is
//! there.
//!
//! **Invariant:** data is made in `data.new` and becomes `data` by a rename, complete, with its
//! identity and on disk. What was there before stays until then.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dugong_machine::Identity;
use dugong_topology::{Generation, InstanceId};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::Settings;
use super::configuration::Common;
use super::control::LookError;
use super::data_dir::{ControlFile, DataDirError, new_identity, read_identity, write_identity};
use super::diverged;
use super::helper::{HelperError, Line, run_helper};
use super::layout::{Durability, Layout, remove_all, replace_file, sync_directory};
use super::process::Spawner;
use super::progress::Progress;
use super::roles;
use super::tablespaces;

/// Beside what is copied: a server makes WAL in files of 16 MB.
const MARGIN: u64 = 64 << 20;

/// The longest that a fresh server may take to answer, or to stop.
const FRESH_PATIENCE: Duration = Duration::from_secs(60);

/// Why no data was made. What was there before is untouched.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakingError {
    #[error("no copy could be made of {source_id}: {error}")]
    Copy { source_id: String, error: HelperError },
    #[error(
        "the copy of {source_id} was thrown away and is made again, for it did not pass its \
         verification: {error}; if that happens again, look at the disks and the memory of both"
    )]
    Unverified { source_id: String, error: HelperError },
    #[error(
        "pages of {source_id} fail their checksum, so no copy is made of it: see what `dugong status` \
         says about it; it is tried again in a minute, or with another source where there is one"
    )]
    DamagedSource { source_id: String },
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the server that was started for it failed: {0}")]
    Server(String),
    #[error("{id} cannot be asked for its history: {error}")]
    NotAsked { id: String, error: HelperError },
    #[error("{id} has made no checkpoint since its promotion within {within:?}")]
    NoCheckpoint { id: String, within: Duration },
    #[error("{0}")]
    NotRewound(String),
    #[error(
        "{what} needs {}, and {} are free on the disk of {}: make room there",
        size(*.needed),
        size(*.free),
        path.display()
    )]
    NoRoom { what: String, needed: u64, free: u64, path: PathBuf },
    #[error(
        "the command of [bootstrap] failed, {ended}: {said}; mend it, it is tried again from an \
         empty directory"
    )]
    Command { ended: String, said: String },
    #[error("{} is not adopted: it {why}", path.display())]
    NotAdopted { path: PathBuf, why: String },
    #[error("what the command of [bootstrap] has left in {} {why}", path.display())]
    NotRestored { path: PathBuf, why: String },
    #[error(
        "the recovery ended before its target, because the archive ends there: choose an earlier \
         target, or bring the WAL that is missing ({0})"
    )]
    TargetNotReached(String),
    #[error("the primary at {primary} cannot be followed: {why}")]
    NotFollowed { primary: String, why: String },
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("the data directory cannot be made: {0}")]
    Files(#[from] io::Error),
}

impl MakingError {
    /// Whether the next attempt may find things otherwise.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NotAsked { .. } | Self::NoCheckpoint { .. } | Self::Look(_) => true,
            Self::Copy { .. }
            | Self::Unverified { .. }
            | Self::DamagedSource { .. }
            | Self::Command { .. }
            | Self::NotAdopted { .. }
            | Self::NotRestored { .. }
            | Self::TargetNotReached(_)
            | Self::NotFollowed { .. }
            | Self::Helper(_)
            | Self::DataDir(_)
            | Self::Server(_)
            | Self::NotRewound(_)
            | Self::NoRoom { .. }
            | Self::Files(_) => false,
        }
    }
}

/// What a copy takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// Evidence, if somebody wants to know what was never acknowledged.
    Forked,
    /// A prefix of what the copy has, or nothing.
    Prefix,
}

/// What data that was just made says about its making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub making: u32,
    /// The generation that it was made for.
    pub made_in: Generation,
}

/// What making data needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workshop<'a> {
    pub settings: &'a Settings,
    pub layout: &'a Layout,
    pub spawner: &'a Spawner,
    /// The cluster's settings: what replays its WAL may need their libraries.
    pub common: &'a Common,
}

impl Workshop<'_> {
    /// Makes a new cluster. Dropping the future kills whatever works on it.
    pub(super) async fn initialise(self) -> Result<(), MakingError> {
        let Self { settings, layout, spawner, .. } = self;
        let data = &layout.data_new;
        self.clear().await?;
        let superuser = &settings.credentials.superuser;
        let pwfile = layout.run.join("superuser.password");
        replace_file(&pwfile, superuser.password.expose(), Durability::Atomic)?;
        let mut initdb = Command::new(settings.bin.join("initdb"));
        initdb
            .arg("-D")
            .arg(data)
            .arg("--data-checksums")
            .args(["--username", &superuser.name])
            .args(["--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg(format!("--pwfile={}", pwfile.display()))
            .env("LC_ALL", "C.UTF-8");
        let made = run_helper(spawner, initdb, Signal::KILL).await;
        remove_all(&pwfile)?;
        made?;
        self.make_roles().await?;
        let control = ControlFile::read(settings, spawner, data).await?;
        let first = Stamp { making: 1, made_in: Generation::default() };
        let identity = new_identity(settings, &control, first, control.checkpoint);
        write_identity(data, &identity)?;
        self.put_in_place(Replaced::Prefix).await
    }

    /// Starts the fresh server for nobody but us, makes the roles, and stops it cleanly.
    async fn make_roles(self) -> Result<(), MakingError> {
        let Self { settings, layout, .. } = self;
        let arguments = vec![
            ("password_encryption", "scram-sha-256".to_owned()),
            // The cluster does not exist yet: nobody could acknowledge.
            ("synchronous_standby_names", String::new()),
        ];
        let server = self.start_privately(&layout.data_new, arguments).await?;
        let session = tokio::time::timeout(FRESH_PATIENCE, server.session());
        let silent =
            |_| MakingError::Server(format!("it did not answer within {FRESH_PATIENCE:?}"));
        let session = session.await.map_err(silent)??;
        roles::make(&settings.credentials, &session).await?;
        drop(session);
        server.stop().await
    }

    /// Makes room on the disk of `dir` by what is only kept, where that is needed.
    pub(super) fn make_room(self, what: String, dir: &Path, bytes: u64) -> Result<(), MakingError> {
        let needed = bytes.saturating_add(MARGIN);
        let free = || free_bytes(dir).map_err(MakingError::Files);
        if free()? < needed {
            let known = tablespaces::used(self.layout)?;
            diverged::prune(&self.layout.diverged, 0)?;
            tablespaces::sweep(self.layout, &known);
        }
        match free()? {
            free if free < needed => {
                Err(MakingError::NoRoom { what, needed, free, path: dir.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Removes what an attempt before this one has left; its processes may be just ending.
    pub(super) async fn clear(self) -> io::Result<()> {
        let deadline = Instant::now() + FRESH_PATIENCE;
        loop {
            match remove_in_background(&self.layout.data_new).await {
                Err(error)
                    if error.kind() == io::ErrorKind::DirectoryNotEmpty
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
    }

    /// The new data becomes the data. What was there is removed after that.
    pub(super) async fn put_in_place(self, old: Replaced) -> Result<(), MakingError> {
        let Layout { dir, data, data_new, data_old, data_rewind, data_rewound, .. } = self.layout;
        let known = tablespaces::used(self.layout)?;
        sync_directory(data_new)?;
        remove_all(data_old)?;
        let keep = self.settings.repair.keep_diverged;
        let evidence = old == Replaced::Forked && keep > 0 && data.exists();
        let moved = if evidence {
            diverged::keep_data(&self.layout.diverged, data).map(|kept| {
                tracing::info!(kept = %kept.display(), "the forked data is kept");
            })
        } else {
            fs::rename(data, data_old)
        };
        match moved {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error.into()),
        }
        fs::rename(data_new, data)?;
        sync_directory(dir)?;
        remove_in_background(data_rewind).await?;
        remove_in_background(&self.layout.rewind_wal).await?;
        remove_in_background(data_rewound).await?;
        self.prune().await?;
        remove_in_background(data_old).await?;
        self.sweep(known).await
    }

    /// Removes the tablespaces of data that is gone. `known`: what there was before.
    pub(super) async fn sweep(self, known: BTreeSet<PathBuf>) -> Result<(), MakingError> {
        let layout = self.layout.clone();
        let sweeping = tokio::task::spawn_blocking(move || tablespaces::sweep(&layout, &known));
        Ok(sweeping.await.map_err(io::Error::other)?)
    }

    /// Keeps no more of what has forked than was asked for.
    pub(super) async fn prune(self) -> io::Result<()> {
        let (layout, count) = (self.layout.clone(), self.settings.repair.keep_diverged);
        let pruning = tokio::task::spawn_blocking(move || {
            let known = tablespaces::used(&layout)?;
            diverged::prune(&layout.diverged, count)?;
            tablespaces::sweep(&layout, &known);
            Ok(())
        });
        pruning.await.map_err(io::Error::other)?
    }
}

/// Tells how far a program has come, if this line says so.
pub(super) fn tell(progress: &watch::Sender<Progress>, line: &str) -> Line {
    let before = *progress.borrow();
    match before.heard(line) {
        Some(now) => {
            progress.send_replace(now);
            Line::Pass
        }
        None => Line::Keep,
    }
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    // Some file systems have no limit, and say 0 of 0.
    Ok(if disk.f_blocks == 0 { u64::MAX } else { disk.f_bavail.saturating_mul(disk.f_frsize) })
}

/// For people.
fn size(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

/// Large data takes a while to go: not on a thread that others wait for.
pub(super) async fn remove_in_background(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let removing = tokio::task::spawn_blocking(move || remove_all(&path));
    removing.await.map_err(io::Error::other)?
}

/// Puts right what an end in the middle of making data has left.
pub(super) fn tidy(layout: &Layout, me: &InstanceId) -> io::Result<()> {
    if !layout.data.exists() {
        // The last thing that is written. Before that there may be the source's.
        let is_mine = |identity: Option<Identity>| identity.is_some_and(|own| own.instance == *me);
        let is_whole = read_identity(&layout.data_new).is_ok_and(is_mine);
        let found = if is_whole { &layout.data_new } else { &layout.data_old };
        if found.exists() {
            fs::rename(found, &layout.data)?;
            sync_directory(&layout.dir)?;
        }
    }
    if layout.data.exists() {
        remove_all(&layout.data_rewound)?;
    }
    remove_all(&layout.data_rewind)?;
    remove_all(&layout.rewind_wal)?;
    remove_all(&layout.data_old)?;
    remove_all(&layout.data_restored)?;
    remove_all(&layout.data_new)
}

#[cfg(test)]
mod tests {
    use dugong_topology::{Lsn, Position, TimelineId};

    use super::*;

    /// What an end at some moment has left: directories with the identity that is in them.
    fn tidied(left: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let (layout, _lock) = Layout::claim(&folder.path().join("pg-3"), 5432).unwrap();
        for (name, owner) in left {
            let data = layout.dir.join(name);
            fs::create_dir(&data).unwrap();
            fs::write(data.join("from"), name).unwrap();
            if let Some(owner) = owner {
                let identity = Identity {
                    instance: owner.parse().unwrap(),
                    cluster: "main".to_owned(),
                    system_identifier: dugong_machine::SystemIdentifier(7),
                    generation: Generation(1),
                    making: 1,
                    made_in: Generation(1),
                    made_at: Position::new(TimelineId(1), Lsn(1)),
                };
                write_identity(&data, &identity).unwrap();
            }
        }
        tidy(&layout, &"pg-3".parse().unwrap()).unwrap();
        let entries = fs::read_dir(&layout.dir).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = entries
            .filter(|path| path.is_dir() && !path.ends_with("run"))
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path.join("from")).ok())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn only_what_is_whole_becomes_data_and_nothing_else_is_left() {
        let (mine, theirs) = (Some("pg-3"), Some("pg-2"));
        #[rustfmt::skip]
        let cases = [
            // what was going on            what is left                                        what becomes the data
            ("nothing",                     vec![("data", mine)],                               Some("data")),
            ("a copy, at its beginning",    vec![("data", mine), ("data.new", None)],           Some("data")),
            ("a copy, the data is gone",    vec![("data.new", None)],                           None),
            ("that copy, with the mark of its source", vec![("data.new", theirs)],              None),
            ("a whole copy, the old data kept aside",  vec![("data.new", mine)],                Some("data.new")),
            ("a whole copy, the old data moved",       vec![("data.new", mine), ("data.old", mine)], Some("data.new")),
            ("a rewind at work",            vec![("data.rewind", mine)],                        None),
            ("a copy after that",           vec![("data.rewind", theirs), ("data.new", theirs)], None),
        ];
        for (what, left, data) in cases {
            let expected = data.map(|from| ("data".to_owned(), Some(from.to_owned())));
            assert_eq!(tidied(&left), Vec::from_iter(expected), "{what}");
        }
        let rewound = tidied(&[("data.rewound", None), ("data.new", theirs)]);
        assert_eq!(rewound.len(), 1, "{rewound:?}");
        assert_eq!(rewound[0].0, "data.rewound", "it is brought to its end");
    }
}
