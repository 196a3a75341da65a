//! The tests of the store's contract: every backend runs the very same ones.
//!
//! A backend's tests implement [`Place`] and name each of these in [`contract_tests`].
//!
//! Source: PROTOCOL.md, "The store's contract".

use std::sync::Arc;
use std::time::{Duration, Instant};

use dugong_machine::{
    Ask, Declaration, Guard, Handover, Outcome, Over, Presence, Promotion, Reason, Record,
    RequestNumber, ServerState, Session, Snapshot, Switchover, SystemIdentifier,
};
use dugong_topology::{Address, Generation, InstanceId, Lsn, Position, Revision, TimelineId};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;

use super::{
    AmendError, AskError, ClusterSettings, DeclareError, Edition, Reading, RenewError, Store,
};

/// A fresh store of one backend.
pub(super) trait Place: Sync {
    /// A new handle, as a new controller process of this instance would open it.
    fn handle<'a>(&'a self, id: &'a str, ttl: Duration) -> BoxFuture<'a, Arc<dyn Store>>;

    /// The shortest time to live that it keeps to.
    fn brief(&self) -> Duration;

    /// How much later than that a session may end.
    fn lateness(&self) -> Duration;
}

/// Makes a test of each claim, for the `Place` that the expression makes.
macro_rules! contract_tests {
    ($place:expr) => {
        $crate::store::contract::contract_tests!($place =>
            exactly_one_of_many_declares_wins
            the_first_declare_wants_no_record
            the_guard_refuses_while_the_primary_is_present_and_runs
            a_session_that_is_not_renewed_lapses_in_every_watch
            renewals_keep_a_session_alive_and_change_nothing
            a_session_that_lapsed_comes_back_only_by_an_announcement
            a_new_handle_ends_the_session_of_the_old_one
            a_resigned_session_lapses_at_once
            revisions_grow_with_the_content
            a_watch_that_begins_late_shows_the_newest
            the_history_is_newest_first_and_since_is_the_generations
            one_request_is_open_at_a_time_and_every_watch_shows_it
            the_first_outcome_stays
            a_declaration_and_the_outcome_it_brings_are_one_write
            settings_are_written_by_compare_and_swap_and_every_watch_shows_them
            settings_and_the_record_do_not_race
        );
    };
    ($place:expr => $($claim:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $claim() {
                $crate::store::contract::$claim(&$place).await;
            }
        )+
    };
}
pub(super) use contract_tests;

/// Never reached in a test.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub(super) fn presence(of: &str, server: ServerState) -> Presence {
    Presence {
        id: id(of),
        postgres: Address::loopback(5432),
        http: Address::loopback(8008),
        server,
        system_identifier: Some(SystemIdentifier(u64::MAX)),
        seen: Generation(1),
        open: None,
        position: Some(position(0x100)),
        history: None,
        upstream: None,
        lag: None,
        making: None,
        drains: false,
        hands_over: None,
        note: None,
    }
}

pub(super) fn record(generation: u64) -> Record {
    Record {
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier(u64::MAX),
        generation: Generation(generation),
        primary: id("pg-1"),
        sync: Some(id("pg-2")),
        asyncs: vec![id("pg-3")],
        deposed: Vec::new(),
        began_at: position(0x80),
        timeline: TimelineId(1),
        frozen: None,
        one_node: false,
        reason: Reason::Bootstrap,
    }
}

fn position(lsn: u64) -> Position {
    Position { timeline: TimelineId(1), lsn: Lsn(lsn) }
}

pub(super) fn declaration(generation: u64, at: Option<Revision>) -> Declaration {
    Declaration { next: record(generation), at, guard: Guard::None, fulfils: None }
}

pub(super) fn switchover() -> Ask {
    Ask::Switchover(Switchover {
        from: id("pg-1"),
        to: None,
        drain: Duration::from_secs(10),
        deadline: Duration::from_millis(61_500),
    })
}

/// Waits for a whole snapshot that is as wanted.
pub(super) async fn shown(
    watch: &mut watch::Receiver<Reading>,
    what: &str,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let reading = watch.borrow_and_update().clone();
        if let Reading::Whole(snapshot) = &reading
            && wanted(snapshot)
        {
            return Arc::clone(snapshot);
        }
        match tokio::time::timeout_at(deadline, watch.changed()).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) | Err(_) => panic!("{what} was not shown, but {reading:?}"),
        }
    }
}

pub(super) fn is_alive(snapshot: &Snapshot, instance: &str) -> bool {
    snapshot.present(&id(instance)).is_some()
}

pub(super) fn has_lapsed(snapshot: &Snapshot, instance: &str) -> bool {
    snapshot.instances.get(&id(instance)).is_some_and(|it| it.session == Session::Lapsed)
}

pub(super) async fn exactly_one_of_many_declares_wins(place: &dyn Place) {
    let mut handles = Vec::new();
    for instance in ["pg-1", "pg-2", "pg-3", "pg-4"] {
        handles.push(place.handle(instance, LONG).await);
    }
    let mut at = None;
    for generation in 1..=5 {
        let tries =
            (0..24).map(|n| handles[n % handles.len()].declare(declaration(generation, at)));
        let answers = join_all(tries).await;
        let mut won = answers.iter().filter_map(|answer| answer.as_ref().ok());
        let revision = *won.next().expect("one wins");
        assert_eq!(won.next(), None, "only one wins");
        let lost = answers.iter().filter(|answer| **answer == Err(DeclareError::Raced));
        assert_eq!(lost.count(), 23);
        at = Some(revision);
    }
    assert_eq!(handles[0].history(100).await.unwrap().len(), 5);
}

pub(super) async fn the_first_declare_wants_no_record(place: &dyn Place) {
    let store = place.handle("pg-1", LONG).await;
    let early = store.declare(declaration(1, Some(Revision(0)))).await;
    assert_eq!(early, Err(DeclareError::Raced));
    let first = store.declare(declaration(1, None)).await.unwrap();
    assert_eq!(store.declare(declaration(1, None)).await, Err(DeclareError::Raced));
    // Only writes of the record itself count: the store's revision goes on with each presence.
    store.announce(presence("pg-1", ServerState::Starting)).await.unwrap();
    let mut watch = store.watch();
    let snapshot = shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    assert!(snapshot.revision > first);
    assert_eq!(snapshot.declared.as_ref().unwrap().revision, first);
    assert_eq!(snapshot.record(), Some(&record(1)));
    let second = store.declare(declaration(2, Some(first))).await.unwrap();
    assert!(second > snapshot.revision);
}

pub(super) async fn the_guard_refuses_while_the_primary_is_present_and_runs(place: &dyn Place) {
    let sync = place.handle("pg-2", LONG).await;
    let mut at = Some(sync.declare(declaration(1, None)).await.unwrap());
    let mut generation = 1;
    let guarded = |generation, at| Declaration {
        guard: Guard::AbsentOrStopped(id("pg-1")),
        ..declaration(generation, at)
    };
    let primary = place.handle("pg-1", LONG).await;
    #[rustfmt::skip]
    let cases = [
        // what it said last           whether another may declare
        (None,                         true),
        (Some(ServerState::Starting),  false),
        (Some(ServerState::Copying),   false),
        (Some(ServerState::Standby),   false),
        (Some(ServerState::Ready),     false),
        (Some(ServerState::Primary),   false),
        (Some(ServerState::Stopped),   true),
    ];
    for (said, allowed) in cases {
        if let Some(server) = said {
            primary.announce(presence("pg-1", server)).await.unwrap();
        }
        let answer = sync.declare(guarded(generation + 1, at)).await;
        assert_eq!(answer.is_ok(), allowed, "{said:?}: {answer:?}");
        if let Ok(revision) = answer {
            (generation, at) = (generation + 1, Some(revision));
        } else {
            assert_eq!(answer, Err(DeclareError::Guarded), "{said:?}");
        }
    }
    // A race is told as one, even where the guard would not hold either.
    primary.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    assert_eq!(sync.declare(guarded(9, None)).await, Err(DeclareError::Raced));
    primary.resign().await.unwrap();
    at = Some(sync.declare(guarded(generation + 1, at)).await.unwrap());

    // Not resigned, but not renewed either. Nobody has to have noticed before the guard does.
    let brief = place.handle("pg-1", place.brief()).await;
    brief.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    let begun = Instant::now();
    let after = loop {
        match sync.declare(guarded(generation + 2, at)).await {
            Ok(_) => break begun.elapsed(),
            Err(DeclareError::Guarded) if begun.elapsed() < DEADLINE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error:?} after {:?}", begun.elapsed()),
        }
    };
    assert!(after + Duration::from_millis(50) > place.brief(), "lapsed after {after:?} already");
}

pub(super) async fn a_session_that_is_not_renewed_lapses_in_every_watch(place: &dyn Place) {
    let brief = place.handle("pg-1", place.brief()).await;
    let other = place.handle("pg-2", LONG).await;
    let (mut own, mut watch) = (brief.watch(), other.watch());
    other.announce(presence("pg-2", ServerState::Ready)).await.unwrap();
    let begun = Instant::now();
    brief.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let announced = Instant::now();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    let snapshot = shown(&mut watch, "the lapse", |it| has_lapsed(it, "pg-1")).await;
    let (least, most) = (begun.elapsed(), announced.elapsed());
    assert!(least >= place.brief(), "lapsed after {least:?}, before its time");
    assert!(most < place.brief() + place.lateness(), "lapsed only after {most:?}");
    assert!(is_alive(&snapshot, "pg-2"), "the other one is alive");
    let last = &snapshot.instances[&id("pg-1")].presence;
    assert_eq!(*last, presence("pg-1", ServerState::Ready), "its last word stays");
    shown(&mut own, "the lapse to its own watch", |it| has_lapsed(it, "pg-1")).await;
}

pub(super) async fn renewals_keep_a_session_alive_and_change_nothing(place: &dyn Place) {
    let brief = place.handle("pg-1", place.brief()).await;
    let other = place.handle("pg-2", LONG).await;
    brief.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let mut watch = other.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    let begun = Instant::now();
    while begun.elapsed() < place.brief() * 4 {
        brief.renew().await.unwrap();
        tokio::time::sleep(place.brief() / 10).await;
    }
    brief.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    assert!(!watch.has_changed().unwrap(), "a renewal is no news");
    let at = other.declare(declaration(1, None)).await.unwrap();
    let next = shown(&mut watch, "the record", |it| it.declared.is_some()).await;
    assert_eq!(next.revision, at, "and nothing came in between");
}

pub(super) async fn a_session_that_lapsed_comes_back_only_by_an_announcement(place: &dyn Place) {
    let brief = place.handle("pg-1", place.brief()).await;
    assert_eq!(brief.renew().await, Err(RenewError::Lapsed), "none was opened yet");
    brief.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    let mut watch = brief.watch();
    shown(&mut watch, "the lapse", |it| has_lapsed(it, "pg-1")).await;
    assert_eq!(brief.renew().await, Err(RenewError::Lapsed));
    let same = shown(&mut watch, "anything", |_| true).await;
    assert!(has_lapsed(&same, "pg-1"), "a renewal revives nothing");
    brief.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    shown(&mut watch, "the same word, alive again", |it| is_alive(it, "pg-1")).await;
    assert_eq!(brief.renew().await, Ok(()));
}

pub(super) async fn a_new_handle_ends_the_session_of_the_old_one(place: &dyn Place) {
    let old = place.handle("pg-1", LONG).await;
    old.announce(presence("pg-1", ServerState::Primary)).await.unwrap();
    let new = place.handle("pg-1", LONG).await;
    assert_eq!(old.renew().await, Ok(()), "opening a handle alone ends nothing");
    new.announce(presence("pg-1", ServerState::Starting)).await.unwrap();
    assert_eq!(old.renew().await, Err(RenewError::Lapsed));
    assert_eq!(new.renew().await, Ok(()));
    let stolen = old.announce(presence("pg-1", ServerState::Primary)).await;
    let message = stolen.expect_err("the old handle does not take it back").to_string();
    assert!(message.contains("another controller"), "{message}");
    old.resign().await.unwrap();
    assert_eq!(new.renew().await, Ok(()), "the old handle resigned from its own session only");
    // Once the new one is gone, the old one may speak again.
    new.resign().await.unwrap();
    old.announce(presence("pg-1", ServerState::Ready)).await.unwrap();
    assert_eq!(old.renew().await, Ok(()));
    assert_eq!(new.renew().await, Err(RenewError::Lapsed));
}

pub(super) async fn a_resigned_session_lapses_at_once(place: &dyn Place) {
    let store = place.handle("pg-1", LONG).await;
    let other = place.handle("pg-2", LONG).await;
    store.resign().await.unwrap();
    store.announce(presence("pg-1", ServerState::Stopped)).await.unwrap();
    let mut watch = other.watch();
    shown(&mut watch, "the presence", |it| is_alive(it, "pg-1")).await;
    store.resign().await.unwrap();
    let snapshot = shown(&mut watch, "the end", |it| has_lapsed(it, "pg-1")).await;
    assert_eq!(snapshot.instances[&id("pg-1")].presence.server, ServerState::Stopped);
    assert_eq!(store.renew().await, Err(RenewError::Lapsed));
    assert_eq!(store.resign().await, Ok(()), "twice is once");
}

/// Two watches of two handles, read while both write: each is monotonic, and where their revisions
/// are equal their contents are.
pub(super) async fn revisions_grow_with_the_content(place: &dyn Place) {
    const WORDS: u64 = 60;
    let stores = [place.handle("pg-1", LONG).await, place.handle("pg-2", LONG).await];
    let read = |mut watch: watch::Receiver<Reading>| async move {
        let mut seen: Vec<Arc<Snapshot>> = Vec::new();
        let is_last = |it: &Snapshot| {
            ["pg-1", "pg-2"].iter().all(|name| {
                let word = it.present(&id(name));
                word.is_some_and(|word| word.position == Some(position(WORDS)))
            })
        };
        while !seen.last().is_some_and(|it| is_last(it)) {
            let after = seen.last().map_or(Revision(0), |it| it.revision);
            let next = shown(&mut watch, "more", |it| it.revision != after || is_last(it)).await;
            assert!(next.revision >= after, "{} after {after}", next.revision);
            seen.push(next);
        }
        seen
    };
    let readers = stores.each_ref().map(|store| tokio::spawn(read(store.watch())));
    let writers = ["pg-1", "pg-2"].into_iter().zip(&stores).map(|(name, store)| async move {
        for lsn in 1..=WORDS {
            let word =
                Presence { position: Some(position(lsn)), ..presence(name, ServerState::Ready) };
            store.announce(word.clone()).await.unwrap();
            store.announce(word).await.unwrap();
            store.renew().await.unwrap();
        }
    });
    join_all(writers).await;
    let mut first = std::collections::BTreeMap::new();
    for seen in join_all(readers).await {
        for snapshot in seen.unwrap() {
            let known = first.entry(snapshot.revision).or_insert_with(|| Arc::clone(&snapshot));
            assert_eq!(*known, snapshot, "one revision, one content");
        }
    }
    let at = stores[0].declare(declaration(1, None)).await.unwrap();
    let (last, _) = first.last_key_value().unwrap();
    assert!(at > *last, "{at} after {last}");
}

pub(super) async fn a_watch_that_begins_late_shows_the_newest(place: &dyn Place) {
    let writer = place.handle("pg-1", LONG).await;
    let mut at = None;
    for generation in 1..=20 {
        at = Some(writer.declare(declaration(generation, at)).await.unwrap());
    }
    let late = place.handle("pg-2", LONG).await;
    let mut watch = late.watch();
    let first = shown(&mut watch, "anything", |_| true).await;
    assert_eq!(first.record(), Some(&record(20)));
    // And who reads slowly misses what lies between, but not the last.
    for generation in 21..=40 {
        at = Some(writer.declare(declaration(generation, at)).await.unwrap());
    }
    let last = shown(&mut watch, "the last", |it| it.record() == Some(&record(40))).await;
    assert_eq!(last.declared.as_ref().map(|declared| declared.revision), at);
}

pub(super) async fn the_history_is_newest_first_and_since_is_the_generations(place: &dyn Place) {
    let store = place.handle("pg-1", LONG).await;
    assert_eq!(store.history(10).await.unwrap(), []);
    let first = store.declare(declaration(1, None)).await.unwrap();
    let mut watch = store.watch();
    let since = |it: &Snapshot| it.declared.as_ref().map(|declared| declared.since_unix_ms);
    let begun = since(&*shown(&mut watch, "generation 1", |it| it.declared.is_some()).await);
    let millisecond = Instant::now();
    while millisecond.elapsed() < Duration::from_millis(2) {
        tokio::task::yield_now().await;
    }
    let joined = record(1).with_async(&id("pg-4"));
    let second = Declaration { next: joined.clone(), ..declaration(1, Some(first)) };
    let second = store.declare(second).await.unwrap();
    let same = shown(&mut watch, "the newcomer", |it| it.record() == Some(&joined)).await;
    assert_eq!(since(&same), begun, "the generation has not changed");
    let third = store.declare(declaration(2, Some(second))).await.unwrap();
    let next = shown(&mut watch, "generation 2", |it| it.record() == Some(&record(2))).await;
    assert!(since(&next) > begun);

    let history = store.history(10).await.unwrap();
    let lines: Vec<_> = history.iter().map(|entry| (entry.revision, &entry.record)).collect();
    assert_eq!(lines, [(third, &record(2)), (second, &joined), (first, &record(1))]);
    assert!(history.is_sorted_by(|newer, older| newer.at_unix_ms >= older.at_unix_ms));
    assert_eq!(store.history(2).await.unwrap(), history[..2]);
}

pub(super) async fn one_request_is_open_at_a_time_and_every_watch_shows_it(place: &dyn Place) {
    let mut handles = Vec::new();
    for instance in ["pg-1", "pg-2", "pg-3"] {
        handles.push(place.handle(instance, LONG).await);
    }
    let asks = handles.iter().map(|store| store.ask("ann".to_owned(), switchover()));
    let answers = join_all(asks).await;
    let mut taken = answers.iter().filter_map(|answer| answer.as_ref().ok());
    let request = *taken.next().expect("one is taken");
    assert_eq!(taken.next(), None, "only one");
    let busy = Err(AskError::Busy { request });
    assert_eq!(answers.iter().filter(|answer| **answer == busy).count(), 2);
    for store in &handles {
        let open = |it: &Snapshot| it.requests.contains_key(&request);
        let snapshot = shown(&mut store.watch(), "the request", open).await;
        let (shown, by) = (&snapshot.requests[&request].what, &snapshot.requests[&request].by);
        assert_eq!((shown, by.as_str()), (&switchover(), "ann"));
    }
    handles[0].answer(request, Outcome::Done).await.unwrap();
    let next = handles[1].ask("bob".to_owned(), switchover()).await.unwrap();
    assert!(next > request, "numbers are never used again");

    // What nobody may be there to answer is in nobody's way.
    let promotion = Promotion { id: id("pg-2"), from: id("pg-1"), over: Over::Lost };
    let last = handles[2].ask("eve".to_owned(), Ask::Promotion(promotion)).await.unwrap();
    let snapshot = handles[0].read().await.unwrap();
    assert_eq!(snapshot.requests.keys().collect::<Vec<_>>(), [&last]);
    let why = "eve asks pg-2 to become the primary instead".to_owned();
    assert_eq!(snapshot.outcomes[&next], Outcome::Refused { why });
}

pub(super) async fn the_first_outcome_stays(place: &dyn Place) {
    let store = place.handle("pg-1", LONG).await;
    let request = store.ask("ann".to_owned(), switchover()).await.unwrap();
    let why = "no third instance".to_owned();
    let first = Outcome::RolledBack { why };
    store.answer(request, first.clone()).await.unwrap();
    let mut watch = store.watch();
    let ended = |it: &Snapshot| it.outcomes.contains_key(&request);
    let before = shown(&mut watch, "the outcome", ended).await;
    store.answer(request, Outcome::Done).await.unwrap();
    store.answer(RequestNumber(999), Outcome::Done).await.unwrap();
    let at = store.declare(declaration(1, None)).await.unwrap();
    assert_eq!(at, Revision(before.revision.0 + 1), "the only write since");
    let after = shown(&mut watch, "the record", |it| it.declared.is_some()).await;
    assert_eq!(after.outcomes.get(&request), Some(&first));
    assert_eq!((after.requests.len(), after.outcomes.len()), (0, 1));
}

pub(super) async fn a_declaration_and_the_outcome_it_brings_are_one_write(place: &dyn Place) {
    let (primary, sync) = (place.handle("pg-1", LONG).await, place.handle("pg-2", LONG).await);
    let at = primary.declare(declaration(1, None)).await.unwrap();
    let request = sync.ask("ann".to_owned(), switchover()).await.unwrap();
    let guard = Guard::HandedOver { by: id("pg-1"), request };
    let takeover = Declaration { guard, fulfils: Some(request), ..declaration(2, Some(at)) };
    let stopped = presence("pg-1", ServerState::Stopped);
    let handing_over = |request| {
        let handover = Handover { request, last: position(0x90) };
        Presence { hands_over: Some(handover), ..stopped.clone() }
    };
    #[rustfmt::skip]
    let words = [
        ("it was never there",         None),
        ("it stopped for its own sake", Some(stopped.clone())),
        ("it stopped for another one", Some(handing_over(RequestNumber(request.0 + 1)))),
    ];
    for (what, word) in words {
        if let Some(word) = word {
            primary.announce(word).await.unwrap();
        }
        let answer = sync.declare(takeover.clone()).await;
        assert_eq!(answer, Err(DeclareError::Guarded), "{what}");
    }
    primary.announce(handing_over(request)).await.unwrap();
    primary.resign().await.unwrap();
    let answer = sync.declare(takeover.clone()).await;
    assert_eq!(answer, Err(DeclareError::Guarded), "it may be back any time");
    let mut watch = sync.watch();
    let open = shown(&mut watch, "the request", |it| !it.requests.is_empty()).await;
    assert_eq!(open.record(), Some(&record(1)), "what is refused answers nothing");

    primary.announce(handing_over(request)).await.unwrap();
    let of_another = Declaration { fulfils: Some(RequestNumber(99)), ..takeover.clone() };
    let answer = sync.declare(of_another).await;
    assert_eq!(answer, Err(DeclareError::Guarded), "that one is not open");
    sync.declare(takeover).await.unwrap();
    let done = shown(&mut watch, "the outcome", |it| it.requests.is_empty()).await;
    assert_eq!(done.outcomes.get(&request), Some(&Outcome::Done));
    assert_eq!(done.record(), Some(&record(2)), "together");
}

pub(super) fn cluster_settings(value: &str) -> ClusterSettings {
    let values = [("work_mem".to_owned(), value.to_owned())].into();
    ClusterSettings { values, by: "ann".to_owned(), at_unix_ms: 7, ..Default::default() }
}

pub(super) async fn settings_are_written_by_compare_and_swap_and_every_watch_shows_them(
    place: &impl Place,
) {
    let one = place.handle("pg-1", LONG).await;
    let other = place.handle("pg-2", LONG).await;
    let mut shown = other.watch_settings();
    assert_eq!(one.settings().await, Ok(Edition::default()), "nobody has set anything");

    let first = one.amend(cluster_settings("8MB"), Revision(0)).await.unwrap();
    let late = other.amend(cluster_settings("1MB"), Revision(0)).await;
    assert_eq!(late, Err(AmendError::Raced), "it did not see the first one");
    let second = other.amend(cluster_settings("9MB"), first).await.unwrap();
    assert!(second > first);

    let expected = Edition { revision: second, settings: cluster_settings("9MB") };
    assert_eq!(one.settings().await, Ok(expected.clone()));
    let newest = shown.wait_for(|edition| edition.as_deref() == Some(&expected));
    tokio::time::timeout(DEADLINE, newest).await.expect("the watch shows it").unwrap();
    let late = place.handle("pg-3", LONG).await;
    let mut watch = late.watch_settings();
    let newest = watch.wait_for(|edition| edition.as_deref() == Some(&expected));
    tokio::time::timeout(DEADLINE, newest).await.expect("so does one that begins late").unwrap();
}

pub(super) async fn settings_and_the_record_do_not_race(place: &impl Place) {
    let store = place.handle("pg-1", LONG).await;
    let at = store.declare(declaration(1, None)).await.unwrap();
    let edition = store.amend(cluster_settings("8MB"), Revision(0)).await.unwrap();
    let next = store.declare(declaration(2, Some(at))).await.expect("the record is as it was");
    store.amend(cluster_settings("9MB"), edition).await.expect("and so were the settings");
    let mut watch = store.watch();
    let whole = shown(&mut watch, "the record", |it| it.record() == Some(&record(2))).await;
    assert_eq!(whole.declared.as_ref().map(|declared| declared.revision), Some(next));
}
