//! The cluster's settings, as one server takes them.

use std::sync::Arc;
use std::time::Duration;

use dugong_controller::postgres::{Here, Objection, Takes};
use dugong_controller::store::{ClusterSettings, Edition};
use dugong_machine::{Access, Run};
use dugong_tests::eventually;
use dugong_topology::Revision;
use rustix::process::{Pid, Signal};
use tokio_postgres::Client;

use super::bare::{Server, append};
use super::instance::{Instance, each};
use super::process_of_a_test::as_postgres;

/// The longest that anything here may take.
const SOON: Duration = Duration::from_secs(60);

fn edition(revision: u64, values: &[(&str, &str)]) -> Edition {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let values = values.collect();
    let settings =
        ClusterSettings { values, by: "ann".to_owned(), at_unix_ms: 7, ..Default::default() };
    Edition { revision: Revision(revision), settings }
}

/// Gives it these settings, and waits until it has said yes or no, and its server was told.
async fn told(
    instance: &mut Instance,
    revision: u64,
    values: &[(&str, &str)],
    is_so: impl Fn(&Here) -> bool,
) -> Here {
    instance.editions.send_replace(Some(Arc::new(edition(revision, values))));
    loop {
        instance.next().await;
        let here = instance.advisor().here().await;
        if is_so(&here) {
            return here;
        }
    }
}

async fn setting(instance: &Instance, name: &str) -> String {
    let row = instance.client().await.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
    row.get(0)
}

#[test]
fn a_set_that_the_server_would_refuse_is_told_and_changes_nothing() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.one_node();
        primary.until_primary("it is open", |view| view.access == Access::ReadWrite).await;

        let of = |here: &Here| here.revision == Revision(1);
        told(&mut primary, 1, &[("work_mem", "7MB")], of).await;
        while setting(&primary, "work_mem").await != "7MB" {
            primary.next().await;
        }
        let wrong = [("work_mem", "9MB"), ("shared_preload_libraries", "no_such_library")];
        let here = told(&mut primary, 2, &wrong, |here| here.refused.is_some()).await;
        assert_eq!(here.revision, Revision(1), "the one before stays: {here:?}");
        assert!(here.refused.unwrap().contains("could not access file"));
        assert_eq!(setting(&primary, "work_mem").await, "7MB", "no half of it is taken");

        let known = edition(1, &[("work_mem", "7MB")]).settings.values;
        let wanted = edition(2, &[("Max_Connections".to_lowercase().as_str(), "120")]);
        let changes = primary.advisor().weigh(&known, &wanted.settings.values).await.unwrap();
        let takes: Vec<_> = changes.iter().map(|it| (it.name.as_str(), it.takes)).collect();
        assert_eq!(takes, [("max_connections", Takes::Restart), ("work_mem", Takes::Reload)]);
        let wanted = edition(2, &[("port", "1")]).settings.values;
        let objection = primary.advisor().weigh(&known, &wanted).await.unwrap_err();
        assert!(matches!(objection, Objection::Owned { .. }), "{objection}");
    });
}

#[test]
fn a_restart_of_a_primary_waits_for_the_machines_word_and_changes_no_names() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_primary("it is open", |view| view.access == Access::ReadWrite).await;

        let pending = |here: &Here| !here.pending.is_empty();
        let here = told(&mut primary, 1, &[("max_connections", "120")], pending).await;
        assert_eq!(here.pending[0].name, "max_connections");
        assert_eq!(here.pending[0].has, "200");
        assert_eq!(here.pending[0].wants.as_deref(), Some("120"));
        let view = primary.until_primary("it goes on", |_| true).await;
        assert_eq!(view.names, each(&["pg-2"]), "commits wait for whom they waited");

        primary.advisor().restart();
        primary.until("it is down", |server| server.run == Run::Down).await;
        for _ in 0..3 {
            primary.next().await;
            assert_eq!(primary.server.run, Run::Down, "the office may be somebody else's by now");
        }
        primary.life = 1;
        primary.primary(&["pg-2"], Access::ReadOnly);
        let view = primary.until_primary("it runs again", |_| true).await;
        assert_eq!((view.names, view.access), (each(&["pg-2"]), Access::ReadOnly));
        assert!(primary.log_in().await.is_err(), "nobody is let in before it is open (R5)");
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_primary("it is open", |view| view.access == Access::ReadWrite).await;
        assert_eq!(setting(&primary, "max_connections").await, "120");
        assert!(primary.advisor().here().await.pending.is_empty());
    });
}

/// What "in force" rests on: a process that was told by itself proves nothing about the others.
#[test]
fn a_session_knows_whether_it_began_after_the_last_reload() {
    as_postgres(async {
        let mut server = Server::make();
        let before = server.start().await;
        let began_after = "SELECT backend_start > pg_conf_load_time() \
                           FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let shown = async |client: &Client| {
            let row = client.query_one("SHOW work_mem", &[]).await.unwrap();
            let began_after = client.query_one(began_after, &[]).await.unwrap();
            (row.get::<_, String>(0), began_after.get::<_, bool>(0))
        };
        assert_eq!(shown(&before).await, ("9MB".to_owned(), true));

        append(&server.data().join("postgresql.conf"), "work_mem = '11MB'\n");
        let pid: i32 = before.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let pid = Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
        let told = eventually("it is told", SOON, async || {
            let now = shown(&before).await;
            if now.0 == "11MB" { Ok(now.1) } else { Err(now.0) }
        });
        assert!(!told.await, "but by itself");
        let other = server.client().await;
        assert_eq!(shown(&other).await, ("9MB".to_owned(), true), "nobody else was");

        before.query_one("SELECT pg_reload_conf()", &[]).await.unwrap();
        eventually("the others are", SOON, async || {
            let now = shown(&server.client().await).await;
            if now == ("11MB".to_owned(), true) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    });
}
