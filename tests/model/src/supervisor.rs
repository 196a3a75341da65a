//! The supervisor of one server: one step towards the goal, and a look at what is there.

use dugong_machine::{
    Access, Data, Goal, Identity, Old, PrimaryGoal, PrimaryView, Room, Run, Server as Seen,
    StandbyGoal, Stop, SystemIdentifier, Upstream, Work,
};
use dugong_simulator::office::Office;
use dugong_simulator::{Bug, lie};
use dugong_topology::{Generation, History, Making, Position, Way};

use crate::server::{OWN, Primary, Process, Standby, Then, Waiter};
use crate::world::World;

impl World {
    /// One step towards the goal; whether there was one.
    pub(crate) fn pursue(&mut self, node: usize) -> bool {
        let Some(goal) = self.goal(node).cloned() else { return false };
        let before = self.nodes[node].clone();
        let server = &before.server;
        let died_in = before.controller.as_ref().and_then(|controller| controller.died_in);
        let died = matches!(&goal, Goal::Primary(goal) if Some(goal.life) <= died_in);
        let starts = matches!(goal, Goal::Primary(_) | Goal::Standby(_) | Goal::Sealed { .. });
        let nothing = starts && server.disk.identity.is_none();
        if server.process == Process::Down && (died || nothing) {
            return false;
        }
        let making = server.disk.identity.as_ref().map_or(0, |identity| identity.making);
        let runs = self.server_runs(node);
        match &goal {
            Goal::Down(Stop::Immediate) => self.fence(node),
            _ if !runs => (),
            Goal::Down(Stop::Fast) => self.stop_in_order(node),
            Goal::Initialised => match server.process {
                Process::Down if making == 0 => {
                    self.server(node).become_busy(Work::Initialising, Then::Initialised);
                }
                Process::Down | Process::Busy(..) => (),
                Process::Standby(_) | Process::Primary(_) => self.stop_in_order(node),
            },
            Goal::Copied { making: wanted, .. } if making >= *wanted => (),
            Goal::Copied { source, old, .. } => match server.process {
                Process::Down => self.make_anew(node, source, old),
                Process::Busy(Work::Copying { .. }, _) => (),
                Process::Busy(..) | Process::Standby(_) | Process::Primary(_) => self.fence(node),
            },
            Goal::Standby(goal) => self.stand_by(node, goal),
            Goal::Sealed { generation } => self.seal(node, *generation),
            Goal::Primary(goal) => self.preside(node, goal),
        }
        before != self.nodes[node]
    }

    /// A primary is killed, never asked to let its waiters go (R9).
    fn fence(&mut self, node: usize) {
        if self.has(Bug::ReleasedOnDemotion) {
            let end = self.nodes[node].server.disk.wal.len();
            self.release(node, end);
        }
        self.kill_server(node);
    }

    pub(crate) fn kill_server(&mut self, node: usize) {
        if self.nodes[node].server.process == Process::Down {
            return;
        }
        let life = self.life_wanted(node);
        if let Some(controller) = self.controller(node) {
            controller.died_in = life;
        }
        self.server(node).end();
        self.drop_dead_links();
    }

    /// A fast shutdown: whoever streams receives the shutdown checkpoint.
    fn stop_in_order(&mut self, node: usize) {
        match &self.nodes[node].server.process {
            Process::Down | Process::Busy(Work::Stopping, _) => (),
            Process::Busy(..) => self.kill_server(node),
            Process::Standby(_) => self.server(node).become_busy(Work::Stopping, Then::Stopped),
            Process::Primary(_) => {
                let server = self.server(node);
                let last = server.disk.end();
                server.disk.wal.push(OWN);
                for standby in self.all() {
                    self.receive(standby);
                }
                let server = self.server(node);
                server.become_busy(Work::Stopping, Then::Stopped);
                server.shut_down_at = Some(last);
                self.drop_dead_links();
            }
        }
    }

    fn serve(&mut self, node: usize, generation: Generation) {
        let identity = &self.nodes[node].server.disk.identity;
        if identity.as_ref().is_some_and(|identity| identity.generation < generation)
            && let Some(identity) = &mut self.server(node).disk.identity
        {
            identity.generation = generation;
        }
    }

    fn stand_by(&mut self, node: usize, goal: &StandbyGoal) {
        let upstream = goal.upstream.as_ref().map(|upstream| self.number_of(&upstream.id));
        self.serve(node, goal.generation);
        match &self.nodes[node].server.process {
            Process::Down => self.start(node),
            Process::Busy(Work::Copying { .. } | Work::Initialising, _) | Process::Primary(_) => {
                self.kill_server(node);
            }
            Process::Busy(..) => (),
            Process::Standby(standby) if standby.sealed || standby.upstream != upstream => {
                let same = standby.upstream == upstream;
                if let Some(standby) = self.server(node).standby_mut() {
                    let link = standby.link.take().filter(|_| same);
                    *standby = Standby { upstream, link, sealed: false };
                }
                self.drop_dead_links();
            }
            Process::Standby(_) => (),
        }
    }

    fn start(&mut self, node: usize) {
        let server = self.server(node);
        server.disk.standby = true;
        server.become_busy(Work::Starting, Then::Started);
    }

    fn seal(&mut self, node: usize, generation: Generation) {
        self.serve(node, generation);
        let early = self.has(Bug::EndBeforeSeal);
        match &self.nodes[node].server.process {
            Process::Down => self.start(node),
            Process::Standby(standby) if !standby.sealed => {
                if let Some(standby) = self.server(node).standby_mut() {
                    standby.sealed = true;
                    standby.link = standby.link.take().filter(|_| early);
                }
                self.drop_dead_links();
            }
            Process::Standby(_) | Process::Busy(..) | Process::Primary(_) => (),
        }
    }

    fn preside(&mut self, node: usize, goal: &PrimaryGoal) {
        self.serve(node, goal.generation);
        let names = lie::names_to_put(goal.names.clone(), |bug| self.has(bug));
        if self.nodes[node].server.configured != names {
            self.server(node).configured = names.clone();
        }
        match &self.nodes[node].server.process {
            Process::Down => self.server(node).become_busy(Work::Starting, Then::Started),
            Process::Busy(..) => (),
            Process::Standby(_) => {
                let twice = self.bugs.contains(&Bug::TimelineTwice);
                let timeline = (!twice).then_some(goal.timeline);
                self.server(node).become_busy(Work::Promoting, Then::Promoted { timeline });
                self.drop_dead_links();
            }
            Process::Primary(primary)
                if primary.access == goal.access && primary.names == names => {}
            Process::Primary(_) => {
                let server = self.server(node);
                let end = server.disk.wal.len();
                let Some(primary) = server.primary_mut() else { return };
                primary.access = goal.access;
                primary.admits |= goal.access == Access::ReadWrite;
                if primary.names != names {
                    primary.end_before = end;
                    primary.names = names;
                }
            }
        }
    }

    /// Whether slow work could be done now.
    pub(crate) fn may_finish(&self, node: usize) -> bool {
        let Process::Busy(_, then) = self.nodes[node].server.process else { return false };
        let possible = match then {
            Then::Copied { from } => {
                self.nodes[from].server.is_up()
                    && self.server_runs(from)
                    && self.reach_each_other(from, node)
            }
            Then::Initialised | Then::Started | Then::Promoted { .. } | Then::Stopped => true,
        };
        self.server_runs(node) && possible
    }

    /// Slow work is done.
    pub(crate) fn finish(&mut self, node: usize) {
        let Process::Busy(_, then) = self.nodes[node].server.process else { return };
        let careless = self.has(Bug::ClosedAdmits);
        match then {
            Then::Initialised => {
                let number = SystemIdentifier(u64::from(self.nodes[node].epoch) * 10 + node as u64);
                self.server(node).disk.wal.push(OWN);
                let at = self.nodes[node].server.disk.end();
                self.label(node, number, 1, Generation(0), at);
                self.server(node).end();
            }
            Then::Copied { from } => self.take_copy(node, from),
            Then::Stopped => {
                let last = self.nodes[node].server.shut_down_at;
                self.kill_server(node);
                self.server(node).shut_down_at = last;
            }
            Then::Started if self.nodes[node].server.disk.standby => {
                self.server(node).process = Process::Standby(Standby::default());
            }
            Then::Started => self.server(node).take_office(careless),
            Then::Promoted { timeline } => {
                let server = self.server(node);
                server.disk.branch_off(timeline);
                // All of its WAL is in every later primary's.
                server.take_office(true);
            }
        }
    }

    /// In place, by what the primary has, where that may be; else by a copy of `source`.
    fn make_anew(&mut self, node: usize, source: &Upstream, old: &Old) {
        let from = match old {
            Old::GivenUp { primary } => {
                let from = self.number_of(&primary.id);
                self.server(node).disk.given_up = self.history_of_prefix(node, from).is_none();
                from
            }
            Old::Untouched => self.number_of(&source.id),
        };
        self.server(node)
            .become_busy(Work::Copying(Making::begun(Way::Copy)), Then::Copied { from });
    }

    /// See [`lie::history_of_prefix`]; none of what has no data.
    fn history_of_prefix(&self, node: usize, from: usize) -> Option<History> {
        let (own, theirs) = (&self.nodes[node].server.disk, &self.nodes[from].server.disk);
        own.identity.as_ref()?;
        lie::history_of_prefix(&theirs.history, &own.history, own.end().lsn, |bug| self.has(bug))
    }

    fn take_copy(&mut self, node: usize, from: usize) {
        let Some(Goal::Copied { generation, making, old, .. }) = self.goal(node).cloned() else {
            return self.server(node).end();
        };
        let given_up = self.nodes[node].server.disk.given_up;
        let may = matches!(old, Old::GivenUp { .. }) && !given_up;
        let Some(origin) = self.nodes[from].server.disk.identity.clone() else {
            return self.server(node).end();
        };
        // A prefix needs nothing else: it follows.
        let adopted = may.then(|| self.history_of_prefix(node, from)).flatten();
        let whose = if adopted.is_some() { node } else { from };
        let mut disk = self.nodes[whose].server.disk.clone();
        disk.history = adopted.unwrap_or(disk.history);
        disk.standby = true;
        disk.given_up = false;
        let at = disk.end();
        let server = self.server(node);
        server.end();
        server.disk = disk;
        self.label(node, origin.system_identifier, making, generation, at);
    }

    fn label(
        &mut self,
        node: usize,
        system_identifier: SystemIdentifier,
        making: u32,
        made_in: Generation,
        made_at: Position,
    ) {
        let instance = self.ids[node].clone();
        self.server(node).disk.identity = Some(Identity {
            instance,
            cluster: "main".to_owned(),
            system_identifier,
            generation: made_in,
            making,
            made_in,
            made_at,
        });
    }

    /// What a fresh look shows.
    pub(crate) fn look(&self, node: usize) -> Seen {
        let server = &self.nodes[node].server;
        let data = server.disk.identity.clone().map_or(Data::Empty, Data::Own);
        let history = lie::history(&server.disk.history, |bug| self.has(bug));
        let run = match &server.process {
            Process::Down => Run::Down,
            // A server that does not answer is neither up nor down.
            _ if !self.server_runs(node) => Run::Busy(Work::Starting),
            Process::Busy(work, _) => Run::Busy(*work),
            Process::Standby(standby) => server.look_at_standby(&self.ids, standby, history),
            Process::Primary(primary) => Run::Primary(self.look_at_primary(node, primary, history)),
        };
        let shut_down_at = server.shut_down_at.filter(|_| run == Run::Down);
        Seen { data, run, room: Room::Enough, shut_down_at, trouble: None }
    }

    fn look_at_primary(&self, node: usize, primary: &Primary, history: History) -> PrimaryView {
        let server = &self.nodes[node].server;
        let is_client = |(_, waiter): &&(usize, Waiter)| matches!(waiter, Waiter::Client(_));
        let office = Office {
            names: &primary.names,
            heeded: primary.heeded,
            access: primary.access,
            history,
            end: server.disk.wal.len(),
            end_before: primary.end_before,
            waiting: primary.waiters.iter().filter(is_client).count(),
        };
        office.view(&server.senders, &self.ids, self.goal(node), |bug| self.has(bug))
    }
}
