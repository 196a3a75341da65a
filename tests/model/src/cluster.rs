//! The cluster as a model that a checker explores: what may happen next, and what must hold.

use std::fmt;
use std::sync::Arc;

use stateright::{Model, Property};

use dugong_simulator::Bug;

use crate::server::Entry;
use crate::trouble::{Fault, Trouble};
use crate::world::{Broken, Node, World};

/// What is explored.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// How many instances.
    pub(crate) size: usize,
    /// At most so many faults.
    pub(crate) faults: u8,
    /// Seconds from the first fault on.
    pub(crate) span: u32,
    /// At most so many writes of clients at any moment, beside one in every second.
    pub(crate) writes: Entry,
    pub(crate) grain: Grain,
    /// The faults that may strike.
    pub(crate) kinds: Vec<Fault>,
    /// Those of them that may be the first.
    pub(crate) first: Vec<Fault>,
    pub(crate) bugs: Vec<Bug>,
}

/// How fine interleavings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Grain {
    /// Everything: every controller reads the store at its own time.
    Fine,
    /// Every controller that reaches the store reads each change at once. Its words take time.
    Coarse,
    /// The store takes at once, too, what one says of itself. Only what is declared takes time.
    Swift,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Fault(Fault),
    Heal(Trouble),
    /// A second passes.
    Pass,
    Begin(usize),
    Word(usize),
    Declaration(usize),
    LateDeclaration(usize),
    Learn(usize),
    Hear(usize),
    Finish(usize),
    Connect(usize),
    Receive(usize),
    Report(usize),
    Reload(usize, usize),
    Write(usize),
}

/// A cluster, from the moment on when it is whole.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    scope: Scope,
    whole: World,
}

impl Cluster {
    /// Whether any fault there is may come first.
    pub(crate) fn has_every_fault(&self) -> bool {
        self.scope.first.len() == Fault::all(self.scope.size).len()
    }

    /// A whole cluster, before anything went wrong.
    ///
    /// # Errors
    ///
    /// It does not become whole by itself, which no exploration could say more about.
    pub(crate) fn of(scope: Scope) -> Result<Self, Box<World>> {
        let whole = World::new(scope.size, scope.bugs.clone());
        let mut cluster = Self { scope, whole };
        let mut world = cluster.whole.clone();
        for _ in 0..2_000 {
            if world.is_whole() {
                world.faults = cluster.scope.faults;
                cluster.whole = world;
                return Ok(cluster);
            }
            let mut steps = Vec::new();
            cluster.steps(&world, &mut steps);
            cluster.take(&mut world, steps.first().copied().unwrap_or(Step::Pass));
        }
        Err(Box::new(world))
    }

    /// What is under way and has to happen before time passes.
    fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        for node in world.all() {
            self.steps_of(world, node, steps);
        }
    }

    fn steps_of(&self, world: &World, node: usize, steps: &mut Vec<Step>) {
        let here = &world.nodes[node];
        match &here.controller {
            None if world.has_power(node) => steps.push(Step::Begin(node)),
            None => (),
            Some(controller) => {
                let reaches = world.reaches_store(node);
                let runs = world.controller_runs(node);
                if reaches && controller.word.is_some() && self.scope.grain != Grain::Swift {
                    steps.push(Step::Word(node));
                }
                if reaches && controller.declared.is_some() {
                    steps.push(Step::Declaration(node));
                }
                if reaches && runs && controller.answer.is_some() {
                    steps.push(Step::Learn(node));
                }
                if reaches && runs && self.scope.grain == Grain::Fine && world.has_news_for(node) {
                    steps.push(Step::Hear(node));
                }
            }
        }
        if world.may_finish(node) {
            steps.push(Step::Finish(node));
        }
        if world.may_connect(node).is_some() {
            steps.push(Step::Connect(node));
        }
        if world.may_receive(node) {
            steps.push(Step::Receive(node));
        }
        if world.may_report(node) {
            steps.push(Step::Report(node));
        }
        for whom in world.all().filter(|whom| world.may_reload(node, *whom)) {
            steps.push(Step::Reload(node, whom));
        }
    }

    fn take(&self, world: &mut World, step: Step) {
        // What is seen of a server changes with what it suffers.
        let is_for_all = matches!(step, Step::Fault(_) | Step::Heal(_) | Step::Pass);
        let at_rest = if is_for_all { Vec::new() } else { world.nodes.clone() };
        match step {
            Step::Fault(fault) => {
                world.faults -= 1;
                world.suffer(fault);
            }
            Step::Heal(trouble) => world.heal(trouble),
            Step::Pass => pass(world),
            Step::Begin(node) => world.begin(node),
            Step::Word(node) => world.take_word(node),
            Step::Declaration(node) => world.take_declaration(node),
            Step::LateDeclaration(node) => world.take_late_declaration(node),
            Step::Learn(node) => world.learn(node),
            Step::Hear(node) => world.hear(node),
            Step::Finish(node) => world.finish(node),
            Step::Connect(node) => {
                if let Some(upstream) = world.may_connect(node) {
                    world.connect(node, upstream);
                }
            }
            Step::Receive(node) => world.receive(node),
            Step::Report(node) => world.report(node),
            Step::Reload(node, whom) => world.reload(node, whom),
            Step::Write(node) => {
                world.extra += 1;
                world.write(node);
            }
        }
        self.come_to_rest(world, at_rest);
        world.read_everywhere();
    }

    /// What takes no time: supervisors act and look, and the watch shows what is new.
    ///
    /// `at_rest`: the instances when they were. Those to which nothing has happened since still are.
    fn come_to_rest(&self, world: &mut World, mut at_rest: Vec<Arc<Node>>) {
        loop {
            for node in world.all() {
                if !world.is_as_in(&at_rest, node) {
                    world.settle(node);
                }
            }
            at_rest.clone_from(&world.nodes);
            world.drop_dead_links();
            if self.scope.grain == Grain::Swift {
                for node in world.all() {
                    if world.has_word(node) && world.reaches_store(node) {
                        world.take_word(node);
                    }
                }
            }
            let listens = |node: &usize| {
                world.controller_runs(*node)
                    && world.reaches_store(*node)
                    && world.has_news_for(*node)
            };
            let listeners: Vec<usize> = match self.scope.grain {
                Grain::Fine => Vec::new(),
                Grain::Coarse | Grain::Swift => world.all().filter(listens).collect(),
            };
            if listeners.is_empty() && world.all().all(|node| world.is_as_in(&at_rest, node)) {
                return;
            }
            for node in listeners {
                world.hear(node);
            }
        }
    }
}

/// A second passes: leases end, sessions are renewed or lapse, hearts beat.
fn pass(world: &mut World) {
    world.now += 1;
    for node in world.all() {
        world.look_at_lease(node);
        if world.controller_runs(node) {
            world.feed(node, dugong_machine::Event::Tick);
        }
    }
    for node in world.all() {
        if world.controller_runs(node) && world.reaches_store(node) {
            world.renew(node);
        }
    }
    // Only after the ends of leases: the margin between the two is what the protocol reckons with.
    let (now, ids) = (world.now, world.ids.clone());
    world.store.lapse(now, &ids);
    world.time_out_links();
    for node in world.all() {
        world.beat(node);
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.whole.clone()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.broken.is_some() {
            return;
        }
        self.steps(world, steps);
        let quiet = steps.is_empty();
        if quiet && world.now < self.whole.now + self.scope.span {
            steps.push(Step::Pass);
        }
        if quiet {
            steps.extend(world.troubles.iter().copied().map(Step::Heal));
        }
        for node in world.all() {
            if world.nodes[node].late.is_some() && world.reaches_store(node) {
                steps.push(Step::LateDeclaration(node));
            }
            if world.extra < self.scope.writes && world.takes_writes(node) {
                steps.push(Step::Write(node));
            }
        }
        let struck = world.faults < self.scope.faults;
        let faults = if struck { &self.scope.kinds } else { &self.scope.first };
        // A healthy cluster does the same every second: the first fault comes in the first one.
        if world.faults > 0 && (struck || world.now == self.whole.now + 1) {
            let possible = faults.iter().copied().filter(|fault| world.can_suffer(*fault));
            steps.extend(possible.map(Step::Fault));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "every acknowledged write is in the primary's WAL",
                |_, world: &World| world.is_durable(),
            ),
            Property::always(
                "nobody acknowledges a write beside the primary",
                |_, world: &World| world.broken != Some(Broken::TwoWriters),
            ),
            Property::always("every read shows every acknowledged write", |_, world: &World| {
                world.broken != Some(Broken::StaleRead)
            }),
            Property::always("what was read once is always there", |_, world: &World| {
                world.broken != Some(Broken::SeenThenLost)
            }),
            Property::always("the topology never goes back", |_, world: &World| {
                world.broken != Some(Broken::TopologyWentBack)
            }),
            // No promise, but the proof that something was explored.
            Property::sometimes("a new primary acknowledges writes", |_, world: &World| {
                world.serves_after_takeover()
            }),
        ]
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "** {fault}"),
            Self::Heal(trouble) => write!(f, "-- over: {trouble}"),
            Self::Pass => f.write_str("a second passes"),
            Self::Begin(node) => write!(f, "pg-{} controller begins", node + 1),
            Self::Word(node) => write!(f, "the store takes the word of pg-{}", node + 1),
            Self::Declaration(node) => write!(f, "the store takes what pg-{} declares", node + 1),
            Self::LateDeclaration(node) => {
                write!(f, "the store takes what pg-{} declared in an earlier life", node + 1)
            }
            Self::Learn(node) => write!(f, "pg-{} learns what became of it", node + 1),
            Self::Hear(node) => write!(f, "pg-{} reads the store", node + 1),
            Self::Finish(node) => write!(f, "pg-{} server has finished its work", node + 1),
            Self::Connect(node) => write!(f, "pg-{} streams", node + 1),
            Self::Receive(node) => write!(f, "pg-{} receives WAL", node + 1),
            Self::Report(node) => write!(f, "pg-{} reports what it has flushed", node + 1),
            Self::Reload(node, whom) if node == whom => {
                write!(f, "pg-{}'s checkpointer takes up the new names", node + 1)
            }
            Self::Reload(node, whom) => {
                write!(f, "pg-{}'s sender to pg-{} takes up the new names", node + 1, whom + 1)
            }
            Self::Write(node) => write!(f, "a client writes to pg-{}", node + 1),
        }
    }
}
