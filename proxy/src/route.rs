//! From a topology to the servers that a connection may use, and back: whether it may stay.
//!
//! Pure functions of the topology. [`options`] says who may take it; [`leave`]
//! says why an established session must end.
//!
//! Source: DESIGN.md, "Listeners".

use dugong_topology::{Address, Generation, InstanceId, Member, Phase, Topology};

use crate::config::{LagLimit, ReadFallback};
use crate::listener::Listener;

/// A server, and what it was when it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub id: InstanceId,
    pub address: Address,
    pub seat: Seat,
}

/// What a connection relies on its server to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    Primary,
    Standby,
}

/// What the operator decided about reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRules {
    pub max_lag: LagLimit,
    pub fallback: ReadFallback,
}

/// Where a new connection may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Options {
    /// Any of these. At least one.
    Try(Vec<Target>),
    /// Nobody can serve it now: hold it.
    Hold,
    /// Nobody can serve it, and the operator wants it told so at once.
    Refuse,
}

/// The servers that may take a new connection.
pub fn options(listener: Listener, topology: Option<&Topology>, rules: ReadRules) -> Options {
    let Some(topology) = topology else { return Options::Hold };
    let mut targets = match listener {
        Listener::Write => open_primary(topology).into_iter().collect(),
        Listener::Read => fit_standbys(topology, rules.max_lag),
    };
    if listener == Listener::Read && targets.is_empty() {
        match rules.fallback {
            ReadFallback::Primary => targets.extend(open_primary(topology)),
            ReadFallback::Refuse => return Options::Refuse,
        }
    }
    if targets.is_empty() {
        return Options::Hold;
    }
    Options::Try(targets)
}

/// The primary, while it takes writes.
fn open_primary(topology: &Topology) -> Option<Target> {
    let primary = topology.primary.as_ref().filter(|_| topology.phase == Phase::ReadWrite)?;
    target(primary, Seat::Primary)
}

/// Healthy standbys that are known to be close enough behind.
fn fit_standbys(topology: &Topology, max_lag: LagLimit) -> Vec<Target> {
    topology
        .standbys()
        .filter(|member| member.healthy && max_lag.allows(member))
        .filter_map(|member| target(member, Seat::Standby))
        .collect()
}

fn target(member: &Member, seat: Seat) -> Option<Target> {
    Some(Target { id: member.id.clone(), address: member.address.clone()?, seat })
}

/// Why a session must leave its server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Leave {
    #[error("the primary changed from {from} to {to} (generation {generation})")]
    PrimaryChanged { from: InstanceId, to: InstanceId, generation: Generation },
    #[error("{id} became the primary (generation {generation})")]
    BecamePrimary { id: InstanceId, generation: Generation },
    #[error("{id} is no longer a standby (generation {generation})")]
    NoStandby { id: InstanceId, generation: Generation },
    #[error("{id} moved from {from} to {to} (generation {generation})")]
    Moved { id: InstanceId, from: Address, to: Address, generation: Generation },
    #[error("{id} hands over to another primary, as planned (generation {generation})")]
    HandsOver { id: InstanceId, generation: Generation },
}

/// When a session must leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parting {
    AtOnce(Leave),
    /// As soon as its client is between two transactions: nothing is broken off.
    BetweenTransactions(Leave),
}

/// Whether a session on `target` must end under `topology`, and when.
///
/// Not because its server lags, looks unhealthy or is catching up: those pass, and new connections
/// go elsewhere meanwhile.
pub fn parting(target: &Target, topology: &Topology) -> Option<Parting> {
    if let Some(leave) = leave(target, topology) {
        return Some(Parting::AtOnce(leave));
    }
    let hands_over = target.seat == Seat::Primary && topology.phase == Phase::HandingOver;
    hands_over.then(|| {
        let (id, generation) = (target.id.clone(), topology.generation);
        Parting::BetweenTransactions(Leave::HandsOver { id, generation })
    })
}

/// Whether a server is no longer what a connection relies on it to be, and why.
fn leave(target: &Target, topology: &Topology) -> Option<Leave> {
    let generation = topology.generation;
    let id = target.id.clone();
    let primary = topology.primary.as_ref();
    let member = match (target.seat, primary) {
        // No primary at all: its own connection tells whether the server lives.
        (Seat::Primary, None) => return None,
        (Seat::Primary, Some(primary)) if primary.id != id => {
            return Some(Leave::PrimaryChanged { from: id, to: primary.id.clone(), generation });
        }
        (Seat::Primary, Some(primary)) => primary,
        (Seat::Standby, Some(primary)) if primary.id == id => {
            return Some(Leave::BecamePrimary { id, generation });
        }
        (Seat::Standby, _) => match topology.standbys().find(|member| member.id == id) {
            Some(member) => member,
            None => return Some(Leave::NoStandby { id, generation }),
        },
    };
    // An address that is not known for a moment is no other address.
    let to = member.address.clone().filter(|address| *address != target.address)?;
    Some(Leave::Moved { id, from: target.address.clone(), to, generation })
}

/// Whether a server that was chosen is still a right choice for a connection that is being made.
pub fn still_right(listener: Listener, target: &Target, topology: &Topology) -> bool {
    let open = match listener {
        Listener::Write => topology.phase == Phase::ReadWrite,
        Listener::Read => true,
    };
    open && leave(target, topology).is_none()
}

#[cfg(test)]
mod tests;
