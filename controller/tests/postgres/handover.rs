//! A primary that hands over: its clients finish, it stops in order, and follows without a copy.
//! And one that waits for nobody, until it is told to.

use std::time::{Duration, Instant};

use dugong_machine::{
    Access, Data, Goal, Names, PrimaryView, Receiver, RequestNumber, Run, Sessions, StandbyView,
    Stop, Waits,
};
use dugong_topology::TimelineId;
use tokio_postgres::Client;

use crate::instance::{Instance, cluster_of_two, each, id};
use crate::process_of_a_test::as_postgres;

/// Waits until the server has ended a session.
async fn ends(primary: &mut Instance, client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !client.is_closed() {
        assert!(Instant::now() < deadline, "a session between two transactions goes on");
        primary.next().await;
    }
}

/// The primary stops in order, and its sync has all that there will ever be of its WAL.
async fn hand_over(primary: &mut Instance, standby: &mut Instance) -> StandbyView {
    primary.want(Goal::Down(Stop::Fast));
    primary.until("it stopped in order", |server| server.shut_down_at.is_some()).await;
    standby.want(Goal::Sealed { generation: standby.generation });
    standby.until_standby("all is there", |view| view.receiver == Receiver::Sealed).await
}

#[test]
fn a_primary_drains_stops_in_order_and_follows_its_sync() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        let follows = |row: &dugong_machine::StandbyRow| row.waits == Waits::ForIt;
        primary
            .until_primary("pg-2 is waited for", |view| {
                view.access == Access::ReadWrite && view.standby(&id("pg-2")).is_some_and(follows)
            })
            .await;
        let (still, busy) = (primary.tcp_client().await, primary.tcp_client().await);
        busy.batch_execute("BEGIN; CREATE TABLE t (n int)").await.unwrap();

        primary.checkpoint = Some(RequestNumber(3));
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary
            .until_primary("all is written", |view| view.checkpointed == Some(RequestNumber(3)))
            .await;
        primary.checkpoint = None;

        // Whoever has not moved for a while leaves; whoever is inside a transaction may write on.
        primary.primary_with(&["pg-2"], Access::ReadWrite, Sessions::Leave);
        let sessions_are = |count| {
            move |view: &PrimaryView| view.leaving.is_some_and(|left| left.sessions == count)
        };
        primary.until_primary("one has left", sessions_are(1)).await;
        ends(&mut primary, &still).await;
        busy.batch_execute("INSERT INTO t VALUES (0)").await.unwrap();
        let idle = primary.tcp_client().await;
        primary.primary_with(&["pg-2"], Access::ReadOnly, Sessions::Leave);
        let busy_are = |count| {
            move |view: &PrimaryView| view.leaving.is_some_and(|left| left.in_transaction == count)
        };
        primary.until_primary("one is busy", busy_are(1)).await;
        ends(&mut primary, &idle).await;
        // What began before goes on, and is acknowledged by the sync.
        busy.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        busy.batch_execute("COMMIT").await.unwrap();
        primary.until_primary("nobody is busy", busy_are(0)).await;

        let sealed = hand_over(&mut primary, &mut standby).await;
        let last = primary.server.shut_down_at.unwrap();
        assert_eq!(sealed.history.timeline, last.timeline);
        assert!(sealed.replayed > last.lsn, "{sealed:?} has no record at {last}");

        standby.downstreams.insert(id("pg-1"));
        standby.primary(&["pg-1"], Access::ReadOnly);
        standby.until_primary("it is promoted", |_| true).await;
        primary.standby(Some(&standby));
        primary
            .until_standby("the former primary streams on the new timeline", |view| {
                view.receiver == Receiver::Streaming && view.history.timeline == TimelineId(2)
            })
            .await;
        assert_eq!(primary.server.shut_down_at, None);
        assert!(matches!(&primary.server.data, Data::Own(own) if own.making == 1), "no copy");
    });
}

#[test]
fn what_was_killed_has_not_stopped_in_order() {
    as_postgres(async {
        let (mut primary, _standby) = cluster_of_two().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        primary.want(Goal::Down(Stop::Immediate));
        primary.until("it is down", |server| server.run == Run::Down).await;
        assert_eq!(primary.server.shut_down_at, None);
    });
}

#[test]
fn commits_wait_for_the_first_name_from_the_moment_in_which_it_is_in_force() {
    as_postgres(async {
        let mut primary = Instance::new("pg-1").await;
        primary.initialise().await;
        primary.one_node();
        primary.until_open().await;
        primary.client().await.batch_execute("CREATE TABLE t (n int)").await.unwrap();
        for _ in 0..5 {
            primary.next().await; // Each comes after at least one heartbeat's time.
        }
        assert_eq!(primary.confirmed, None, "a commit that waits for nobody confirms nothing");
        for round in 0..10 {
            primary.primary(&["pg-2"], Access::ReadWrite);
            let names = each(&["pg-2"]);
            primary.until_primary("the name is in force", |view| view.names == names).await;
            let client = primary.client().await;
            let insert = async move { client.batch_execute("INSERT INTO t VALUES (1)").await };
            let insert = tokio::spawn(insert);
            primary.until_waiting_commits(1).await;
            assert!(!insert.is_finished(), "round {round}: acknowledged by nobody");
            primary.one_node();
            primary.until_primary("it is one node", |view| view.names == Names::OneNode).await;
            insert.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_sync_has_the_names_of_its_office_before_it_is_promoted() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_open().await;
        standby.until_standby("it runs", |_| true).await;
        let client = standby.client().await;
        let read = async || {
            let question = "SELECT current_setting('synchronous_standby_names'), \
                                   pg_conf_load_time()::text";
            let row = client.query_one(question, &[]).await.unwrap();
            (row.get::<_, String>(0), row.get::<_, String>(1))
        };
        for next in ["pg-4", "pg-3"] {
            standby.next_sync(next);
            let deadline = Instant::now() + Duration::from_secs(20);
            while read().await.0 != format!("\"{next}\"") {
                assert!(Instant::now() < deadline, "it has not heard of {next}");
                standby.next().await;
            }
        }
        hand_over(&mut primary, &mut standby).await;
        let sealed = read().await;

        standby.primary(&["pg-3"], Access::ReadOnly);
        let view = standby.until_primary("it is promoted", |_| true).await;
        assert_eq!(view.names, each(&["pg-3"]));
        assert_eq!(read().await, sealed, "a reload that clients would have waited for");
    });
}

#[test]
fn a_promotion_begins_the_timeline_that_it_is_told() {
    as_postgres(async {
        let (mut primary, mut standby) = cluster_of_two().await;
        primary.primary(&["pg-2"], Access::ReadWrite);
        primary.until_primary("it is open", |view| view.access == Access::ReadWrite).await;
        let client = primary.tcp_client().await;
        client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
        hand_over(&mut primary, &mut standby).await;
        // What an attempt that came to nothing has left.
        let left = standby.data().join("pg_wal/00000005.history");
        std::fs::write(&left, "1\t0/1000000\tno recovery target specified\n").unwrap();

        standby.downstreams.insert(id("pg-1"));
        // Somebody else has, or had, 2 to 4.
        standby.timeline = TimelineId(5);
        standby.primary(&["pg-1"], Access::ReadOnly);
        let view = standby.until_primary("it is promoted", |_| true).await;
        assert_eq!(view.history.timeline, TimelineId(5));
        let last = view.history.ancestors.iter().rfind(|left| left.timeline == TimelineId(1));
        assert!(last.is_some_and(|left| left.lsn <= view.end), "{:?}", view.history);
        primary.standby(Some(&standby));
        primary
            .until_standby("the former primary streams on that timeline", |view| {
                view.receiver == Receiver::Streaming && view.history.timeline == TimelineId(5)
            })
            .await;
        assert!(matches!(&primary.server.data, Data::Own(own) if own.making == 1), "no copy");
    });
}
