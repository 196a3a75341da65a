//! What goes wrong.

use std::fmt;

use dugong_machine::{Ask, Switchover};
use std::time::Duration;

use crate::world::World;

/// Something that goes wrong, at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    KillServer(usize),
    KillController(usize),
    /// It lasts until it is healed.
    Begins(Trouble),
    /// No fault, but as good a reason for a change: to the sync, or by way of it to another one.
    Switchover(Option<usize>),
}

/// Something that is wrong, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Trouble {
    StoreDown,
    /// An instance reaches nobody but clients.
    Isolated(usize),
    /// An instance does not reach the store.
    NoStore(usize),
    /// Two instances do not reach each other.
    NoLink(usize, usize),
    ControllerPaused(usize),
    ServerPaused(usize),
    MachinePaused(usize),
    PowerOff(usize),
}

impl Fault {
    /// Every fault that a cluster of `size` can have.
    pub(crate) fn all(size: usize) -> Vec<Self> {
        let mut all = vec![Self::Switchover(None), Self::Begins(Trouble::StoreDown)];
        for node in 0..size {
            all.push(Self::Switchover(Some(node)));
            all.extend([Self::KillServer(node), Self::KillController(node)]);
            let troubles = [
                Trouble::Isolated(node),
                Trouble::NoStore(node),
                Trouble::ControllerPaused(node),
                Trouble::ServerPaused(node),
                Trouble::MachinePaused(node),
                Trouble::PowerOff(node),
            ];
            all.extend(troubles.map(Self::Begins));
            all.extend((0..node).map(|other| Self::Begins(Trouble::NoLink(other, node))));
        }
        all
    }
}

impl World {
    fn suffers(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    pub(crate) fn controller_runs(&self, node: usize) -> bool {
        self.nodes[node].controller.is_some()
            && !self.suffers(Trouble::ControllerPaused(node))
            && !self.suffers(Trouble::MachinePaused(node))
    }

    pub(crate) fn server_runs(&self, node: usize) -> bool {
        !self.suffers(Trouble::ServerPaused(node)) && self.warden_runs(node)
    }

    pub(crate) fn warden_runs(&self, node: usize) -> bool {
        !self.suffers(Trouble::MachinePaused(node))
    }

    pub(crate) fn has_power(&self, node: usize) -> bool {
        !self.suffers(Trouble::PowerOff(node))
    }

    pub(crate) fn reaches_store(&self, node: usize) -> bool {
        !self.suffers(Trouble::StoreDown)
            && !self.suffers(Trouble::Isolated(node))
            && !self.suffers(Trouble::NoStore(node))
            && self.warden_runs(node)
    }

    pub(crate) fn reach_each_other(&self, one: usize, other: usize) -> bool {
        !self.suffers(Trouble::Isolated(one))
            && !self.suffers(Trouble::Isolated(other))
            && !self.suffers(Trouble::NoLink(one.min(other), one.max(other)))
    }

    /// Whether it would change anything.
    pub(crate) fn can_suffer(&self, fault: Fault) -> bool {
        match fault {
            Fault::KillServer(node) => self.nodes[node].server.is_up(),
            Fault::KillController(node) => self.nodes[node].controller.is_some(),
            Fault::Begins(trouble) => !self.suffers(trouble),
            Fault::Switchover(_) => {
                let snapshot = &self.store.snapshot;
                snapshot.requests.is_empty() && snapshot.outcomes.is_empty()
            }
        }
    }

    pub(crate) fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::KillServer(node) => self.kill_server(node),
            Fault::KillController(node) => self.kill_controller(node),
            Fault::Begins(trouble) => {
                if let Trouble::PowerOff(node) = trouble {
                    self.kill_controller(node);
                }
                if let Trouble::ControllerPaused(node) | Trouble::MachinePaused(node) = trouble
                    && self.controller_runs(node)
                    && self.reaches_store(node)
                    && self.store.renew(self.now, node)
                {
                    // At worst a renewal was on its way: the answer waits for the controller.
                    let now = self.now;
                    if let Some(controller) = self.controller(node) {
                        controller.renewed = Some(now);
                    }
                }
                self.troubles.push(trouble);
                self.troubles.sort();
            }
            Fault::Switchover(to) => {
                if let Some(record) = self.store.record() {
                    let from = record.primary.clone();
                    let (drain, deadline) = (Duration::from_secs(1), Duration::from_secs(3));
                    let to = to.map(|to| self.ids[to].clone());
                    self.store.ask(Ask::Switchover(Switchover { from, to, drain, deadline }));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self, trouble: Trouble) {
        self.troubles.retain(|other| *other != trouble);
        match trouble {
            Trouble::ControllerPaused(node) => self.wake(node),
            // Whoever wakes up looks at the time before anything else: the warden first.
            Trouble::MachinePaused(node) => {
                self.look_at_lease(node);
                self.wake(node);
            }
            Trouble::StoreDown
            | Trouble::Isolated(_)
            | Trouble::NoStore(_)
            | Trouble::NoLink(..)
            | Trouble::ServerPaused(_)
            | Trouble::PowerOff(_) => (),
        }
    }

    fn kill_controller(&mut self, node: usize) {
        self.kill_server(node);
        let node = self.node(node);
        let epoch = node.epoch;
        if let Some(controller) = node.controller.take()
            && let Some(declared) = controller.declared.clone()
        {
            node.late = Some((epoch, declared));
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillServer(node) => write!(f, "pg-{}: server killed", node + 1),
            Self::KillController(node) => write!(f, "pg-{}: controller killed", node + 1),
            Self::Begins(trouble) => write!(f, "{trouble}"),
            Self::Switchover(None) => f.write_str("switchover asked for"),
            Self::Switchover(Some(to)) => write!(f, "switchover to pg-{} asked for", to + 1),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, what) = match self {
            Self::StoreDown => return f.write_str("store down"),
            Self::NoLink(one, other) => {
                return write!(f, "pg-{} and pg-{} cut off from each other", one + 1, other + 1);
            }
            Self::Isolated(node) => (node, "cut off from everybody"),
            Self::NoStore(node) => (node, "cut off from the store"),
            Self::ControllerPaused(node) => (node, "controller paused"),
            Self::ServerPaused(node) => (node, "server paused"),
            Self::MachinePaused(node) => (node, "machine paused"),
            Self::PowerOff(node) => (node, "power off"),
        };
        write!(f, "pg-{}: {what}", node + 1)
    }
}
