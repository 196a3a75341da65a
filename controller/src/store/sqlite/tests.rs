//! The contract, and what only a file can do: be shared by processes, be exchanged, be damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use dugong_machine::{Guard, ServerState};
use futures_util::future::ready;
use rusqlite::{Connection, ffi};
use tempfile::TempDir;

use super::super::contract::{
    LONG, Place, cluster_settings, contract_tests, declaration, has_lapsed, id, is_alive, presence,
    record, shown, switchover,
};
use super::*;

/// A directory with, perhaps, a store in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("store.db")
    }

    fn open(&self, instance: &str) -> SqliteStore {
        SqliteStore::open(&self.path(), id(instance), LONG).unwrap()
    }

    /// As whoever exchanges the file must: SQLite would take the old ones for the new file's.
    fn remove_side_files(&self) {
        for side in ["store.db-wal", "store.db-shm"] {
            // Gone already where the last connection was closed.
            let _ = fs::remove_file(self.0.path().join(side));
        }
    }

    /// Looks behind the store's back.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

impl Place for Folder {
    fn handle<'a>(&'a self, instance: &'a str, ttl: Duration) -> BoxFuture<'a, Arc<dyn Store>> {
        let store = SqliteStore::open(&self.path(), id(instance), ttl).unwrap();
        Box::pin(ready(Arc::new(store) as Arc<dyn Store>))
    }

    fn brief(&self) -> Duration {
        Duration::from_millis(300)
    }

    fn lateness(&self) -> Duration {
        Duration::from_millis(100)
    }
}

contract_tests!(Folder::new());

/// Waits for a failure that says so.
async fn failed(watch: &mut watch::Receiver<Reading>, expected: &str) {
    let says_so = |reading: &Reading| match reading {
        Reading::Failed(error) => error.0.contains(expected),
        Reading::Pending | Reading::Whole(_) => false,
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), watch.wait_for(says_so)).await;
    assert!(waited.is_ok(), "no failure {expected:?}");
}

fn refusal(of: Result<SqliteStore, StoreError>) -> String {
    of.expect_err("must be refused").to_string()
}

#[tokio::test]
async fn a_write_of_another_process_is_noticed() {
    const CHILD: &str = "DUGONG_TEST_STORE_OF_THE_PARENT";
    if let Some(path) = std::env::var_os(CHILD) {
        // This is the other process: the same test, started by itself.
        let store = SqliteStore::open(Path::new(&path), id("pg-2"), LONG).unwrap();
        store.announce(presence("pg-2", ServerState::Ready)).await.unwrap();
        store.declare(declaration(1, None)).await.unwrap();
        return;
    }
    let folder = Folder::new();
    let store = folder.open("pg-1");
    let mut watch = store.watch();
    shown(&mut watch, "the empty store", |it| it.instances.is_empty()).await;
    let this_test = "store::sqlite::tests::a_write_of_another_process_is_noticed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([this_test, "--exact"])
        .env(CHILD, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let snapshot = shown(&mut watch, "its word", |it| it.declared.is_some()).await;
    assert!(is_alive(&snapshot, "pg-2"));
    assert!(child.wait().unwrap().success());
    // The process is gone, its session is not: that is what the time to live is for.
    assert!(is_alive(&store.read().await.unwrap(), "pg-2"));
}

#[tokio::test]
async fn reopening_keeps_everything_and_takes_over_the_session() {
    let folder = Folder::new();
    let before = folder.open("pg-1");
    before.declare(declaration(1, None)).await.unwrap();
    before.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let left = before.read().await.unwrap();
    drop(before);
    let after = folder.open("pg-1");
    assert_eq!(after.read().await.unwrap(), left);
    assert_eq!(after.renew().await, Err(RenewError::Lapsed), "the session is not this handle's");
    after.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    assert_eq!(after.renew().await, Ok(()));
}

#[tokio::test]
async fn sessions_of_another_boot_have_lapsed_and_revisions_jump() {
    let folder = Folder::new();
    let before = folder.open("pg-1");
    before.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    let at = before.declare(declaration(1, None)).await.unwrap();
    drop(before);
    folder
        .raw()
        .execute_batch("UPDATE presences SET boot_id = 'other'; UPDATE meta SET boot_id = 'other'")
        .unwrap();
    let after = folder.open("pg-2");
    let guard = Guard::AbsentOrStopped(id("pg-1"));
    let next = Declaration { guard, ..declaration(2, Some(at)) };
    let next = after.declare(next).await.unwrap();
    assert!(next.0 > at.0 + 1000, "{next} may have been seen before the crash");
    assert!(has_lapsed(&after.read().await.unwrap(), "pg-1"));
    drop(after);
    let again = folder.open("pg-2").read().await.unwrap();
    assert_eq!(again.revision, next, "one jump for one boot");
}

#[tokio::test]
async fn many_controllers_may_begin_at_once() {
    let folder = Folder::new();
    let path = folder.path();
    let stores: Vec<_> = thread::scope(|scope| {
        let open = |n| SqliteStore::open(&path, id(&format!("pg-{n}")), LONG).unwrap();
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || open(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (n, store) in stores.iter().enumerate() {
        store.announce(presence(&format!("pg-{n}"), ServerState::Ready)).await.unwrap();
    }
    for store in &stores {
        assert_eq!(store.read().await.unwrap().all_present().count(), 8);
    }
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let folder = Folder::new();
    let store = folder.open("pg-1");
    store.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.0.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["store.db", "store.db-shm", "store.db-wal"]);
}

#[tokio::test]
async fn an_observer_reads_and_declares_but_has_no_session() {
    let folder = Folder::new();
    let missing = refusal(SqliteStore::observe(&folder.path()));
    assert!(missing.contains("does not exist"), "{missing}");
    assert!(!folder.path().exists(), "an observer makes no store");

    let instance = folder.open("pg-1");
    let at = instance.declare(declaration(1, None)).await.unwrap();
    let observer = SqliteStore::observe(&folder.path()).unwrap();
    assert_eq!(observer.read().await.unwrap().record(), Some(&record(1)));
    observer.declare(declaration(2, Some(at))).await.unwrap();
    assert_eq!(observer.history(9).await.unwrap().len(), 2);
    shown(&mut observer.watch(), "the record", |it| it.record() == Some(&record(2))).await;

    let word = presence("pg-1", ServerState::Ready);
    let announced = observer.announce(word).await.unwrap_err();
    let renewed = observer.renew().await.unwrap_err();
    let resigned = observer.resign().await.unwrap_err();
    assert_eq!(renewed, RenewError::Store(announced.clone()));
    assert_eq!(resigned, announced);
    let misnamed = instance.announce(presence("pg-2", ServerState::Ready)).await.unwrap_err();
    assert!(misnamed.0.contains("cannot announce pg-2"), "{misnamed}");
    assert!(observer.read().await.unwrap().instances.is_empty());
}

#[test]
fn files_that_are_no_store_of_this_program_are_refused_and_left_alone() {
    let folder = Folder::new();
    let path = folder.path();
    let open = || refusal(SqliteStore::open(&path, id("pg-1"), LONG));
    fs::write(&path, "a letter to somebody, longer than the header of a database would be")
        .unwrap();
    let text = fs::read(&path).unwrap();
    assert!(open().contains("is no database"), "{}", open());
    assert_eq!(fs::read(&path).unwrap(), text);

    fs::remove_file(&path).unwrap();
    folder.raw().execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    assert!(open().contains("a database of something else"), "{}", open());

    fs::remove_file(&path).unwrap();
    drop(folder.open("pg-1"));
    folder.raw().pragma_update(None, "user_version", 3).unwrap();
    assert!(open().contains("has schema 3, this program knows schema 2"), "{}", open());

    let nowhere = folder.0.path().join("missing/store.db");
    let message = refusal(SqliteStore::open(&nowhere, id("pg-1"), LONG));
    assert!(message.contains("its directory does not exist: create it"), "{message}");
}

#[tokio::test]
async fn a_damaged_store_is_a_failure_in_words_and_never_an_empty_answer() {
    let folder = Folder::new();
    let store = folder.open("pg-1");
    store.declare(declaration(1, None)).await.unwrap();
    let mut watch = store.watch();
    shown(&mut watch, "the record", |it| it.declared.is_some()).await;
    let damage = |sql| folder.raw().execute(sql, []).unwrap();
    damage("UPDATE record SET content = replace(content, '\"version\":1', '\"version\":2')");
    damage("UPDATE meta SET revision = revision + 1");
    failed(&mut watch, "a record has version 2").await;
    let message = store.read().await.unwrap_err().to_string();
    assert!(message.contains("a record has version 2, this program reads version 1"), "{message}");
    damage("UPDATE record SET content = replace(content, '\"version\":2', '\"version\":1')");
    shown(&mut watch, "the record again", |it| it.record() == Some(&record(1))).await;
}

#[tokio::test]
async fn a_store_that_vanishes_or_is_exchanged_is_a_failure_until_it_is_back() {
    let folder = Folder::new();
    let (path, aside) = (folder.path(), folder.0.path().join("aside"));
    let store = folder.open("pg-1");
    store.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    let at = store.declare(declaration(1, None)).await.unwrap();
    let mut watch = store.watch();
    shown(&mut watch, "the record", |it| it.declared.is_some()).await;

    fs::rename(&path, &aside).unwrap();
    failed(&mut watch, "is gone: put the file back").await;
    assert!(matches!(store.renew().await, Err(RenewError::Store(_))), "it was renewed nowhere");
    fs::rename(&aside, &path).unwrap();
    let back = shown(&mut watch, "the record again", |it| it.declared.is_some()).await;
    assert_eq!(back.declared.as_ref().unwrap().revision, at);
    assert_eq!(store.renew().await, Ok(()));

    // Another controller begins on a path where nothing is, and makes a store of its own.
    fs::rename(&path, &aside).unwrap();
    failed(&mut watch, "is gone").await;
    folder.remove_side_files();
    let other = folder.open("pg-2");
    failed(&mut watch, "is not the one that was opened").await;
    let declared = store.declare(declaration(1, None)).await.unwrap_err();
    assert!(matches!(declared, DeclareError::Store(_)), "{declared:?}");
    assert_eq!(other.read().await.unwrap().declared, None);
}

#[tokio::test]
async fn a_store_that_goes_back_is_never_shown() {
    let folder = Folder::new();
    let store = folder.open("pg-1");
    let at = store.declare(declaration(1, None)).await.unwrap();
    let copy = folder.0.path().join("backup");
    folder.raw().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    store.declare(declaration(2, Some(at))).await.unwrap();
    let mut watch = store.watch();
    shown(&mut watch, "generation 2", |it| it.record() == Some(&record(2))).await;
    let newer = folder.0.path().join("newer");
    fs::rename(folder.path(), &newer).unwrap();
    folder.remove_side_files();
    fs::rename(&copy, folder.path()).unwrap();
    failed(&mut watch, "went back from revision 2 to 1").await;
    let message = store.read().await.unwrap_err().to_string();
    assert!(message.contains("put the newer file back"), "{message}");
}

#[tokio::test]
async fn a_store_of_the_schema_before_requests_opens_and_takes_them() {
    let folder = Folder::new();
    let before = folder.open("pg-1");
    before.declare(declaration(1, None)).await.unwrap();
    drop(before);
    folder.raw().execute_batch("DROP TABLE requests; PRAGMA user_version = 1").unwrap();
    let observer = SqliteStore::observe(&folder.path()).unwrap();
    assert_eq!(observer.read().await.unwrap().record(), Some(&record(1)));
    let asked = observer.ask("ann".to_owned(), switchover()).await.unwrap();
    let snapshot = folder.open("pg-1").read().await.unwrap();
    assert_eq!(snapshot.requests.keys().collect::<Vec<_>>(), [&asked]);
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_is_an_error_and_recovers() {
    let folder = Folder::new();
    let store = folder.open("pg-1");
    store.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let mut watch = store.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    let raw = folder.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let message = store.renew().await.unwrap_err().to_string();
    assert!(message.contains("was locked by another process for too long"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(matches!(&*watch.borrow(), Reading::Whole(_)), "reading goes on meanwhile");
    raw.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.renew().await, Ok(()));
}

#[test]
fn every_trouble_names_the_cause_and_the_next_step() {
    let sqlite =
        |code| Trouble::Sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    let refused = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    #[rustfmt::skip]
    let cases = [
        (sqlite(ffi::SQLITE_FULL),                        "/x has no room: free space on its disk"),
        (sqlite(ffi::SQLITE_CANTOPEN),                    "must be writable for this user"),
        (sqlite(ffi::SQLITE_READONLY),                    "must be writable for this user"),
        (sqlite(ffi::SQLITE_CORRUPT),                     "/x is damaged"),
        (sqlite(ffi::SQLITE_IOERR),                       "look at its disk"),
        (sqlite(ffi::SQLITE_BUSY),                        "look for one that hangs"),
        (Trouble::NotCreated { error: refused() },        "its directory must be writable for the user"),
        (Trouble::Unreachable { error: refused() },       "/x cannot be reached"),
    ];
    for (trouble, expected) in cases {
        let message = trouble.at(Path::new("/x")).to_string();
        assert!(message.contains(expected), "{trouble:?}: {message}");
    }
}

#[test]
fn a_dropped_handle_ends_its_threads() {
    let folder = Folder::new();
    let store = folder.open("pg-1");
    let watch = store.watch();
    assert!(watch.has_changed().is_ok());
    drop(store);
    let begun = Instant::now();
    while watch.has_changed().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the watcher goes on");
        thread::yield_now();
    }
}

#[tokio::test]
async fn a_store_from_before_settings_opens_and_takes_them() {
    let folder = Folder::new();
    drop(folder.open("pg-1"));
    folder.raw().execute_batch("DROP TABLE settings").unwrap();

    let store = folder.open("pg-1");

    assert_eq!(store.settings().await, Ok(Edition::default()));
    let revision = store.amend(cluster_settings("8MB"), Revision(0)).await.unwrap();
    assert_eq!(store.settings().await.unwrap().revision, revision);
}
