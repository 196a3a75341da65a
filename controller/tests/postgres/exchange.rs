//! The roles of replication and lookup take turns while servers run.

use std::sync::Arc;
use std::time::Duration;

use dugong_controller::credentials::{Credentials, ExchangeId, Kind, Login, Logins, Password};
use dugong_machine::{Access, Receiver};

use crate::instance::{Instance, cluster_of_two};
use crate::process_of_a_test::as_postgres;

const SOON: Duration = Duration::from_secs(20);

fn next_of(credentials: &Credentials, kinds: &[Kind]) -> Logins {
    let next = |kind: &Kind| {
        let name = kind.next_role(&credentials.login(*kind).name);
        (*kind, Login { name, password: Password::fresh().unwrap() })
    };
    kinds.iter().map(next).collect()
}

/// Lets the instance go on until its server lets all of `logins` in, and receives as `role`.
async fn until_seen(instance: &mut Instance, logins: &Logins, role: Option<&str>) {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        instance.next().await;
        let seen = instance.doorkeeper().look(logins, "app").await.unwrap();
        let receives = seen.standby.as_ref().and_then(|standby| standby.role.as_deref());
        if seen.refused.is_empty() && (role.is_none() || receives == role) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{}: {seen:?}", instance.id);
    }
}

/// An open primary and the standby that its commits wait for.
async fn open_cluster() -> (Instance, Instance) {
    let (mut primary, mut standby) = cluster_of_two().await;
    standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
    primary.primary(&["pg-2"], Access::ReadWrite);
    primary.until_open().await;
    (primary, standby)
}

#[test]
fn roles_take_turns_and_a_standby_streams_on_by_the_next_one() {
    as_postgres(async {
        let (mut primary, mut standby) = open_cluster().await;
        let first = primary.credentials.clone();
        let next = next_of(&first, &Kind::ALL);
        let turns: Logins =
            next.clone().into_iter().filter(|(kind, _)| kind.takes_turns()).collect();
        let former: Logins = next.keys().map(|kind| (*kind, first.login(*kind))).collect();
        let id = ExchangeId::fresh().unwrap();

        let known = Arc::new(first.learn(&id, next.clone(), None).unwrap());
        for instance in [&primary, &standby] {
            instance.exchange.send_replace(known.clone());
        }
        let refused = standby.doorkeeper().make(&next).await.unwrap_err().to_string();
        assert!(refused.contains("no primary"), "{refused}");
        for _ in 0..2 {
            primary.doorkeeper().make(&next).await.unwrap();
        }
        for instance in [&mut primary, &mut standby] {
            until_seen(instance, &turns, None).await;
            let seen = instance.doorkeeper().look(&former, "app").await.unwrap();
            assert!(seen.refused.is_empty(), "the former ones go on: {seen:?}");
        }

        let used = Arc::new(known.take_into_use(&id).unwrap());
        for instance in [&primary, &standby] {
            instance.exchange.send_replace(used.clone());
        }
        until_seen(&mut standby, &turns, Some("dugong_replication_b")).await;
        let seen = primary.doorkeeper().look(&turns, "app").await.unwrap();
        assert_eq!(seen.senders, [("pg-2".to_owned(), "dugong_replication_b".to_owned())]);
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
        primary.until_open().await;

        for _ in 0..2 {
            primary.doorkeeper().end(&next, &former).await.unwrap();
        }
        let last = Arc::new(used.finish(&id).unwrap());
        for instance in [&primary, &standby] {
            instance.exchange.send_replace(last.clone());
        }
        for instance in [&mut primary, &mut standby] {
            until_seen(instance, &next, None).await;
            let seen = instance.doorkeeper().look(&former, "app").await.unwrap();
            let refused: Vec<_> = seen.refused.keys().copied().collect();
            assert_eq!(refused, Kind::ALL, "all former ones: {seen:?}");
        }
    });
}

#[test]
fn a_standby_with_the_former_passwords_says_so_and_takes_a_new_file() {
    as_postgres(async {
        let (mut primary, mut standby) = open_cluster().await;
        let first = primary.credentials.clone();
        let (id, next) = (ExchangeId::fresh().unwrap(), next_of(&first, &[Kind::Replication]));
        let former: Logins = [(Kind::Replication, first.replication.clone())].into();
        // The standby is away: it hears of nothing.
        let known = first.learn(&id, next.clone(), None).unwrap();
        primary.doorkeeper().make(&next).await.unwrap();
        primary.doorkeeper().end(&next, &former).await.unwrap();
        let last = known.take_into_use(&id).unwrap().finish(&id).unwrap();
        let last = Arc::new(last);
        primary.exchange.send_replace(last.clone());
        until_seen(&mut primary, &next, None).await;
        let client = primary.client().await;
        client
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            .await
            .unwrap();

        standby
            .until("it says why it receives nothing", |server| {
                server.trouble.as_ref().is_some_and(|why| why.contains("copy credentials.json"))
            })
            .await;

        standby.exchange.send_replace(last);
        standby.until_standby("it streams", |view| view.receiver == Receiver::Streaming).await;
    });
}
