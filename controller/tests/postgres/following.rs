//! A cluster that begins as a standby of somebody's primary.

use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use dugong_controller::config::{CopyRate, Foreign, Origin};
use dugong_controller::postgres::{Finding, Finish, Reply};
use dugong_machine::{Goal, Run};
use dugong_tests::eventually;
use tokio::sync::oneshot;
use tokio_postgres::Client;

use crate::bare::{Server, append, beginning_by, count, shown};
use crate::instance::Instance;
use crate::process_of_a_test::as_postgres;

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// That server, as somebody names it in a configuration.
fn foreign(server: &Server, more: &[(&str, &str)]) -> Foreign {
    let (host, port) = (server.folder.path().display().to_string(), server.port.to_string());
    let mut parameters = vec![("host", host.as_str()), ("port", &port), ("user", "postgres")];
    for (name, value) in more {
        parameters.retain(|(known, _)| known != name);
        parameters.push((name, value));
    }
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Foreign { parameters: parameters.into_iter().map(owned).collect(), password_file: None }
}

async fn following(server: &Server) -> Instance {
    let instance = beginning_by(Origin::Follow(foreign(server, &[]))).await;
    instance.want(Goal::Initialised);
    instance
}

async fn until_told(instance: &mut Instance, words: &str) {
    let told = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains(words));
    instance.until(&format!("{words:?} is told"), |server| told(&server.trouble)).await;
}

const UP_TO_DATE: &str = ", less than 1 MB and less than 1 s behind";

/// Waits until whoever follows has replayed all that the server has written.
async fn until_caught_up(client: &Client) {
    let sql = "SELECT FROM pg_stat_replication \
               WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_lsn()";
    eventually("it is followed up to its end", SOON * 2, async || {
        let rows = client.query(sql, &[]).await.map_err(|error| error.to_string())?;
        if rows.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// An operator's word, once somebody hears it, and until the answer is not "not yet".
async fn say(instance: &mut Instance, only_check: bool, even_if_behind: bool) -> Reply {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        assert!(std::time::Instant::now() < deadline, "no answer: {:?}", instance.server.trouble);
        let speaker = instance.migration().borrow().clone();
        if let Some(speaker) = speaker {
            let (answer, answered) = oneshot::channel();
            let word = Finish { only_check, even_if_behind, answer };
            // Errors: the following has just been interrupted.
            if speaker.send(word).await.is_ok()
                && let Ok(reply) = answered.await
                && reply.finding != Finding::NotYet
            {
                return reply;
            }
        }
        instance.next().await;
    }
}

fn followed(instance: &Instance) -> PathBuf {
    instance.told().dir.join("data.followed")
}

async fn until_initialised(instance: &mut Instance) {
    instance
        .until("it is initialised", |server| server.run == Run::Down && server.identity().is_some())
        .await;
}

#[test]
fn a_primary_is_followed_until_it_has_stopped_and_all_that_it_wrote_is_there() {
    as_postgres(async {
        let mut server = Server::make();
        let client = server.start().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
        let mut instance = following(&server).await;
        until_told(&mut instance, UP_TO_DATE).await;
        let slot = "SELECT slot_name::text FROM pg_replication_slots WHERE active";
        let slot: String = client.query_one(slot, &[]).await.unwrap().get(0);
        assert_eq!(slot, "to_dugong_pg_1");

        for even_if_behind in [false, true] {
            let reply = say(&mut instance, false, even_if_behind).await;
            assert_eq!((reply.finding, reply.finished), (Finding::Runs, false), "{reply:?}");
            assert!(reply.words.contains("pg_ctl stop"), "{reply:?}");
        }

        // Its controller ends in the middle; the next one goes on with the very copy.
        let file = followed(&instance).join("PG_VERSION");
        let before = std::fs::metadata(&file).unwrap().ino();
        let ended = instance.end().await;
        client.batch_execute("INSERT INTO t SELECT generate_series(1, 9)").await.unwrap();
        let mut instance = ended.resume();
        instance.want(Goal::Initialised);
        until_told(&mut instance, UP_TO_DATE).await;
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), before);

        // More of a setting there than here.
        drop(client);
        server.stop();
        append(&server.data().join("postgresql.conf"), "max_connections = 400\n");
        let client = server.start().await;
        client.batch_execute("INSERT INTO t SELECT generate_series(10, 99)").await.unwrap();
        until_caught_up(&client).await;
        server.stop();
        let reply = say(&mut instance, true, false).await;
        assert_eq!((reply.finding, reply.finished), (Finding::Whole, false), "{reply:?}");
        assert!(followed(&instance).join("standby.signal").exists(), "a check ends nothing");
        let reply = say(&mut instance, false, false).await;
        assert_eq!((reply.finding, reply.finished), (Finding::Whole, true), "{reply:?}");

        until_initialised(&mut instance).await;
        let identity = instance.server.identity().unwrap().clone();
        assert_eq!((identity.making, identity.made_at.timeline.0), (1, 2), "its own timeline");
        assert!(!followed(&instance).exists() && instance.migration().borrow().is_none());
        assert!(!instance.data().join("dugong.migrated").exists());
        instance.one_node();
        instance.until_open().await;
        instance.log_in().await.expect("the cluster's passwords hold");
        let client = instance.client().await;
        assert_eq!(count(&client).await, 100);
        for (name, value) in [("work_mem", "9MB"), ("archive_mode", "off"), ("fsync", "on")] {
            assert_eq!(shown(&client, name).await, value, "{name}");
        }
    });
}

#[test]
fn a_primary_that_is_away_ends_nothing_and_is_followed_again() {
    as_postgres(async {
        let mut server = Server::make();
        let client = server.start().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
        let mut instance = following(&server).await;
        until_told(&mut instance, UP_TO_DATE).await;
        server.kill();
        until_told(&mut instance, "without a connection to it just now").await;
        let reply = say(&mut instance, false, false).await;
        assert_eq!((reply.finding, reply.finished), (Finding::Doubtful, false), "{reply:?}");
        assert!(reply.words.contains("start it once more"), "{reply:?}");
        std::fs::remove_file(server.data().join("postmaster.pid")).unwrap();
        let client = server.start().await;
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        until_caught_up(&client).await;

        // Its WAL is gone while nobody followed: it is copied again.
        let file = followed(&instance).join("PG_VERSION");
        let before = std::fs::metadata(&file).unwrap().ino();
        let ended = instance.end().await;
        eventually("nobody follows", SOON, async || {
            let drop = "SELECT pg_drop_replication_slot('to_dugong_pg_1')";
            client.batch_execute(drop).await.map_err(|error| error.to_string())
        })
        .await;
        let next = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await;
        let next = server.data().join("pg_wal").join(next.unwrap().get::<_, &str>(0));
        for _ in 0..3 {
            let words = "INSERT INTO t VALUES (2); SELECT pg_switch_wal()";
            client.batch_execute(words).await.unwrap();
        }
        eventually("it was archived, and is gone", SOON, async || {
            client.batch_execute("CHECKPOINT").await.unwrap();
            if next.exists() { Err(format!("{} is there", next.display())) } else { Ok(()) }
        })
        .await;
        let mut instance = ended.resume();
        instance.want(Goal::Initialised);
        until_told(&mut instance, "it is copied again").await;
        until_caught_up(&client).await;
        assert_ne!(std::fs::metadata(&file).unwrap().ino(), before);

        // It is lost, and whoever knows what that means has the last word.
        server.kill();
        let reply = say(&mut instance, false, true).await;
        assert_eq!((reply.finding, reply.finished), (Finding::Doubtful, true), "{reply:?}");
        until_initialised(&mut instance).await;
        instance.one_node();
        instance.until_open().await;
        assert_eq!(count(&instance.client().await).await, 5);
    });
}

#[test]
fn a_backup_that_was_broken_off_begins_again_and_never_becomes_data() {
    as_postgres(async {
        let mut server = Server::make();
        let client = server.start().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
        let instance = beginning_by(Origin::Follow(foreign(&server, &[]))).await;
        let mut ended = instance.end().await;
        ended.tell(|settings| settings.repair.copy_max_rate = CopyRate::parse("1MB").ok());
        let mut instance = ended.resume();
        instance.want(Goal::Initialised);
        until_told(&mut instance, " MB, ").await; // Of so many, so much in a hundred.
        let dir = instance.told().dir.clone();
        assert!(dir.join("data.new").exists() && !followed(&instance).exists());
        let mut ended = instance.end().await;
        ended.tell(|settings| settings.repair.copy_max_rate = None);
        let mut instance = ended.resume();
        instance.until("it has looked", |server| server.run == Run::Down).await;
        assert!(!dir.join("data.new").exists() && instance.server.identity().is_none());
        instance.want(Goal::Initialised);
        until_told(&mut instance, UP_TO_DATE).await;

        // What somebody has made of it is not what was followed to its end.
        let ended = instance.end().await;
        std::fs::remove_file(dir.join("data.followed/standby.signal")).unwrap();
        let mut instance = ended.resume();
        instance.want(Goal::Initialised);
        until_told(&mut instance, "is no standby any more, and nobody has said so here").await;

        // Whoever has changed his mind says so, or removes it.
        let mut ended = instance.end().await;
        ended.tell(|settings| settings.origin = Origin::Initdb);
        let mut instance = ended.resume();
        instance.want(Goal::Initialised);
        until_told(&mut instance, "follows a primary: set [bootstrap] method").await;
    });
}

#[test]
fn a_primary_that_cannot_be_followed_is_told_with_the_reason() {
    as_postgres(async {
        let mut server = Server::make();
        let port = server.port.to_string();
        let address = "listen_addresses=127.0.0.1";
        let client = server.start_with(&["-c", address]).await;
        client
            .batch_execute(
                "CREATE ROLE follower REPLICATION LOGIN PASSWORD 'right'; \
                 CREATE ROLE reader LOGIN PASSWORD 'right'",
            )
            .await
            .unwrap();
        let hba = "local all all trust\nlocal replication postgres trust\n\
                   host replication follower 127.0.0.1/32 scram-sha-256\n\
                   host replication reader 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let refusal = async |parameters: &[(&str, &str)], password: Option<&str>, words: &str| {
            let mut foreign = foreign(&server, parameters);
            let file = server.path("password");
            if let Some(password) = password {
                std::fs::write(&file, format!("{password}\n")).unwrap();
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(&file, mode).unwrap();
                foreign.password_file = Some(file);
            }
            let mut instance = beginning_by(Origin::Follow(foreign)).await;
            instance.want(Goal::Initialised);
            until_told(&mut instance, words).await;
            assert!(!followed(&instance).exists(), "{words}");
        };
        let as_role = |role| [("host", "127.0.0.1"), ("user", role)];
        let (follower, reader, other) = (as_role("follower"), as_role("reader"), as_role("other"));
        let nowhere = [("host", "127.0.0.1"), ("port", "1")];
        #[rustfmt::skip]
        let cases = [
            (&follower[..], Some("wrong"),  "the file that bootstrap.password_file names"),
            (&follower[..], None,           "the file that bootstrap.password_file names"),
            (&reader[..],   Some("right"),  "run `ALTER ROLE \"reader\" REPLICATION` there"),
            (&other[..],    Some("right"),  "add `host replication other ADDRESS scram-sha-256`"),
            (&nowhere[..],  None,           "see that it runs, that its listen_addresses"),
            (&[("sslmode", "nonsense")],    None, "invalid sslmode value"),
        ];
        for (parameters, password, words) in cases {
            refusal(parameters, password, words).await;
        }

        // With the right one it is followed, by a role that may do nothing else.
        let mut foreign = foreign(&server, &follower);
        let file = server.path("password");
        std::fs::write(&file, "right\n").unwrap();
        foreign.password_file = Some(file);
        foreign.parameters.retain(|(name, _)| name != "port");
        foreign.parameters.push(("port".to_owned(), port));
        let mut instance = beginning_by(Origin::Follow(foreign)).await;
        instance.want(Goal::Initialised);
        until_told(&mut instance, UP_TO_DATE).await;
        drop(instance.end().await);

        eventually("nobody follows", SOON, async || {
            let drop = "SELECT pg_drop_replication_slot('to_dugong_pg_1')";
            client.batch_execute(drop).await.map_err(|error| error.to_string())
        })
        .await;
        drop(client);
        server.stop();
        let minimal =
            ["-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "archive_mode=off"];
        let _client = server.start_with(&minimal).await;
        let mut instance = following(&server).await;
        until_told(&mut instance, "set max_wal_senders there to 3 more").await;
    });
}
