//! Mistakes that one could make, made on purpose: the proof that the checks can fail.
//!
//! The machine itself has no switch for them. A bug is a lie told to it, or a change of what it
//! asked for, at the place where the production code would have got it wrong.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    NoGuard,
    EndBeforeNames,
    NameBeforeDeclare,
    HalfReloaded,
    OpenAfterRestart,
    OpenBeforeSync,
    ClosedAdmits,
    TimelinesIgnored,
    TimelineTwice,
    ReleasedOnDemotion,
    NamesEmpty,
    EndBeforeSeal,
    LinkIgnored,
    SessionFromAnswer,
    NoWarden,
    Orphan,
    NoRepair,
    AsyncTakesOver,
    TopologyBack,
    WordsOutOfOrder,
    LateDeclaration,
}

/// A bug as people know it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub bug: Bug,
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    pub what: &'static str,
}

const fn known(bug: Bug, name: &'static str, rule: &'static str, what: &'static str) -> Known {
    Known { bug, name, rule, what }
}

/// Every bug.
#[rustfmt::skip]
pub const BUGS: &[Known] = &[
    known(Bug::NoGuard, "no-guard",             "R3 b",
          "a takeover is declared without looking at the primary's presence"),
    known(Bug::EndBeforeNames, "end-before-names",     "R6",
          "in a change of sync, the end of WAL is read before both names are in force"),
    known(Bug::NameBeforeDeclare, "name-before-declare",  "R6",
          "in a change of sync, only the new name is put in force, before the record says so"),
    known(Bug::HalfReloaded, "half-reloaded",        "R6",
          "names count as in force while a WAL sender still goes by older ones"),
    known(Bug::OpenAfterRestart, "open-after-restart",   "R5",
          "a restarted primary opens before its sync has what the crash made visible"),
    known(Bug::OpenBeforeSync, "open-before-sync",     "R5",
          "a new primary is open before its sync has caught up"),
    known(Bug::ClosedAdmits, "closed-admits",        "R5",
          "a primary that was started again lets clients in before it is open"),
    known(Bug::TimelinesIgnored, "timelines-ignored",    "R3 c",
          "LSNs are compared across timelines"),
    known(Bug::TimelineTwice, "timeline-twice",       "R4",
          "a promotion begins the first timeline that it does not know of"),
    known(Bug::ReleasedOnDemotion, "released-on-demotion", "R9",
          "the synchronous names are emptied before a primary is stopped"),
    known(Bug::NamesEmpty, "names-empty",          "R6",
          "a primary whose standbys are gone waits for nobody"),
    known(Bug::EndBeforeSeal, "end-before-seal",      "R4",
          "a takeover reads the end of WAL before the receiver is stopped"),
    known(Bug::LinkIgnored, "link-ignored",         "leases",
          "a sync takes over with the session dead and the link alive"),
    known(Bug::SessionFromAnswer, "session-from-answer",  "leases",
          "the primary counts its session from the answer, not from before the renewal"),
    known(Bug::NoWarden, "no-warden",            "leases",
          "nobody ends the server of a paused controller"),
    known(Bug::Orphan, "orphan",               "leases",
          "a server lives on after its controller was killed"),
    known(Bug::NoRepair, "no-repair",            "R7",
          "a repair takes data that have forked for repaired"),
    known(Bug::AsyncTakesOver, "async-takes-over",     "R3",
          "an async takes over while the sync is away"),
    known(Bug::TopologyBack, "topology-back",        "R12",
          "a controller publishes an older topology again"),
    known(Bug::WordsOutOfOrder, "words-out-of-order",   "store",
          "the store takes words of one session in any order"),
    known(Bug::LateDeclaration, "late-declaration",     "store",
          "the store takes a declaration of a controller that has a successor"),
];

impl Bug {
    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        BUGS.iter().find(|known| known.name == name).map(|known| known.bug)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        BUGS.iter().find(|known| known.bug == self).map_or("unknown", |known| known.name)
    }
}
