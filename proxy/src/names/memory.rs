//! What was learned of names: each answer for as long as it counts, and longer in need.
//!
//! [`Memory::get`] is what callers see: the answer at once while it counts; otherwise one look-up
//! for all who ask. Who knows an older answer waits [`PATIENCE`] for it, and then goes on with that.
//! [`State`] decides; the memory starts look-ups and tells what they gave.
//!
//! **Invariant:** at most one look-up of a name at a time, and none within
//! [`RETRY_AFTER`](super::RETRY_AFTER) of one that failed.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::question::{Found, LOOKUP_MAX};
use super::{Answer, NameError, RETRY_AFTER, TTL_MAX, TTL_MIN};
use crate::metrics;
use crate::rarely::Rarely;

/// How long a look-up may keep somebody waiting who could do with the last answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// A look-up that has not ended by then never will.
const LOST_AFTER: Duration = LOOKUP_MAX.saturating_mul(2);

/// A name that nobody asks for is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Between two log lines about one name that cannot be looked up.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The names of one kind.
///
/// A mutex: whoever connects needs the answer in its own task, for one look at a map.
pub(super) struct Memory<T> {
    table: Mutex<Table<T>>,
}

struct Table<T> {
    entries: HashMap<String, Entry<T>>,
    /// Each ends by itself, within its limit.
    lookups: JoinSet<()>,
}

struct Entry<T> {
    state: watch::Sender<State<T>>,
    asked: Instant,
    complaints: Arc<Rarely>,
}

/// What is known of one name.
#[derive(Clone, Debug)]
struct State<T> {
    /// Counts, or counted.
    known: Option<Answer<T>>,
    /// What the last look-up that gave nothing failed with.
    failed: NameError,
    looking_since: Option<Instant>,
    next_look: Instant,
}

/// What somebody who asks is to do.
#[derive(Debug)]
enum Advice<T> {
    Take(Answer<T>),
    Fail(NameError),
    WaitUntil(Instant),
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        let table = Table { entries: HashMap::new(), lookups: JoinSet::new() };
        Self { table: Mutex::new(table) }
    }
}

impl<T: Clone + Debug + Display + PartialEq + Send + Sync + 'static> Memory<T> {
    /// What the name stands for; `look` finds out, where that is not known.
    pub(super) async fn get<F>(
        &self,
        name: &str,
        look: impl FnOnce() -> F,
    ) -> Result<Answer<T>, NameError>
    where
        F: Future<Output = Result<Found<T>, NameError>> + Send + 'static,
    {
        let mut state = self.ask(name, look);
        loop {
            let advice = state.borrow_and_update().advice(Instant::now());
            match advice {
                Advice::Take(answer) => return Ok(answer),
                Advice::Fail(error) => return Err(error),
                Advice::WaitUntil(until) => {
                    // Whether something was learned or the time is over: the advice is another one.
                    let _ = timeout_at(until, state.changed()).await;
                }
            }
        }
    }

    /// What the name stands for, while that counts.
    pub(super) fn known(&self, name: &str) -> Option<Answer<T>> {
        let now = Instant::now();
        let mut table = self.table();
        let entry = table.entries.get_mut(name)?;
        entry.asked = now;
        let known = entry.state.borrow().known.clone();
        known.filter(|answer| now < answer.valid_until)
    }

    /// Begins a look-up where one is due.
    fn ask<F>(&self, name: &str, look: impl FnOnce() -> F) -> watch::Receiver<State<T>>
    where
        F: Future<Output = Result<Found<T>, NameError>> + Send + 'static,
    {
        let now = Instant::now();
        let mut table = self.table();
        let Table { entries, lookups } = &mut *table;
        while let Some(ended) = lookups.try_join_next() {
            if let Err(error) = ended {
                metrics::count(metrics::PANICS);
                tracing::error!(%error, "a look-up ended, which is a bug of the proxy");
            }
        }
        if !entries.contains_key(name) {
            entries.retain(|_, entry| now.duration_since(entry.asked) < FORGET_AFTER);
            metrics::begin_name(name);
        }
        let entry = entries.entry(name.to_owned()).or_insert_with(|| Entry {
            state: watch::Sender::new(State::new(name, now)),
            asked: now,
            complaints: Arc::new(Rarely::new(COMPLAINT_INTERVAL)),
        });
        entry.asked = now;
        if entry.state.borrow().is_due(now) {
            entry.state.send_modify(|state| state.looking_since = Some(now));
            let state = entry.state.clone();
            let complaints = Arc::clone(&entry.complaints);
            let looking = look();
            let name = name.to_owned();
            lookups.spawn(async move {
                let result = looking.await;
                tell(&name, state.borrow().known.as_ref(), &result, &complaints);
                state.send_modify(|state| state.learn(result, Instant::now()));
            });
        }
        entry.state.subscribe()
    }

    fn table(&self) -> MutexGuard<'_, Table<T>> {
        // The table is whole after each of its operations, whatever panicked around it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> State<T> {
    fn new(name: &str, now: Instant) -> Self {
        let why = format!("no answer within {LOST_AFTER:?}");
        let failed = NameError::Away { name: name.to_owned(), why };
        Self { known: None, failed, looking_since: None, next_look: now }
    }

    fn is_due(&self, now: Instant) -> bool {
        match self.looking_since {
            Some(since) => now >= since + LOST_AFTER,
            None => now >= self.next_look,
        }
    }

    fn advice(&self, now: Instant) -> Advice<T> {
        let counts = |answer: &Answer<T>| now < answer.valid_until;
        let patience = match (&self.known, self.looking_since) {
            (Some(answer), _) if counts(answer) => return Advice::Take(answer.clone()),
            (Some(_), Some(since)) => since + PATIENCE,
            (None, Some(since)) => since + LOST_AFTER,
            (_, None) => now,
        };
        if now < patience {
            return Advice::WaitUntil(patience);
        }
        match &self.known {
            // Not asked again at once by who goes by it.
            Some(answer) => Advice::Take(Answer {
                found: Arc::clone(&answer.found),
                valid_until: self.next_look.max(now + RETRY_AFTER),
            }),
            None => Advice::Fail(self.failed.clone()),
        }
    }

    fn learn(&mut self, result: Result<Found<T>, NameError>, now: Instant) {
        self.looking_since = None;
        match result {
            Ok((found, ttl)) => {
                let valid_until = now + ttl.clamp(TTL_MIN, TTL_MAX);
                self.known = Some(Answer { found: found.into(), valid_until });
                self.next_look = valid_until;
            }
            Err(error) => {
                if let NameError::Absent { .. } = error {
                    self.known = None;
                }
                self.failed = error;
                self.next_look = now + RETRY_AFTER;
            }
        }
    }
}

/// Counts a look-up, and logs what is news.
fn tell<T: Debug + Display + PartialEq>(
    name: &str,
    before: Option<&Answer<T>>,
    result: &Result<Found<T>, NameError>,
    complaints: &Rarely,
) {
    let outcome = match result {
        Ok((found, _)) => {
            if before.is_none_or(|before| *before.found != **found) {
                let list: Vec<_> = found.iter().map(ToString::to_string).collect();
                tracing::info!("the name {name} stands for {}", list.join(", "));
            }
            "found"
        }
        Err(error) => {
            if let Some(left_out) = complaints.now() {
                let stale = match (error, before) {
                    (NameError::Away { .. }, Some(_)) => "; its last answer counts on",
                    (NameError::Away { .. }, None) | (NameError::Absent { .. }, _) => "",
                };
                tracing::warn!("{error}{stale} ({left_out} more since the last line)");
            }
            match error {
                NameError::Absent { .. } => "absent",
                NameError::Away { .. } => "failed",
            }
        }
    };
    metrics::count_name(name, outcome);
    let standing = match (result, before) {
        (Ok((found, _)), _) => found.len(),
        (Err(NameError::Away { .. }), Some(before)) => before.found.len(),
        (Err(NameError::Away { .. }), None) | (Err(NameError::Absent { .. }), _) => 0,
    };
    metrics::set_name(name, standing);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::pending;

    use tokio::time::advance;

    use super::*;

    /// What a name server does with one question.
    #[derive(Clone)]
    enum Says {
        Ok(u32, u64),
        Absent,
        Failed,
        Nothing,
    }

    /// A memory, and what will be said to the look-ups to come.
    #[derive(Default)]
    struct Script {
        memory: Memory<u32>,
        to_say: Mutex<VecDeque<Says>>,
    }

    impl Script {
        fn then(&self, says: Says) {
            self.to_say.lock().unwrap().push_back(says);
        }

        /// The answer, or the outcome of the failure.
        async fn get(&self) -> Result<u32, &'static str> {
            let look = || {
                let says = self.to_say.lock().unwrap().pop_front().expect("a look-up too many");
                async move {
                    let (name, why) = ("a".to_owned(), "why".to_owned());
                    match says {
                        Says::Ok(found, ttl) => Ok((vec![found], Duration::from_secs(ttl))),
                        Says::Absent => Err(NameError::Absent { name, records: "address" }),
                        Says::Failed => Err(NameError::Away { name, why }),
                        Says::Nothing => pending().await,
                    }
                }
            };
            match self.memory.get("a", look).await {
                Ok(answer) => Ok(answer.found[0]),
                Err(NameError::Absent { .. }) => Err("absent"),
                Err(NameError::Away { .. }) => Err("failed"),
            }
        }

        fn all_was_asked(&self) -> bool {
            self.to_say.lock().unwrap().is_empty()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_as_long_as_its_time_to_live_within_bounds() {
        for (ttl, counts_for) in [(0, TTL_MIN), (5, Duration::from_secs(5)), (86_400, TTL_MAX)] {
            let script = Script::default();
            script.then(Says::Ok(1, ttl));
            assert_eq!(script.get().await, Ok(1));
            advance(counts_for - Duration::from_millis(1)).await;
            assert_eq!(script.get().await, Ok(1), "ttl {ttl}: without a look-up");
            advance(Duration::from_millis(1)).await;
            script.then(Says::Ok(2, ttl));
            assert_eq!(script.get().await, Ok(2), "ttl {ttl}: with one");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answer_counts_on_while_nobody_says_anything() {
        let script = Script::default();
        script.then(Says::Ok(1, 1));
        assert_eq!(script.get().await, Ok(1));
        for says in [Says::Failed, Says::Failed, Says::Nothing] {
            advance(TTL_MAX).await;
            script.then(says);
            let began = Instant::now();
            assert_eq!(script.get().await, Ok(1));
            assert!(began.elapsed() <= PATIENCE + Duration::from_millis(1));
            assert!(script.all_was_asked());
            assert_eq!(script.get().await, Ok(1), "without another look-up");
        }
        advance(LOST_AFTER).await;
        script.then(Says::Ok(2, 1));
        assert_eq!(script.get().await, Ok(2), "a look-up that never ended is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_nothing_is_believed_and_not_asked_again_at_once() {
        let script = Script::default();
        script.then(Says::Ok(1, 1));
        assert_eq!(script.get().await, Ok(1));
        advance(TTL_MIN).await;
        script.then(Says::Absent);
        assert_eq!(script.get().await, Err("absent"));
        assert_eq!(script.get().await, Err("absent"), "without a look-up");
        advance(RETRY_AFTER).await;
        script.then(Says::Failed);
        assert_eq!(script.get().await, Err("failed"), "what was taken back does not come again");
        advance(RETRY_AFTER).await;
        script.then(Says::Ok(2, 1));
        assert_eq!(script.get().await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_share_one_look_up_even_if_the_first_leaves() {
        let script = Script::default();
        script.then(Says::Ok(1, 1));
        {
            let mut leaves = std::pin::pin!(script.get());
            assert!(futures_util::poll!(leaves.as_mut()).is_pending());
        }
        let (a, b) = tokio::join!(script.get(), script.get());
        assert_eq!((a, b), (Ok(1), Ok(1)));
    }
}
