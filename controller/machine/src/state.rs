//! All that one instance knows, and what it has said and asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dugong_topology::{Address, Generation, InstanceId, Lsn, Position, Revision};

use crate::action::Declaration;
use crate::chain::Neighbours;
use crate::lease::Leases;
use crate::presence::Presence;
use crate::record::Record;
use crate::request::{Outcome, RequestNumber};
use crate::server::{Goal, Names, Server};
use crate::snapshot::Snapshot;
use crate::time::Time;

/// What an operator may choose. All spans are measured on the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The store ends a session that was not renewed for this long.
    pub session_ttl: Duration,
    /// How long a confirmed commit lets the primary serve.
    pub link_ttl: Duration,
    /// How long a sync may fail to follow before a fit async takes its place.
    pub sync_timeout: Duration,
    /// How long a primary whose server died leaves its office to its sync before it tries again.
    pub restart_after: Duration,
    /// How long a standby may fail to stream from a running upstream before it is copied anew.
    pub stuck_after: Duration,
    /// How long an async may be away before it is dropped from the record.
    pub forget_after: Duration,
    pub bootstrap: Bootstrap,
}

/// When a cluster is made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bootstrap {
    /// Once so many instances are present.
    Of(usize),
    /// By one instance, whose commits wait for nobody until it has a sync.
    OneNode,
}

/// All that one instance knows. `Eq + Hash`, so that a model checker can store visited states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub me: InstanceId,
    /// The cluster's name.
    pub cluster: String,
    /// Where its PostgreSQL listens.
    pub postgres: Address,
    /// Where its controller answers.
    pub http: Address,
    pub settings: Settings,
    /// When this process began to look.
    pub begun: Time,
    /// The newest reading of the store; none before the first.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the store does not answer, while it does not.
    pub store_trouble: Option<String>,
    /// What was last seen of the server.
    pub server: Server,
    pub leases: Leases,
    /// The last goal; none: the server is left as it is.
    pub goal: Option<Goal>,
    /// The last presence, and when it was announced.
    pub said: Option<(Presence, Time)>,
    /// The one declaration in flight, and when it was last asked for.
    pub declaring: Option<(Declaration, Time)>,
    /// A declaration was raced: nothing is declared, and no name changed, before the record is
    /// seen at another revision than this (R1).
    pub raced_at: Option<Revision>,
    /// As a primary out of recovery: since when, and how far its sync has come.
    pub office: Option<Office>,
    /// How many servers were seen to end here: see [`PrimaryGoal::life`](crate::PrimaryGoal).
    pub lives: u32,
    /// The newest generation that was open here.
    pub opened: Option<Generation>,
    /// As a primary without a server.
    pub vacancy: Option<Vacancy>,
    /// As a primary: since when a server is wanted and none answers as one.
    pub silent_since: Option<Time>,
    /// The silence was too long: whatever runs is brought down, and the office left to the sync.
    pub given_up: bool,
    /// As a primary: the switchover that is asked for, and how far it has come.
    pub switchover: Option<Ongoing>,
    /// The newest request that was there before this process: none up to it is begun here.
    pub inherited: RequestNumber,
    /// The request that was last answered, and when.
    pub answered: Option<(RequestNumber, Time)>,
    /// As a standby: when WAL last came through the link.
    pub link_quiet_since: Time,
    /// As a standby: since when it does not stream.
    pub dry_since: Option<Time>,
    /// The making of the data that was found to have forked from the primary's.
    pub forked_making: Option<u32>,
    /// The making of the data from which no WAL was streamed for too long.
    pub stuck_making: Option<u32>,
    /// The end of WAL here, as last seen.
    pub position: Option<Position>,
    /// Members of the record that are away, and since when.
    pub away_since: BTreeMap<InstanceId, Time>,
    /// The operator wants this instance to end.
    pub leaving: bool,
    /// The driver was told to finish.
    pub finished: bool,
}

/// One uninterrupted time of a server out of recovery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Office {
    pub since: Time,
    /// The end of its WAL when it was first seen out of recovery: what a crash or a promotion made
    /// visible, and nobody may read before the sync has it too (R5).
    pub end: Lsn,
    /// The newest generation whose sync has caught up with this primary.
    pub open: Option<Generation>,
    /// The sync that the two times below are about.
    pub sync: Option<InstanceId>,
    /// Since when the sync does not stream.
    pub sync_dry_since: Option<Time>,
    /// How far the sync has flushed, and since when it is there with more to flush.
    pub sync_at: Option<(Lsn, Time)>,
}

/// The time in which a primary of the record has no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vacancy {
    pub since: Time,
    /// How many servers have died in a row.
    pub deaths: u32,
}

/// A switchover, as the primary that hands over has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ongoing {
    pub request: RequestNumber,
    /// When this process learned of it.
    pub since: Time,
    pub stage: Stage,
}

/// How far a switchover has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waiting until it can be begun; a change of sync, if one is needed, is on its way.
    Preparing,
    /// The write address is closed: proxies end each session between two transactions.
    Closing { since: Time },
    /// No new transactions for whoever is left; open ones finish.
    Draining { since: Time },
    /// The server stops, or has stopped and the sync is told so. Whatever ends this other than a
    /// takeover first takes that word back.
    Stopping,
    /// It ends so, and the primary stays; to be answered once it is back in office.
    Ended(Outcome),
}

impl State {
    /// An instance that knows nothing yet.
    pub fn new(
        me: InstanceId,
        cluster: String,
        postgres: Address,
        http: Address,
        settings: Settings,
        now: Time,
    ) -> Self {
        Self {
            me,
            cluster,
            postgres,
            http,
            settings,
            begun: now,
            snapshot: None,
            store_trouble: None,
            server: Server::unknown(),
            leases: Leases::default(),
            goal: None,
            said: None,
            declaring: None,
            raced_at: None,
            office: None,
            lives: 0,
            opened: None,
            vacancy: None,
            silent_since: None,
            given_up: false,
            switchover: None,
            inherited: RequestNumber::default(),
            answered: None,
            link_quiet_since: now,
            dry_since: None,
            forked_making: None,
            stuck_making: None,
            position: None,
            away_since: BTreeMap::new(),
            leaving: false,
            finished: false,
        }
    }

    /// Until when the server here may live without a further word; none: it is no primary.
    ///
    /// Whoever ends it then must be able to while this instance's controller is not.
    pub fn may_serve_until(&self) -> Option<Time> {
        // Up to its end it is a primary, which may take a while to write its last checkpoint.
        let office = matches!(self.goal, Some(Goal::Primary(_))) || self.office.is_some();
        office.then(|| if self.has_no_heir() { Time::NEVER } else { self.leases.end() })
    }

    /// As far as they are known.
    pub fn neighbours(&self) -> Neighbours {
        let snapshot = self.snapshot.as_ref();
        snapshot
            .and_then(|snapshot| Some(Neighbours::of(snapshot, snapshot.record()?, &self.me)))
            .unwrap_or_default()
    }

    /// Whether nobody can take over, whatever was declared: one node, and no sync asked for.
    pub(crate) fn has_no_heir(&self) -> bool {
        let record = self.snapshot.as_ref().and_then(|snapshot| snapshot.record());
        let asked = match &self.goal {
            Some(Goal::Primary(goal)) => goal.names != Names::OneNode,
            Some(_) | None => false,
        };
        record.is_some_and(Record::is_one_node) && !asked
    }

    /// The generation of the record, 0 without one.
    pub fn generation(&self) -> Generation {
        self.snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.record())
            .map_or_else(Generation::default, |record| record.generation)
    }
}
