//! The one owner of the server: takes the step that the plan says, and tells what it sees.

mod anew;
mod damaged;
mod giving_up;
mod restart;
mod sick;
mod succession;
mod waiting;
mod words;

use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Access, Data, Goal, Neighbours, Run, Server, Stop, Time, Work};
use dugong_topology::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Settings;
use super::adoption::Adopted;
use super::certificates::Certificates;
use super::configuration::{self, Clients, Live, Source};
use super::control::{Door, LookError};
use super::damage::Damage;
use super::data_dir::{self, StartsAs};
use super::failover_slots::FailoverSlots;
use super::following::Desk;
use super::heartbeat::{Beating, beat};
use super::layout::{Layout, remove_all};
use super::making::{Stamp, tidy};
use super::mandate::Mandate;
use super::names::Names;
use super::pace::{Backoff, Pace, pace};
use super::plan::{Process, Step, next_step};
use super::postmaster::{Patience, Postmaster};
use super::process::{Spawner, StillThere, end_all};
use super::refused::with_next_step;
use super::reporter::{REPEAT, Reporter};
use super::room::Disks;
use super::running::{Place, Running, generation_of, see_generation};
use super::storage::Storage;
use super::warden::Term;
use crate::clock::Clock;
use crate::credentials::Credentials;

use self::anew::{DamagedSources, Rewinds};
use self::giving_up::asked;
use self::succession::Left;
use self::waiting::{Owner, ended, superseded, told};

pub use self::damaged::Damaged;
pub use self::giving_up::{GiveUp, Why};
pub(super) use self::succession::Inheritance;
pub(super) use self::words::Words;

/// Between two searches for processes while none should be there.
const SEARCH: Duration = Duration::from_secs(1);
/// The longest that a killed warden is waited for.
const WARDEN_PATIENCE: Duration = Duration::from_secs(2);
/// A server that has run for this long has not failed to start.
const STEADY: Duration = Duration::from_secs(10);

/// Owns the server process and everything that is known of it.
pub(super) struct Supervisor {
    settings: Arc<Settings>,
    layout: Arc<Layout>,
    spawner: Arc<Spawner>,
    goals: watch::Receiver<Option<Goal>>,
    /// Until when a primary may live.
    lease: watch::Receiver<Time>,
    neighbours: watch::Receiver<Neighbours>,
    /// The cluster's settings, as far as they are taken here.
    adopted: watch::Receiver<Adopted>,
    /// The passwords that hold; those in `settings` are of the turn.
    credentials: watch::Receiver<Arc<Credentials>>,
    /// Grows each time that an operator wants the server restarted.
    restart: watch::Receiver<u64>,
    /// Comes when the server shall be left to the next controller.
    leave_running: Option<oneshot::Receiver<Mandate>>,
    /// Where an operator ends the following of a foreign primary.
    desk: Arc<Desk>,
    reporter: Reporter,
    beating: watch::Sender<Beating>,
    _heart: JoinSet<()>,
    data: Data,
    running: Option<Running>,
    /// See [`Server::shut_down_at`].
    shut_down_at: Option<Position>,
    /// Why the goal is not reached, in words; none while that is a matter of time.
    trouble: Option<String>,
    disks: Disks,
    storage: Storage,
    certificates: Certificates,
    /// The life in which a primary died: it is started again only for a later one.
    died_in: Option<u32>,
    /// The data was destroyed under the running server; what is left of it is in the way.
    destroyed: bool,
    restarts: Backoff,
    copies: Backoff,
    /// First data that comes from elsewhere: another try may cost hours.
    beginnings: Backoff,
    rewinds: Rewinds,
    damaged_sources: DamagedSources,
    damage: Damage,
    damaged: watch::Sender<Damaged>,
    /// When it was last certain that nothing runs here; none since something was started.
    searched: Option<Instant>,
    /// When a standby that replays nothing was last asked whether it lacks something.
    asked_for_lack: Option<Instant>,
    /// When the goal, or the kind of thing that is seen, last changed.
    changed: Instant,
}

impl Supervisor {
    pub(super) fn new(
        settings: Arc<Settings>,
        layout: Arc<Layout>,
        spawner: Arc<Spawner>,
        clock: Clock,
        words: Words,
    ) -> Self {
        let Words {
            goals,
            lease,
            neighbours,
            adopted,
            credentials,
            restart,
            leave_running,
            desk,
            damaged,
            storage,
            told,
            seen,
        } = words;
        let (beating, beats) = watch::channel(Beating::Still);
        let door = door(&settings, &layout);
        let damage = Damage::kept(&layout.dir);
        let host = settings.listen.host.clone();
        let certificates = Certificates::new(settings.tls.clone(), host);
        // Dropped with the supervisor, when its server is gone: no commit of it still waits.
        let mut heart = JoinSet::new();
        heart.spawn(beat(door, clock, settings.heartbeat_interval, beats, seen.clone()));
        Self {
            settings,
            layout,
            spawner,
            goals,
            lease,
            neighbours,
            adopted,
            credentials,
            restart,
            leave_running: Some(leave_running),
            desk: Arc::new(desk),
            reporter: Reporter::new(seen, told),
            beating,
            _heart: heart,
            data: Data::Unknown,
            running: None,
            shut_down_at: None,
            trouble: None,
            disks: Disks::default(),
            storage,
            certificates,
            died_in: None,
            destroyed: false,
            restarts: Backoff::restarts(),
            copies: Backoff::copies(),
            beginnings: Backoff::beginnings(),
            rewinds: Rewinds::default(),
            damaged_sources: DamagedSources::default(),
            damage,
            damaged,
            searched: None,
            asked_for_lack: None,
            changed: Instant::now(),
        }
    }

    /// Until nobody gives goals or reads observations, and nothing runs; or the server is left on.
    pub(super) async fn run(
        mut self,
        found: Option<Inheritance>,
        mut orders: mpsc::Receiver<GiveUp>,
    ) {
        if let Err(why) = self.inherit(found) {
            tracing::warn!("the server that was left here is ended: {why}");
        }
        if self.running.is_none() {
            // A controller before this one may have been killed: what it left is ended first.
            self.end_everything().await;
        }
        if let Err(error) = tidy(&self.layout, &self.settings.instance) {
            tracing::error!(%error, "left-over data cannot be removed");
        }
        self.examine().await;
        if self.running.is_some() && !matches!(self.data, Data::Own(_)) {
            self.end_everything().await;
        }
        let mut previous = None;
        let mut leave_running = self.leave_running.take();
        let mut restarts = self.restart.clone();
        loop {
            if self.running.is_none() && !self.layout.is_claimed() {
                // Whoever starts this controller again makes everything in it anew.
                tracing::error!(dir = %self.settings.dir.display(), "the directory was destroyed");
                break;
            }
            let goal = self.goals.borrow_and_update().clone();
            if goal != previous {
                self.changed = Instant::now();
                previous.clone_from(&goal);
            }
            let mut exit = self.running.as_ref().map(|running| running.postmaster.exit());
            let goals = self.goals.clone();
            let turn_begun = Instant::now();
            let reader = self.reporter.reader();
            let (storage, up) = (self.storage.clone(), self.running.is_some());
            tokio::select! {
                biased;
                // A dropped turn loses nothing: what it has done is in `self`.
                () = ended(&mut exit) => self.on_exit().await,
                // Before the end of the goals, which comes with it.
                mandate = told(&mut leave_running) => {
                    if self.leave_running(mandate).await == Left::Running {
                        return;
                    }
                    break;
                }
                () = reader.closed() => break,
                // Whoever could ask is gone with the controller.
                Ok(()) = restarts.changed() => self.begin_restart("an operator has asked for it"),
                order = asked(&mut orders) => self.give_up(order).await,
                still = superseded(goals, goal.as_ref(), turn_begun) => if still == Owner::Gone { break },
                () = storage.to_be_ended(), if up => self.end_beside_a_sick_disk().await,
                () = self.turn_and_pause(goal.as_ref()) => (),
            }
        }
        self.beating.send_replace(Beating::Still);
        self.end_everything().await;
    }

    async fn turn_and_pause(&mut self, goal: Option<&Goal>) {
        let run = self.turn(goal).await;
        let kind = |run: &Run| std::mem::discriminant(run);
        if self.reporter.last_run().map(kind) != Some(kind(&run)) {
            self.changed = Instant::now();
        }
        let open = Beating::of(&run);
        self.beating.send_if_modified(|beating| std::mem::replace(beating, open) != open);
        let young = self.changed.elapsed() < STEADY;
        let pause = match pace(goal, &run) {
            Pace::Eager if young => Duration::from_millis(3),
            Pace::Eager => Duration::from_millis(20),
            Pace::Fast if young && self.trouble.is_none() => Duration::from_millis(10),
            Pace::Fast => Duration::from_millis(100),
            Pace::Steady => REPEAT,
        };
        self.report(run).await;
        tokio::time::sleep(pause).await;
    }

    /// One step towards the goal; what is seen after it.
    async fn turn(&mut self, goal: Option<&Goal>) -> Run {
        self.take_credentials();
        if let Some(run) = self.rest_beside_a_sick_disk().await {
            return run;
        }
        let process = match &self.running {
            None => Process::Down,
            Some(running) if running.postmaster.is_stopping() => Process::Stopping,
            Some(running) => Process::Up(running.role),
        };
        if self.running.is_none() {
            self.look_at_rest().await;
        }
        match next_step(goal, &self.data, process) {
            Step::Rest => {
                // Data that cannot be examined is a trouble of its own.
                if self.data != Data::Unknown {
                    self.trouble = None;
                }
                Run::Down
            }
            Step::Refuse(why) => {
                self.trouble = Some(why);
                Run::Down
            }
            Step::Initialise => self.initialise().await,
            Step::Copy => match goal {
                Some(Goal::Copied { source, generation, making, old }) => {
                    let stamp = Stamp { making: *making, made_in: *generation };
                    self.make_anew(source, old, stamp).await
                }
                _ => Run::Down,
            },
            Step::Start => match goal {
                Some(goal) => self.start(goal).await,
                None => Run::Down,
            },
            Step::Stop(Stop::Immediate) => {
                self.end_everything().await;
                Run::Down
            }
            Step::Stop(Stop::Fast) => self.stop_fast().await,
            Step::Serve => self.serve(goal).await,
        }
    }

    /// Takes passwords that are others by now; for the whole turn, so that all in it fits together.
    fn take_credentials(&mut self) {
        let newest = self.credentials.borrow().clone();
        if *newest != self.settings.credentials {
            let settings = Settings { credentials: (*newest).clone(), ..(*self.settings).clone() };
            self.settings = Arc::new(settings);
        }
    }

    async fn serve(&mut self, goal: Option<&Goal>) -> Run {
        let Some(running) = &mut self.running else { return Run::Down };
        if let Ok(None) = data_dir::read_identity(&self.layout.data) {
            // Somebody destroyed the data under the server: it is no server any more.
            self.destroyed = true;
            self.end_everything().await;
            return Run::Down;
        }
        self.certificates.follow(|| running.postmaster.reload());
        let common = self.adopted.borrow().common();
        let (settings, layout) = (&*self.settings, &*self.layout);
        let (common, neighbours, lease) = (&common, &self.neighbours.borrow().clone(), &self.lease);
        let place = Place { settings, layout, common, neighbours, lease };
        match running.serve(place, &mut self.data, goal).await {
            Ok(run) => {
                if self.lacks_what_its_primary_has().await {
                    self.begin_restart("its primary has more of a setting, so nothing is replayed");
                    return Run::Busy(Work::Stopping);
                }
                self.look_for_damage().await;
                let Some(running) = &self.running else { return Run::Down };
                let dry = running.dry_words(&self.layout.log);
                if running.begun.elapsed() > STEADY {
                    self.damage.lives();
                }
                self.trouble = dry.or_else(|| self.certificates.trouble());
                run
            }
            Err(LookError::NotYet) => Run::Busy(Work::Starting),
            Err(error) => {
                match &error {
                    LookError::Overridden(_) | LookError::NotYet => (),
                    LookError::Silent
                    | LookError::Refused(_)
                    | LookError::Broken(_)
                    | LookError::Odd(_)
                    | LookError::DataDir(_)
                    | LookError::File { .. } => running.disconnect(),
                }
                self.trouble = Some(error.to_string());
                Run::Busy(Work::Starting)
            }
        }
    }

    async fn start(&mut self, goal: &Goal) -> Run {
        let dead = matches!(goal, Goal::Primary(goal) if Some(goal.life) <= self.died_in);
        if dead || self.restarts.must_wait() {
            return Run::Down; // `trouble` says how it ended.
        }
        self.searched = None;
        self.shut_down_at = None;
        match self.try_start(goal).await {
            Ok(running) => {
                self.running = Some(running);
                Run::Busy(Work::Starting)
            }
            Err(error) => {
                self.restarts.failed();
                self.trouble = Some(format!("the server cannot be started: {error}"));
                Run::Down
            }
        }
    }

    async fn try_start(&mut self, goal: &Goal) -> Result<Running, LookError> {
        let (settings, layout, spawner) = (&*self.settings, &*self.layout, &*self.spawner);
        let file = |what| move |error| LookError::File { what, error };
        let found = data_dir::starts_as(settings, spawner, &layout.data).await?;
        let (live, role) = match goal {
            Goal::Primary(goal) => match found {
                StartsAs::Primary => {
                    let names = Names::nobody().changed_to(&goal.names);
                    let access = goal.access;
                    let clients = match access {
                        Access::ReadOnly => Clients::Refused,
                        Access::ReadWrite => Clients::Admitted,
                    };
                    let failover_slots = FailoverSlots::default();
                    (Live { names, access, clients, source: Source::Nobody, failover_slots }, found)
                }
                // It has no timeline of its own yet: it is promoted once it runs.
                StartsAs::Standby => (Live::standby(Source::Sealed), StartsAs::Standby),
            },
            Goal::Standby(goal) => {
                let source = goal.upstream.clone().map_or(Source::Nobody, Source::From);
                (Live::standby(source), StartsAs::Standby)
            }
            Goal::Sealed { .. } | Goal::Down(_) | Goal::Initialised | Goal::Copied { .. } => {
                (Live::standby(Source::Sealed), StartsAs::Standby)
            }
        };
        if role == StartsAs::Standby {
            data_dir::mark_standby(&layout.data).map_err(file("standby.signal"))?;
        }
        if let Some(generation) = generation_of(goal) {
            see_generation(layout, &mut self.data, generation)?;
        }
        let mut common = self.adopted.borrow().common();
        if role == StartsAs::Standby {
            common.floors = data_dir::floors(settings, spawner, &layout.data).await?;
        }
        configuration::write_all(settings, layout, &common, &live)
            .map_err(file("its configuration"))?;
        let term = match role {
            StartsAs::Primary => Term::Until(*self.lease.borrow()),
            StartsAs::Standby => Term::Free,
        };
        let starts = self.storage.starts();
        let mut postmaster = Postmaster::start(settings, layout, &layout.data, &[], term, starts)
            .await
            .map_err(file("its program"))?;
        if role == StartsAs::Primary {
            postmaster.bind_to(&self.lease).map_err(file("its warden"))?;
        }
        let access = (door(settings, layout), settings.credentials.clone());
        Ok(Running::new(postmaster, role, access, common, live))
    }

    async fn stop_fast(&mut self) -> Run {
        let Some(running) = &mut self.running else { return Run::Down };
        match running.postmaster.stop_fast() {
            Ok(Patience::Wait) => Run::Busy(Work::Stopping),
            Ok(Patience::Lost) | Err(_) => {
                self.end_everything().await;
                Run::Down
            }
        }
    }

    /// Kills what runs here, and returns once nothing does; beside a sick disk, once nothing will ever
    /// do anything again.
    async fn end_everything(&mut self) {
        if let Some(running) = &mut self.running {
            running.postmaster.kill();
            let mut exit = running.postmaster.exit();
            // One that does not go is found below, and said.
            let _ = tokio::time::timeout(Duration::from_secs(1), exit.wait()).await;
        }
        let gone = loop {
            match end_all(&self.layout.workplaces()).await {
                Ok(()) => break true,
                Err(StillThere::Doomed { .. }) if self.storage.sick().is_some() => break false,
                Err(still_there) => {
                    self.trouble = Some(still_there.to_string());
                    self.report(Run::Busy(Work::Stopping)).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        if let Some(running) = self.running.take() {
            running.postmaster.kill_warden();
            // One that logs to a disk that hangs does not go, and does nothing any more either.
            let _ = tokio::time::timeout(WARDEN_PATIENCE, running.postmaster.exit().wait()).await;
        }
        // Before another one is started, it is looked for again.
        self.searched = gone.then(Instant::now);
    }

    /// The server process has ended: asked to, or not.
    async fn on_exit(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.beating.send_replace(Beating::Still);
        let asked = running.postmaster.is_stopping();
        if !asked {
            let words = running.postmaster.last_words(&self.layout.log);
            let words = words.unwrap_or_else(|| "it said nothing".to_owned());
            self.trouble = Some(format!("the server ended by itself: {words}"));
            if running.begun.elapsed() > STEADY {
                self.restarts.succeeded();
            }
            self.restarts.failed();
            let page = running.postmaster.words_about_a_page(&self.layout.log);
            self.died_of_a_page(page.as_deref());
        }
        drop(running);
        self.end_everything().await;
        self.destroyed |= matches!(data_dir::read_identity(&self.layout.data), Ok(None));
        if asked {
            self.trouble = None;
            self.shut_down_at = self.end_of_primary().await;
        }
        // Before the word is out: the answer to it is a goal of a later life.
        if !asked {
            self.died_in = match &*self.goals.borrow() {
                Some(Goal::Primary(goal)) => Some(goal.life),
                Some(_) | None => None,
            };
        }
        self.report(Run::Down).await;
    }

    /// While no server runs: is that so, and is the data still what it was?
    async fn look_at_rest(&mut self) {
        if self.searched.is_none_or(|at| at.elapsed() > SEARCH) {
            self.end_everything().await;
        }
        if std::mem::take(&mut self.destroyed) {
            self.set_remains_aside();
        }
        let known = self.data.clone();
        let same = match (&known, data_dir::read_identity(&self.layout.data)) {
            (Data::Own(own), Ok(Some(found))) => *own == found,
            (Data::Own(_) | Data::Unknown | Data::Empty | Data::Foreign { .. }, _) => false,
        };
        if !same {
            self.examine().await;
        }
    }

    async fn examine(&mut self) {
        match data_dir::examine(&self.settings, &self.spawner, &self.layout.data).await {
            Ok(data) => self.data = data,
            Err(error) => {
                self.data = Data::Unknown;
                self.trouble = Some(error.to_string());
            }
        }
    }

    /// Where its last record begins, if a primary has stopped in order.
    async fn end_of_primary(&self) -> Option<Position> {
        match data_dir::shut_down_at(&self.settings, &self.spawner, &self.layout.data).await {
            Ok(end) => end,
            Err(error) => {
                tracing::warn!(%error, "where the WAL here ends is not known");
                None
            }
        }
    }

    /// What is left of destroyed data is kept for people, out of the way of the copy to come.
    fn set_remains_aside(&mut self) {
        let Layout { data, data_lost, .. } = &*self.layout;
        if !data.exists() {
            return;
        }
        match remove_all(data_lost).and_then(|()| std::fs::rename(data, data_lost)) {
            Ok(()) => tracing::error!(
                kept = %data_lost.display(),
                "the data directory was destroyed under its server"
            ),
            // Examined as it is: not empty, and nobody's.
            Err(error) => tracing::error!(%error, "destroyed data cannot be set aside"),
        }
    }

    async fn report(&mut self, run: Run) {
        self.disks.look(&self.layout);
        let (data, room) = (self.data.clone(), self.disks.room());
        let trouble = self.disks.amend(self.trouble.clone()).map(with_next_step);
        let more = [self.words_beside_a_sick_disk(), self.tell_damage()];
        let all: Vec<_> = trouble.into_iter().chain(more.into_iter().flatten()).collect();
        let trouble = (!all.is_empty()).then(|| all.join("; "));
        let shut_down_at = self.shut_down_at.filter(|_| run == Run::Down);
        let server = Server { data, run, room, shut_down_at, trouble };
        self.reporter.report(server).await;
    }

    fn tools(&self) -> (Arc<Settings>, Arc<Layout>, Arc<Spawner>) {
        (Arc::clone(&self.settings), Arc::clone(&self.layout), Arc::clone(&self.spawner))
    }
}

pub(super) fn door(settings: &Settings, layout: &Layout) -> Door {
    Door {
        socket_dir: layout.run.clone(),
        port: settings.listen.port,
        user: settings.credentials.superuser.name.clone(),
    }
}
