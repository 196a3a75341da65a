//! Where things lie in an instance's directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::StartError;

/// The longest path of a socket that the kernel takes (`sun_path`, less its final zero).
const SOCKET_PATH_MAX: usize = 107;

/// The paths of one instance.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The instance's directory, free of symbolic links: processes are found by their paths.
    pub dir: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Data that is being made. Never counts as data.
    pub data_new: PathBuf,
    /// A base backup that becomes the first data of a cluster. Never counts as data, whatever it
    /// says about itself: it may be one of this very instance's, in another life.
    pub data_restored: PathBuf,
    /// Data of somebody's that becomes the first data of a cluster. The only one that there is: it is
    /// gone on with, and never removed.
    pub data_adopted: PathBuf,
    /// A copy of a foreign primary, which follows it until it becomes the first data of a cluster.
    pub data_followed: PathBuf,
    /// What the first data of a cluster had for its configuration, as far as it came from elsewhere.
    pub replaced: PathBuf,
    /// Data that a copy has just replaced.
    pub data_old: PathBuf,
    /// Data that `pg_rewind` works on. Nothing can be made of it but by that very run.
    pub data_rewind: PathBuf,
    /// Its WAL from before the fork meanwhile.
    pub rewind_wal: PathBuf,
    /// Data that `pg_rewind` has gone over, and that has not replayed what belongs to it yet.
    pub data_rewound: PathBuf,
    /// What has forked, and is kept for people.
    pub diverged: PathBuf,
    /// What was left of a data directory that somebody else destroyed.
    pub data_lost: PathBuf,
    /// The server's local socket and the passwords that it needs. Mode 0700.
    pub run: PathBuf,
    /// What the server writes to stderr.
    pub log: PathBuf,
}

/// Its holder is the one controller of the directory.
const LOCK_FILE: &str = "controller.lock";

impl Layout {
    /// Makes the directories that are missing and takes the lock of the instance's directory.
    pub(super) fn claim(dir: &Path, port: u16) -> Result<(Self, Lock), StartError> {
        let failed = |error| StartError::Directory { path: dir.to_owned(), error };
        let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(dir).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        let run = dir.join("run");
        private(&run).map_err(failed)?;
        // Whoever can reach the socket is trusted, so the mode is not left to chance.
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let socket = run.join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(StartError::SocketPath { path: socket });
        }
        let lock = Lock::take(&dir.join(LOCK_FILE))?;
        let layout = Self {
            data: data(&dir),
            data_new: dir.join("data.new"),
            data_restored: dir.join("data.restored"),
            data_adopted: dir.join("data.adopted"),
            data_followed: dir.join("data.followed"),
            replaced: dir.join("replaced"),
            data_old: dir.join("data.old"),
            data_rewind: dir.join("data.rewind"),
            rewind_wal: dir.join("data.rewind.wal"),
            data_rewound: rewound(&dir),
            diverged: dir.join("diverged"),
            data_lost: dir.join("data.lost"),
            log: dir.join("postgres.log"),
            run,
            dir,
        };
        Ok((layout, lock))
    }

    /// Whether what was claimed is still there: the lock goes with a directory that is destroyed.
    pub(super) fn is_claimed(&self) -> bool {
        self.dir.join(LOCK_FILE).exists() && self.run.exists()
    }

    /// Every directory that a server process of this instance may work in.
    pub(super) fn workplaces(&self) -> [PathBuf; 9] {
        workplaces(&self.dir)
    }

    /// The passwords of replication, in libpq's form.
    pub(super) fn passfile(&self) -> PathBuf {
        self.run.join("replication.pgpass")
    }
}

/// The data directory of the instance directory `dir`.
pub(super) fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// See [`Layout::data_rewound`].
pub(super) fn rewound(dir: &Path) -> PathBuf {
    dir.join("data.rewound")
}

/// Every directory in `dir`, free of symbolic links, that a server process may work in.
pub(super) fn workplaces(dir: &Path) -> [PathBuf; 9] {
    [
        "data",
        "data.new",
        "data.restored",
        "data.adopted",
        "data.followed",
        "data.old",
        "data.lost",
        "data.rewind",
        "data.rewound",
    ]
    .map(|name| dir.join(name))
}

/// The right to use an instance's directory. Ends when it is dropped, or with the process.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it is not enough: a child between its fork and its exec has it open, too. An
        // error leaves that.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    fn take(path: &Path) -> Result<Self, StartError> {
        let failed = |error| StartError::Directory { path: path.to_owned(), error };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                let path = path.to_owned();
                return Err(StartError::Locked { path, holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { file })
    }
}

/// How certain a written file is to survive a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// On disk when the function returns.
    Durable,
    /// Whole or absent, but written again before it matters.
    Atomic,
}

/// Replaces a file at once: readers see the old content or the new one, whole.
pub(super) fn replace_file(path: &Path, content: &str, durability: Durability) -> io::Result<()> {
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content.as_bytes())?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    fs::rename(&draft, path)?;
    match (durability, path.parent()) {
        (Durability::Durable, Some(parent)) => sync_directory(parent),
        (Durability::Durable, None) | (Durability::Atomic, _) => Ok(()),
    }
}

/// Makes what was created, renamed or removed in a directory survive a power failure.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file or a directory with all that is in it, if it is there.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_free_at_once_although_a_child_has_its_lock_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_FILE);
        let lock = Lock::take(&path).unwrap();
        let of_a_child = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(&path), Err(StartError::Locked { .. })));
        drop(lock);
        Lock::take(&path).unwrap();
        drop(of_a_child);
    }
}
