//! Taking in events, and keeping the times since when things are so.

use std::collections::BTreeSet;
use std::sync::Arc;

use dugong_topology::{Lsn, Revision, Role};

use crate::chain::{is_in_office, office_history, primary_history};
use crate::event::{Answer, Event};
use crate::record::Record;
use crate::request::Outcome;
use crate::server::{
    Data, Goal, Names, PrimaryView, Receiver, Room, Run, Server, StandbyView, Waits,
};
use crate::snapshot::{Declared, Snapshot};
use crate::state::{Office, State, Vacancy};
use crate::time::Time;

use super::primary::STEADY_AFTER;

impl State {
    pub(super) fn take(&mut self, now: Time, event: Event) {
        match event {
            Event::Tick => (),
            Event::Snapshot(snapshot) => self.take_snapshot(now, snapshot),
            Event::StoreFailed { why } => self.store_trouble = Some(why),
            Event::Renewed { begun } => self.leases.renewed(begun, self.settings.session_ttl),
            Event::Observed(server) => self.take_observation(now, server),
            Event::LinkConfirmed { begun } => {
                self.leases.link_confirmed(begun, self.settings.link_ttl);
            }
            Event::DeclareAnswered { at, answer } => self.take_answer(at, answer),
            Event::Leave => self.leaving = true,
        }
    }

    fn take_snapshot(&mut self, now: Time, snapshot: Arc<Snapshot>) {
        self.store_trouble = None;
        if self.snapshot.as_ref().is_some_and(|known| snapshot.revision < known.revision) {
            return; // Older than what a declaration of our own has told us.
        }
        if self.snapshot.is_none() {
            self.inherited = snapshot.requests.keys().next_back().copied().unwrap_or_default();
        }
        let record_revision =
            snapshot.declared.as_ref().map_or_else(Revision::default, |d| d.revision);
        if self.raced_at.is_some_and(|raced| raced != record_revision) {
            self.raced_at = None;
        }
        let members: BTreeSet<_> =
            snapshot.record().map(|record| record.chain().cloned().collect()).unwrap_or_default();
        self.away_since.retain(|id, _| members.contains(id) && snapshot.present(id).is_none());
        for id in members {
            if snapshot.present(&id).is_none() {
                self.away_since.entry(id).or_insert(now);
            }
        }
        self.snapshot = Some(snapshot);
    }

    fn take_observation(&mut self, now: Time, server: Server) {
        match &server.run {
            Run::Primary(view) => {
                self.position = Some(view.position());
                self.office.get_or_insert(Office {
                    since: now,
                    end: view.end,
                    open: None,
                    sync: None,
                    sync_dry_since: None,
                    sync_at: None,
                });
            }
            Run::Standby(view) => {
                self.position = Some(view.position());
                self.office = None;
                self.take_link(now, view);
            }
            Run::Down => {
                self.office = None;
                self.given_up = false;
            }
            Run::Unknown | Run::Busy(_) => (),
        }
        if !matches!(server.run, Run::Standby(_)) {
            self.dry_since = None; // The next standby gets its own time to stream.
        }
        let was_up = !matches!(self.server.run, Run::Down | Run::Unknown);
        if server.run == Run::Down && was_up {
            self.lives += 1;
            if matches!(self.goal, Some(Goal::Primary(_))) {
                let deaths = self.vacancy.map_or(0, |vacancy| vacancy.deaths) + 1;
                self.vacancy = Some(Vacancy { since: now, deaths });
            }
        }
        if server.data == Data::Empty {
            // The next data begins to count anew.
            self.forked_making = None;
            self.stuck_making = None;
            if self.is_chosen() {
                // It was for data that are gone: nobody is to get an office by it any more.
                self.declaring = None;
            }
        }
        self.server = server;
    }

    /// Whether this instance's data counts, or no record says whose does.
    fn is_chosen(&self) -> bool {
        let record = self.snapshot.as_ref().and_then(|snapshot| snapshot.record());
        let role = record.map(|record| record.role_of(&self.me));
        role.is_none_or(|role| matches!(role, Some(Role::Primary | Role::Sync)))
    }

    /// The link is alive while WAL comes through it; a receiver that connects again counts too.
    fn take_link(&mut self, now: Time, view: &StandbyView) {
        let before = match &self.server.run {
            Run::Standby(before) => Some(before),
            Run::Unknown | Run::Down | Run::Busy(_) | Run::Primary(_) => None,
        };
        let streams = view.receiver == Receiver::Streaming;
        let quiet = before.is_some_and(|before| {
            let streamed = before.receiver == Receiver::Streaming;
            before.flushed == view.flushed && (streamed || !streams)
        });
        if !quiet {
            self.link_quiet_since = now;
        }
        self.dry_since = if streams { None } else { self.dry_since.or(Some(now)) };
    }

    fn take_answer(&mut self, replaced: Option<Revision>, answer: Answer) {
        if self.declaring.as_ref().is_none_or(|(declaration, _)| declaration.at != replaced) {
            return; // It was asked for more than once, and is answered already.
        }
        if answer == Answer::Unknown {
            return; // Stays in flight: it is asked again until somebody knows.
        }
        let Some((declaration, _)) = self.declaring.take() else { return };
        match answer {
            Answer::Unknown | Answer::Guarded => (),
            Answer::Raced => {
                let known = self.snapshot.as_ref().and_then(|s| s.declared.as_ref());
                if known.map(|declared| declared.revision) == declaration.at {
                    self.raced_at = Some(declaration.at.unwrap_or_default());
                }
            }
            Answer::Won { at } => {
                let snapshot = Arc::make_mut(self.snapshot.get_or_insert_default());
                if at < snapshot.revision {
                    return; // A snapshot with this record, or a later one, is here already.
                }
                let since_unix_ms = snapshot.declared.as_ref().map_or(0, |d| d.since_unix_ms);
                snapshot.revision = at;
                if let Some(request) = declaration.fulfils {
                    snapshot.requests.remove(&request);
                    snapshot.outcomes.insert(request, Outcome::Done);
                }
                snapshot.declared =
                    Some(Declared { record: declaration.next, revision: at, since_unix_ms });
            }
        }
    }

    /// Times and findings that follow from what is known now.
    pub(super) fn keep_times(&mut self, now: Time) {
        let Some(snapshot) = &self.snapshot else { return };
        let Some(record) = snapshot.record() else { return };
        if record.role_of(&self.me) != Some(Role::Primary) {
            self.vacancy = None;
        }
        let silent = matches!(self.goal, Some(Goal::Primary(_)))
            && !matches!(self.server.run, Run::Primary(_))
            && record.primary == self.me;
        self.silent_since = silent.then(|| self.silent_since.unwrap_or(now));
        let given_up = self
            .silent_since
            .is_some_and(|since| now.is_past(since, 2 * self.settings.restart_after))
            && self.heir(snapshot, record).is_some();
        if given_up {
            // R11: a server that hangs, or cannot be started, is as good as dead.
            self.given_up = self.server.run != Run::Down;
            let deaths = self.vacancy.map_or(0, |vacancy| vacancy.deaths) + 1;
            self.vacancy = Some(Vacancy { since: now, deaths });
        }
        match (&self.server.run, &mut self.office) {
            (Run::Primary(view), Some(office)) if record.primary == self.me => {
                office.keep_times(now, view, record);
                self.opened = self.opened.max(office.open);
                if now.is_past(office.since, STEADY_AFTER) {
                    self.vacancy = None;
                }
            }
            (Run::Standby(view), _) if record.primary != self.me => {
                // On a timeline that the record does not know yet, it is the snapshot that is old.
                let forked = record.knows(view.history.timeline)
                    && primary_history(snapshot, record)
                        .is_some_and(|history| !history.contains(view.position()));
                let making = self.server.identity().map(|identity| identity.making);
                if forked {
                    self.forked_making = making;
                }
                // Without room a copy would come to nothing; with room, streaming gets its time.
                if self.server.room == Room::Short {
                    self.dry_since = self.dry_since.and(Some(now));
                }
                let stuck =
                    self.dry_since.is_some_and(|at| now.is_past(at, self.settings.stuck_after));
                if stuck && is_in_office(snapshot, record) {
                    self.stuck_making = making;
                } else if view.receiver == Receiver::Streaming {
                    self.stuck_making = None;
                }
            }
            (Run::Unknown | Run::Down | Run::Busy(_) | Run::Standby(_) | Run::Primary(_), _) => (),
        }
    }

    /// R7, R8: in recovery, streaming, and on the very timeline that the primary writes.
    pub(super) fn is_on_the_primarys_history(&self, view: &StandbyView) -> bool {
        let Some(snapshot) = &self.snapshot else { return false };
        let Some(record) = snapshot.record() else { return false };
        let Some(identity) = self.server.identity() else { return false };
        let repaired = record.deposed_since(&self.me).is_none_or(|since| identity.made_in >= since);
        let on_history = office_history(snapshot, record)
            .is_some_and(|history| history.timeline == view.history.timeline);
        view.receiver == Receiver::Streaming && repaired && on_history
    }
}

impl Office {
    /// How the sync of `record` does, and whether it has caught up.
    fn keep_times(&mut self, now: Time, view: &PrimaryView, record: &Record) {
        if self.sync != record.sync {
            // A new sync gets its own time to come.
            self.sync.clone_from(&record.sync);
            self.sync_dry_since = None;
            self.sync_at = None;
        }
        if record.is_one_node() {
            if view.names == Names::OneNode {
                self.open = Some(record.generation);
            }
            return;
        }
        let row = record.sync.as_ref().and_then(|sync| view.standby(sync));
        let Some(row) = row.filter(|row| row.waits != Waits::NotYet) else {
            self.sync_dry_since = self.sync_dry_since.or(Some(now));
            self.sync_at = None;
            return;
        };
        self.sync_dry_since = None;
        let moved = self.sync_at.is_none_or(|(at, _)| at != row.flushed);
        if moved || row.flushed >= view.end {
            self.sync_at = Some((row.flushed, now));
        }
        // R5: everything that was visible when the office, or the generation, began.
        let bar: Lsn = self.end.max(record.began_at.lsn);
        let in_force = view.names == Names::of(record, None);
        if in_force && row.waits == Waits::ForIt && row.flushed >= bar {
            self.open = Some(record.generation);
        }
    }
}
