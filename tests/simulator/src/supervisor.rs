//! The supervisor of one server: compares the goal with what is there, again and again.

use std::time::Duration;

use dugong_machine::{
    Access, Data, Event, Goal, Identity, Names, Old, PrimaryGoal, PrimaryView, Receiver, Room, Run,
    Server as Seen, StandbyGoal, StandbyView, Stop, SystemIdentifier, Upstream, Work,
};
use dugong_topology::{Generation, History, Making, Position, Way};

use crate::bug::Bug;
use crate::checker::Violation;
use crate::client::Reply;
use crate::happening::{Happening, Message, OnLink};
use crate::lie;
use crate::network::{Channel, Place};
use crate::office::Office;
use crate::postgres::{CHECKPOINTER, Disk, Primary, Process, Standby, Then, Waiter};
use crate::wal::lsn;
use crate::world::World;

/// An observation that says nothing new is repeated this often.
const REPEAT: Duration = Duration::from_millis(400);

impl World {
    pub(crate) fn supervise(&mut self, node: usize, epoch: u32) -> Result<(), Violation> {
        if !self.is_current(node, epoch) {
            return Ok(());
        }
        self.pursue(node);
        let asleep = self.instances[node].server_paused > self.now;
        let seen = if asleep { self.silence(node) } else { self.look(node) };
        let busy = matches!(seen.run, Run::Busy(_)) && !asleep;
        let now = self.now;
        let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
        let news = controller
            .observed
            .as_ref()
            .is_none_or(|(before, at)| *before != seen || now.since(*at) > REPEAT);
        // One chain of looks at a time: a poke between two of them does not begin another.
        let pause = if busy { self.dice.between(10, 30) } else { self.dice.between(40, 120) };
        if news {
            controller.observed = Some((seen.clone(), now));
            self.feed(node, Event::Observed(seen))?;
        }
        self.look_again(node, epoch, pause);
        Ok(())
    }

    fn look_again(&mut self, node: usize, epoch: u32, pause: u64) {
        let at = self.now.after(Duration::from_millis(pause));
        let next = &mut self.instances[node].next_look;
        if *next <= self.now || *next > at {
            *next = at;
            self.at(at, Happening::Supervise(node, epoch));
        }
    }

    /// A server that does not answer is neither up nor down.
    fn silence(&self, node: usize) -> Seen {
        let seen = self.look(node);
        let run = if seen.run == Run::Down { Run::Down } else { Run::Busy(Work::Starting) };
        Seen { run, trouble: Some("the server does not answer".to_owned()), ..seen }
    }

    /// One step towards the goal.
    fn pursue(&mut self, node: usize) {
        let Some(controller) = &self.instances[node].controller else { return };
        let Some(goal) = controller.goal.clone() else { return };
        let died = matches!(&goal, Goal::Primary(goal) if Some(goal.life) <= controller.died_in);
        let server = &self.instances[node].server;
        let starts = matches!(goal, Goal::Primary(_) | Goal::Standby(_) | Goal::Sealed { .. });
        let nothing = starts && server.disk.identity.is_none();
        if matches!(server.process, Process::Down) && (died || nothing) {
            return;
        }
        let making = server.disk.identity.as_ref().map_or(0, |identity| identity.making);
        let asleep = self.instances[node].server_paused > self.now;
        match goal {
            Goal::Down(Stop::Immediate) => self.fence(node, "at once, as wanted"),
            _ if asleep => (),
            Goal::Down(Stop::Fast) => self.stop_in_order(node),
            Goal::Initialised => match server.process {
                Process::Down if making == 0 => {
                    self.work(node, Work::Initialising, Then::Initialised, 100, 900);
                }
                Process::Down | Process::Busy(..) => (),
                Process::Standby(_) | Process::Primary(_) => self.stop_in_order(node),
            },
            Goal::Copied { making: wanted, .. } if making >= wanted => (),
            Goal::Copied { source, old, .. } => match server.process {
                Process::Down => self.make_anew(node, &source, &old),
                Process::Busy(Work::Copying { .. }, _) => (),
                Process::Busy(..) | Process::Standby(_) | Process::Primary(_) => {
                    self.fence(node, "at once, as wanted");
                }
            },
            Goal::Standby(goal) => self.stand_by(node, &goal),
            Goal::Sealed { generation } => self.seal(node, generation),
            Goal::Primary(goal) => self.preside(node, &goal),
        }
    }

    /// A primary is stopped: killed, never asked to let its waiters go (R9).
    pub(crate) fn fence(&mut self, node: usize, why: &str) {
        if self.has(Bug::ReleasedOnDemotion)
            && let Some(primary) = self.instances[node].server.primary()
        {
            for (_, waiter) in std::mem::take(&mut primary.waiters) {
                self.answer(node, waiter);
            }
        }
        self.kill_server(node, why);
    }

    /// A fast shutdown: sessions end, standbys receive the shutdown checkpoint.
    fn stop_in_order(&mut self, node: usize) {
        match &self.instances[node].server.process {
            Process::Down | Process::Busy(Work::Stopping, _) => (),
            Process::Busy(..) => self.kill_server(node, "while it was on its way"),
            Process::Standby(_) => self.work(node, Work::Stopping, Then::Stopped, 5, 100),
            Process::Primary(_) => {
                let entry = self.own_entry();
                self.break_sessions(node);
                let disk = &mut self.instances[node].server.disk;
                disk.flushed = disk.wal.len();
                let last = disk.end();
                disk.flushed = disk.append(&[entry]);
                self.push_wal(node);
                self.work(node, Work::Stopping, Then::Stopped, 10, 300);
                self.instances[node].server.shut_down_at = Some(last);
            }
        }
    }

    fn serve(&mut self, node: usize, generation: Generation) {
        if let Some(identity) = &mut self.instances[node].server.disk.identity {
            identity.generation = identity.generation.max(generation);
        }
    }

    fn stand_by(&mut self, node: usize, goal: &StandbyGoal) {
        let upstream = goal.upstream.as_ref().map(|upstream| self.number_of(&upstream.id));
        self.serve(node, goal.generation);
        match &mut self.instances[node].server.process {
            Process::Down => self.start(node),
            Process::Busy(Work::Copying { .. } | Work::Initialising, _) => {
                self.kill_server(node, "no longer wanted");
            }
            Process::Busy(..) => (),
            Process::Primary(_) => self.kill_server(node, "a primary becomes no standby"),
            Process::Standby(standby) => {
                standby.sealed = false;
                if standby.upstream != upstream {
                    standby.upstream = upstream;
                    self.hang_up(node);
                }
                self.connect(node);
            }
        }
    }

    fn start(&mut self, node: usize) {
        self.instances[node].server.disk.standby = true;
        self.work(node, Work::Starting, Then::Started, 20, 600);
    }

    fn seal(&mut self, node: usize, generation: Generation) {
        self.serve(node, generation);
        let early = self.has(Bug::EndBeforeSeal);
        match &mut self.instances[node].server.process {
            Process::Down => self.start(node),
            Process::Standby(standby) => {
                let news = !std::mem::replace(&mut standby.sealed, true);
                if !early {
                    self.hang_up(node);
                }
                if news {
                    self.turn();
                }
            }
            Process::Busy(..) | Process::Primary(_) => (),
        }
    }

    fn preside(&mut self, node: usize, goal: &PrimaryGoal) {
        self.serve(node, goal.generation);
        let names = lie::names_to_put(goal.names.clone(), |bug| self.has(bug));
        let server = &mut self.instances[node].server;
        server.configured.clone_from(&names);
        match &mut server.process {
            Process::Down => self.work(node, Work::Starting, Then::Started, 20, 600),
            Process::Busy(..) => (),
            Process::Standby(_) => {
                self.hang_up(node);
                let timeline = (!self.has(Bug::TimelineTwice)).then_some(goal.timeline);
                self.work(node, Work::Promoting, Then::Promoted { timeline }, 5, 400);
            }
            Process::Primary(primary) => {
                if primary.access != goal.access {
                    primary.access = goal.access;
                    let open = goal.access == Access::ReadWrite;
                    primary.admits |= open;
                    let how = if open { "open" } else { "closed" };
                    self.tell(|| format!("pg-{} server is {how}", node + 1));
                    self.turn();
                }
                self.put_in_force(node, names);
            }
        }
    }

    /// New names: every WAL sender learns of them a little later.
    fn put_in_force(&mut self, node: usize, names: Names) {
        let server = &mut self.instances[node].server;
        let (epoch, end) = (server.epoch, server.disk.flushed);
        let Some(primary) = server.primary() else { return };
        if primary.names == names {
            return;
        }
        primary.end_before = end;
        primary.names = names;
        let senders = server.senders.iter().map(|sender| sender.connection);
        for connection in senders.chain([CHECKPOINTER]).collect::<Vec<u64>>() {
            // At once, or when a sender that is stuck in its socket gets to it.
            let most = if self.dice.chance(80) { 40 } else { 1_500 };
            let delay = self.dice.between(1, most);
            self.after_ms(delay, Happening::Reloaded(node, epoch, connection));
        }
    }

    fn work(&mut self, node: usize, work: Work, then: Then, least: u64, most: u64) {
        let server = &mut self.instances[node].server;
        server.begin(work, then);
        let epoch = server.epoch;
        let ms = self.dice.between(least, most);
        self.after_ms(ms, Happening::Work(node, epoch));
    }

    /// Slow work is done.
    pub(crate) fn work_done(&mut self, node: usize, epoch: u32) {
        let server = &mut self.instances[node].server;
        let Process::Busy(_, then) = server.process else { return };
        if server.epoch != epoch {
            return;
        }
        match then {
            Then::Initialised => {
                let entry = self.own_entry();
                let number = self.unique();
                let server = &mut self.instances[node].server;
                server.disk.flushed = server.disk.append(&[entry]);
                let at = server.disk.end();
                self.label(node, SystemIdentifier(number), 1, Generation(0), at);
                self.instances[node].server.end();
            }
            Then::Copied { from } => self.take_copy(node, from),
            Then::Stopped => {
                let last = server.shut_down_at;
                self.kill_server(node, "stopped in order");
                self.instances[node].server.shut_down_at = last;
            }
            Then::Started if server.disk.standby => {
                server.process = Process::Standby(Standby::default());
            }
            Then::Started => self.take_office(node),
            Then::Promoted { timeline } => {
                let entry = self.own_entry();
                let disk = &mut self.instances[node].server.disk;
                disk.flushed = disk.wal.len();
                disk.branch_off(timeline, entry);
                disk.standby = false;
                self.take_office(node);
            }
        }
        self.poke(node);
    }

    /// Out of recovery: everything in the WAL is seen, acknowledged or not.
    fn take_office(&mut self, node: usize) {
        let entry = self.own_entry();
        let careless = self.has(Bug::ClosedAdmits);
        let server = &mut self.instances[node].server;
        // After a promotion all of its WAL is in every later primary's.
        let admits = careless || matches!(server.process, Process::Busy(_, Then::Promoted { .. }));
        server.disk.flushed = server.disk.append(&[entry]);
        let visible = server.disk.wal.len();
        server.process = Process::Primary(Box::new(Primary {
            heeded: server.configured != Names::OneNode,
            names: server.configured.clone(),
            access: Access::ReadOnly,
            admits,
            visible,
            waiters: Vec::new(),
            end_before: visible,
        }));
        let end = server.disk.end();
        self.tell(|| format!("pg-{} server is out of recovery at {end}", node + 1));
        self.turn();
    }

    /// By a copy of `source`; or in place, by what the primary has, where that may be.
    fn make_anew(&mut self, node: usize, source: &Upstream, old: &Old) {
        let rewinds = self.dice.chance(50);
        let from = match old {
            Old::GivenUp { primary } if rewinds => {
                let from = self.number_of(&primary.id);
                let follows_on = self.history_of_prefix(node, from).is_some();
                self.instances[node].server.disk.given_up = !follows_on;
                from
            }
            Old::GivenUp { .. } | Old::Untouched => self.number_of(&source.id),
        };
        let work = Work::Copying(Making::begun(Way::Copy));
        self.work(node, work, Then::Copied { from }, 100, 2_500);
    }

    /// See [`lie::history_of_prefix`].
    fn history_of_prefix(&self, node: usize, from: usize) -> Option<History> {
        let (own, theirs) = (&self.instances[node].server.disk, &self.instances[from].server.disk);
        lie::history_of_prefix(&theirs.history, &own.history, own.end().lsn, |bug| self.has(bug))
    }

    fn take_copy(&mut self, node: usize, from: usize) {
        let source = &self.instances[from];
        let there = source.server.is_up() && source.server_paused <= self.now;
        let pair = (Place::Instance(from), Place::Instance(node));
        let reached = self.network.arrival(&mut self.dice, self.now, pair, Channel::Client(0));
        let Some((goal_generation, making)) = self.copy_wanted(node) else {
            return self.instances[node].server.end();
        };
        let Some(origin) = source.server.disk.identity.clone().filter(|_| there) else {
            return self.instances[node].server.end();
        };
        if reached.is_none() {
            return self.instances[node].server.end();
        }
        let theirs = &source.server.disk;
        let own = &self.instances[node].server.disk;
        let may_adopt = self.may_give_up(node) && own.identity.is_some() && !own.given_up;
        let adopted = may_adopt.then(|| self.history_of_prefix(node, from)).flatten();
        let how = if adopted.is_some() { "has a prefix of" } else { "is a copy of" };
        // A prefix needs nothing else: it follows.
        let mut disk =
            adopted.map_or_else(|| theirs.clone(), |history| Disk { history, ..own.clone() });
        disk.lose_after(disk.flushed);
        disk.standby = true;
        disk.given_up = false;
        let at = disk.end();
        self.instances[node].server.end();
        self.instances[node].server.disk = disk;
        self.label(node, origin.system_identifier, making, goal_generation, at);
        self.tell(|| format!("pg-{} {how} pg-{} at {at}", node + 1, from + 1));
    }

    fn may_give_up(&self, node: usize) -> bool {
        matches!(self.goal(node), Some(Goal::Copied { old: Old::GivenUp { .. }, .. }))
    }

    fn copy_wanted(&self, node: usize) -> Option<(Generation, u32)> {
        match self.goal(node)? {
            Goal::Copied { generation, making, .. } => Some((*generation, *making)),
            Goal::Down(_)
            | Goal::Initialised
            | Goal::Primary(_)
            | Goal::Standby(_)
            | Goal::Sealed { .. } => None,
        }
    }

    /// Writes what the data directory knows about itself.
    fn label(
        &mut self,
        node: usize,
        system_identifier: SystemIdentifier,
        making: u32,
        made_in: Generation,
        made_at: Position,
    ) {
        self.instances[node].server.disk.identity = Some(Identity {
            instance: self.ids[node].clone(),
            cluster: "main".to_owned(),
            system_identifier,
            generation: made_in,
            making,
            made_in,
            made_at,
        });
    }

    /// Looks at the server soon.
    pub(crate) fn poke(&mut self, node: usize) {
        let epoch = self.instances[node].epoch;
        let us = self.dice.between(200, 5_000);
        self.after_us(us, Happening::Supervise(node, epoch));
    }

    /// No process is left, and what was not flushed is gone.
    pub(crate) fn kill_server(&mut self, node: usize, why: &str) {
        if matches!(self.instances[node].server.process, Process::Down) {
            return;
        }
        self.tell(|| format!("pg-{} server is ended {why}", node + 1));
        self.turn();
        if let Some(controller) = &mut self.instances[node].controller {
            controller.died_in = match &controller.goal {
                Some(Goal::Primary(goal)) => Some(goal.life),
                _ => None,
            };
        }
        self.break_sessions(node);
        self.hang_up(node);
        for sender in std::mem::take(&mut self.instances[node].server.senders) {
            let message = Message::Wal(sender.connection, OnLink::Closed);
            let to = Place::Instance(sender.standby);
            self.send(Place::Instance(node), to, Channel::Wal, message);
        }
        self.end_process(node);
        self.poke(node);
    }

    /// The process ends without a word to anybody.
    pub(crate) fn end_process(&mut self, node: usize) {
        let instance = &mut self.instances[node];
        // Only the machine's sleep outlives a process.
        instance.server_paused = instance.machine_paused;
        let server = &mut instance.server;
        server.end();
        server.shut_down_at = None;
        let kept = self.dice.between(server.disk.flushed as u64, server.disk.wal.len() as u64 + 1);
        let disk = &mut self.instances[node].server.disk;
        disk.lose_after(usize::try_from(kept).expect("below a usize"));
        disk.flushed = disk.wal.len();
    }

    /// Clients that wait learn that their connections are gone.
    fn break_sessions(&mut self, node: usize) {
        let Some(primary) = self.instances[node].server.primary() else { return };
        for (_, waiter) in std::mem::take(&mut primary.waiters) {
            if let Waiter::Client { client, operation } = waiter {
                self.reply(node, client, operation, Reply::Broken);
            }
        }
    }

    /// What a fresh look shows.
    fn look(&self, node: usize) -> Seen {
        let server = &self.instances[node].server;
        let disk = &server.disk;
        let data = disk.identity.clone().map_or(Data::Empty, Data::Own);
        let history = lie::history(&disk.history, |bug| self.has(bug));
        let run = match &server.process {
            Process::Down => Run::Down,
            Process::Busy(work, _) => Run::Busy(*work),
            Process::Standby(standby) => {
                let receiver = match (standby.sealed, standby.streams()) {
                    (true, _) if disk.flushed < disk.wal.len() => Receiver::Stopped,
                    (true, _) => Receiver::Sealed,
                    (false, true) => Receiver::Streaming,
                    (false, false) => Receiver::Stopped,
                };
                Run::Standby(StandbyView {
                    upstream: standby.upstream.map(|upstream| self.ids[upstream].clone()),
                    receiver,
                    history,
                    flushed: lsn(disk.flushed),
                    replayed: lsn(disk.flushed),
                    lag: None,
                })
            }
            Process::Primary(primary) => Run::Primary(self.look_at_primary(node, primary, history)),
        };
        let shut_down_at = server.shut_down_at.filter(|_| run == Run::Down);
        Seen { data, run, room: Room::Enough, shut_down_at, trouble: None }
    }

    fn look_at_primary(&self, node: usize, primary: &Primary, history: History) -> PrimaryView {
        let server = &self.instances[node].server;
        let office = Office {
            names: &primary.names,
            heeded: primary.heeded,
            access: primary.access,
            history,
            end: server.disk.flushed,
            end_before: primary.end_before,
            waiting: primary.waiters.len(),
        };
        office.view(&server.senders, &self.ids, self.goal(node), |bug| self.has(bug))
    }
}
