//! The contract, and what only many machines can do: lose a member, a majority, a leader.

use std::time::Instant;

use dugong_machine::{Guard, ServerState};
use dugong_tests::{Etcd, pause, resume};
use etcd_client::{Client, Permission};
use futures_util::future::ready;

use super::super::contract::{
    LONG, Place, contract_tests, declaration, has_lapsed, id, is_alive, presence, record, shown,
};
use super::*;

/// An etcd of its own for each test.
struct Members(Etcd);

impl Members {
    async fn new(count: usize) -> Self {
        let members = Self(Etcd::start(count).await);
        // A leader looks after leases some time after its election only.
        let warm = members.open_in("another", "warm-up");
        at_last(async || {
            warm.announce(presence("warm-up", ServerState::Stopped)).await?;
            warm.renew().await.map_err(|error| StoreError(error.to_string()))
        })
        .await;
        members
    }

    fn access(&self) -> Access {
        Access {
            endpoints: self.0.endpoints(),
            prefix: "/dugong".to_owned(),
            options: ConnectOptions::new(),
            request_timeout: Duration::from_secs(1),
        }
    }

    fn open(&self, instance: &str) -> EtcdStore {
        self.open_in("main", instance)
    }

    fn open_in(&self, cluster: &str, instance: &str) -> EtcdStore {
        EtcdStore::open(self.access(), cluster, id(instance), LONG).unwrap()
    }
}

impl Place for Members {
    fn handle<'a>(&'a self, instance: &'a str, ttl: Duration) -> BoxFuture<'a, Arc<dyn Store>> {
        let store = EtcdStore::open(self.access(), "main", id(instance), ttl).unwrap();
        Box::pin(ready(Arc::new(store) as Arc<dyn Store>))
    }

    fn brief(&self) -> Duration {
        // The shortest that a leader with the default timings grants.
        Duration::from_secs(2)
    }

    fn lateness(&self) -> Duration {
        // Seen by another handle within a tenth of a second, and written to disk on a busy machine.
        Duration::from_secs(3)
    }
}

contract_tests!(Members::new(1).await);

/// The place of the member that leads.
async fn leader(members: &Members) -> usize {
    for (place, endpoint) in members.0.endpoints().into_iter().enumerate() {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        let status = client.status().await.unwrap();
        if status.header().map(etcd_client::ResponseHeader::member_id) == Some(status.leader()) {
            return place;
        }
    }
    panic!("no member leads");
}

/// Waits until the watch says that the store cannot be read.
async fn fails(watch: &mut watch::Receiver<Reading>) -> StoreError {
    let failed = |reading: &Reading| matches!(reading, Reading::Failed(_));
    let waiting = tokio::time::timeout(LONG, watch.wait_for(failed)).await;
    match &*waiting.expect("in time").expect("the store lives") {
        Reading::Failed(error) => error.clone(),
        other @ (Reading::Pending | Reading::Whole(_)) => panic!("{other:?}"),
    }
}

/// Tries until it is done, as a controller does.
async fn at_last<T, E: std::fmt::Display>(mut work: impl AsyncFnMut() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match work().await {
            Ok(done) => return done,
            Err(error) if begun.elapsed() > LONG => panic!("after {LONG:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_member_is_nobodys_trouble() {
    let mut members = Members::new(3).await;
    let store = members.open("pg-1");
    at_last(async || store.announce(presence("pg-1", ServerState::Ready)).await).await;
    let mut watch = store.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    for lost in 0..3 {
        members.0.kill(lost);
        let generation = u64::try_from(lost).unwrap() + 1;
        let at = watch.borrow().clone();
        let Reading::Whole(before) = at else { panic!("{at:?}") };
        let at = before.declared.as_ref().map(|declared| declared.revision);
        // Unknown whether the first one was taken, where its member was lost meanwhile.
        at_last(async || match store.declare(declaration(generation, at)).await {
            Ok(_) | Err(DeclareError::Raced) => Ok(()),
            Err(error) => Err(error),
        })
        .await;
        at_last(async || store.renew().await).await;
        let declared = |it: &Snapshot| it.record() == Some(&record(generation));
        let after = shown(&mut watch, "the record", declared).await;
        assert!(is_alive(&after, "pg-1"), "the session outlives a member");
        members.0.restart(lost);
        members.0.is_up(lost).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_in_time_where_the_leader_is_lost_with_its_holder() {
    let mut members = Members::new(3).await;
    // A lease of this length would end much later than the session, and no election is as long.
    let ttl = Duration::from_millis(8_010);
    let holder = EtcdStore::open(members.access(), "main", id("pg-1"), ttl).unwrap();
    let other = members.open("pg-2");
    at_last(async || holder.announce(presence("pg-1", ServerState::Primary)).await).await;
    let mut watch = other.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    at_last(async || holder.renew().await).await;
    let renewed = Instant::now();
    let leader = leader(&members).await;
    // Halfway, so that a lease that is given its whole time again has half of it too much.
    tokio::time::sleep_until((renewed + ttl / 2).into()).await;
    members.0.kill(leader);
    shown(&mut watch, "the lapse", |it| has_lapsed(it, "pg-1")).await;
    let after = renewed.elapsed();
    assert!(after < ttl + members.lateness(), "lapsed only after {after:?}");
    assert!(after + Duration::from_millis(50) > ttl, "lapsed after {after:?} already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_renewed_meanwhile_is_not_ended() {
    let members = Members::new(1).await;
    let ttl = Duration::from_secs(2);
    let holder = EtcdStore::open(members.access(), "main", id("pg-1"), ttl).unwrap();
    holder.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    let glance = Glance::new(members.access(), 0);
    let mut late = Lapse::new(holder.members.clone(), glance, holder.keys.clone(), id("pg-2"));
    late.look().await.unwrap();
    let looked = Instant::now();
    // As if the other machine were paused between its look and its deed.
    while looked.elapsed() <= ttl {
        tokio::time::sleep(ttl / 10).await;
        holder.renew().await.unwrap();
    }
    late.end_the_silent().await.unwrap();
    assert_eq!(holder.renew().await, Ok(()), "what was seen is not what is there");
    late.look().await.unwrap();
    late.end_the_silent().await.unwrap();
    assert_eq!(holder.renew().await, Ok(()), "and its time begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_member_hides_nothing_that_others_have() {
    let members = Members::new(3).await;
    let store = members.open("pg-1");
    at_last(async || store.announce(presence("pg-1", ServerState::Primary)).await).await;
    let mut glance = Glance::new(members.access(), 0);
    let beats = store.keys.beats();
    let seen = glance.below(&beats).await.unwrap();
    let silent = members.0.pid(0);
    pause(silent);
    at_last(async || store.renew().await.map_err(|error| StoreError(error.to_string()))).await;
    let revision = |answer: &etcd_client::GetResponse| answer.kvs()[0].mod_revision();
    at_last(async || {
        let now = glance.below(&beats).await.expect("the others answer");
        // They may take it over at different moments.
        let is_there = revision(&now) > revision(&seen);
        if is_there { Ok(()) } else { Err(StoreError("it is not there yet".to_owned())) }
    })
    .await;
    resume(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_everything_fails_and_afterwards_goes_on() {
    let members = Members::new(3).await;
    let store = members.open("pg-1");
    let other = members.open("pg-2");
    at_last(async || store.announce(presence("pg-1", ServerState::Primary)).await).await;
    let first = at_last(async || store.declare(declaration(1, None)).await).await;
    let mut watch = other.watch();
    shown(&mut watch, "the record", |it| it.declared.is_some()).await;
    // Silent, which is worse than gone: every connection stands.
    for member in 0..2 {
        pause(members.0.pid(member));
    }
    let why = fails(&mut watch).await.to_string();
    assert!(why.contains("etcd at http://127.0.0.1:"), "{why}");
    let unknown = other.declare(declaration(2, Some(first))).await;
    assert!(matches!(unknown, Err(DeclareError::Store(_))), "{unknown:?}");
    assert!(store.renew().await.is_err() && other.read().await.is_err());
    for member in 0..2 {
        resume(members.0.pid(member));
    }
    at_last(async || store.announce(presence("pg-1", ServerState::Primary)).await).await;
    let after = shown(&mut watch, "what is there now", |it| is_alive(it, "pg-1")).await;
    let declared = after.declared.as_ref().unwrap();
    // The one that nobody answered may have been taken; else it may be now.
    if declared.revision == first {
        let guarded = Declaration {
            guard: Guard::AbsentOrStopped(id("pg-1")),
            ..declaration(2, Some(first))
        };
        let refused = at_last(async || match other.declare(guarded.clone()).await {
            Err(DeclareError::Store(error)) => Err(error),
            answer => Ok(answer),
        })
        .await;
        assert_eq!(refused, Err(DeclareError::Guarded), "the primary is back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declaration_is_bound_to_its_session() {
    let members = Members::new(1).await;
    let old = members.open("pg-1");
    at_last(async || old.announce(presence("pg-1", ServerState::Primary)).await).await;
    let first = old.declare(declaration(1, None)).await.unwrap();
    let new = members.open("pg-1");
    new.announce(presence("pg-1", ServerState::Starting)).await.unwrap();
    let late = old.declare(declaration(2, Some(first))).await;
    assert!(matches!(late, Err(DeclareError::Store(_))), "its successor has begun: {late:?}");
    new.declare(declaration(2, Some(first))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_what_it_follows_was_compacted() {
    let members = Members::new(1).await;
    let (store, other) = (members.open("pg-1"), members.open("pg-2"));
    at_last(async || store.announce(presence("pg-1", ServerState::Ready)).await).await;
    let mut watch = other.watch();
    let before = shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    // Silent while others write and compact.
    pause(members.0.pid(0));
    fails(&mut watch).await;
    resume(members.0.pid(0));
    let mut client = Client::connect(members.0.endpoints(), None).await.unwrap();
    for state in [ServerState::Standby, ServerState::Ready, ServerState::Stopped] {
        at_last(async || store.announce(presence("pg-1", state)).await).await;
        let now = i64::try_from(store.read().await.unwrap().revision.0).unwrap();
        client.compact(now, None).await.unwrap();
    }
    let stopped = |it: &Snapshot| {
        it.present(&id("pg-1")).is_some_and(|word| word.server == ServerState::Stopped)
    };
    let after = shown(&mut watch, "the last word", stopped).await;
    assert!(after.revision > before.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_share_an_etcd_and_not_a_word() {
    let members = Members::new(1).await;
    let here = members.open("pg-1");
    let there = members.open_in("mail", "pg-1");
    here.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    here.declare(declaration(1, None)).await.unwrap();
    there.declare(declaration(7, None)).await.unwrap();
    let snapshot = there.read().await.unwrap();
    assert!(snapshot.instances.is_empty() && !has_lapsed(&snapshot, "pg-1"));
    assert_eq!(snapshot.record(), Some(&record(7)));
    assert_eq!(here.history(10).await.unwrap().len(), 1);
    let observer = EtcdStore::observe(members.access(), "mail");
    let refused = observer.announce(presence("pg-1", ServerState::Ready)).await;
    assert!(refused.unwrap_err().to_string().contains("only a controller"));
}

/// Users with passwords: one for everything, one for what is below the prefix, one for nothing.
async fn with_users(members: &Members) {
    let mut client = Client::connect(members.0.endpoints(), None).await.unwrap();
    for (user, role) in [("root", "root"), ("dugong", "dugong"), ("guest", "guest")] {
        client.role_add(role).await.unwrap();
        client.user_add(user, format!("{user}'s"), None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let below = Permission::read_write("/dugong/").with_prefix();
    client.role_grant_permission("dugong", below).await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_the_password_and_the_permission() {
    let mut members = Members::new(1).await;
    with_users(&members).await;
    let open = |user: &str, password: &str| {
        let options = ConnectOptions::new().with_user(user, password);
        EtcdStore::open(Access { options, ..members.access() }, "main", id("pg-1"), LONG).unwrap()
    };
    #[rustfmt::skip]
    let refused = [
        ("dugong", "another's", "See user and password_file in [store]"),
        ("guest",  "guest's",   "needs read and write permission for everything below the prefix"),
    ];
    for (user, password, expected) in refused {
        let store = open(user, password);
        let why = fails(&mut store.watch()).await.to_string();
        assert!(why.contains(expected), "{user}: {why}");
        assert!(!why.contains(password), "{why}");
        assert!(store.announce(presence("pg-1", ServerState::Ready)).await.is_err());
    }
    let store = open("dugong", "dugong's");
    store.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    store.declare(declaration(1, None)).await.unwrap();
    let mut watch = store.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;

    // A login does not outlive a member that is started again.
    members.0.kill(0);
    members.0.restart(0);
    members.0.is_up(0).await;
    at_last(async || store.announce(presence("pg-1", ServerState::Stopped)).await).await;
    let stopped = |it: &Snapshot| {
        it.present(&id("pg-1")).is_some_and(|word| word.server == ServerState::Stopped)
    };
    shown(&mut watch, "the last word", stopped).await;
}
