//! One world: instances, a store, a network, clients, and a queue of what happens next.
//!
//! Virtual time: the next thing in the queue happens at once. Everything follows from the scenario
//! and its seed. The `impl`s of [`World`] stand beside what they are about: `controller.rs` drives
//! the production machine, `supervisor.rs` a server, `replication.rs` the WAL between them,
//! `client.rs` clients and proxies, `trouble.rs` the faults.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use dugong_machine::{Bootstrap, Record, Settings, Time};
use dugong_topology::{InstanceId, Revision};

use crate::bug::Bug;
use crate::checker::{Checker, Violation};
use crate::client::{Client, Proxy};
use crate::controller::Controller;
use crate::dice::Dice;
use crate::fault::{KINDS, Scenario, When};
use crate::happening::{Happening, Message, Queue};
use crate::moment::{Clock, Moment};
use crate::network::{Channel, Network, Place};
use crate::postgres::{Entry, OWN, Process, Server};
use crate::store::Store;

pub(crate) const SESSION_TTL: Duration = Duration::from_secs(3);

/// After the last fault, clients write again within this time, and the cluster is whole again
/// within the next one (a copy may be needed, or two).
const WRITABLE_WITHIN: Duration = Duration::from_secs(45);
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// How long the clients go on once the cluster is whole.
const AFTERMATH: Duration = Duration::from_millis(1_500);

/// One instance: a controller, a server with its data, and a machine with a clock.
pub(crate) struct Instance {
    pub clock: Clock,
    pub server: Server,
    pub controller: Option<Controller>,
    /// Counts the controllers: what belongs to an older one is void.
    pub epoch: u32,
    /// No controller begins before.
    pub away_until: Moment,
    pub off_until: Moment,
    pub controller_paused: Moment,
    pub server_paused: Moment,
    pub machine_paused: Moment,
    /// Until when the warden lets the server live; none: it is no primary.
    pub lease: Option<Time>,
    pub lease_watched: bool,
    pub next_look: Moment,
}

pub(crate) struct World {
    pub now: Moment,
    queue: Queue,
    pub(crate) dice: Dice,
    pub scenario: Scenario,
    pub bug: Option<Bug>,
    pub network: Network,
    pub store: Store,
    pub ids: Vec<InstanceId>,
    pub instances: Vec<Instance>,
    pub proxies: Vec<Proxy>,
    pub clients: Vec<Client>,
    pub checker: Checker,
    pub settings: Settings,
    pub push_due: bool,
    pub pushed: Revision,
    /// The record as the story last told it.
    pub told: Option<Record>,
    pub entries: u32,
    own: u32,
    story: Option<Vec<String>>,
    /// When the last fault that has struck is over, or the next one strikes.
    pub healed: Moment,
    turns: u64,
    pub counts: Counts,
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub faults: [u64; KINDS],
    pub steps: u64,
    pub takeovers: u64,
    pub switchovers: u64,
    pub generations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub reads: u64,
    /// From the last fault's end to the first write that was acknowledged after it.
    pub writable_after: Duration,
    pub simulated: Duration,
}

impl Counts {
    /// Counts another run too; `writable_after` is no count, and stays.
    pub(crate) fn add(&mut self, more: &Self) {
        for (sum, more) in self.faults.iter_mut().zip(more.faults) {
            *sum += more;
        }
        self.steps += more.steps;
        self.takeovers += more.takeovers;
        self.switchovers += more.switchovers;
        self.generations += more.generations;
        self.acknowledged += more.acknowledged;
        self.unknown += more.unknown;
        self.reads += more.reads;
        self.simulated += more.simulated;
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub counts: Counts,
    /// Empty unless it was asked for.
    pub story: Vec<String>,
}

/// Whether a run's story is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    Kept,
    Untold,
}

/// Runs one scenario to its end.
pub fn run(scenario: &Scenario, bug: Option<Bug>, story: Story) -> Outcome {
    let mut world = World::new(scenario.clone(), bug, story);
    // A failed assertion of the machine is a finding like any other.
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match lived {
        Ok(lived) => lived.err(),
        Err(panic) => Some(Violation::Panicked { words: words_of(panic.as_ref()) }),
    };
    world.counts.simulated = world.now.since(Moment::default());
    if let Some(violation) = &violation {
        world.tell(|| format!("VIOLATION: {violation}"));
    }
    Outcome { violation, counts: world.counts, story: world.story.unwrap_or_default() }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned()
}

fn settings(size: usize) -> Settings {
    Settings {
        session_ttl: SESSION_TTL,
        link_ttl: Duration::from_secs(2),
        sync_timeout: Duration::from_secs(2),
        restart_after: Duration::from_secs(5),
        stuck_after: Duration::from_secs(10),
        forget_after: Duration::from_secs(3_600),
        bootstrap: Bootstrap::Of(size),
    }
}

impl World {
    fn new(scenario: Scenario, bug: Option<Bug>, story: Story) -> Self {
        let size = scenario.size;
        let mut dice = Dice::new(scenario.seed);
        let name = |node: usize| format!("pg-{}", node + 1).parse().expect("it is an id");
        let ids: Vec<InstanceId> = (0..size).map(name).collect();
        let instance = |_| Instance {
            clock: Clock::new(Duration::from_secs(dice.between(0, 1_000_000))),
            server: Server::new(),
            controller: None,
            epoch: 0,
            away_until: Moment::default(),
            off_until: Moment::default(),
            controller_paused: Moment::default(),
            server_paused: Moment::default(),
            machine_paused: Moment::default(),
            lease: None,
            lease_watched: false,
            next_look: Moment::default(),
        };
        let instances = ids.iter().map(instance).collect();
        let proxy = |_| {
            let most = if dice.chance(70) { 1 } else { 1_500 };
            let lag = Duration::from_millis(dice.between(0, most));
            Proxy { view: None, lag, guesses: None }
        };
        let mut proxies: Vec<Proxy> = (0..2).map(proxy).collect();
        proxies.push(Proxy { guesses: Some(0), ..Proxy::default() });
        let mut world = Self {
            now: Moment::default(),
            queue: Queue::default(),
            dice,
            bug,
            network: Network::default(),
            store: Store::new(size, SESSION_TTL),
            ids,
            instances,
            proxies,
            clients: (0..4).map(|number| Client::new(number % 3)).collect(),
            checker: Checker::default(),
            settings: settings(size),
            push_due: false,
            pushed: Revision::default(),
            told: None,
            entries: 0,
            own: OWN,
            healed: Moment::default(),
            turns: 0,
            story: (story == Story::Kept).then(Vec::new),
            counts: Counts::default(),
            scenario,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for node in 0..self.instances.len() {
            let late = self.scenario.one_node && node > 0;
            let at = self.dice.between(0, if late { 8_000 } else { 300 });
            self.after_ms(at, Happening::Begin(node));
            self.after_ms(at, Happening::Keepalive(node));
        }
        for client in 0..self.clients.len() {
            let at = self.dice.between(0, 100);
            self.after_ms(at, Happening::Act(client));
        }
        self.after_ms(50, Happening::Lapse);
        // The faults begin once there is a cluster that they can hurt, or a little before.
        for number in 0..self.scenario.faults.len() {
            if let (When::At(at), fault) = self.scenario.faults[number] {
                self.healed = self.healed.max(at.after(fault.span()));
                self.at(at, Happening::Fault(number));
            }
        }
    }

    /// Something that faults may wait for.
    pub(crate) fn turn(&mut self) {
        self.turns += 1;
        for number in 0..self.scenario.faults.len() {
            if let (When::Turn(turn, delay), fault) = self.scenario.faults[number]
                && turn == self.turns
            {
                let at = self.now.after(delay);
                self.healed = self.healed.max(at.after(fault.span()));
                self.at(at, Happening::Fault(number));
            }
        }
    }

    /// Lives until the cluster is whole after the last fault.
    fn live(&mut self) -> Result<(), Violation> {
        let mut over = None;
        while let Some((at, what)) = self.queue.pop() {
            self.now = at;
            let healed = self.healed;
            if at <= healed {
                over = None;
            } else if over.is_none() {
                let writable = self.checker.last_acknowledged > healed;
                if writable && self.is_whole() {
                    self.counts.writable_after = self.checker.first_after(healed).since(healed);
                    over = Some(at.after(AFTERMATH));
                } else if !writable && at.since(healed) > WRITABLE_WITHIN {
                    return Err(Violation::NotWritable { healed });
                } else if at.since(healed) > WHOLE_WITHIN {
                    return Err(Violation::NotWhole { healed });
                }
            }
            if over.is_some_and(|over| at > over) {
                break;
            }
            match self.deferred(&what) {
                Some(until) => self.at(until, what),
                None => self.happen(what)?,
            }
        }
        self.judge()
    }

    fn judge(&mut self) -> Result<(), Violation> {
        self.counts.reads = self.checker.reads();
        self.counts.acknowledged = self.checker.acknowledged();
        if let Some(record) = self.store.record() {
            self.counts.generations = record.generation.0;
            let primary = self.number_of(&record.primary.clone());
            let disk = &self.instances[primary].server.disk;
            self.checker.nothing_is_lost(&self.ids[primary], &disk.wal)?;
        }
        self.checker.is_linearizable()
    }

    /// Until when whatever this is for sleeps.
    fn deferred(&self, what: &Happening) -> Option<Moment> {
        let until = match what {
            Happening::Tick(node, _)
            | Happening::Renew(node, _)
            | Happening::Supervise(node, _)
            | Happening::Beat(node, _)
            | Happening::Leave(node, _)
            | Happening::LinkConfirmed(node, ..)
            | Happening::Message(_, Place::Instance(node), Message::ToController(..)) => {
                self.instances[*node].controller_paused
            }
            Happening::LeaseEnd(node) => self.instances[*node].machine_paused,
            Happening::Work(node, _)
            | Happening::Flush(node, ..)
            | Happening::Reloaded(node, ..)
            | Happening::Keepalive(node)
            | Happening::Message(_, Place::Instance(node), _) => {
                self.instances[*node].server_paused
            }
            Happening::Fault(_)
            | Happening::Healed(_)
            | Happening::Begin(_)
            | Happening::Lapse
            | Happening::Push
            | Happening::Act(_)
            | Happening::Learn(..)
            | Happening::GiveUp(..)
            | Happening::Message(..) => return None,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, what: Happening) -> Result<(), Violation> {
        match what {
            Happening::Fault(number) => self.strike(number),
            Happening::Healed(number) => self.heal(number)?,
            Happening::Begin(node) => self.begin_controller(node)?,
            Happening::Tick(node, epoch) => self.tick(node, epoch)?,
            Happening::Renew(node, epoch) => self.renew(node, epoch),
            Happening::Supervise(node, epoch) => self.supervise(node, epoch)?,
            Happening::Beat(node, epoch) => self.beat(node, epoch),
            Happening::Leave(node, epoch) => self.leave(node, epoch)?,
            Happening::LinkConfirmed(node, epoch, begun) => {
                self.link_confirmed(node, epoch, begun)?;
            }
            Happening::LeaseEnd(node) => self.lease_end(node),
            Happening::Work(node, epoch) => self.work_done(node, epoch),
            Happening::Flush(node, epoch, upto) => self.flush(node, epoch, upto)?,
            Happening::Reloaded(node, epoch, connection) => self.reloaded(node, epoch, connection),
            Happening::Keepalive(node) => self.keep_links_alive(node),
            Happening::Lapse => {
                if self.store.lapse(self.now, &self.ids) {
                    self.turn();
                }
                self.after_ms(50, Happening::Lapse);
            }
            Happening::Push => self.push_snapshot(),
            Happening::Act(client) => self.act(client),
            Happening::Learn(proxy, view) => self.learn(proxy, view),
            Happening::GiveUp(client, operation) => self.give_up(client, operation),
            Happening::Message(from, to, message) => self.receive(from, to, message)?,
        }
        if self.store.snapshot.revision != self.pushed && !self.push_due {
            self.push_due = true;
            let delay = self.dice.between(0, 4);
            self.after_ms(delay, Happening::Push);
        }
        Ok(())
    }

    fn receive(&mut self, from: Place, to: Place, message: Message) -> Result<(), Violation> {
        let off = |node: usize| self.instances[node].off_until > self.now;
        match (from, to, message) {
            (Place::Instance(node), Place::Store, Message::ToStore(epoch, asked)) => {
                self.store_receives(node, epoch, asked);
            }
            (Place::Store, Place::Instance(node), Message::ToController(epoch, told)) => {
                return self.controller_receives(node, epoch, told);
            }
            (Place::Instance(from), Place::Instance(node), Message::Wal(connection, message)) => {
                if !off(node) {
                    return self.link_receives(from, node, connection, message);
                }
            }
            (_, Place::Instance(node), Message::ToServer(client, operation, query)) => {
                if !off(node) {
                    self.server_is_asked(node, client, operation, query);
                }
            }
            (Place::Instance(node), Place::Proxy(proxy), Message::ToProxy(message)) => {
                self.proxy_receives(node, proxy, message);
            }
            (from, to, message) => unreachable!("{from} never sends {to} {message:?}"),
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, from: Place, to: Place, channel: Channel, message: Message) {
        if let Some(at) = self.network.arrival(&mut self.dice, self.now, (from, to), channel) {
            self.at(at, Happening::Message(from, to, message));
        }
    }

    pub(crate) fn at(&mut self, at: Moment, what: Happening) {
        self.queue.push(at, what);
    }

    pub(crate) fn after_ms(&mut self, ms: u64, what: Happening) {
        self.at(self.now.after(Duration::from_millis(ms)), what);
    }

    pub(crate) fn after_us(&mut self, us: u64, what: Happening) {
        self.at(self.now.after(Duration::from_micros(us)), what);
    }

    /// A number that was never given before.
    pub(crate) fn unique(&mut self) -> u64 {
        self.queue.unique()
    }

    /// An entry of a server's own.
    pub(crate) fn own_entry(&mut self) -> Entry {
        self.own += 1;
        self.own
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn number_of(&self, id: &InstanceId) -> usize {
        self.ids.iter().position(|known| known == id).expect("nobody else is named")
    }

    /// One line of the story, if anybody listens.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{}  {}", self.now, line()));
        }
    }

    /// Everybody is in the chain, streams, and writes are taken: in the store and in fact.
    pub(crate) fn is_whole(&self) -> bool {
        let up = |instance: &Instance| match &instance.server.process {
            Process::Primary(_) => true,
            Process::Standby(standby) => standby.streams(),
            Process::Down | Process::Busy(..) => false,
        };
        if !self.instances.iter().all(up) {
            return false;
        }
        let snapshot = &self.store.snapshot;
        let Some(record) = snapshot.record() else { return false };
        let open = snapshot.present(&record.primary).and_then(|presence| presence.open);
        let standbys: Vec<_> = record.sync.iter().chain(&record.asyncs).collect();
        open == Some(record.generation)
            && standbys.len() + 1 == self.instances.len()
            && standbys.iter().all(|id| snapshot.is_ready(id))
    }
}
