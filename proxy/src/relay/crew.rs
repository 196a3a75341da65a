//! The relay threads together: starting them, giving them sessions, telling them what changed.
//!
//! The control side (tokio) accepts, shakes hands and dials; then [`Crew::adopt`] hands the two
//! sockets over, and the task of the session ends. What has to be said to a client comes back as a
//! [`Parted`].
//!
//! **Invariant:** a change of seats is one letter to each thread, however many sessions there are.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;

use crate::listener::Listener;
use crate::lobby::Door;
use crate::metrics;
use crate::relay::balance::{Balance, Load};
use crate::relay::engine::epoll::Epoll;
use crate::relay::engine::io_uring::{self, IoUring};
use crate::relay::engine::{Engine, choose, instead};
use crate::relay::mailbox::{Letter, Mailbox};
use crate::relay::pair::Side;
use crate::relay::session::{Parted, Session};
use crate::relay::shard::{Shard, Surroundings};
use crate::relay::tally::Tally;
use crate::shutdown::{Shutdown, Stage};
use crate::watch::Topologies;

pub use crate::relay::engine::{EngineChoice, EngineKind};

/// Between two looks at what the threads have to do.
const WINDOW: Duration = Duration::from_millis(200);

/// The same while they have nearly nothing to do, each less than this share of its time.
const QUIET_WINDOW: Duration = Duration::from_secs(1);
const QUIET: f64 = 0.02;

/// What others can reach of a shard.
pub(super) struct Post {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) tally: Tally,
    /// Sessions that it has, or that are on their way to it.
    sessions: AtomicUsize,
    /// What its lobby is made from, where it has one. A mutex: taken when a lobby opens or closes.
    door: Mutex<Option<Arc<Door>>>,
    /// Processor time that its thread has had, in nanoseconds, as of some turns ago.
    busy_ns: AtomicU64,
}

impl Post {
    fn new() -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        Ok(Self {
            mailbox,
            tally: Tally::default(),
            sessions: AtomicUsize::new(0),
            door: Mutex::default(),
            busy_ns: AtomicU64::new(0),
        })
    }

    pub(super) fn adopt(&self, session: Box<Session>) {
        self.came();
        self.mailbox.send(Letter::Adopt(session));
    }

    /// A session is there, or on its way.
    pub(super) fn came(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    /// A session is not there any more.
    pub(super) fn left(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }

    pub(super) fn door(&self) -> MutexGuard<'_, Option<Arc<Door>>> {
        // It is there or not, whatever panicked around it.
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did in a window of so many seconds; `before` is the time that it had had until then.
    #[expect(clippy::cast_precision_loss, reason = "a share of time to three digits")]
    fn load(&self, before: &mut u64, window: f64) -> Load {
        let busy = self.busy_ns.load(Relaxed);
        let share = busy.saturating_sub(*before) as f64 / 1e9 / window;
        *before = busy;
        Load { share, sessions: self.sessions.load(Relaxed) }
    }

    /// Tells how much processor time the calling thread has had.
    pub(super) fn tell_time(&self) {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let nanoseconds = Duration::try_from(time).unwrap_or_default().as_nanos();
        self.busy_ns.store(u64::try_from(nanoseconds).unwrap_or(u64::MAX), Relaxed);
    }
}

/// All relay threads. They end when this is dropped.
pub struct Crew {
    /// What all of them have.
    pub engine: EngineKind,
    posts: Arc<[Post]>,
    /// The thread that new sessions go to.
    newcomers: Arc<AtomicUsize>,
    /// What was counted already, by thread, listener and side.
    published: Mutex<Vec<[[u64; 2]; 2]>>,
}

impl Crew {
    /// Starts so many threads.
    ///
    /// # Errors
    ///
    /// The system has no thread or descriptor left.
    pub fn start(
        threads: usize,
        wanted: EngineChoice,
        topologies: &Topologies,
        shutdown: &Shutdown,
        parted: &UnboundedSender<Parted>,
    ) -> io::Result<Self> {
        let mut engine = choose(wanted, io_uring::probe)?;
        let posts: Vec<Post> = (0..threads).map(|_| Post::new()).collect::<io::Result<_>>()?;
        let posts: Arc<[Post]> = posts.into();
        let newcomers = Arc::<AtomicUsize>::default();
        for index in 0..threads {
            let posts = Arc::clone(&posts);
            let around = Surroundings {
                index,
                posts,
                newcomers: Arc::clone(&newcomers),
                parted: parted.clone(),
                topologies: topologies.clone(),
                shutdown: shutdown.clone(),
            };
            if engine == EngineKind::IoUring {
                match start_thread(around.clone(), IoUring::new) {
                    Ok(()) => continue,
                    // The kernel let us have one ring, but not so many at once.
                    Err(error) if wanted == EngineChoice::Auto => engine = instead(&error),
                    Err(error) => return Err(error),
                }
            }
            start_thread(around, Epoll::new)?;
        }
        Ok(Self { engine, posts, newcomers, published: Mutex::new(vec![[[0; 2]; 2]; threads]) })
    }

    /// Has the first thread let clients in; none: no more.
    pub fn set_door(&self, door: Option<Door>) {
        *self.posts[0].door() = door.map(Arc::new);
        self.posts[0].mailbox.send(Letter::Door);
    }

    #[cfg(test)]
    pub fn panic(&self, thread: usize) {
        self.posts[thread].mailbox.send(Letter::Panic);
    }

    /// Hands a session to a thread.
    pub fn adopt(&self, session: Session) {
        self.posts[self.newcomers.load(Relaxed)].adopt(Box::new(session));
    }

    /// Keeps the sessions on as few threads as carry the load, for ever.
    pub async fn balance(&self) {
        if self.posts.len() == 1 {
            return std::future::pending().await;
        }
        let mut balance = Balance::default();
        let mut pause = WINDOW;
        let mut before: Vec<u64> = vec![0; self.posts.len()];
        let mut began = Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            let window = began.elapsed().as_secs_f64();
            began = Instant::now();
            let loads: Vec<Load> = (self.posts.iter().zip(&mut before))
                .map(|(post, before)| post.load(before, window))
                .collect();
            // A proxy that nobody uses shall sleep.
            let quiet = loads.iter().all(|load| load.share < QUIET);
            pause = if quiet { QUIET_WINDOW } else { WINDOW };
            let plan = balance.judge(&loads);
            self.newcomers.store(plan.newcomers, Relaxed);
            if let Some(moving) = plan.moving {
                tracing::debug!(?moving, ?loads, "sessions change their thread");
                self.posts[moving.from].mailbox.send(Letter::Give(moving));
            }
        }
    }

    /// How many sessions each thread has.
    pub fn sessions(&self) -> Vec<usize> {
        self.posts.iter().map(|post| post.sessions.load(Relaxed)).collect()
    }

    /// Brings the byte counters up to date.
    pub fn publish(&self) {
        let mut published = self.published.lock().unwrap_or_else(|broken| broken.into_inner());
        for (post, published) in self.posts.iter().zip(published.iter_mut()) {
            for listener in Listener::ALL {
                let counters = metrics::byte_counters(listener);
                let [client, server] = Side::ALL.map(|to| {
                    let total = post.tally.total(listener, to);
                    let before = &mut published[listener.index()][to.index()];
                    total.wrapping_sub(std::mem::replace(before, total))
                });
                counters.to_client.increment(client);
                counters.to_server.increment(server);
            }
        }
    }

    /// Tells all threads of changed seats, and of the end, for ever.
    pub async fn herald(&self, topologies: Topologies, shutdown: Shutdown) {
        let mut seats = topologies.seats;
        let mut ending = std::pin::pin!(shutdown.reached(Stage::Ending));
        loop {
            // A change that loses is seen by the threads all the same, when they look.
            tokio::select! {
                () = &mut ending => break,
                changed = seats.changed() => match changed {
                    Ok(()) => self.tell(|| Letter::Look),
                    // Nobody publishes any more: only the end is left to tell.
                    Err(_) => break ending.await,
                },
            }
        }
        self.tell(|| Letter::Look);
        std::future::pending().await
    }

    fn tell(&self, letter: impl Fn() -> Letter) {
        for post in self.posts.iter() {
            post.mailbox.send(letter());
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.tell(|| Letter::Stop);
    }
}

/// Starts one thread, and waits until its engine runs.
fn start_thread<E: Engine>(
    around: Surroundings,
    new: impl Fn(&Arc<Mailbox>) -> io::Result<E> + Send + 'static,
) -> io::Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let name = format!("relay-{}", around.index);
    thread::Builder::new().name(name).spawn(move || {
        let mut engine = new(&around.own().mailbox);
        // Whoever started it waits for this.
        let _ = ready.send(engine.as_ref().map(|_| ()).map_err(|error| error.kind().into()));
        while let Ok(working) = engine {
            if serve(Shard::new(working, around.clone()), &around) {
                return;
            }
            engine = new(&around.own().mailbox);
        }
    })?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("a relay thread ended at once")))
}

/// Runs a shard to its end; says whether that was in order.
///
/// A panic ends the sessions of this shard, not the thread: another shard follows.
fn serve<E: Engine>(mut shard: Shard<E>, around: &Surroundings) -> bool {
    let ended = catch_unwind(AssertUnwindSafe(|| shard.run()));
    around.own().sessions.fetch_sub(shard.session_count(), Relaxed);
    match ended {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::error!(%error, "a relay thread could not wait"),
        Err(_) => {
            metrics::count(metrics::PANICS);
            tracing::error!("a relay thread panicked, which is a bug of the proxy");
        }
    }
    false
}

#[cfg(test)]
mod tests;
