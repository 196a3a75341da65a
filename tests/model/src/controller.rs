//! The production machine of each instance, driven step by step.

use dugong_machine::{
    Action, Event, Goal, Presence, Server as Seen, ServerState, State, Time, step,
};
use dugong_simulator::contract::Guarded;
use dugong_simulator::{Bug, lie};
use dugong_topology::{Generation, Version};

use crate::world::{Broken, Controller, World};

impl World {
    /// One step of the machine, and what it asks for.
    pub(crate) fn feed(&mut self, node: usize, event: Event) {
        let now = self.time();
        let bugs = self.bugs.clone();
        let Some(controller) = self.controller(node) else { return };
        let (mut after, actions) = step(&controller.state, now, event);
        lie::make_hasty(&mut after, |made| bugs.contains(&made));
        forget_what_nobody_needs(&mut after);
        controller.state = after;
        for action in actions {
            self.act_on(node, action);
        }
    }

    fn act_on(&mut self, node: usize, action: Action) {
        let known = self.store.snapshot.present(&self.ids[node]).cloned();
        let reaches = self.reaches_store(node);
        let Some(controller) = self.controller(node) else { return };
        match action {
            // The supervisor reads it in the machine's state.
            Action::Want(_) => (),
            Action::Announce(presence) => {
                let word = heeded(presence);
                controller.word = (known.as_ref() != Some(&word)).then_some(word);
            }
            Action::Declare(declaration) => {
                if controller.answer.is_none() {
                    controller.declared.get_or_insert(declaration);
                }
            }
            Action::Answer { request, outcome } if reaches => self.store.answer(request, outcome),
            Action::Answer { .. } => (), // It is given again.
            Action::Finish => unreachable!("nobody is asked to leave"),
        }
    }

    /// Whether an instance says something that the store does not know.
    pub(crate) fn has_word(&self, node: usize) -> bool {
        self.nodes[node].controller.as_ref().is_some_and(|controller| controller.word.is_some())
    }

    /// The store takes what an instance says of itself.
    pub(crate) fn take_word(&mut self, node: usize) {
        let (now, epoch) = (self.now, self.nodes[node].epoch);
        let Some(controller) = self.controller(node) else { return };
        let Some(presence) = controller.word.take() else { return };
        self.store.announce(now, node, epoch, presence);
        self.answer_renewal(node);
    }

    /// The session's beat.
    pub(crate) fn renew(&mut self, node: usize) {
        if self.store.renew(self.now, node) {
            return self.answer_renewal(node);
        }
        // It has lapsed: everything is said again.
        if let Some(controller) = self.controller(node) {
            controller.word = controller.state.said.as_ref().map(|(said, _)| said.clone());
        }
    }

    fn answer_renewal(&mut self, node: usize) {
        let now = self.now;
        if self.controller_runs(node) {
            self.feed(node, Event::Renewed { begun: self.time() });
        } else if let Some(controller) = self.controller(node) {
            controller.renewed = Some(now);
        }
    }

    /// A controller that was paused goes on.
    pub(crate) fn wake(&mut self, node: usize) {
        if !self.controller_runs(node) {
            return;
        }
        let careless = self.has(Bug::SessionFromAnswer);
        let now = self.time();
        let renewed = self.controller(node).and_then(|controller| controller.renewed.take());
        if let Some(at) = renewed {
            let begun = Time(u64::from(at) * 1_000);
            self.feed(node, Event::Renewed { begun: if careless { now } else { begun } });
        }
        self.feed(node, Event::Tick);
    }

    /// The store takes a declaration.
    pub(crate) fn take_declaration(&mut self, node: usize) {
        let epoch = self.nodes[node].epoch;
        let Some(controller) = self.controller(node) else { return };
        let Some(declaration) = controller.declared.take() else { return };
        let guarded = if self.has(Bug::NoGuard) { Guarded::No } else { Guarded::Yes };
        let answer = self.store.declare(node, epoch, &declaration, guarded);
        if let Some(controller) = self.controller(node) {
            controller.answer = answer.map(|answer| (declaration.at, answer));
        }
    }

    /// The store takes the declaration of a controller that is dead.
    pub(crate) fn take_late_declaration(&mut self, node: usize) {
        let Some((epoch, declaration)) = self.node(node).late.take() else { return };
        let epoch = if self.has(Bug::LateDeclaration) { u8::MAX } else { epoch };
        // Nobody is left who would hear the answer.
        let _ = self.store.declare(node, epoch, &declaration, Guarded::Yes);
    }

    pub(crate) fn learn(&mut self, node: usize) {
        let answer = self.controller(node).and_then(|controller| controller.answer.take());
        if let Some((at, answer)) = answer {
            self.feed(node, Event::DeclareAnswered { at, answer });
        }
    }

    /// Whether the store holds something that this instance has not read.
    pub(crate) fn has_news_for(&self, node: usize) -> bool {
        let Some(controller) = &self.nodes[node].controller else { return false };
        controller.heard.as_ref() != Some(&self.store.snapshot)
    }

    /// The watch shows the newest snapshot; the topology that follows from it is published.
    pub(crate) fn hear(&mut self, node: usize) {
        let snapshot = self.store.snapshot.clone();
        let record = snapshot.record();
        let generation = record.map_or_else(Generation::default, |record| record.generation);
        let version = Version { generation, revision: snapshot.revision };
        let Some(controller) = self.controller(node) else { return };
        controller.heard = Some(snapshot.clone());
        let back = version < std::mem::replace(&mut controller.published, version);
        if back {
            self.broken = self.broken.or(Some(Broken::TopologyWentBack));
        }
        let me = &self.ids[node];
        let usurps = self.has(Bug::AsyncTakesOver);
        let told = if usurps { lie::usurped(&snapshot, me).into() } else { snapshot };
        self.feed(node, Event::Snapshot(told));
    }

    /// The warden: ends a primary whose lease is over, whatever its controller does.
    pub(crate) fn look_at_lease(&mut self, node: usize) {
        let lease = |controller: &Controller| controller.state.may_serve_until();
        let end = self.nodes[node].controller.as_deref().and_then(lease);
        let careless = self.has(Bug::NoWarden);
        if !careless && self.warden_runs(node) && end.is_some_and(|end| end <= self.time()) {
            self.kill_server(node);
        }
    }

    /// Supervisors act and look until nothing is new to them.
    pub(crate) fn settle(&mut self, node: usize) {
        for _ in 0..50 {
            if !self.controller_runs(node) {
                return;
            }
            let acted = self.pursue(node);
            let seen = self.look(node);
            let news = self.observed(node).is_some_and(|before| *before != seen);
            if news {
                self.feed(node, Event::Observed(seen));
            } else if !acted {
                return;
            }
        }
        unreachable!("a supervisor and the machine of pg-{} do not come to rest", node + 1);
    }

    fn observed(&self, node: usize) -> Option<&Seen> {
        self.nodes[node].controller.as_ref().map(|controller| &controller.state.server)
    }

    pub(crate) fn life_wanted(&self, node: usize) -> Option<u32> {
        match self.goal(node)? {
            Goal::Primary(goal) => Some(goal.life),
            Goal::Down(_)
            | Goal::Initialised
            | Goal::Standby(_)
            | Goal::Sealed { .. }
            | Goal::Copied { .. } => None,
        }
    }
}

/// When something was said last, and how far the WAL was then: it matters to people only, and would
/// make states different that are the same.
fn forget_what_nobody_needs(state: &mut State) {
    if let Some((said, at)) = &mut state.said {
        *said = heeded(said.clone());
        *at = Time::default();
    }
}

/// What an instance says, without what no other one decides by, nor the store.
///
/// The rest is for people and proxies. Reads are checked at every server that lets clients in,
/// wherever the topology leads.
fn heeded(word: Presence) -> Presence {
    let serves = word.server == ServerState::Primary;
    let seen = if serves { word.seen } else { Generation::default() };
    Presence { seen, position: None, upstream: None, lag: None, note: None, ..word }
}
