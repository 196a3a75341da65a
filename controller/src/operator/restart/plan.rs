//! In which order servers are restarted. Pure.
//!
//! What standbys must have at least as much of as their primary is raised on them first, and lowered
//! on the primary first. A switchover cannot lower it: the next primary was a standby until then, and
//! has as much as the former one had.
//!
//! Source: PostgreSQL manual, "Hot Standby", "Administrator's Overview".

use dugong_topology::{InstanceId, Topology};

use super::Primary;
use crate::postgres::{Here, Pending, default_of_bound};

/// One server to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Standby(InstanceId),
    /// The primary's office goes to its sync.
    HandOver(InstanceId),
    /// The primary keeps its office.
    InPlace(InstanceId),
}

impl Step {
    pub(super) fn id(&self) -> &InstanceId {
        match self {
            Self::Standby(id) | Self::HandOver(id) | Self::InPlace(id) => id,
        }
    }

    pub(super) fn is_for_primary(&self) -> bool {
        match self {
            Self::Standby(_) => false,
            Self::HandOver(_) | Self::InPlace(_) => true,
        }
    }
}

/// How the primary is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Switchover,
    InPlace,
}

impl Way {
    pub(super) fn of(typed: Primary) -> Self {
        match typed {
            Primary::Switchover => Self::Switchover,
            Primary::InPlace => Self::InPlace,
        }
    }
}

/// What the order depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Situation {
    pub(super) primary: InstanceId,
    /// The sync first, then along the chain.
    pub(super) standbys: Vec<InstanceId>,
    pub(super) frozen: bool,
    /// What the primary will have less of than its standbys must have now.
    pub(super) lowered: Vec<String>,
    /// What it will have more of.
    pub(super) raised: Vec<String>,
}

impl Situation {
    /// None: there is no primary.
    pub(super) fn of(topology: &Topology, here: &[&Here]) -> Option<Self> {
        let primary = topology.primary.as_ref().map(|member| member.id.clone())?;
        let of_primary = here.iter().find(|here| here.instance == primary);
        let pending = || of_primary.iter().flat_map(|here| &here.pending);
        let names = |wanted: Change| {
            let of = pending().filter(|pending| change(pending) == Some(wanted));
            of.map(|pending| pending.name.clone()).collect()
        };
        Some(Self {
            standbys: topology.standbys().map(|member| member.id.clone()).collect(),
            frozen: topology.frozen.is_some(),
            lowered: names(Change::Lowered),
            raised: names(Change::Raised),
            primary,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Lowered,
    Raised,
}

/// How a setting changes that standbys must not have less of; none for any other.
fn change(pending: &Pending) -> Option<Change> {
    let default = default_of_bound(&pending.name)?;
    let has: u64 = pending.has.trim().parse().ok()?;
    let wants = match &pending.wants {
        Some(wants) => wants.trim().parse().ok()?,
        None => default,
    };
    match wants.cmp(&has) {
        std::cmp::Ordering::Less => Some(Change::Lowered),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(Change::Raised),
    }
}

/// The steps, or why there are none, in words.
pub(super) fn plan(
    situation: &Situation,
    wanted: &[InstanceId],
    way: Option<Way>,
) -> Result<Vec<Step>, String> {
    let Situation { primary, standbys, frozen, lowered, raised } = situation;
    let from_the_tail = standbys.iter().rev().filter(|id| wanted.contains(id));
    let mut steps: Vec<_> = from_the_tail.cloned().map(Step::Standby).collect();
    if !wanted.contains(primary) {
        return Ok(steps);
    }
    let way = match way {
        Some(Way::Switchover) if !lowered.is_empty() => {
            return Err(format!(
                "{} can be lowered on the primary only in place, since whoever takes its office has \
                 as much as it has: use --primary in-place",
                lowered.join(", ")
            ));
        }
        Some(way) => way,
        None if lowered.is_empty() => Way::Switchover,
        None => Way::InPlace,
    };
    let step = match way {
        Way::InPlace => Step::InPlace(primary.clone()),
        Way::Switchover if *frozen => {
            return Err("the cluster is frozen, so no office is handed over: `dugong unfreeze` \
                        first, or use --primary in-place"
                .to_owned());
        }
        Way::Switchover if standbys.is_empty() => {
            return Err(format!("{primary} has no sync to hand over to: use --primary in-place"));
        }
        Way::Switchover => Step::HandOver(primary.clone()),
    };
    if !lowered.is_empty() && raised.is_empty() {
        steps.insert(0, step);
    } else {
        steps.push(step);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn standbys_come_first_unless_something_is_lowered() {
        let situation = |frozen, lowered: &[&str], raised: &[&str]| Situation {
            primary: id("pg-1"),
            standbys: vec![id("pg-2"), id("pg-3")],
            frozen,
            lowered: lowered.iter().map(|name| (*name).to_owned()).collect(),
            raised: raised.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (all, less, more) =
            (["pg-1", "pg-2", "pg-3"], ["max_connections"], ["max_wal_senders"]);
        use Way::{InPlace, Switchover};
        #[rustfmt::skip]
        let cases = [
            // what is so              situation                        wanted       way               order; none: refused
            ("the usual",              situation(false, &[], &[]),      &all[..],    None,             Some("3 2 handover")),
            ("one standby",            situation(false, &[], &[]),      &all[2..],   None,             Some("3")),
            ("the primary alone",      situation(false, &[], &[]),      &all[..1],   None,             Some("handover")),
            ("in place by choice",     situation(false, &[], &[]),      &all[..],    Some(InPlace),    Some("3 2 in-place")),
            ("raised",                 situation(false, &[], &more),    &all[..],    None,             Some("3 2 handover")),
            ("lowered",                situation(false, &less, &[]),    &all[..],    None,             Some("in-place 3 2")),
            ("both",                   situation(false, &less, &more),  &all[..],    None,             Some("3 2 in-place")),
            ("a switchover lowers nothing", situation(false, &less, &[]), &all[..],  Some(Switchover), None),
            ("frozen",                 situation(true, &[], &[]),       &all[..],    None,             None),
            ("frozen, in place",       situation(true, &[], &[]),       &all[..],    Some(InPlace),    Some("3 2 in-place")),
        ];
        for (what, situation, wanted, way, expected) in cases {
            let wanted: Vec<_> = wanted.iter().map(|text| id(text)).collect();
            let words = |step: &Step| match step {
                Step::Standby(id) => id.as_str().trim_start_matches("pg-").to_owned(),
                Step::HandOver(_) => "handover".to_owned(),
                Step::InPlace(_) => "in-place".to_owned(),
            };
            let order = plan(&situation, &wanted, way).ok();
            let order = order.map(|steps| steps.iter().map(words).collect::<Vec<_>>().join(" "));
            assert_eq!(order.as_deref(), expected, "{what}");
        }
    }

    #[test]
    fn only_what_standbys_must_have_is_lowered_or_raised() {
        let pending = |name: &str, has: &str, wants: Option<&str>| Pending {
            name: name.to_owned(),
            has: has.to_owned(),
            wants: wants.map(str::to_owned),
        };
        #[rustfmt::skip]
        let cases = [
            (pending("max_connections", "200", Some("300")),           Some(Change::Raised)),
            (pending("max_connections", "300", Some("200")),           Some(Change::Lowered)),
            (pending("max_worker_processes", "16", None),              Some(Change::Lowered)),
            (pending("shared_buffers", "16384 x 8kB", Some("256MB")),  None),
        ];
        for (pending, expected) in cases {
            assert_eq!(change(&pending), expected, "{pending:?}");
        }
    }
}
