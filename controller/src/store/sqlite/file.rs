//! The file: made, opened, and recognized again.
//!
//! **Invariant:** the file is never opened but by SQLite: closing any descriptor of it would drop
//! the locks of all connections of this process (SQLite manual, "How To Corrupt An SQLite Database
//! File", 2.2).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::clock::Clock;
use super::trouble::{Trouble, is_busy};

/// The version of the tables, in the file's `user_version`.
pub(super) const SCHEMA: i64 = 2;

/// `Dugo`, in the file's `application_id`.
const APPLICATION_ID: i64 = 0x4475_676F;

/// How long a statement waits for the lock of another process. Writes take microseconds, a
/// declaration one fsync; longer than this a disk hangs.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Added to the revision at the first opening after a boot. A machine that lost its power may have
/// lost the last writes that were not declarations, and the revisions that others saw of those
/// must not come again with other content. SQLite syncs every 1000 pages or so.
const BOOT_STEP: i64 = 1_000_000;

const TABLES: &str = "
    CREATE TABLE meta (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        store_id TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE record (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        revision INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        since_unix_ms INTEGER NOT NULL,
        content TEXT NOT NULL
    ) STRICT;
    CREATE TABLE history (
        revision INTEGER PRIMARY KEY,
        at_unix_ms INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        content TEXT NOT NULL
    ) STRICT;
    CREATE TABLE presences (
        instance TEXT PRIMARY KEY,
        content TEXT NOT NULL,
        session TEXT NOT NULL,
        alive INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        expires_at_ms INTEGER NOT NULL
    ) STRICT;";

/// What schema 2 has beyond schema 1.
const REQUESTS: &str = "
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY,
        content TEXT NOT NULL,
        outcome TEXT
    ) STRICT;";

/// What a store of any schema may lack. A controller that knows nothing of it goes on as before, so
/// that this is no schema of its own: a cluster is upgraded one controller after the other.
const SETTINGS: &str = "
    CREATE TABLE settings (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        revision INTEGER NOT NULL,
        content TEXT NOT NULL
    ) STRICT;";

/// What to do where there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
}

/// The one store that this process opened: it is never silently exchanged for another one.
#[derive(Debug)]
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    /// Random, from when the store was made.
    id: String,
    /// The highest revision that was seen. Shared by the two threads, and only ever grows.
    highest: AtomicI64,
}

/// A connection, and which file it is of.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) connection: Connection,
    inode: Inode,
}

/// Device and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode(u64, u64);

impl StoreFile {
    /// Opens the file for the first time, and makes it a store if it is new.
    pub(super) fn open(
        path: &Path,
        missing: Missing,
        clock: &Clock,
    ) -> Result<(Arc<Self>, Open), Trouble> {
        match (inode(path), missing) {
            (Ok(_), _) => (),
            (Err(Trouble::Gone), Missing::Create) => create(path)?,
            (Err(Trouble::Gone), Missing::Refuse) => return Err(Trouble::Missing),
            (Err(trouble), _) => return Err(trouble),
        }
        let mut open = connect(path)?;
        let is_new = form(&open.connection)? == Form::Empty;
        if is_new && missing == Missing::Refuse {
            return Err(Trouble::Missing);
        }
        use_wal(&open.connection)?;
        if is_new {
            make_tables(&mut open.connection, clock)?;
        }
        bring_up(&mut open.connection)?;
        begin_boot(&mut open.connection, clock)?;
        let (id, revision) = identity(&open.connection)?;
        Ok((Arc::new(Self { path: path.to_owned(), id, highest: AtomicI64::new(revision) }), open))
    }

    /// A further connection to the same store.
    pub(super) fn connect(&self) -> Result<Open, Trouble> {
        let mut open = connect(&self.path)?;
        // An empty file has appeared at the path; it is not for this process to make a store of it.
        if form(&open.connection)? == Form::Empty {
            return Err(Trouble::Exchanged);
        }
        let (id, revision) = identity(&open.connection)?;
        if id != self.id {
            return Err(Trouble::Exchanged);
        }
        self.check(self.highest(), revision)?;
        use_wal(&open.connection)?;
        bring_up(&mut open.connection)?;
        Ok(open)
    }

    /// The highest revision that was seen so far: read it before the transaction to be checked.
    pub(super) fn highest(&self) -> i64 {
        self.highest.load(Ordering::Acquire)
    }

    /// Refuses a revision below `highest`, and remembers it otherwise.
    pub(super) fn check(&self, highest: i64, found: i64) -> Result<(), Trouble> {
        if found < highest {
            return Err(Trouble::WentBack { seen: highest, found });
        }
        self.highest.fetch_max(found, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the file that `open` is connected to is still the one at the path.
    pub(super) fn holds(&self, open: &Open) -> Result<bool, Trouble> {
        Ok(inode(&self.path)? == open.inode)
    }
}

fn inode(path: &Path) -> Result<Inode, Trouble> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Inode(metadata.dev(), metadata.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Trouble::Gone),
        Err(error) => Err(Trouble::Unreachable { error }),
    }
}

/// An empty file of mode 0600; SQLite gives `-wal` and `-shm` the same.
fn create(path: &Path) -> Result<(), Trouble> {
    // Made without being opened: see the module's invariant.
    match mknodat(CWD, path, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0) {
        // Another controller was faster.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(Trouble::NotCreated { error: error.into() }),
    }
}

fn connect(path: &Path) -> Result<Open, Trouble> {
    // Before opening: an exchange in between then shows as a difference, never as equality.
    let inode = inode(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_WAIT)?;
    Ok(Open { connection, inode })
}

/// What a file is, as far as this program can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Empty,
    /// A store of the schema before this one.
    Older,
    Current,
}

/// What the file is; an error where it is neither empty nor a store.
fn form(connection: &Connection) -> Result<Form, Trouble> {
    // One statement, since another controller may be making the tables meanwhile.
    let row = "SELECT application_id, user_version, (SELECT COUNT(*) FROM sqlite_schema)
               FROM pragma_application_id, pragma_user_version";
    let row: (i64, i64, i64) =
        connection.query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    match row {
        (APPLICATION_ID, SCHEMA, _) => Ok(Form::Current),
        (APPLICATION_ID, 1, _) => Ok(Form::Older),
        (APPLICATION_ID, found, _) => Err(Trouble::NewerSchema { found }),
        (0, 0, 0) => Ok(Form::Empty),
        (_, _, _) => Err(Trouble::Foreign),
    }
}

/// Readers and one writer at the same time. The mode stays with the file, but a restored copy may
/// have lost it.
fn use_wal(connection: &Connection) -> Result<(), Trouble> {
    let deadline = Instant::now() + LOCK_WAIT;
    // Here SQLite does not wait for the lock by itself, while several controllers begin at once.
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Ok(()) => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn make_tables(connection: &mut Connection, clock: &Clock) -> Result<(), Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another controller may have been faster.
    if form(&transaction)? == Form::Empty {
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(REQUESTS)?;
        transaction.execute_batch(SETTINGS)?;
        transaction.execute(
            "INSERT INTO meta VALUES (1, lower(hex(randomblob(16))), ?1, 0)",
            [&clock.boot_id],
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    Ok(transaction.commit()?)
}

/// Adds what an older store lacks. A controller of an older schema refuses it from then on.
fn bring_up(connection: &mut Connection) -> Result<(), Trouble> {
    if form(connection)? != Form::Older && has_settings(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another controller may have been faster.
    if form(&transaction)? == Form::Older {
        transaction.execute_batch(REQUESTS)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    if !has_settings(&transaction)? {
        transaction.execute_batch(SETTINGS)?;
    }
    Ok(transaction.commit()?)
}

fn has_settings(connection: &Connection) -> Result<bool, Trouble> {
    let found = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'settings'";
    Ok(connection.query_row(found, [], |_| Ok(())).optional()?.is_some())
}

/// See [`BOOT_STEP`]. A crash of the machine is all that can take back a committed write.
fn begin_boot(connection: &mut Connection, clock: &Clock) -> Result<(), Trouble> {
    let same = "SELECT 1 FROM meta WHERE boot_id = ?1";
    let same = connection.query_row(same, [&clock.boot_id], |_| Ok(())).optional()?;
    if same.is_none() {
        connection.execute(
            "UPDATE meta SET boot_id = ?1, revision = revision + ?2 WHERE boot_id <> ?1",
            (&clock.boot_id, BOOT_STEP),
        )?;
    }
    Ok(())
}

fn identity(connection: &Connection) -> Result<(String, i64), Trouble> {
    let row = "SELECT store_id, revision FROM meta";
    Ok(connection.query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}
