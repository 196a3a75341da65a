//! A deposed primary's data is made anew of what it has, or copied where that cannot be.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use dugong_controller::postgres::has_served;
use dugong_machine::{Access, Data, Goal, Old, Receiver, Run, Stop};
use dugong_topology::{Generation, Lsn};
use tokio_postgres::Client;

use super::copies::with_tablespace;
use super::instance::{Instance, cluster_of_two, id};
use super::machines::{folder, follow, machines_with_tls};
use super::process_of_a_test::as_postgres;

/// A takeover. The old primary is down; its WAL goes on by a row that nobody else has, if `forks`.
async fn taken_over(forks: bool) -> (Instance, Instance) {
    taken_over_of(cluster_of_two().await, forks).await
}

/// The same, of a primary and its standby that streams.
async fn taken_over_of(
    (mut old, mut new): (Instance, Instance),
    forks: bool,
) -> (Instance, Instance) {
    let client = opened(&mut old).await;
    if forks {
        sealed(&mut new).await;
        let row = "SET synchronous_commit = local; INSERT INTO t VALUES (-1)";
        client.batch_execute(row).await.unwrap();
        dies(&mut old).await;
    } else {
        old.want(Goal::Down(Stop::Fast)); // Its standby gets all of it first.
        old.until("it is down", |server| server.run == Run::Down).await;
        old.want(Goal::Down(Stop::Immediate));
    }
    promote(&mut new).await;
    (old, new)
}

/// A primary that takes writes, and has a table.
async fn opened(primary: &mut Instance) -> Client {
    primary.primary(&["pg-2"], Access::ReadWrite);
    primary.until_open().await;
    let client = primary.client().await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    client
}

/// Nothing comes to it any more.
async fn sealed(standby: &mut Instance) {
    standby.want(Goal::Sealed { generation: Generation(1) });
    standby.until_standby("sealed", |view| view.receiver == Receiver::Sealed).await;
}

/// As it is, without a word.
async fn dies(primary: &mut Instance) {
    primary.kill(primary.postmaster());
    primary.until("it is down", |server| server.run == Run::Down).await;
    primary.want(Goal::Down(Stop::Immediate));
}

async fn promote(new: &mut Instance) {
    sealed(new).await;
    new.generation = Generation(2);
    new.downstreams = [id("pg-1")].into();
    new.primary(&["pg-1"], Access::ReadWrite);
    new.until_open().await;
    let row = "SET synchronous_commit = local; INSERT INTO t VALUES (2)";
    new.client().await.batch_execute(row).await.unwrap();
}

fn given_up(old: &Instance, new: &Instance, making: u32) -> Goal {
    let (source, primary) = (new.upstream(), new.upstream());
    let old_data = Old::GivenUp { primary };
    Goal::Copied { source, generation: old.generation, making, old: old_data }
}

/// Made anew by what `new` has, and following it.
async fn comes_back(old: &mut Instance, new: &Instance) {
    old.generation = Generation(2);
    let making = old.server.identity().unwrap().making + 1;
    old.want(given_up(old, new, making));
    old.until("it is made anew", |server| {
        let made = server.identity().filter(|own| own.making == making);
        server.run == Run::Down && made.is_some_and(|own| own.made_in == Generation(2))
    })
    .await;
    old.standby(Some(new));
    old.until_standby("it streams on the new timeline", |view| {
        view.receiver == Receiver::Streaming && view.history.timeline.0 == 2
    })
    .await;
    let end = new.client().await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let end: Lsn = end.get::<_, &str>(0).parse().unwrap();
    old.until_standby("it has everything", |view| view.replayed >= end).await;
    let rows = old.client().await.query("SELECT n FROM t ORDER BY n", &[]).await.unwrap();
    let rows: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, [1, 2], "what only it had is gone");
    let leftovers = ["data.new", "data.old", "data.rewind", "data.rewound"];
    let dir = old.data().parent().unwrap().to_owned();
    for name in leftovers {
        assert!(!dir.join(name).exists(), "{name} is left");
    }
}

/// What is kept of forked data.
pub(crate) fn kept(instance: &Instance) -> Vec<PathBuf> {
    let Ok(entries) = instance.data().with_file_name("diverged").read_dir() else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A file that nobody changes: whoever copies the data makes it anew.
pub(crate) fn unchanged_file(instance: &Instance) -> u64 {
    std::fs::metadata(instance.data().join("base/1/2608")).unwrap().ino()
}

#[test]
fn data_that_has_forked_is_rewound_and_not_copied() {
    as_postgres(async {
        let (mut old, new) = taken_over(true).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
        assert!(old.data().join("backup_label.old").exists(), "it was rewound");
        let kept = kept(&old);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert!(kept[0].join("pg_wal/000000010000000000000003").exists(), "what forked is kept");
        assert!(!kept[0].join("base").exists(), "and nothing else");
    });
}

/// As on machines of their own: each side is verified by the CA and by its address.
#[test]
fn data_is_rewound_over_tls_that_is_verified() {
    as_postgres(async {
        let folders = [folder(), folder()];
        let [mut primary, mut standby] = machines_with_tls(&folders).await;
        follow(&mut primary, &mut standby).await;
        let (mut old, new) = taken_over_of((primary, standby), true).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
        assert!(old.data().join("backup_label.old").exists(), "it was rewound");
        let encrypted = "SELECT ssl FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid)";
        let row = new.client().await.query_one(encrypted, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "and follows in the same way");
    });
}

/// A primary that has only just opened lets nobody read its files yet: that is no reason for a copy.
#[test]
fn data_is_rewound_once_its_primary_lets_itself_be_asked() {
    as_postgres(async {
        let (mut old, new) = taken_over(true).await;
        let client = new.client().await;
        let until = async |question: &str| {
            let so = async || client.query_one(question, &[]).await.unwrap().get::<_, bool>(0);
            while !so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let local = "SET synchronous_commit = local";
        let function = "EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text)";
        let allowed = "SELECT has_function_privilege('dugong_replication', \
                       'pg_catalog.pg_read_binary_file(text)', 'EXECUTE')";
        until(allowed).await;
        let revoked = format!("{local}; REVOKE {function} FROM dugong_replication");
        client.batch_execute(&revoked).await.unwrap();

        let file = unchanged_file(&old);
        let let_in = async {
            let asked = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                         WHERE usename = 'dugong_replication' AND application_name = 'psql')";
            until(asked).await;
            let granted = format!("{local}; GRANT {function} TO dugong_replication");
            client.batch_execute(&granted).await.unwrap();
        };
        tokio::join!(comes_back(&mut old, &new), let_in);
        assert_eq!(unchanged_file(&old), file, "it was not copied");
    });
}

#[test]
fn data_is_rewound_in_its_tablespaces_too() {
    as_postgres(async {
        let folder = tempfile::Builder::new().prefix("dugong-fast-").tempdir().unwrap();
        let primary = with_tablespace(&folder).await;
        let mut standby = Instance::new_in(&primary, "pg-2").await;
        standby.copy_of(&primary, 1).await;
        standby.standby(Some(&primary));
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        let (mut old, new) = taken_over_of((primary, standby), true).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
    });
}

/// Replay begins at the last checkpoint before the fork, which may be long ago.
#[test]
fn data_is_rewound_by_wal_of_its_own_where_the_primary_has_it_no_more() {
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        let client = opened(&mut old).await;
        let oldest = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]);
        let oldest: String = oldest.await.unwrap().get(0);
        for _ in 0..2 {
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
            client.batch_execute("CREATE TABLE s (); DROP TABLE s").await.unwrap();
        }
        sealed(&mut new).await;
        let row = "SET synchronous_commit = local; INSERT INTO t VALUES (-1)";
        client.batch_execute(row).await.unwrap();
        dies(&mut old).await;
        promote(&mut new).await;
        new.client().await.batch_execute("CHECKPOINT").await.unwrap();
        std::fs::remove_file(new.data().join("pg_wal").join(&oldest)).unwrap();
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
    });
}

/// Whoever looks for the end of such WAL reads all of the half again each time, which takes longer
/// than a server that looks for more all the time would rest in between.
#[test]
fn data_is_rewound_whose_wal_ends_in_half_of_a_very_long_record() {
    const HALF: u64 = 320 << 20;
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        let client = opened(&mut old).await;
        sealed(&mut new).await;
        let row = "SET synchronous_commit = local; INSERT INTO t VALUES (-1)";
        client.batch_execute(row).await.unwrap();
        let begun = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]);
        let begun: Lsn = begun.await.unwrap().get::<_, &str>(0).parse().unwrap();
        let cut = format!("SELECT pg_walfile_name('{}')", Lsn(begun.0 + HALF));
        let cut: String = client.query_one(&cut, &[]).await.unwrap().get(0);
        let long = "SELECT pg_logical_emit_message(false, 'long', repeat('x', 400000000))";
        client.batch_execute(long).await.unwrap();
        dies(&mut old).await;
        // As where the rest never came to the disk. Within a segment: only there PostgreSQL goes back
        // to where the record begins.
        let cut = old.data().join("pg_wal").join(cut);
        let mut segment = std::fs::read(&cut).unwrap();
        segment[8 << 20..].fill(0);
        std::fs::write(&cut, segment).unwrap();
        promote(&mut new).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
    });
}

#[test]
fn data_that_is_a_prefix_only_follows() {
    as_postgres(async {
        let (mut old, new) = taken_over(false).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_eq!(unchanged_file(&old), file, "it was not copied");
        assert!(!old.data().join("backup_label.old").exists(), "nor rewound");
        assert!(kept(&old).is_empty(), "there is nothing to keep");
    });
}

#[test]
fn data_that_cannot_be_rewound_is_copied() {
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        let client = opened(&mut old).await;
        sealed(&mut new).await;
        let walk = "SET synchronous_commit = local; INSERT INTO t VALUES (-1); \
                    SELECT pg_switch_wal(); INSERT INTO t VALUES (-2)";
        client.batch_execute(walk).await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
        let fork = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]);
        let newest: String = fork.await.unwrap().get(0);
        dies(&mut old).await;
        promote(&mut new).await;
        // What happened since the last common checkpoint is not known any more.
        for entry in old.data().join("pg_wal").read_dir().unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.len() == newest.len() && name < newest {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_ne!(unchanged_file(&old), file, "it was copied");
        let kept = kept(&old);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(std::fs::metadata(kept[0].join("base/1/2608")).unwrap().ino(), file);
    });
}

#[test]
fn where_no_time_is_given_to_rewinds_data_is_copied() {
    as_postgres(async {
        let (old, new) = taken_over(true).await;
        let mut ended = old.end().await;
        ended.tell(|settings| {
            settings.repair.rewind_timeout = None;
            settings.repair.keep_diverged = 0;
        });
        let mut old = ended.resume();
        old.until("its data is found", |server| server.identity().is_some()).await;
        let file = unchanged_file(&old);
        comes_back(&mut old, &new).await;
        assert_ne!(unchanged_file(&old), file, "it was copied");
        assert!(kept(&old).is_empty(), "nothing was to be kept");
    });
}

/// The controller ends in the middle of it, with every process: at whatever moment, the next one
/// brings it to its end, or makes a copy.
async fn interrupted_while_there_is(stage: &str) {
    let (mut old, new) = taken_over(true).await;
    old.generation = Generation(2);
    old.want(given_up(&old, &new, 2));
    let there = old.data().parent().unwrap().join(stage);
    let is_made = |old: &Instance| old.server.identity().is_some_and(|own| own.making == 2);
    while !there.exists() && !is_made(&old) {
        tokio::select! {
            () = old.next() => (),
            () = tokio::time::sleep(Duration::from_millis(1)) => (),
        }
    }
    let mut old = old.end().await.resume();
    old.until("its data was looked at", |server| server.data != Data::Unknown).await;
    if old.server.identity().is_none() {
        old.generation = Generation(2);
        old.want(given_up(&old, &new, 1));
        old.until("it is made", |server| server.identity().is_some()).await;
    }
    comes_back(&mut old, &new).await;
}

#[test]
fn a_rewind_that_is_interrupted_at_work_never_becomes_anything_else() {
    as_postgres(interrupted_while_there_is("data.rewind"));
}

#[test]
fn a_rewind_that_is_interrupted_before_it_is_consistent_is_brought_to_its_end() {
    as_postgres(interrupted_while_there_is("data.rewound"));
}

#[test]
fn what_is_being_rewound_begins_no_new_cluster() {
    as_postgres(async {
        let mut alone = Instance::new("pg-1").await;
        let dir = alone.data().parent().unwrap().to_owned();
        std::fs::create_dir(dir.join("data.rewound")).unwrap();
        assert!(has_served(&dir));
        alone.want(Goal::Initialised);
        alone
            .until("it refuses", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                server.data == Data::Empty && why.contains("has served a cluster")
            })
            .await;
    });
}
