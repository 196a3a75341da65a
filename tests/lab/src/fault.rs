//! Everything that can be broken, and what heals it.
//!
//! A [`Fault`] names victims by what they are ([`Victim`]: "the primary"); [`Fault::aim`] turns it
//! into [`Harm`]s to hosts as they are now. Each harm is undone by itself, so faults may overlap.
//!
//! **Invariant:** what a fault harms, and in which words it is told, follows from its arguments
//! alone.

use std::fmt;
use std::time::Duration;

use crate::network::HostId;
use crate::plan::Hosts;

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The host of whoever is primary when the fault strikes.
    Primary,
    Sync,
    /// A host of an instance, by number.
    Machine(usize),
    /// A host of a member of the store, by number.
    StoreMember(usize),
    Proxy(usize),
}

/// Directions of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Both,
    /// Only what the first sends to the second is lost.
    Forth,
    /// Only what the second sends to the first is lost.
    Back,
}

/// What can happen to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two hosts cannot reach each other, in one or both directions.
    CutPair { a: Victim, b: Victim, way: Way },
    /// One host cannot reach, or be reached by, any other one.
    CutOff { victim: Victim, way: Way },
    /// The victims on one side, everybody else on the other.
    Split { side: Vec<Victim> },
    /// One host cannot reach the store.
    CutFromStore { victim: Victim },
    /// One host cannot reach the store, nor another host.
    CutFromStoreAnd { victim: Victim, other: Victim },
    /// Everything to and from one host takes longer, each way.
    Slow { victim: Victim, by: Duration },
    /// Of everything to and from one host, a part is lost.
    Lossy { victim: Victim, percent: u8 },
    /// Everything on one host is killed, and nobody is told.
    Drop { victim: Victim },
    /// Everything on one host is stopped.
    Pause { victim: Victim },
    /// One member of the store is killed.
    StoreMemberKilled { member: usize },
    /// Every member of the store is killed.
    StoreDown,
}

/// The kinds of fault, in the order of the summary.
pub const KINDS: [&str; 11] = [
    "cut-pair",
    "cut-off",
    "split",
    "cut-from-store",
    "cut-from-store-and-host",
    "slow",
    "lossy",
    "drop",
    "pause",
    "store-member-killed",
    "store-down",
];

/// Who has which office just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offices {
    pub primary: HostId,
    pub sync: HostId,
}

/// One thing that is done to a host, or between two, and is undone by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Cut {
        from: HostId,
        to: HostId,
    },
    Delay {
        from: HostId,
        to: HostId,
        by: Duration,
    },
    Lose {
        from: HostId,
        to: HostId,
        percent: u8,
    },
    /// Cut off first, so that no connection is ended in order: a machine that lost its power.
    Kill {
        host: HostId,
    },
    Stop {
        host: HostId,
    },
    KillStoreMember {
        host: HostId,
    },
}

impl Fault {
    /// Which of the [`KINDS`] it is.
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Self::CutPair { .. } => 0,
            Self::CutOff { .. } => 1,
            Self::Split { .. } => 2,
            Self::CutFromStore { .. } => 3,
            Self::CutFromStoreAnd { .. } => 4,
            Self::Slow { .. } => 5,
            Self::Lossy { .. } => 6,
            Self::Drop { .. } => 7,
            Self::Pause { .. } => 8,
            Self::StoreMemberKilled { .. } => 9,
            Self::StoreDown => 10,
        };
        KINDS[index]
    }

    /// What it does to the hosts, as the offices are now.
    pub fn aim(&self, hosts: &Hosts, now: Offices) -> Vec<Harm> {
        let of = |victim: Victim| victim.host(hosts, now);
        match self {
            Self::CutPair { a, b, way } => {
                let a = of(*a);
                cut(a, &[another(hosts, a, of(*b))], *way)
            }
            Self::CutOff { victim, way } => cut(of(*victim), &everybody(hosts), *way),
            Self::Split { side } => split(hosts, &side.iter().copied().map(of).collect::<Vec<_>>()),
            Self::CutFromStore { victim } => cut(of(*victim), &hosts.store, Way::Both),
            Self::CutFromStoreAnd { victim, other } => {
                let mut others = hosts.store.clone();
                if !others.contains(&of(*other)) {
                    others.push(of(*other));
                }
                cut(of(*victim), &others, Way::Both)
            }
            Self::Slow { victim, by } => {
                around(hosts, of(*victim), |from, to| Harm::Delay { from, to, by: *by })
            }
            Self::Lossy { victim, percent } => {
                around(hosts, of(*victim), |from, to| Harm::Lose { from, to, percent: *percent })
            }
            Self::Drop { victim } => {
                let mut harms = cut(of(*victim), &everybody(hosts), Way::Both);
                harms.push(Harm::Kill { host: of(*victim) });
                harms
            }
            Self::Pause { victim } => vec![Harm::Stop { host: of(*victim) }],
            Self::StoreMemberKilled { member } => {
                vec![Harm::KillStoreMember { host: hosts.store[*member] }]
            }
            Self::StoreDown => {
                hosts.store.iter().map(|host| Harm::KillStoreMember { host: *host }).collect()
            }
        }
    }
}

impl Victim {
    fn host(self, hosts: &Hosts, now: Offices) -> HostId {
        match self {
            Self::Primary => now.primary,
            Self::Sync => now.sync,
            Self::Machine(index) => hosts.machines[index],
            Self::StoreMember(index) => hosts.store[index],
            Self::Proxy(index) => hosts.proxies[index],
        }
    }
}

/// The host that is meant; the next machine where that is the very same host, so that a fault which
/// names two ("the primary and pg-1") always has two.
fn another(hosts: &Hosts, than: HostId, meant: HostId) -> HostId {
    if meant != than {
        return meant;
    }
    let at = hosts.machines.iter().position(|host| *host == than);
    at.map_or(hosts.clients, |at| hosts.machines[(at + 1) % hosts.machines.len()])
}

/// Servers and clients.
fn everybody(hosts: &Hosts) -> Vec<HostId> {
    let mut all = hosts.servers();
    all.push(hosts.clients);
    all
}

/// A host is never cut off from itself: that way leads through no network.
fn cut(a: HostId, others: &[HostId], way: Way) -> Vec<Harm> {
    let mut harms = Vec::new();
    for b in others.iter().copied().filter(|b| *b != a) {
        let (forth, back) = (Harm::Cut { from: a, to: b }, Harm::Cut { from: b, to: a });
        match way {
            Way::Both => harms.extend([forth, back]),
            Way::Forth => harms.push(forth),
            Way::Back => harms.push(back),
        }
    }
    harms
}

fn split(hosts: &Hosts, side: &[HostId]) -> Vec<Harm> {
    let other: Vec<HostId> = everybody(hosts).into_iter().filter(|h| !side.contains(h)).collect();
    let mut one = side.to_vec();
    one.sort_unstable();
    one.dedup();
    one.into_iter().flat_map(|host| cut(host, &other, Way::Both)).collect()
}

fn around(hosts: &Hosts, host: HostId, harm: impl Fn(HostId, HostId) -> Harm) -> Vec<Harm> {
    let others = everybody(hosts).into_iter().filter(|other| *other != host);
    others.flat_map(|other| [harm(host, other), harm(other, host)]).collect()
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("the primary"),
            Self::Sync => f.write_str("the sync"),
            Self::Machine(index) => write!(f, "pg-{}", index + 1),
            Self::StoreMember(index) => write!(f, "member {} of the store", index + 1),
            Self::Proxy(index) => write!(f, "proxy-{}", index + 1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutPair { a, b, way: Way::Both } => write!(f, "cut {a} and {b} apart"),
            Self::CutPair { a, b, way: Way::Forth } => write!(f, "cut the way from {a} to {b}"),
            Self::CutPair { a, b, way: Way::Back } => write!(f, "cut the way from {b} to {a}"),
            Self::CutOff { victim, way: Way::Both } => write!(f, "cut {victim} off"),
            Self::CutOff { victim, way: Way::Forth } => write!(f, "cut all that {victim} sends"),
            Self::CutOff { victim, way: Way::Back } => write!(f, "cut all that {victim} gets"),
            Self::Split { side } => {
                let names: Vec<String> = side.iter().map(ToString::to_string).collect();
                write!(f, "split off {}", names.join(", "))
            }
            Self::CutFromStore { victim } => write!(f, "cut {victim} off from the store"),
            Self::CutFromStoreAnd { victim, other } => {
                write!(f, "cut {victim} off from the store and {other}")
            }
            Self::Slow { victim, by } => write!(f, "slow {victim} by {by:?} each way"),
            Self::Lossy { victim, percent } => write!(f, "lose {percent} % around {victim}"),
            Self::Drop { victim } => write!(f, "drop the host of {victim}"),
            Self::Pause { victim } => write!(f, "pause the host of {victim}"),
            Self::StoreMemberKilled { member } => {
                write!(f, "kill {}", Victim::StoreMember(*member))
            }
            Self::StoreDown => f.write_str("kill the whole store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::papers::Wire;
    use crate::plan::{Plan, StorePlace};

    fn hosts() -> Hosts {
        Plan { machines: 3, store: StorePlace::Beside, proxies: 1, wire: Wire::Clear }.hosts()
    }

    const NOW: Offices = Offices { primary: HostId(1), sync: HostId(2) };

    fn cuts(harms: &[Harm]) -> Vec<(usize, usize)> {
        let ends = |harm: &Harm| match harm {
            Harm::Cut { from, to } => (from.0, to.0),
            other @ (Harm::Delay { .. }
            | Harm::Lose { .. }
            | Harm::Kill { .. }
            | Harm::Stop { .. }
            | Harm::KillStoreMember { .. }) => panic!("{other:?}"),
        };
        harms.iter().map(ends).collect()
    }

    #[test]
    fn a_fault_strikes_whoever_is_in_office() {
        let fault = |way| Fault::CutPair { a: Victim::Primary, b: Victim::Sync, way };
        assert_eq!(cuts(&fault(Way::Forth).aim(&hosts(), NOW)), [(1, 2)]);
        assert_eq!(cuts(&fault(Way::Back).aim(&hosts(), NOW)), [(2, 1)]);
        assert_eq!(cuts(&fault(Way::Both).aim(&hosts(), NOW)), [(1, 2), (2, 1)]);
    }

    #[test]
    fn nobody_is_cut_off_from_himself() {
        let fault = Fault::CutFromStore { victim: Victim::Primary };
        assert_eq!(cuts(&fault.aim(&hosts(), NOW)), [(1, 0), (0, 1), (1, 2), (2, 1)]);
        // The primary is the second machine: the third one takes the other end.
        let fault = Fault::CutPair { a: Victim::Primary, b: Victim::Machine(1), way: Way::Both };
        assert_eq!(cuts(&fault.aim(&hosts(), NOW)), [(1, 2), (2, 1)]);
    }

    #[test]
    fn a_split_cuts_every_pair_across_and_none_within() {
        let fault = Fault::Split { side: vec![Victim::Primary, Victim::Machine(1)] };
        let harms = cuts(&fault.aim(&hosts(), NOW));
        // pg-2 on one side; pg-1, pg-3, the proxy and the clients on the other.
        assert_eq!(harms.len(), 4 * 2);
        assert!(harms.iter().all(|(a, b)| (*a == 1) != (*b == 1)), "{harms:?}");
    }

    #[test]
    fn a_dropped_host_is_silent_before_it_dies() {
        let harms = Fault::Drop { victim: Victim::Sync }.aim(&hosts(), NOW);
        assert_eq!(harms.last(), Some(&Harm::Kill { host: HostId(2) }));
        assert_eq!(cuts(&harms[..harms.len() - 1]).len(), 4 * 2);
    }
}
