//! The supervised server against a real PostgreSQL.
//!
//! Each test runs in a process of its own: PostgreSQL refuses root, so that a test that finds
//! itself to be root runs itself again as the user `postgres`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bare;
mod beginnings;
mod copies;
mod exchange;
mod following;
mod handover;
mod instance;
mod machines;
mod process_of_a_test;
mod processes;
mod repair;
mod service;
mod settings;
mod warden;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dugong_machine::{Access, Data, Goal, Receiver, Run, Stop, Waits, Work};
use dugong_topology::Generation;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use instance::{Instance, cluster_of_two, each, id};
use process_of_a_test::{as_postgres, as_postgres_in_a_container};
use processes::server_processes;

#[test]
fn a_cluster_is_made_copied_and_streams() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        let view = standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        assert_eq!(view.upstream, Some(id("pg-1")));
        let identity = standby.server.identity().unwrap().clone();
        assert_eq!((identity.making, identity.made_in), (1, Generation(1)));
        let source = primary.server.identity().unwrap();
        assert_eq!(identity.system_identifier, source.system_identifier);

        // R5: not open yet, so that nobody sees what its sync may not have.
        let refused = primary.log_in().await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION));
        primary.primary(&["pg-2"], Access::ReadWrite);
        let view = primary
            .until_primary("pg-2 is waited for", |v| {
                v.access == Access::ReadWrite
                    && v.standby(&id("pg-2")).is_some_and(|row| row.waits == Waits::ForIt)
            })
            .await;
        assert_eq!(view.names, each(&["pg-2"]));
        primary.log_in().await.unwrap();
        primary.until_confirmed().await;
        let client = primary.client().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();

        // The proxy's role sees the verifier of one role, and nothing else.
        let lookup = primary.client_as(&primary.credentials.lookup.name).await;
        let row = lookup.query_one("SELECT * FROM dugong.user_lookup('app')", &[]).await.unwrap();
        assert!(row.get::<_, &str>(1).starts_with("SCRAM-SHA-256$"));
        assert!(lookup.query("SELECT * FROM pg_authid", &[]).await.is_err());
        let application = primary.client_as(&primary.credentials.application.name).await;
        let refused = application.query("SELECT * FROM dugong.user_lookup('app')", &[]).await;
        assert!(refused.is_err(), "nobody else may look up verifiers");
    });
}

#[test]
fn a_killed_primary_in_a_container_leaves_nothing_behind() {
    as_postgres_in_a_container(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |_| true).await;
        primary.kill(primary.postmaster());
        primary.until("it is down", |server| server.run == Run::Down).await;
        assert_eq!(server_processes(&primary.data()), [0; 0], "no process is left");
    });
}

#[test]
fn a_commit_waits_until_all_names_have_it() {
    as_postgres(async {
        let (mut primary, standby) = cluster_of_two().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        primary.client().await.batch_execute("CREATE TABLE t (n int)").await.unwrap();

        primary.primary(&["pg-2", "pg-3"], Access::ReadWrite);
        let both = each(&["pg-2", "pg-3"]);
        primary.until_primary("both names are in force", |view| view.names == both).await;
        let client = primary.client().await;
        let shown = client.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        assert_eq!(shown.get::<_, &str>(0), "FIRST 2 (\"pg-3\", \"pg-2\")");
        let waiting =
            tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
        primary.until_waiting_commits(1).await;
        assert!(!waiting.is_finished(), "pg-3 does not exist, so nothing may be acknowledged");

        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_primary("one name is in force", |view| view.names == each(&["pg-2"])).await;
        waiting.await.unwrap().unwrap();
        drop(standby);
    });
}

#[test]
fn nobody_to_wait_for_means_waiting_for_ever() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&[], Access::ReadWrite);
        primary.until_primary("it is open", |view| view.access == Access::ReadWrite).await;
        let client = primary.client().await;
        let waiting =
            tokio::spawn(async move { client.batch_execute("CREATE TABLE t (n int)").await });
        // The heartbeat waits like the client.
        primary.until_waiting_commits(2).await;
        assert!(!waiting.is_finished());
        assert_eq!(primary.confirmed, None);

        // Brought down, it releases nobody.
        primary.want(Goal::Down(Stop::Immediate));
        primary.until("it is down", |server| server.run == Run::Down).await;
        waiting.await.unwrap().unwrap_err();
    });
}

#[test]
fn a_killed_primary_is_down_at_once_and_stays_down_until_it_is_wanted_again() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |_| true).await;
        let client = primary.client().await;
        let postmaster = primary.postmaster();
        let begun = Instant::now();
        primary.kill(postmaster);
        primary.until("it is down", |server| server.run == Run::Down).await;
        println!("down was reported {:?} after the kill", begun.elapsed());
        assert_eq!(server_processes(&primary.data()), [0; 0], "no process is left");
        assert!(primary.server.trouble.is_some(), "it says how it ended");
        assert!(client.batch_execute("SELECT 1").await.is_err());

        // The same goal again does not start it, nor does another one of the same life.
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.primary(&["pg-3"], Access::ReadOnly);
        for _ in 0..3 {
            primary.next().await;
            assert_eq!(primary.server.run, Run::Down);
        }
        primary.life += 1;
        primary.primary(&["pg-2"], Access::ReadOnly);
        let view = primary.until_primary("it runs again", |_| true).await;
        assert_eq!(view.names, each(&["pg-2"]));
        assert_eq!(view.history.timeline.0, 1, "it did not leave its timeline");
    });
}

#[test]
fn a_sealed_standby_is_promoted_on_a_new_timeline_and_the_old_primary_can_be_judged() {
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        old.primary(&["pg-2"], Access::ReadWrite);
        old.until_open().await;
        let client = old.client().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
        new.until_standby("it has caught up", |view| view.flushed == view.replayed).await;
        old.kill(old.postmaster());
        old.until("it is down", |server| server.run == Run::Down).await;

        let begun = Instant::now();
        new.want(Goal::Sealed { generation: Generation(1) });
        let sealed = new.until_standby("sealed", |v| v.receiver == Receiver::Sealed).await;
        println!("sealed after {:?}", begun.elapsed());
        let end = sealed.position();
        assert_eq!(end.timeline.0, 1);

        let begun = Instant::now();
        new.generation = Generation(2);
        new.primary(&["pg-3"], Access::ReadOnly);
        let view = new.until_primary("promoted", |_| true).await;
        println!("promoted after {:?}", begun.elapsed());
        assert_eq!(view.history.timeline.0, 2);
        assert_eq!(view.names, each(&["pg-3"]));
        assert!(view.history.contains(end), "{:?} contains {end}", view.history);
        assert_eq!(new.server.identity().unwrap().generation, Generation(2));

        // The old primary goes on alone; nobody hears of it, but its WAL forks.
        old.want(Goal::Down(Stop::Immediate));
        old.until("the word is taken", |server| server.trouble.is_none()).await;
        old.life += 1;
        old.primary(&["pg-2"], Access::ReadWrite);
        old.until_primary("it is back", |view| view.access == Access::ReadWrite).await;
        let client = old.client().await;
        tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
        old.until_waiting_commits(1).await;
        old.standby(None);
        let forked = old.until_standby("in recovery", |v| v.replayed > end.lsn).await;
        assert!(!view.history.contains(forked.position()), "{forked:?} is a fork of {view:?}");

        // A fresh copy repairs it.
        let making = old.server.identity().unwrap().making + 1;
        old.generation = Generation(2);
        old.copy_of(&new, making).await;
        old.standby(Some(&new));
        new.downstreams = [id("pg-1")].into();
        new.primary(&["pg-1"], Access::ReadOnly);
        let repaired = old.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        assert_eq!(repaired.history.timeline.0, 2);
        assert!(view.history.contains(repaired.position()));
    });
}

#[test]
fn what_was_acknowledged_survives_a_takeover_under_load() {
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        old.primary(&["pg-2"], Access::ReadWrite);
        old.until_open().await;
        old.client().await.batch_execute("CREATE TABLE t (n bigint, filler text)").await.unwrap();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut writers = JoinSet::new();
        for writer in 0..4_i64 {
            let (client, acknowledged) = (old.client().await, Arc::clone(&acknowledged));
            writers.spawn(async move {
                for n in (writer..).step_by(4) {
                    let size = i32::try_from(n % 97 * 300).unwrap();
                    let insert = "INSERT INTO t SELECT $1, string_agg(md5(random()::text), '') \
                                  FROM generate_series(1, $2 / 32)";
                    if client.execute(insert, &[&n, &size]).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push(n);
                }
            });
        }
        // One that never commits: its WAL is sent page by page, so that it ends within a record.
        let bulk = old.client().await;
        writers.spawn(async move {
            let insert =
                "INSERT INTO t SELECT -1, repeat('x', 1900) FROM generate_series(1, 50000)";
            bulk.batch_execute("BEGIN").await.unwrap();
            // However fast it is, and however slow the others are.
            while bulk.batch_execute(insert).await.is_ok() {}
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while acknowledged.lock().unwrap().len() < 400 {
            assert!(Instant::now() < deadline, "the writers do not get on");
            old.next().await;
        }

        let killed = Instant::now();
        old.kill(old.postmaster());
        old.until("it is down", |server| server.run == Run::Down).await;
        let down = killed.elapsed();
        new.want(Goal::Sealed { generation: Generation(1) });
        let sealed = new.until_standby("sealed", |v| v.receiver == Receiver::Sealed).await;
        let sealed_after = killed.elapsed();
        new.generation = Generation(2);
        new.primary(&[], Access::ReadOnly);
        let view = new.until_primary("promoted", |_| true).await;
        println!("down {down:?}, sealed {sealed_after:?}, promoted {:?}", killed.elapsed());
        println!("half a record: {} bytes", sealed.flushed.bytes_after(sealed.replayed));
        let left = view.history.ancestors.last().unwrap();
        assert_eq!(*left, sealed.position(), "the new timeline begins where the WAL was sealed");

        writers.join_all().await;
        let rows = new.client().await.query("SELECT n FROM t", &[]).await.unwrap();
        let found: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let acknowledged = acknowledged.lock().unwrap();
        let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
        assert!(lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
    });
}

#[test]
fn the_next_sync_follows_onto_the_new_timeline() {
    as_postgres(async {
        let (mut old, mut new) = cluster_of_two().await;
        old.primary(&["pg-2"], Access::ReadWrite);
        old.until_open().await;
        let mut next = Instance::new_in(&old, "pg-3").await;
        new.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        next.copy_of(&new, 1).await;
        new.downstreams = [id("pg-3")].into();
        new.standby(Some(&old));
        next.standby(Some(&new));
        next.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        old.client().await.batch_execute("CREATE TABLE t (n int)").await.unwrap();

        let killed = Instant::now();
        old.kill(old.postmaster());
        old.until("it is down", |server| server.run == Run::Down).await;
        new.want(Goal::Sealed { generation: Generation(1) });
        new.until_standby("sealed", |v| v.receiver == Receiver::Sealed).await;
        new.generation = Generation(2);
        new.primary(&["pg-3"], Access::ReadOnly);
        let office = new.until_primary("promoted", |_| true).await;
        let promoted = killed.elapsed();
        new.until_primary("pg-3 has caught up", |view| {
            view.standby(&id("pg-3"))
                .is_some_and(|row| row.waits == Waits::ForIt && row.flushed >= office.end)
        })
        .await;
        let caught_up = killed.elapsed();
        new.primary(&["pg-3"], Access::ReadWrite);
        new.until_open().await;
        new.client().await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        println!(
            "promoted {promoted:?}, caught up {caught_up:?}, written {:?} after the kill",
            killed.elapsed()
        );
    });
}

#[test]
fn a_server_that_hangs_is_said_to_and_can_be_killed() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |_| true).await;
        let data = primary.data();
        for pid in server_processes(&data) {
            primary.signal(pid, rustix::process::Signal::STOP);
        }
        primary
            .until("it is said", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                why.contains("does not answer") && !matches!(server.run, Run::Primary(_))
            })
            .await;
        primary.want(Goal::Down(Stop::Immediate));
        primary.until("it is down", |server| server.run == Run::Down).await;
        assert_eq!(server_processes(&data), [0; 0]);
    });
}

#[test]
fn a_copy_that_fails_keeps_what_was_there_and_one_that_is_not_wanted_ends() {
    as_postgres(async {
        let mut instance = Instance::new("pg-1").await;
        instance.initialise().await;
        let source = Instance::new("pg-2").await; // Its server does not run.
        instance.want(instance.copy_goal(&source, 2));
        instance
            .until("it is said", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                why.contains("no copy could be made of pg-2") && why.contains("refused")
            })
            .await;
        assert_eq!(instance.server.identity().unwrap().making, 1);

        // A source that never answers: the copy is under way until it is called off.
        let silent = std::net::TcpListener::bind(source.upstream().address.to_string()).unwrap();
        instance
            .until("it copies", |server| matches!(server.run, Run::Busy(Work::Copying { .. })))
            .await;
        instance.want(Goal::Down(Stop::Immediate));
        instance.until("it is called off", |server| server.run == Run::Down).await;
        assert_eq!(instance.server.identity().unwrap().making, 1);
        drop(silent);
    });
}

#[test]
fn a_standby_that_was_down_is_promoted_all_the_same() {
    as_postgres(async {
        let (_old, mut new) = cluster_of_two().await;
        new.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        new.want(Goal::Down(Stop::Fast));
        new.until("it is down", |server| server.run == Run::Down).await;
        new.generation = Generation(2);
        new.primary(&["pg-3"], Access::ReadOnly);
        let view = new.until_primary("promoted", |_| true).await;
        assert_eq!(view.history.timeline.0, 2, "it does not write on its upstream's timeline");
    });
}

#[test]
fn a_standby_without_its_slot_says_why_it_receives_nothing() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        standby.want(Goal::Down(Stop::Fast));
        standby.until("it is down", |server| server.run == Run::Down).await;
        primary.downstreams.clear();
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        standby.standby(Some(&primary));
        standby
            .until("it says why", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                why.contains("\"dugong_pg_2\" does not exist")
            })
            .await;
    });
}

#[test]
fn a_server_that_somebody_left_behind_is_ended_before_anything_else() {
    as_postgres(async {
        let mut first = Instance::new("pg-1").await;
        first.initialise().await;
        let data = first.data();
        let ended = first.end().await;
        let mut left_behind = ended.start_by_hand();
        let deadline = Instant::now() + Duration::from_secs(20);
        while server_processes(&data).len() < 3 {
            assert!(Instant::now() < deadline, "it does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut second = ended.resume();
        second.until("it is down", |server| server.run == Run::Down).await;
        assert_eq!(server_processes(&data), [0; 0]);
        assert!(matches!(second.server.data, Data::Own(_)));
        left_behind.wait().unwrap();
    });
}

#[test]
fn a_standby_that_ends_is_started_again_by_itself() {
    as_postgres(async {
        let (_primary, mut standby) = cluster_of_two().await;
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        let first = standby.postmaster();
        standby.kill(first);
        standby.until("it is down", |server| server.run == Run::Down).await;
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        assert_ne!(standby.postmaster(), first);
    });
}

#[test]
fn a_standby_moves_to_another_upstream_without_a_restart() {
    as_postgres(async {
        let (mut primary, mut middle) = cluster_of_two().await;
        middle.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        let mut last = Instance::new_in(&primary, "pg-3").await;
        last.copy_of(&middle, 1).await;
        primary.downstreams = ["pg-2", "pg-3"].map(id).into();
        primary.primary(&["pg-2"], Access::ReadWrite);
        last.standby(Some(&primary));
        last.until_standby("it streams from pg-1", |view| {
            view.receiver == Receiver::Streaming && view.upstream == Some(id("pg-1"))
        })
        .await;
        let postmaster = last.postmaster();
        middle.downstreams = [id("pg-3")].into();
        middle.standby(Some(&primary));
        last.standby(Some(&middle));
        let streams_from = |upstream| {
            move |view: &dugong_machine::StandbyView| {
                view.receiver == Receiver::Streaming && view.upstream == Some(id(upstream))
            }
        };
        last.until_standby("it streams from pg-2", streams_from("pg-2")).await;
        assert_eq!(last.postmaster(), postmaster);

        // Slots follow: the one that nobody needs any more goes.
        primary.downstreams = [id("pg-2")].into();
        primary.primary(&["pg-2"], Access::ReadWrite);
        let client = primary.client().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            primary.next().await;
            let rows = client
                .query("SELECT slot_name::text FROM pg_replication_slots", &[])
                .await
                .unwrap();
            let slots: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if slots == ["dugong_pg_2"] {
                break;
            }
            assert!(Instant::now() < deadline, "slots are {slots:?}");
        }
    });
}

#[test]
fn a_directory_that_is_not_ours_is_never_touched() {
    as_postgres(async {
        let mut instance = Instance::new("pg-1").await;
        let stranger = instance.data().join("precious");
        std::fs::create_dir(instance.data()).unwrap();
        std::fs::write(&stranger, "do not lose me").unwrap();
        let source = Instance::new("pg-2").await;
        let goals = [Goal::Initialised, instance.copy_goal(&source, 1)];
        for goal in goals {
            instance.want(goal);
            instance
                .until("it is refused", |server| {
                    let why = server.trouble.as_deref().unwrap_or_default();
                    matches!(server.data, Data::Foreign { .. })
                        && why.contains("was not made by Dugong")
                })
                .await;
        }
        assert_eq!(std::fs::read_to_string(&stranger).unwrap(), "do not lose me");
    });
}

#[test]
fn another_instances_or_clusters_data_is_foreign() {
    as_postgres(async {
        let mut instance = Instance::new("pg-1").await;
        instance.initialise().await;
        let identity = instance.data().join("dugong.identity.json");
        let own = std::fs::read_to_string(&identity).unwrap();
        #[rustfmt::skip]
        let cases = [
            ("\"pg-1\"",  "\"pg-9\"",   "belongs to the instance pg-9"),
            ("\"main\"",  "\"other\"",  "belongs to the cluster \"other\""),
            ("\"system_identifier\": \"",  "\"system_identifier\": \"1", "system identifier"),
            ("{",         "",           "damaged"),
        ];
        for (from, to, expected) in cases {
            std::fs::write(&identity, own.replacen(from, to, 1)).unwrap();
            instance
                .until(expected, |server| {
                    matches!(&server.data, Data::Foreign { why } if why.contains(expected))
                })
                .await;
        }
        std::fs::write(&identity, own).unwrap();
        instance.until("its own again", |server| matches!(server.data, Data::Own(_))).await;
    });
}

#[test]
fn a_directory_has_one_controller() {
    as_postgres(async {
        let first = Instance::new("pg-1").await;
        let refused = first.supervise_again().unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
    });
}

#[test]
fn an_override_by_alter_system_is_said_and_never_counts_as_in_force() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_primary("it runs", |_| true).await;
        let client = primary.client().await;
        client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        primary
            .until("the override is said", |server| {
                let why = server.trouble.as_deref().unwrap_or_default();
                why.contains("ALTER SYSTEM RESET synchronous_standby_names")
                    && !matches!(server.run, Run::Primary(_))
            })
            .await;
        client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
        primary.until_primary("it is healed", |view| view.names == each(&["pg-2"])).await;
        assert_eq!(primary.server.trouble, None);
    });
}

#[test]
fn destroyed_data_ends_the_server_and_can_be_made_anew() {
    as_postgres(async {
        let (primary, mut standby) = cluster_of_two().await;
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        // Not whole: what is left is no data any more, and in the way of a copy.
        std::fs::remove_file(standby.data().join("dugong.identity.json")).unwrap();
        std::fs::remove_dir_all(standby.data().join("base")).unwrap();
        standby
            .until("it is noticed", |server| server.data == Data::Empty && server.run == Run::Down)
            .await;
        assert_eq!(server_processes(&standby.data()), [0; 0]);
        let remains = standby.data().with_extension("lost");
        assert!(remains.join("PG_VERSION").exists(), "what is left is kept for people");
        standby.copy_of(&primary, 1).await;
    });
}

#[test]
fn the_server_does_not_outlive_a_killed_controller() {
    instance::supervising_process_is_killed();
}
