//! Copies of other instances' data: verified before they are data.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use dugong_controller::config::CopyRate;
use dugong_controller::postgres::{GiveUp, Settings, Why, find_bin};
use dugong_machine::{Access, Data, Goal, Receiver, Run, Upstream, Work};
use dugong_tests::chosen_postgres;
use dugong_topology::{Address, Way};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::instance::{Instance, cluster_of_two, id};
use crate::process_of_a_test::as_postgres;
use crate::repair::{kept, unchanged_file};

/// PostgreSQL's programs, with a stand-in for one of them: a shell script that is given the path of
/// the real one, `$REAL`, and of a folder that is its own, `$OWN`.
fn programs_with(name: &str, script: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("dugong-bin-").tempdir().unwrap();
    let (bin, _) = find_bin(chosen_postgres().as_deref()).unwrap();
    for program in fs::read_dir(&bin).unwrap().flatten() {
        if program.file_name() != name {
            symlink(program.path(), folder.path().join(program.file_name())).unwrap();
        }
    }
    let (real, own) = (bin.join(name), folder.path());
    let text = format!("#!/bin/sh\nREAL={} OWN={}\n{script}\n", real.display(), own.display());
    let stand_in = folder.path().join(name);
    fs::write(&stand_in, text).unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A primary, and an instance beside it that has nothing yet.
async fn with_newcomer(machine: impl FnOnce(&mut Settings)) -> (Instance, Instance) {
    let mut primary = Instance::new("pg-1").await;
    primary.initialise().await;
    primary.downstreams = [id("pg-2")].into();
    primary.primary(&["pg-2"], Access::ReadOnly);
    primary.until_primary("it runs", |_| true).await;
    let newcomer = Instance::on_machine("pg-2", &primary.credentials.clone(), machine).await;
    (primary, newcomer)
}

fn running(programs: &TempDir) -> impl FnOnce(&mut Settings) {
    let bin = programs.path().to_owned();
    |settings| settings.bin = bin
}

/// Copies, and damages what is at `path` in the first copy.
fn damaging(path: &str) -> TempDir {
    let script = format!(
        r#"data=; last=
for word; do [ "$last" = -D ] && data=$word; last=$word; done
"$REAL" "$@" || exit
[ -e "$OWN/damaged" ] && exit
for file in "$data"/{path}; do printf moon | dd of="$file" bs=1 seek=60 conv=notrunc 2>&1; done
touch "$OWN/damaged""#
    );
    programs_with("pg_basebackup", &script)
}

async fn is_thrown_away_and_made_again(path: &str, words: &str) {
    let programs = damaging(path);
    let (primary, mut newcomer) = with_newcomer(running(&programs)).await;
    newcomer.want(newcomer.copy_goal(&primary, 1));
    let dir = newcomer.data().parent().unwrap().to_owned();
    newcomer
        .until("it says what was wrong", |server| {
            assert!(server.identity().is_none(), "it is nobody's data");
            let why = server.trouble.as_deref().unwrap_or_default();
            why.contains("did not pass its verification") && why.contains(words)
        })
        .await;
    newcomer.until("another copy is there", |server| server.identity().is_some()).await;
    assert!(programs.path().join("damaged").exists());
    assert!(!dir.join("data.new").exists());
    newcomer.standby(Some(&primary));
    newcomer.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
}

#[test]
fn a_copy_with_a_damaged_file_is_thrown_away_and_made_again() {
    as_postgres(is_thrown_away_and_made_again("base/1/2608", "checksum mismatch"));
}

#[test]
fn a_copy_with_damaged_wal_is_thrown_away_and_made_again() {
    as_postgres(is_thrown_away_and_made_again("pg_wal/0000*", "WAL parsing failed"));
}

#[test]
fn without_the_program_that_verifies_copies_they_are_made_all_the_same() {
    as_postgres(async {
        let programs = programs_with("pg_verifybackup", "exit 1");
        fs::remove_file(programs.path().join("pg_verifybackup")).unwrap();
        let (primary, mut newcomer) = with_newcomer(running(&programs)).await;
        newcomer.copy_of(&primary, 1).await;
    });
}

#[test]
fn a_copy_that_is_being_verified_is_no_data_yet_and_says_so() {
    as_postgres(async {
        let script = r#"until [ -e "$OWN/go" ]; do sleep 0.01; done; exec "$REAL" "$@""#;
        let programs = programs_with("pg_verifybackup", script);
        let (primary, mut newcomer) = with_newcomer(running(&programs)).await;
        newcomer.want(newcomer.copy_goal(&primary, 1));
        let is_verified = |run: &Run| matches!(run, Run::Busy(Work::Copying(making)) if making.way == Way::Verify);
        newcomer.until("it is verified", |server| is_verified(&server.run)).await;
        assert!(!newcomer.data().exists());
        fs::write(programs.path().join("go"), "").unwrap();
        newcomer.until("the copy is there", |server| server.identity().is_some()).await;
    });
}

#[test]
fn a_copy_that_is_held_to_a_rate_takes_its_time_and_knows_how_long() {
    as_postgres(async {
        let rate = CopyRate::parse("8MB").unwrap();
        let machine = |settings: &mut Settings| settings.repair.copy_max_rate = Some(rate);
        let (primary, mut newcomer) = with_newcomer(machine).await;
        newcomer.want(newcomer.copy_goal(&primary, 1));
        let mut told = Vec::new();
        newcomer
            .until("the copy is there", |server| {
                if let Run::Busy(Work::Copying(making)) = &server.run
                    && let (Some(total), Some(left)) = (making.total_bytes, making.seconds_left)
                {
                    told.push((making.done_bytes, total, left));
                }
                server.identity().is_some()
            })
            .await;
        // A few seconds; what is told says it, whatever else this machine does.
        assert!(told.len() >= 2, "{told:?}");
        for (done, total, left) in &told {
            let least = (total - done.min(total)) / (8 << 20);
            assert!(*left + 2 >= least, "{left} s for {} bytes at 8 MB a second", total - done);
        }
        assert!(told.is_sorted_by_key(|(done, _, _)| *done), "{told:?}");
    });
}

/// What became of an operator's word, where whoever knows the cluster says that.
async fn given_up(
    instance: &mut Instance,
    from: Option<Upstream>,
    unneeded: Result<(), String>,
) -> Result<(), String> {
    let (answer, mut answered) = oneshot::channel();
    let unneeded = Box::pin(std::future::ready(unneeded));
    let order = GiveUp { why: Why::Asked, from, unneeded, answer };
    assert!(instance.give_up().send(order).await.is_ok(), "somebody looks after the data");
    loop {
        tokio::select! {
            answer = &mut answered => return answer.unwrap(),
            // Whoever is not listened to does not answer.
            () = instance.next() => (),
        }
    }
}

#[test]
fn data_that_is_needed_is_not_given_up_and_its_server_comes_back() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
        let before = standby.server.identity().cloned();
        let refused = given_up(&mut standby, None, Err("it is the sync".to_owned())).await;
        assert_eq!(refused, Err("it is the sync".to_owned()));
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
        assert_eq!(standby.server.identity().cloned(), before);
        let refused = given_up(&mut primary, None, Ok(())).await.unwrap_err();
        assert!(refused.contains("a primary"), "{refused}");
    });
}

#[test]
fn data_that_was_given_up_is_none_until_it_is_copied_whatever_ends_meanwhile() {
    as_postgres(async {
        let (primary, mut standby) = cluster_of_two().await;
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
        let file = unchanged_file(&standby);
        // Whom nobody can copy: the first attempt fails, and the next is by the machine's choice.
        let nobody = Upstream { address: Address::loopback(1), ..primary.upstream() };
        given_up(&mut standby, Some(nobody), Ok(())).await.unwrap();
        standby.until("it has no data", |server| server.data == Data::Empty).await;
        assert_eq!(unchanged_file(&standby), file, "which is there as it was");
        standby.want(Goal::Initialised);
        standby
            .until("nothing is made of it", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                server.data == Data::Empty && why.contains("was given up")
            })
            .await;

        let mut standby = standby.end().await.resume();
        standby.until("it has no data", |server| server.data == Data::Empty).await;
        standby.want(standby.copy_goal(&primary, 1));
        standby
            .until("the chosen one cannot be copied", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                server.data == Data::Empty && why.contains("no copy could be made of")
            })
            .await;
        standby.until("it is copied", |server| server.identity().is_some()).await;
        assert_ne!(unchanged_file(&standby), file);
        let kept: Vec<_> = kept(&standby);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(fs::metadata(kept[0].join("base/1/2608")).unwrap().ino(), file);
        standby.standby(Some(&primary));
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
    });
}

/// A primary that has made its tables in a tablespace at `folder`. That is one path, and this is one
/// machine: all others have only copies of it.
pub(crate) async fn with_tablespace(folder: &TempDir) -> Instance {
    let mut primary = Instance::new("pg-1").await;
    primary.initialise().await;
    primary.downstreams = [id("pg-2")].into();
    primary.one_node();
    primary.until_open().await;
    let client = primary.client().await;
    let fast = folder.path().display();
    client.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{fast}'")).await.unwrap();
    client.batch_execute("ALTER DATABASE postgres SET default_tablespace = fast").await.unwrap();
    primary
}

#[test]
fn a_tablespace_is_copied_to_a_place_of_its_own_and_goes_with_the_data() {
    as_postgres(async {
        let folder = tempfile::Builder::new().prefix("dugong-fast-").tempdir().unwrap();
        let primary = with_tablespace(&folder).await;
        let table = "CREATE TABLE t (n int); INSERT INTO t VALUES (1)";
        primary.client().await.batch_execute(table).await.unwrap();
        let machine = |settings: &mut Settings| settings.repair.keep_diverged = 1;
        let mut standby = Instance::on_machine("pg-2", &primary.credentials.clone(), machine).await;
        // The newest copy, and what is kept of the one before.
        for (making, places) in [(1, 1), (2, 2), (3, 2)] {
            standby.copy_of(&primary, making).await;
            standby.standby(Some(&primary));
            standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
            let client = standby.client().await;
            let question = "SELECT n, pg_relation_filepath('t') FROM t";
            let row = client.query_one(question, &[]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 1);
            let file = standby.data().join(row.get::<_, &str>(1)).canonicalize().unwrap();
            assert!(file.starts_with(folder.path()), "on the same disk: {}", file.display());
            let entries = fs::read_dir(folder.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let (copies, others): (Vec<_>, Vec<_>) =
                names.partition(|name| name.starts_with("dugong.pg-2."));
            assert_eq!(copies.len(), places, "{copies:?}");
            assert_eq!(others.len(), 1, "what the primary has is left alone: {others:?}");
            given_up(&mut standby, None, Ok(())).await.unwrap();
        }
    });
}
