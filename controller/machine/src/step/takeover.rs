//! The sync makes itself primary: the only way in which an office changes hands.

use dugong_topology::InstanceId;

use crate::action::{Declaration, Guard};
use crate::chain::next_sync;
use crate::lease::link_is_dead;
use crate::presence::{Handover, ServerState};
use crate::record::Record;
use crate::request::RequestNumber;
use crate::server::{Goal, Receiver, Run};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::time::Time;

use super::Decision;

/// A takeover that R3 allows.
struct Takeover {
    /// Who becomes the sync.
    heir: InstanceId,
    /// The primary has handed over for it, and all of its WAL is here.
    request: Option<RequestNumber>,
}

impl State {
    pub(super) fn decide_sync(&self, now: Time, snapshot: &Snapshot, record: &Record) -> Decision {
        let sealed = Decision::want(Goal::Sealed { generation: record.generation });
        if self.declaring.is_some() || self.raced_at.is_some() {
            // A takeover may be written already: receive nothing before that is known.
            return match &self.goal {
                Some(Goal::Sealed { .. }) => sealed,
                Some(_) | None => self.follow(snapshot, record),
            };
        }
        let Takeover { heir, request } = match self.may_take_over(now, snapshot, record) {
            Ok(takeover) => takeover,
            Err(why_not) => {
                let following = self.follow(snapshot, record);
                return Decision { note: why_not.or(following.note), ..following };
            }
        };
        let sealed = sealed.noting(format!("taking over from {}", record.primary));
        let Run::Standby(view) = &self.server.run else { return sealed };
        let reached = view.history.reaches(view.replayed, record.began_at);
        if view.receiver != Receiver::Sealed || !reached {
            return sealed;
        }
        // R4: what is here now is all that there will ever be of this generation.
        let (primary, end) = (record.primary.clone(), view.position());
        let (next, guard) = match request {
            Some(request) => {
                let next = record.handed_over_to(&self.me, &heir, end);
                (next, Guard::HandedOver { by: primary, request })
            }
            None => {
                let next = record.taken_over_by(&self.me, &heir, end);
                (next, Guard::AbsentOrStopped(primary))
            }
        };
        let at = Some(self.record_revision());
        sealed.declaring(Some(Declaration { next, at, guard, fulfils: request }))
    }

    /// R3: how this instance may take over, or why this one cannot take over, in words.
    /// No words: there is no reason to.
    fn may_take_over(
        &self,
        now: Time,
        snapshot: &Snapshot,
        record: &Record,
    ) -> Result<Takeover, Option<String>> {
        let primary = &record.primary;
        let mut handover = None;
        match snapshot.present(primary) {
            // (b) It says itself that no server process is left: no lease is waited for.
            Some(presence) if presence.server == ServerState::Stopped => {
                handover = presence.hands_over;
            }
            Some(_) => return Err(None),
            None => {
                // Its session is dead. After our own start it gets as long to come as it had.
                let settings = &self.settings;
                if !now.is_past(self.begun, settings.session_ttl)
                    || !link_is_dead(now, self.link_quiet_since, settings.link_ttl)
                {
                    return Err(Some(format!(
                        "{primary} has lost its session; waiting until its link is dead too"
                    )));
                }
            }
        }
        if let Some(frozen) = &record.frozen {
            // (a)
            return Err(Some(format!("no takeover: frozen by {} ({})", frozen.by, frozen.why)));
        }
        let Run::Standby(view) = &self.server.run else {
            return Err(Some("cannot take over before the server here runs".to_owned()));
        };
        if !view.history.reaches(view.flushed, record.began_at) {
            // (c)
            return Err(Some(format!(
                "cannot take over: the WAL here ends at {}, before {}, where generation {} begins",
                view.position(),
                record.began_at,
                record.generation
            )));
        }
        if let Some(Handover { last, .. }) = handover
            && (view.history.timeline != last.timeline || view.replayed <= last.lsn)
        {
            // It would have to be deposed, which is not what was asked for.
            return Err(Some(format!(
                "waiting for the last WAL of {primary}, past {last}; here it ends at {}",
                view.position()
            )));
        }
        // (d)
        let heir = next_sync(snapshot, record, &self.me).ok_or_else(|| {
            Some("cannot take over: no further instance is there to become the sync".to_owned())
        })?;
        Ok(Takeover { heir, request: handover.map(|handover| handover.request) })
    }
}
