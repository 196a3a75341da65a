//! Faults as they strike, and what is left of them when they are over.

use std::time::Duration;

use dugong_machine::{Ask, Event, Switchover};
use dugong_topology::Freeze;

use crate::bug::Bug;
use crate::checker::Violation;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::moment::Moment;
use crate::network::{Cut, Fate, Places};
use crate::postgres::Disk;
use crate::world::{Instance, World};

impl World {
    pub(crate) fn strike(&mut self, number: usize) {
        let (_, fault) = self.scenario.faults[number];
        let fault = match (fault, self.is_whole() && self.is_calm()) {
            (Fault::DestroyData(node), false) => Fault::KillServer(node),
            (fault, _) => fault,
        };
        self.counts.faults[fault.kind()] += 1;
        self.tell(|| format!("** {fault}"));
        let until = self.now.after(fault.span());
        match fault {
            Fault::KillServer(node) => self.kill_server(node, "by SIGKILL"),
            Fault::KillController(node, _) => self.kill_controller(node, until),
            Fault::Restart(node, _) => {
                self.instances[node].away_until = until;
                let epoch = self.instances[node].epoch;
                self.after_ms(0, Happening::Leave(node, epoch));
            }
            Fault::PowerLoss(node, _) => {
                let instance = &mut self.instances[node];
                (instance.away_until, instance.off_until) = (until, until);
                instance.controller = None;
                instance.lease = None;
                self.end_process(node);
            }
            Fault::PauseController(node, _) => self.pause(node, until, Paused::Controller),
            Fault::PauseServer(node, _) => self.pause(node, until, Paused::Server),
            Fault::PauseMachine(node, _) => {
                self.pause(node, until, Paused::Controller);
                self.pause(node, until, Paused::Server);
                self.instances[node].machine_paused = until;
            }
            Fault::CutLink(from, to, fate, _) => {
                self.cut(Places::just(&[from]), Places::just(&[to]), until, fate);
            }
            Fault::CutPair(a, b, fate, _) => {
                let (a, b) = (Places::just(&[a]), Places::just(&[b]));
                self.cut(a, b, until, fate);
                self.cut(b, a, until, fate);
            }
            Fault::Split(places, fate, _) => {
                self.cut(places, places.others(), until, fate);
                self.cut(places.others(), places, until, fate);
            }
            Fault::StoreDown(_) => self.store.down_until = until,
            Fault::SlowNetwork(factor, _) => self.network.slow_down(until, factor),
            Fault::DestroyData(node) => {
                self.end_process(node);
                self.instances[node].server.disk = Disk::empty();
                self.poke(node);
            }
            Fault::Drift(node, rate) => self.instances[node].clock.drift(self.now, rate),
            Fault::Switchover(to) => self.ask_for_switchover(to),
            Fault::Freeze(_) => self.store.freeze(Some(Freeze {
                by: "a fault".to_owned(),
                why: "to see what happens".to_owned(),
                since: String::new(),
            })),
        }
        if fault.span() > Duration::ZERO {
            self.at(until, Happening::Healed(number));
        }
    }

    pub(crate) fn heal(&mut self, number: usize) -> Result<(), Violation> {
        let (_, fault) = self.scenario.faults[number];
        self.tell(|| format!("-- over: {fault}"));
        match fault {
            Fault::KillController(node, _)
            | Fault::Restart(node, _)
            | Fault::PowerLoss(node, _) => self.begin_controller(node)?,
            // Whoever wakes up looks at the time before anything else.
            Fault::PauseMachine(node, _) => {
                if self.instances[node].lease.is_some() {
                    self.lease_end(node);
                }
                self.awake(node)?;
            }
            Fault::PauseController(node, _) => self.awake(node)?,
            Fault::Freeze(_) => self.store.freeze(None),
            Fault::StoreDown(_) => self.after_ms(0, Happening::Push),
            Fault::KillServer(_)
            | Fault::PauseServer(..)
            | Fault::CutLink(..)
            | Fault::CutPair(..)
            | Fault::Split(..)
            | Fault::SlowNetwork(..)
            | Fault::DestroyData(_)
            | Fault::Switchover(_)
            | Fault::Drift(..) => (),
        }
        // A watch that was cut is taken up again.
        self.after_ms(100, Happening::Push);
        Ok(())
    }

    /// Nothing else is wrong. A disk is destroyed only then: where the only others that have a write
    /// are out of reach, it is an operator's case (R13).
    fn is_calm(&mut self) -> bool {
        let now = self.now;
        let asleep = |instance: &Instance| {
            instance.controller_paused.max(instance.server_paused).max(instance.off_until) > now
        };
        self.store.down_until <= now
            && !self.network.is_cut(now)
            && !self.instances.iter().any(asleep)
    }

    fn awake(&mut self, node: usize) -> Result<(), Violation> {
        let asleep = self.instances[node].controller_paused > self.now;
        if asleep { Ok(()) } else { self.feed(node, Event::Tick) }
    }

    fn ask_for_switchover(&mut self, to: Option<usize>) {
        let Some(record) = self.store.record() else { return };
        let from = record.primary.clone();
        let drain = Duration::from_millis(self.dice.between(0, 3_000));
        let deadline = Duration::from_millis(self.dice.between(1_000, 10_000));
        let to = to.map(|to| self.ids[to].clone());
        self.store.ask(Ask::Switchover(Switchover { from, to, drain, deadline }));
    }

    fn kill_controller(&mut self, node: usize, until: Moment) {
        let instance = &mut self.instances[node];
        instance.controller = None;
        instance.lease = None;
        // Only the machine's sleep outlives a process.
        instance.controller_paused = instance.machine_paused;
        instance.away_until = until;
        if !self.has(Bug::Orphan) {
            self.kill_server(node, "with its controller");
        }
    }

    fn pause(&mut self, node: usize, until: Moment, what: Paused) {
        let instance = &mut self.instances[node];
        let paused = match what {
            Paused::Controller => &mut instance.controller_paused,
            Paused::Server => &mut instance.server_paused,
        };
        *paused = until.max(*paused);
    }

    fn cut(&mut self, from: Places, to: Places, until: Moment, fate: Fate) {
        self.network.cut(Cut { from, to, until, fate });
    }
}

enum Paused {
    Controller,
    Server,
}
