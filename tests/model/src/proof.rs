//! Mistakes that exploration finds, and the few faults that it takes.

use dugong_simulator::Bug;

use crate::cluster::{Grain, Scope};
use crate::trouble::{Fault, Trouble};

/// Where one mistake shows.
pub(crate) struct Proof {
    /// More than one: the first shows only where the others break the rule before it.
    pub(crate) bugs: &'static [Bug],
    faults: &'static [Fault],
    /// Writes of clients at any moment.
    writes: u8,
    grain: Grain,
}

const CHANGE_OF_SYNC: &[Fault] = &[Fault::Switchover(Some(2)), Fault::KillServer(0)];
const LATE_RENEWAL: &[Fault] = &[
    Fault::Begins(Trouble::ControllerPaused(0)),
    Fault::Begins(Trouble::NoStore(0)),
    Fault::Begins(Trouble::NoLink(0, 1)),
];
const BOTH_LEASES: &[Fault] =
    &[Fault::Begins(Trouble::ControllerPaused(0)), Fault::Begins(Trouble::Isolated(0))];
const RESTARTED_SYNC: &[Fault] = &[
    Fault::Begins(Trouble::Isolated(0)),
    Fault::KillController(1),
    Fault::Begins(Trouble::NoStore(0)),
];
const ONE_LEASE: &[Fault] = &[Fault::Begins(Trouble::NoStore(0))];
const SERVER_HANGS: &[Fault] = &[Fault::Begins(Trouble::ServerPaused(0))];
const ALONE: &[Fault] = &[Fault::Begins(Trouble::Isolated(0))];

/// Of a cluster of three, pg-1 being its primary. Beside them the simulator finds what takes more
/// faults than can be explored.
#[rustfmt::skip]
pub(crate) const PROOFS: &[Proof] = &[
    proof(&[Bug::EndBeforeNames],     CHANGE_OF_SYNC, 1, Grain::Coarse),
    proof(&[Bug::HalfReloaded],       CHANGE_OF_SYNC, 1, Grain::Coarse),
    proof(&[Bug::SessionFromAnswer],  LATE_RENEWAL,   0, Grain::Coarse),
    proof(&[Bug::NoWarden],           BOTH_LEASES,    0, Grain::Coarse),
    proof(&[Bug::LinkIgnored],        ONE_LEASE,      0, Grain::Fine),
    // At this grain nobody finds `link-ignored` by itself.
    proof(&[Bug::EndBeforeSeal, Bug::LinkIgnored], ONE_LEASE, 0, Grain::Coarse),
    proof(&[Bug::ReleasedOnDemotion], SERVER_HANGS,   0, Grain::Coarse),
    proof(&[Bug::NamesEmpty],         ALONE,          0, Grain::Coarse),
    proof(&[Bug::LateDeclaration],    RESTARTED_SYNC, 0, Grain::Swift),
];

const fn proof(bugs: &'static [Bug], faults: &'static [Fault], writes: u8, grain: Grain) -> Proof {
    Proof { bugs, faults, writes, grain }
}

impl Proof {
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            size: 3,
            faults: u8::try_from(self.faults.len()).expect("few faults"),
            span: 8,
            writes: self.writes,
            grain: self.grain,
            kinds: self.faults.to_vec(),
            first: self.faults.to_vec(),
            bugs: self.bugs.to_vec(),
        }
    }
}
