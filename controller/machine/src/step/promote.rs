//! R13: the operator's override. The instance that he names makes itself primary, although R3 (b)
//! to (d) do not hold for it.
//!
//! What stays: it stops receiving WAL first, and declares where its own ends (R4); a frozen cluster
//! is left alone (R3 a); its sync must catch up before it opens (R5); and the guard, unless he has
//! confirmed that the primary may well be alive. Acknowledged writes that it lacks are lost.
//!
//! **Invariant:** whoever is not proven to be on its history is made anew. An instance that lagged
//! behind may begin a timeline with a number that another one has used: nothing of that timeline
//! may be mistaken for its own.
//!
//! Source: PROTOCOL.md, R13.

use dugong_topology::Role;

use crate::action::{Declaration, Guard};
use crate::chain::next_sync;
use crate::lease::link_is_dead;
use crate::presence::ServerState;
use crate::record::Record;
use crate::request::{Outcome, Over, Promotion, RequestNumber};
use crate::server::{Goal, Receiver, Run};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::time::Time;

use super::Decision;
use super::switchover::frozen;

impl State {
    /// What this instance does as the one that is named; none where nobody named it, or it refuses.
    pub(super) fn decide_promotion(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
    ) -> Option<Decision> {
        let (request, asked) = self.is_named(snapshot)?;
        if self.refuses_promotion(now).is_some() {
            return None;
        }
        let sealed = Decision::want(Goal::Sealed { generation: record.generation });
        let sealed = sealed.noting("becoming the primary, as the operator asked for");
        let view = match &self.server.run {
            // It was primary until now: fenced first, as any other (R7).
            Run::Primary(_) => return None,
            Run::Standby(view) if view.receiver == Receiver::Sealed => view,
            Run::Standby(_) | Run::Unknown | Run::Down | Run::Busy(_) => return Some(sealed),
        };
        if self.declaring.is_some() || self.raced_at.is_some() {
            return Some(sealed);
        }
        let end = view.position();
        let is_heir = record.role_of(&self.me) == Some(Role::Sync)
            && view.history.reaches(view.replayed, record.began_at);
        let next = if is_heir {
            let sync = next_sync(snapshot, record, &self.me);
            record.promoted(&self.me, sync.as_ref(), end)
        } else {
            record.promoted_alone(&self.me, snapshot.instances.keys(), end)
        };
        let guard = match asked.over {
            Over::Lost => Guard::AbsentOrStopped(record.primary.clone()),
            Over::Alive => Guard::None,
        };
        let at = Some(self.record_revision());
        let fulfils = Some(request);
        Some(sealed.declaring(Some(Declaration { next, at, guard, fulfils })))
    }

    /// The answer to a promotion that this instance will not carry out.
    pub(super) fn refuses_promotion(&self, now: Time) -> Option<(RequestNumber, Outcome)> {
        let snapshot = self.snapshot.as_ref()?;
        let record = snapshot.record()?;
        let (request, asked) = self.is_named(snapshot)?;
        let why = self.why_not_promoted(now, snapshot, record, request, asked)?;
        Some((request, Outcome::Refused { why }))
    }

    fn is_named<'a>(&self, snapshot: &'a Snapshot) -> Option<(RequestNumber, &'a Promotion)> {
        snapshot.promotion().filter(|(_, asked)| asked.id == self.me)
    }

    fn why_not_promoted(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
        request: RequestNumber,
        asked: &Promotion,
    ) -> Option<String> {
        let (me, primary) = (&self.me, &record.primary);
        if primary == me {
            return Some(format!("{me} is the primary already"));
        }
        if *primary != asked.from {
            return Some(format!("{primary} has become the primary meanwhile"));
        }
        if request <= self.inherited {
            return Some(format!("the controller of {me} began anew meanwhile: ask again"));
        }
        if self.server.identity().is_none() {
            return Some(format!("{me} has no data of this cluster"));
        }
        if let Some(refusal) = self.refuses(record) {
            return Some(refusal);
        }
        if let Some(why) = frozen(record) {
            return Some(why);
        }
        match asked.over {
            Over::Alive => None,
            Over::Lost => self.lives(now, snapshot, record),
        }
    }

    /// Which lease of the primary is known here to be alive, in words.
    fn lives(&self, now: Time, snapshot: &Snapshot, record: &Record) -> Option<String> {
        let primary = &record.primary;
        match snapshot.present(primary) {
            Some(presence) if presence.server == ServerState::Stopped => return None,
            Some(_) => return Some(format!("{primary} is present, and may take writes")),
            None => (),
        }
        let Run::Standby(view) = &self.server.run else { return None };
        let streams = view.receiver == Receiver::Streaming;
        let linked = streams && view.upstream.as_ref() == Some(primary);
        let link_ttl = self.settings.link_ttl;
        let lives = linked && !link_is_dead(now, self.link_quiet_since, link_ttl);
        lives.then(|| format!("{primary} has lost the store, but its WAL still comes in"))
    }
}
