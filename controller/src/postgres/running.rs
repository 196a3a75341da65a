//! A running server: brought to its goal without a restart, and looked at.
//!
//! [`Running::serve`] is one turn of that. It may be dropped at any await: whatever it has done is
//! kept in [`Running`], and the next turn goes on from there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dugong_machine::{
    Access, Data, Goal, Names as Wanted, Neighbours, PrimaryGoal, PrimaryView, Receiver, Run,
    Sessions, StandbyView, Time, Work,
};
use dugong_topology::{Generation, History, InstanceId, Lsn, Position, TimelineId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Settings;
use super::checkpoint::Checkpoint;
use super::configuration::{self, Clients, Common, Live, Source};
use super::control::{Door, LookError, Session, literal, only, value};
use super::data_dir::{self, StartsAs};
use super::failover_slots::{FailoverSlots, drop_left_over};
use super::greeting::Greeter;
use super::layout::Layout;
use super::look::{
    Failures, Idle, Slot, count_failures, is_in_recovery, look_at_primary, look_at_standby,
    see_sessions_off,
};
use super::names::Names;
use super::postmaster::Postmaster;
use super::remote::allow_rewind;
use super::replay::ReplayProbe;
use super::seam;
use super::timeline::make_next;
use super::versions::has_failover_slots;
use crate::credentials::{Credentials, Kind};

/// A promotion that was asked for is asked for again after this.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(5);
/// A seal that is not found within this is looked for at a slower pace of the server.
const SEAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a new primary's clients, who have waited, have its disk for themselves.
const CLIENTS_FIRST: Duration = Duration::from_millis(500);
/// A standby that receives nothing for this long is asked why.
const DRY_PATIENCE: Duration = Duration::from_secs(2);

/// What a turn needs beside the server itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub settings: &'a Settings,
    pub layout: &'a Layout,
    /// What the operator says.
    pub common: &'a Common,
    pub neighbours: &'a Neighbours,
    /// Until when a primary may live.
    pub lease: &'a watch::Receiver<Time>,
}

/// The server process and all that is known of it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) postmaster: Postmaster,
    /// What it is: as started, or as seen since.
    pub(super) role: StartsAs,
    pub(super) begun: Instant,
    pub(super) door: Door,
    greeter: Greeter,
    session: Option<Session>,
    probe: Option<ReplayProbe>,
    /// The passwords that its files have.
    pub(super) credentials: Credentials,
    /// What `dugong.conf` says that is the operator's,
    pub(super) common: Common,
    /// and what is the machine's.
    pub(super) live: Live,
    /// Lists of names that a WAL sender may still know: all since the last confirmation.
    pub(super) older: Vec<Names>,
    /// Whether the server was seen to do what `live` says.
    pub(super) confirmed: bool,
    promotion_asked: Option<Instant>,
    receiver_before: Option<i32>,
    /// How far WAL was received, where that is in the middle of a record. Once promoted: what is
    /// still to be seen to.
    cut_off: Option<Lsn>,
    idle_before: Option<Idle>,
    /// Since when it is to be sealed, and is not found to be.
    sealing_since: Option<Instant>,
    history: Option<History>,
    /// After a promotion, a crash would replay from before it, and others would still see the old
    /// timeline in the control file. One checkpoint ends that, once clients are served.
    checkpoint_due: bool,
    /// That checkpoint under way. Ends with the server at the latest.
    background: JoinSet<()>,
    /// Before a planned stop.
    checkpoint: Checkpoint,
    /// Since when a standby that has an upstream receives nothing.
    dry_since: Option<Instant>,
    /// Ours, as they were found.
    slots: Vec<Slot>,
    /// Whether its WAL can be decoded, as far as that was seen.
    logical: bool,
    /// As a standby: what is received is not replayed.
    pub(super) replay_paused: bool,
}

impl Running {
    pub(super) fn new(
        postmaster: Postmaster,
        role: StartsAs,
        (door, credentials): (Door, Credentials),
        common: Common,
        live: Live,
    ) -> Self {
        Self {
            logical: live.failover_slots.copied,
            postmaster,
            role,
            begun: Instant::now(),
            greeter: Greeter::start(door.clone()),
            door,
            credentials,
            session: None,
            probe: None,
            common,
            live,
            older: Vec::new(),
            confirmed: false,
            promotion_asked: None,
            receiver_before: None,
            cut_off: None,
            idle_before: None,
            sealing_since: None,
            history: None,
            checkpoint_due: false,
            background: JoinSet::new(),
            checkpoint: Checkpoint::default(),
            dry_since: None,
            slots: Vec::new(),
            replay_paused: false,
        }
    }

    /// Whether all that is known of it is also seen, and nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        let promoting = self.role == StartsAs::Standby && self.promotion_asked.is_some();
        let certain = self.confirmed && self.older.is_empty();
        certain && !promoting && !self.postmaster.is_stopping() && !self.postmaster.has_exited()
    }

    /// Adjusts what can be adjusted while it runs, and looks.
    ///
    /// # Errors
    ///
    /// The server does not answer, or does not do what it was told.
    pub(super) async fn serve(
        &mut self,
        place: Place<'_>,
        data: &mut Data,
        goal: Option<&Goal>,
    ) -> Result<Run, LookError> {
        self.greeter.check()?;
        let in_recovery = is_in_recovery(self.session().await?).await?;
        if let Some(generation) = goal.and_then(generation_of) {
            see_generation(place.layout, data, generation)?;
        }
        match (in_recovery, goal) {
            (true, Some(Goal::Primary(goal))) => self.promote(place, goal).await,
            (true, Some(Goal::Standby(goal))) => {
                let source = goal.upstream.clone().map_or(Source::Nobody, Source::From);
                self.sealing_since = None;
                self.stand_by(place, source, Some(&goal.downstreams)).await
            }
            (true, Some(Goal::Sealed { .. })) => {
                let since = *self.sealing_since.get_or_insert_with(Instant::now);
                let slowly =
                    since.elapsed() > SEAL_PATIENCE || self.live.source == Source::SealedSlowly;
                let source = if slowly { Source::SealedSlowly } else { Source::Sealed };
                self.stand_by(place, source, None).await
            }
            (true, None | Some(Goal::Down(_) | Goal::Initialised | Goal::Copied { .. })) => {
                self.stand_by(place, self.live.source.clone(), None).await
            }
            (false, Some(Goal::Primary(goal))) => self.hold_office(place, Some(goal)).await,
            (false, None) => self.hold_office(place, None).await,
            (false, Some(_)) => {
                // Not what it shall be: the next step stops it.
                self.role = StartsAs::Primary;
                Ok(Run::Busy(Work::Stopping))
            }
        }
    }

    /// The kept connection, opened again where it was lost.
    pub(super) async fn session(&mut self) -> Result<&Session, LookError> {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            Some(_) | None => self.door.open("postgres", "").await?,
        };
        Ok(self.session.insert(session))
    }

    /// Pages that failed their checksum.
    pub(super) async fn failures(&mut self) -> Result<Failures, LookError> {
        count_failures(self.session().await?).await
    }

    /// Forgets connections that did not answer.
    pub(super) fn disconnect(&mut self) {
        self.session = None;
        self.probe = None;
    }

    /// Names first, so that they are in force at the first moment out of recovery (R6).
    async fn promote(&mut self, place: Place<'_>, goal: &PrimaryGoal) -> Result<Run, LookError> {
        let again = self.promotion_asked.is_none_or(|asked| asked.elapsed() > PROMOTION_PATIENCE);
        if again {
            // It may leave recovery from here on.
            let failed = |error| LookError::File { what: "the warden does not listen", error };
            self.postmaster.bind_to(place.lease).map_err(failed)?;
            let names = self.live.names.changed_to(&goal.names);
            let source = self.live.source.clone();
            // Closed at first, whatever is wanted: it is opened when it is seen as a primary.
            // All of its WAL is in every later primary's, so that readers may stay.
            let clients = self.live.clients;
            let failover_slots = self.failover_slots_behind(place, &names);
            let access = Access::ReadOnly;
            self.settle(place, &Live { names, access, clients, source, failover_slots }).await?;
            self.name_timeline(place, goal.timeline).await?;
            self.promotion_asked = Some(Instant::now());
            self.checkpoint_due = true;
            self.session().await?.ask("SELECT pg_promote(false)").await?;
        }
        Ok(Run::Busy(Work::Promoting))
    }

    /// Consumers of failover slots are sent what these have.
    fn failover_slots_behind(&self, place: Place<'_>, names: &Names) -> FailoverSlots {
        FailoverSlots::behind(names.ids(), &self.slots, place.settings.version.major)
    }

    /// Sees to it that the promotion begins this one.
    async fn name_timeline(
        &mut self,
        place: Place<'_>,
        timeline: TimelineId,
    ) -> Result<(), LookError> {
        let own = self.flushed().await?.timeline;
        let sets = self.session().await?.ask("SELECT pg_last_wal_replay_lsn()").await?;
        let end = Position::new(own, value(only(&sets, 0)?, 0)?);
        make_next(&place.layout.data, end, timeline)
            .map_err(|error| LookError::File { what: "the next timeline cannot be chosen", error })
    }

    /// No goal: it was inherited, and stays as it is until somebody says what it shall be.
    async fn hold_office(
        &mut self,
        place: Place<'_>,
        goal: Option<&PrimaryGoal>,
    ) -> Result<Run, LookError> {
        self.role = StartsAs::Primary;
        self.probe = None;
        self.replay_paused = false;
        let (names, access) = match goal {
            Some(goal) => (goal.names.clone(), goal.access),
            None => (self.live.names.meant(), self.live.access),
        };
        let wanted = self.live.names.changed_to(&names);
        let source = self.live.source.clone();
        let clients = match access {
            Access::ReadOnly => self.live.clients,
            Access::ReadWrite => Clients::Admitted,
        };
        let failover_slots = self.failover_slots_behind(place, &wanted);
        let wanted = Live { names: wanted, access, clients, source, failover_slots };
        self.settle(place, &wanted).await?;
        // Before the look: whoever writes after this was counted.
        let leaving = match goal.map_or(Sessions::Stay, |goal| goal.sessions) {
            Sessions::Stay => None,
            Sessions::Leave => Some(see_sessions_off(self.session().await?, access).await?),
        };
        if let Some(received) = self.cut_off {
            // Before the look: the sync is waited for to have this, too.
            seam::write_past(&self.door, received).await?;
            self.cut_off = None;
        }
        let look = look_at_primary(self.session().await?).await?;
        let ours = place.layout.data.join("dugong.conf");
        let in_force = look.names == self.live.names.rendered()
            && look.names_file.as_deref().is_some_and(|file| ours.as_os_str() == file);
        if !in_force {
            // Somebody changed it meanwhile: found out, and said, by the next turn.
            self.confirmed = false;
            return Err(LookError::Overridden(format!(
                "synchronous_standby_names is {:?} by {}, not what it was set to",
                look.names,
                look.names_file.as_deref().unwrap_or("the command line")
            )));
        }
        if let Some(goal) = goal {
            self.keep_slots(&look.slots, &goal.downstreams).await?;
        }
        self.slots = look.slots;
        if look.access == Access::ReadWrite && self.checkpoint_due {
            self.begin_checkpoint(place.settings);
        }
        // The one after a promotion would be broken off by the stop.
        while self.background.try_join_next().is_some() {}
        let wanted = goal.and_then(|goal| goal.checkpoint.filter(|_| self.background.is_empty()));
        let checkpointed = self.checkpoint.keep(wanted, &self.door).await;
        Ok(Run::Primary(PrimaryView {
            history: self.history_of(place, look.end.timeline)?,
            end: look.end.lsn,
            names,
            access: look.access,
            leaving,
            checkpointed,
            standbys: look.standbys,
        }))
    }

    /// `downstreams`: none where their slots stay as they are.
    async fn stand_by(
        &mut self,
        place: Place<'_>,
        source: Source,
        downstreams: Option<&BTreeSet<InstanceId>>,
    ) -> Result<Run, LookError> {
        self.role = StartsAs::Standby;
        self.promotion_asked = None;
        let Neighbours { primary, next_sync } = place.neighbours;
        // In force before it may be promoted, so that nobody waits for that then.
        let names = match next_sync {
            Some(next) => self.live.names.changed_to(&Wanted::Each(vec![next.clone()])),
            None => self.live.names.clone(),
        };
        let of_primary = matches!(&source, Source::From(up) if primary.as_ref() == Some(&up.id));
        let can = self.logical && has_failover_slots(place.settings.version.major);
        let behind = self.failover_slots_behind(place, &names);
        let failover_slots = FailoverSlots { copied: of_primary && can, ..behind };
        if failover_slots.copied && !self.live.failover_slots.copied {
            drop_left_over(self.session().await?).await?;
        }
        let wanted = Live { names, source, failover_slots, ..self.live.clone() };
        if wanted != self.live {
            self.idle_before = None;
        }
        self.settle(place, &wanted).await?;
        let look = look_at_standby(self.session().await?).await?;
        self.logical = look.logical;
        let told = configuration::conninfo(place.settings, place.layout, &self.live.source);
        let in_force = look.conninfo == told
            && look.names == self.live.names.rendered()
            && look.read_only == configuration::read_only(self.live.access);
        if !in_force {
            self.confirmed = false;
            return Err(LookError::Overridden(
                "somebody has changed where WAL comes from, or who may acknowledge".to_owned(),
            ));
        }
        let mut receiver = look.receiver(self.receiver_before);
        self.receiver_before = look.receiver;
        self.replay_paused = look.replay_paused;
        self.slots.clone_from(&look.slots);
        self.cut_off = look.received.filter(|received| *received > look.replayed);
        if matches!(self.live.source, Source::Sealed | Source::SealedSlowly) {
            if look.replay_paused {
                // What somebody paused would keep the end of the WAL out of sight for ever.
                self.session().await?.ask("SELECT pg_wal_replay_resume()").await?;
            }
            if look.is_sealed(self.idle_before) {
                receiver = Receiver::Sealed;
                self.sealing_since = None;
            }
            self.idle_before = self.idle_before.or(look.idle);
        }
        let dry = receiver == Receiver::Stopped && matches!(self.live.source, Source::From(_));
        self.dry_since = dry.then(|| self.dry_since.unwrap_or_else(Instant::now));
        if let Some(downstreams) = downstreams {
            self.keep_slots(&look.slots, downstreams).await?;
        }
        // After the place that was replayed: the timeline is never one that it was not yet on.
        let flushed = self.flushed().await?;
        Ok(Run::Standby(StandbyView {
            upstream: self.live.upstream().cloned(),
            receiver,
            history: self.history_of(place, flushed.timeline)?,
            flushed: flushed.lsn.max(look.replayed),
            replayed: look.replayed,
            lag: look.lag,
        }))
    }

    /// The timeline of the last replayed record, and the end of the WAL that was received on it.
    async fn flushed(&mut self) -> Result<Position, LookError> {
        let mut probe = match self.probe.take() {
            Some(probe) => probe,
            None => ReplayProbe::open(&self.door).await?,
        };
        let flushed = probe.look().await?;
        self.probe = Some(probe);
        Ok(flushed)
    }

    /// What whoever was deposed by this primary needs to be rewound.
    fn begin_checkpoint(&mut self, settings: &Settings) {
        let door = self.door.clone();
        let roles = settings.credentials.let_in(Kind::Replication);
        self.checkpoint_due = false;
        self.background.spawn(async move {
            tokio::time::sleep(CLIENTS_FIRST).await;
            let done = match door.open("postgres", "").await {
                Ok(session) => {
                    if let Err(error) = allow_rewind(&session, &roles).await {
                        tracing::warn!(%error, "nobody can be rewound by this primary");
                    }
                    session.ask_without_deadline("CHECKPOINT").await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                // The server makes one by itself, later.
                tracing::warn!(%error, "no checkpoint after the promotion");
            }
        });
    }

    /// Why a standby receives nothing, in its own words, once that has lasted a while.
    pub(super) fn dry_words(&self, log: &Path) -> Option<String> {
        self.dry_since.filter(|since| since.elapsed() > DRY_PATIENCE)?;
        self.postmaster.words_about_upstream(log)
    }

    fn history_of(&mut self, place: Place<'_>, timeline: TimelineId) -> Result<History, LookError> {
        match &self.history {
            Some(history) if history.timeline == timeline => Ok(history.clone()),
            Some(_) | None => {
                let history = data_dir::history(&place.layout.data, timeline)?;
                Ok(self.history.insert(history).clone())
            }
        }
    }

    /// One physical slot for each instance that receives WAL from here, none for others.
    async fn keep_slots(
        &mut self,
        present: &[Slot],
        wanted: &BTreeSet<InstanceId>,
    ) -> Result<(), LookError> {
        let wanted: BTreeSet<_> = wanted.iter().map(InstanceId::slot_name).collect();
        let missing = wanted.iter().filter(|name| present.iter().all(|slot| slot.name != **name));
        let create = missing.map(|name| {
            format!("SELECT pg_create_physical_replication_slot({}, true)", literal(name))
        });
        let unwanted = present.iter().filter(|slot| !slot.active && !wanted.contains(&slot.name));
        let drop = unwanted
            .map(|slot| format!("SELECT pg_drop_replication_slot({})", literal(&slot.name)));
        for statement in create.chain(drop).collect::<Vec<_>>() {
            self.session().await?.ask(&statement).await?;
        }
        Ok(())
    }
}

/// The generation that a goal is about; none where it is about none.
pub(super) fn generation_of(goal: &Goal) -> Option<Generation> {
    match goal {
        Goal::Down(_) | Goal::Initialised | Goal::Copied { .. } => None,
        Goal::Primary(goal) => Some(goal.generation),
        Goal::Standby(goal) => Some(goal.generation),
        Goal::Sealed { generation } => Some(*generation),
    }
}

/// R10: the directory knows the highest generation before it serves it.
pub(super) fn see_generation(
    layout: &Layout,
    data: &mut Data,
    generation: Generation,
) -> Result<(), LookError> {
    let Data::Own(identity) = data else { return Ok(()) };
    if generation > identity.generation {
        let next = dugong_machine::Identity { generation, ..identity.clone() };
        data_dir::write_identity(&layout.data, &next)
            .map_err(|error| LookError::File { what: "the identity cannot be written", error })?;
        *identity = next;
    }
    Ok(())
}
