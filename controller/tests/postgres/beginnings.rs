//! A cluster whose first data comes from elsewhere.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dugong_controller::config::Origin;
use dugong_machine::{Access, Receiver, Run};
use dugong_tests::eventually;

use crate::bare::{Server, beginning_by, count, run, shown};
use crate::instance::{Instance, id};
use crate::process_of_a_test::as_postgres;
use crate::processes::server_processes;

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// A server with ten rows in its backup or its archive, then a named point, then ten more.
async fn server_with_a_point() -> Server {
    let mut server = Server::make();
    let client = server.start().await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
    server.back_up();
    let rows = "INSERT INTO t SELECT generate_series(1, 9)";
    client.batch_execute(rows).await.unwrap();
    client.batch_execute("SELECT pg_create_restore_point('noon')").await.unwrap();
    client.batch_execute("INSERT INTO t SELECT generate_series(10, 19)").await.unwrap();
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    server.stop();
    server
}

#[test]
fn a_backup_and_its_archive_become_a_cluster_as_of_a_point_in_time() {
    as_postgres(async {
        let server = server_with_a_point().await;
        let mut primary = beginning_by(Origin::Command(server.restore_to("noon"))).await;
        primary.initialise().await;
        assert_eq!(primary.server.trouble, None);
        let identity = primary.server.identity().unwrap().clone();
        assert_eq!((identity.making, identity.made_at.timeline.0), (1, 2));

        primary.downstreams = [id("pg-2")].into();
        primary.primary(&["pg-2"], Access::ReadOnly);
        primary.until_primary("it runs", |view| view.history.timeline.0 == 2).await;
        let mut standby = Instance::new_in(&primary, "pg-2").await;
        standby.copy_of(&primary, 1).await;
        standby.standby(Some(&primary));
        standby.until_standby("it streams", |v| v.receiver == Receiver::Streaming).await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        primary.log_in().await.expect("the cluster's passwords hold");
        let client = primary.client().await;
        assert_eq!(count(&client).await, 10, "neither more nor less");
        client.batch_execute("INSERT INTO t VALUES (100)").await.unwrap();

        // What was set there holds on both, but for what is Dugong's, or another cluster's.
        for client in [client, standby.client().await] {
            assert_eq!(shown(&client, "work_mem").await, "9MB");
            assert_eq!(shown(&client, "fsync").await, "on");
            assert_eq!(shown(&client, "max_connections").await, "200");
            assert_eq!(shown(&client, "archive_mode").await, "off");
            assert_eq!(shown(&client, "restore_command").await, "");
        }
        let replaced = primary.told().dir.join("replaced");
        let report = std::fs::read_to_string(replaced.join("not-carried-over.txt")).unwrap();
        for name in ["archive_command", "max_connections = '300'", "fsync"] {
            assert!(report.contains(name), "{name} in {report}");
        }
        let auto = std::fs::read_to_string(replaced.join("postgresql.auto.conf")).unwrap();
        assert!(auto.contains("recovery_target_name"), "{auto}");
    });
}

#[test]
fn a_command_that_makes_no_cluster_is_told_with_the_reason() {
    as_postgres(async {
        let server = server_with_a_point().await;
        let restored = server.restore_to("noon");
        let standby = format!("{restored}touch $DUGONG_DATA/standby.signal");
        let alone = format!("cp -a {}/. $DUGONG_DATA", server.path("backup").display());
        #[rustfmt::skip]
        let cases = [
            ("echo first; echo no route >&2; exit 7".to_owned(), "failed, exit status: 7: first; no route"),
            ("exit 7".to_owned(),                                "it said nothing"),
            ("true".to_owned(),                                  "is no data directory: it has no PG_VERSION"),
            ("echo 12 > $DUGONG_DATA/PG_VERSION".to_owned(),     "is of PostgreSQL 12, and the programs in"),
            (standby,                                            "a standby's recovery never ends"),
            (server.restore_to("midnight"),                      "the recovery ended before its target"),
            (alone,                                              "could not locate required checkpoint record"),
        ];
        for (command, expected) in cases {
            let mut instance = beginning_by(Origin::Command(command.clone())).await;
            instance.want(dugong_machine::Goal::Initialised);
            instance
                .until(&format!("{expected:?} is told of {command}"), |server| {
                    let told = server.trouble.as_deref().unwrap_or_default();
                    server.run == Run::Down && told.contains(expected)
                })
                .await;
            assert!(!instance.told().dir.join("data").exists(), "{command}");
            assert_eq!(instance.server.identity(), None, "{command}");
        }
    });
}

#[test]
fn the_data_of_a_server_that_was_stopped_becomes_a_cluster_with_all_that_is_in_it() {
    as_postgres(async {
        let mut server = Server::make();
        // As Debian has it: the configuration lies elsewhere, and the last server was told so.
        let etc = server.path("postgresql.conf");
        std::fs::rename(server.data().join("postgresql.conf"), &etc).unwrap();
        let client = server.start_with(&["-c", &format!("config_file={}", etc.display())]).await;
        let words = "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 10)";
        client.batch_execute(words).await.unwrap();
        client.batch_execute("CREATE ROLE app SUPERUSER").await.unwrap();
        client.batch_execute("CREATE DATABASE orders").await.unwrap();
        client.batch_execute("ALTER SYSTEM SET work_mem = '11MB'").await.unwrap();
        client.batch_execute("ALTER SYSTEM SET synchronous_commit = 'off'").await.unwrap();
        let identifier = "SELECT system_identifier::text FROM pg_control_system()";
        let identifier: String = client.query_one(identifier, &[]).await.unwrap().get(0);
        server.stop();

        let mut instance = beginning_by(Origin::Adopt(server.data())).await;
        instance.initialise().await;
        let found = instance.server.identity().unwrap();
        assert_eq!(found.system_identifier.to_string(), identifier);
        assert_eq!(found.made_at.timeline.0, 1, "it goes on");
        assert!(!server.data().exists(), "it was moved");
        instance.one_node();
        instance.until_open().await;
        instance.log_in().await.expect("the role is there, and has the cluster's password now");
        let client = instance.client().await;
        assert_eq!(count(&client).await, 10);
        let databases = "SELECT FROM pg_database WHERE datname IN ('app', 'orders')";
        assert_eq!(client.query(databases, &[]).await.unwrap().len(), 2);
        let archive = format!("cp %p {}/%f", server.path("archive").display());
        #[rustfmt::skip]
        let cases = [
            ("work_mem",           "11MB"),
            ("archive_command",    archive.as_str()),
            ("archive_mode",       "on"),
            ("synchronous_commit", "on"),
            ("fsync",              "on"),
            ("wal_log_hints",      "on"),
        ];
        for (name, value) in cases {
            assert_eq!(shown(&client, name).await, value, "{name}");
        }
        let replaced = instance.told().dir.join("replaced");
        let read = |name: &str| std::fs::read_to_string(replaced.join(name)).unwrap();
        assert!(read("postgresql.conf").contains("max_connections = 300"), "Debian's");
        assert!(read("postgresql.auto.conf").contains("11MB"));
        assert!(read("pg_hba.conf").contains("trust"));
        assert!(read("not-carried-over.txt").contains("synchronous_commit = 'off'"));
    });
}

#[test]
fn what_cannot_be_adopted_is_told_with_the_reason_and_left_as_it_is() {
    as_postgres(async {
        let mut server = Server::make();
        let client = server.start().await;
        let data = server.data();
        let refusal = async |path: &Path, expected: &str| {
            let mut instance = beginning_by(Origin::Adopt(path.to_owned())).await;
            instance.want(dugong_machine::Goal::Initialised);
            instance
                .until(&format!("{} {expected:?}", path.display()), |server| {
                    let told = server.trouble.as_deref().unwrap_or_default();
                    server.run == Run::Down && told.contains(expected)
                })
                .await;
            assert!(!instance.told().dir.join("data.adopted").exists(), "{expected}");
        };
        refusal(&data, "is in use by the process").await;
        let slot = "SELECT pg_create_physical_replication_slot('elsewhere', true)";
        client.batch_execute(slot).await.unwrap();
        server.kill();
        refusal(&data, "was not stopped in order, ").await;
        std::fs::remove_file(data.join("postmaster.pid")).unwrap();
        refusal(&data, "has the replication slots elsewhere, ").await;
        std::fs::remove_dir_all(data.join("pg_replslot/elsewhere")).unwrap();
        refusal(&data, "its control file says \"in production\"").await;
        let client = server.start().await;
        drop(client);
        server.stop();
        let mark = |name: &str| std::fs::write(data.join(name), "").unwrap();
        let unmark = |name: &str| std::fs::remove_file(data.join(name)).unwrap();
        #[rustfmt::skip]
        let marks = [
            ("standby.signal",       "has a standby.signal: start and promote"),
            ("backup_label",         "has a backup_label: start and promote"),
            ("dugong.identity.json", "is an instance's of Dugong's"),
        ];
        for (name, expected) in marks {
            mark(name);
            refusal(&data, expected).await;
            unmark(name);
        }
        let version = std::fs::read_to_string(data.join("PG_VERSION")).unwrap();
        std::fs::write(data.join("PG_VERSION"), "12\n").unwrap();
        refusal(&data, "is of PostgreSQL 12").await;
        std::fs::write(data.join("PG_VERSION"), version).unwrap();
        refusal(&server.path("nowhere"), "cannot be found").await;
        refusal(&server.path("archive"), "it has no PG_VERSION").await;
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let there = memory.path().join("main");
        run(Command::new("cp").arg("-a").arg(&data).arg(&there));
        refusal(&there, "is on another file system than ").await;
        assert!(there.join("PG_VERSION").exists());

        let mut instance = beginning_by(Origin::Adopt(data)).await;
        instance.initialise().await;
    });
}

/// What was moved is the only data that there is.
#[test]
fn an_adoption_that_was_broken_off_goes_on_and_nothing_else_takes_its_place() {
    as_postgres(async {
        let mut server = Server::make();
        let client = server.start().await;
        client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
        server.kill(); // As the server of an adoption is, by the end of its controller.
        let instance = Instance::new("pg-1").await;
        let dir = instance.told().dir.clone();
        let mut rest = instance.end().await;
        std::fs::rename(server.data(), dir.join("data.adopted")).unwrap();

        let mut other = rest.resume();
        other.want(dugong_machine::Goal::Initialised);
        other
            .until("initdb is refused", |server| {
                server.trouble.as_deref().is_some_and(|told| told.contains("about to be adopted"))
            })
            .await;
        rest = other.end().await;
        rest.tell(|settings| settings.origin = Origin::Adopt(server.data()));
        let mut again = rest.resume();
        again.initialise().await;
        again.one_node();
        again.until_open().await;
        assert_eq!(count(&again.client().await).await, 1);
    });
}

/// A backup of an instance of Dugong's says whose it is; in the middle of a restore that is a lie.
#[test]
fn what_an_end_in_the_middle_has_left_never_becomes_data() {
    as_postgres(async {
        let mut before = Instance::new("pg-1").await;
        before.initialise().await;
        let data = before.data();
        let ended = before.end().await;
        let folder = tempfile::Builder::new().prefix("dugong-").tempdir().unwrap();
        let begun = folder.path().join("begun");
        let command = format!(
            "cp -a {}/. $DUGONG_DATA\ntouch {}\nexec sleep 600",
            data.display(),
            begun.display()
        );
        let instance = beginning_by(Origin::Command(command)).await;
        instance.want(dugong_machine::Goal::Initialised);
        eventually("the command is in the middle", SOON, async || {
            if begun.exists() { Ok(()) } else { Err("it is not yet".to_owned()) }
        })
        .await;
        let dir = instance.told().dir.canonicalize().unwrap();
        let restored = dir.join("data.restored");
        assert!(restored.join("dugong.identity.json").exists(), "it says that it is pg-1's");

        // The controller ends; as after a kill, something that it began goes on.
        let mut rest = instance.end().await;
        let mut orphan =
            Command::new("sleep").arg("600").env("DUGONG_DATA", &restored).spawn().unwrap();
        rest.tell(|settings| {
            settings.origin = Origin::Command(format!("cp -a {}/. $DUGONG_DATA", data.display()));
        });
        let mut again = rest.resume();
        again.until("it has looked", |server| server.run == Run::Down).await;
        assert_eq!(again.server.identity(), None, "it has no data");
        assert!(!dir.join("data").exists() && !restored.exists());

        again.initialise().await;
        assert!(!orphan.wait().unwrap().success(), "it was ended");
        assert_eq!(again.server.identity().unwrap().instance, id("pg-1"));
        again.one_node();
        again.until_open().await;
        again.log_in().await.expect("with passwords of its own");
        assert_eq!(server_processes(&restored), [0; 0]);
        drop(ended);
    });
}
