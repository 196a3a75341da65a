//! A controller: the production machine, and what its driver does around it.

use std::sync::Arc;

use dugong_machine::{
    Access, Action, Answer, Bootstrap, Event, Goal, Presence, Reason, Server, Snapshot, State,
    Time, step,
};
use dugong_topology::Address;

use crate::bug::Bug;
use crate::checker::Violation;
use crate::client::View;
use crate::contract::Guarded;
use crate::happening::{Happening, Message, ToController, ToProxy, ToStore};
use crate::lie;
use crate::moment::Moment;
use crate::network::{Channel, Place};
use crate::postgres::{Primary, Waiter};
use crate::store::Word;
use crate::world::{SESSION_TTL, World};

/// A controller's process.
pub(crate) struct Controller {
    /// None only while it takes a step.
    pub state: Option<State>,
    pub goal: Option<Goal>,
    /// What the machine wants said, and whether the store has yet to take it.
    word: Option<Presence>,
    news: bool,
    /// The word under way: its number, when it was sent, and the local time then.
    asking: Option<(u64, Moment, Time)>,
    /// The server process whose heartbeat has not come back yet.
    pub beating: Option<u32>,
    /// The life in which a primary died: it is started again only for a later one.
    pub died_in: Option<u32>,
    pub observed: Option<(Server, Moment)>,
    published: Option<View>,
    /// What was published before that.
    older: Option<View>,
}

impl World {
    pub(crate) fn state(&self, node: usize) -> Option<&State> {
        self.instances[node].controller.as_ref()?.state.as_ref()
    }

    /// What the controller wants of its server.
    pub(crate) fn goal(&self, node: usize) -> Option<&Goal> {
        self.instances[node].controller.as_ref()?.goal.as_ref()
    }

    pub(crate) fn begin_controller(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now;
        let instance = &mut self.instances[node];
        if instance.controller.is_some() || instance.away_until > now {
            return Ok(());
        }
        instance.epoch += 1;
        instance.next_look = now;
        let epoch = instance.epoch;
        let address = Address::loopback(u16::try_from(5_000 + node).expect("few instances"));
        let mut settings = self.settings;
        if self.scenario.one_node && node == 0 {
            settings.bootstrap = Bootstrap::OneNode;
        }
        let state = State::new(
            self.ids[node].clone(),
            "main".to_owned(),
            address.clone(),
            address,
            settings,
            instance.clock.at(now),
        );
        instance.controller = Some(Controller {
            state: Some(state),
            goal: None,
            word: None,
            news: false,
            asking: None,
            beating: None,
            died_in: None,
            observed: None,
            published: None,
            older: None,
        });
        self.tell(|| format!("pg-{} controller begins", node + 1));
        // What an earlier one left behind is ended before anything else.
        self.kill_server(node, "left behind");
        self.after_ms(1, Happening::Tick(node, epoch));
        let look = self.dice.between(5, 150);
        self.after_ms(look, Happening::Supervise(node, epoch));
        self.after_ms(20, Happening::Renew(node, epoch));
        self.after_ms(100, Happening::Beat(node, epoch));
        self.feed(node, Event::Tick)
    }

    /// Whether this is (still) the controller of that epoch.
    pub(crate) fn is_current(&self, node: usize, epoch: u32) -> bool {
        let instance = &self.instances[node];
        instance.controller.is_some() && instance.epoch == epoch
    }

    pub(crate) fn tick(&mut self, node: usize, epoch: u32) -> Result<(), Violation> {
        if !self.is_current(node, epoch) {
            return Ok(());
        }
        let pause = self.dice.between(50, 150);
        self.after_ms(pause, Happening::Tick(node, epoch));
        self.feed(node, Event::Tick)
    }

    /// One step of the machine, and what it asks for.
    pub(crate) fn feed(&mut self, node: usize, event: Event) -> Result<(), Violation> {
        let event = self.as_told(node, event);
        let now = self.instances[node].clock.at(self.now);
        let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
        let Some(before) = controller.state.take() else { return Ok(()) };
        let (mut after, actions) = step(&before, now, event);
        let bug = self.bug;
        lie::make_hasty(&mut after, |made| bug == Some(made));
        controller.state = Some(after);
        self.counts.steps += 1;
        self.tell_role(node, &before);
        for action in actions {
            self.act_on(node, action)?;
        }
        self.lend_life(node);
        Ok(())
    }

    fn act_on(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        match action {
            Action::Want(goal) => {
                self.tell(|| format!("pg-{} wants its server {goal}", node + 1));
                let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
                controller.goal = Some(goal);
                let epoch = self.instances[node].epoch;
                self.after_us(200, Happening::Supervise(node, epoch));
            }
            Action::Announce(presence) => {
                let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
                controller.word = Some(presence);
                controller.news = true;
                self.speak(node);
            }
            Action::Declare(declaration) => {
                self.tell(|| format!("pg-{} declares {declaration}", node + 1));
                let epoch = self.instances[node].epoch;
                let message = Message::ToStore(epoch, ToStore::Declare(Box::new(declaration)));
                self.send(Place::Instance(node), Place::Store, Channel::Declarations, message);
            }
            Action::Answer { request, outcome } => {
                let message = ToStore::Answer(request, outcome);
                let message = Message::ToStore(self.instances[node].epoch, message);
                self.send(Place::Instance(node), Place::Store, Channel::Declarations, message);
            }
            Action::Finish => self.finish(node),
        }
        Ok(())
    }

    /// The orderly end: the last word, then the session is given back.
    fn finish(&mut self, node: usize) {
        self.tell(|| format!("pg-{} ends in order", node + 1));
        let Some(controller) = self.instances[node].controller.take() else { return };
        self.instances[node].lease = None;
        let begins = self.instances[node].away_until.max(self.now.after(SESSION_TTL / 10));
        self.at(begins, Happening::Begin(node));
        for word in
            controller.word.map(Box::new).map(Word::Announce).into_iter().chain([Word::Resign])
        {
            let number = self.unique();
            let epoch = self.instances[node].epoch;
            let message = Message::ToStore(epoch, ToStore::Word(number, word));
            self.send(Place::Instance(node), Place::Store, Channel::Session, message);
        }
    }

    /// The operator ends this instance.
    pub(crate) fn leave(&mut self, node: usize, epoch: u32) -> Result<(), Violation> {
        if self.is_current(node, epoch) { self.feed(node, Event::Leave) } else { Ok(()) }
    }

    /// The session's beat.
    pub(crate) fn renew(&mut self, node: usize, epoch: u32) {
        if self.is_current(node, epoch) {
            self.after_ms(750, Happening::Renew(node, epoch));
            self.speak(node);
        }
    }

    /// Says what is to be said, or renews; one word at a time.
    fn speak(&mut self, node: usize) {
        let (number, now) = (self.unique(), self.now);
        let instance = &mut self.instances[node];
        let begun = instance.clock.at(now);
        let Some(controller) = &mut instance.controller else { return };
        let Some(presence) = &controller.word else { return };
        if let Some((_, since, _)) = controller.asking {
            if now.since(since) < SESSION_TTL / 3 {
                return;
            }
            controller.news = true; // Given up: whatever it was is said again.
        }
        let word =
            if controller.news { Word::Announce(Box::new(presence.clone())) } else { Word::Renew };
        controller.asking = Some((number, now, begun));
        controller.news = false;
        let message = Message::ToStore(instance.epoch, ToStore::Word(number, word));
        let channel = match self.bug {
            Some(Bug::WordsOutOfOrder) => Channel::Client(usize::try_from(number).unwrap_or(0)),
            Some(_) | None => Channel::Session,
        };
        self.send(Place::Instance(node), Place::Store, channel, message);
    }

    pub(crate) fn store_receives(&mut self, node: usize, epoch: u32, asked: ToStore) {
        if self.store.down_until > self.now {
            return;
        }
        let (channel, answer) = match asked {
            ToStore::Word(number, word) => {
                let id = self.ids[node].clone();
                let kept = if self.has(Bug::WordsOutOfOrder) { u64::MAX } else { number };
                let taken = self.store.take(self.now, node, &id, (epoch, kept), word);
                (Channel::Session, ToController::WordTaken { number, taken })
            }
            ToStore::Declare(_)
                if self.store.has_heard_of_a_successor(node, epoch)
                    && self.bug != Some(Bug::LateDeclaration) =>
            {
                return self.tell(|| format!("pg-{} declared that in an earlier life", node + 1));
            }
            ToStore::Declare(declaration) => {
                let guarded = if self.has(Bug::NoGuard) { Guarded::No } else { Guarded::Yes };
                let answer = self.store.declare(&declaration, guarded);
                self.tell(|| format!("the store answers pg-{}: {answer:?}", node + 1));
                let won = matches!(answer, Answer::Won { .. });
                let lost = declaration.next.reason == Reason::PrimaryLost;
                self.counts.takeovers += u64::from(won && lost);
                self.counts.switchovers += u64::from(won && declaration.fulfils.is_some());
                self.turn();
                (Channel::Declarations, ToController::Declared { at: declaration.at, answer })
            }
            ToStore::Answer(request, outcome) => {
                self.tell(|| format!("pg-{} answers request {request}: {outcome:?}", node + 1));
                return self.store.answer(request, outcome);
            }
        };
        let message = Message::ToController(epoch, answer);
        self.send(Place::Store, Place::Instance(node), channel, message);
    }

    pub(crate) fn controller_receives(
        &mut self,
        node: usize,
        epoch: u32,
        told: ToController,
    ) -> Result<(), Violation> {
        if !self.is_current(node, epoch) {
            return Ok(());
        }
        match told {
            ToController::WordTaken { number, taken } => self.word_taken(node, number, taken),
            ToController::Declared { at, answer } => {
                self.feed(node, Event::DeclareAnswered { at, answer })
            }
            ToController::Snapshot(snapshot) => {
                self.publish(node, &snapshot)?;
                self.feed(node, Event::Snapshot(snapshot))
            }
        }
    }

    fn word_taken(&mut self, node: usize, number: u64, taken: bool) -> Result<(), Violation> {
        let clock = self.instances[node].clock.at(self.now);
        let late = self.has(Bug::SessionFromAnswer);
        let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
        let Some((_, _, begun)) = controller.asking.filter(|(asked, ..)| *asked == number) else {
            return Ok(());
        };
        controller.asking = None;
        controller.news |= !taken;
        let more = controller.news;
        if taken {
            let begun = if late { clock } else { begun };
            self.feed(node, Event::Renewed { begun })?;
        }
        if more {
            self.speak(node);
        }
        Ok(())
    }

    /// The store's watch: every controller is sent the newest snapshot.
    pub(crate) fn push_snapshot(&mut self) {
        self.push_due = false;
        if self.store.down_until > self.now {
            return;
        }
        let record = self.store.record().cloned();
        if let (Some(before), Some(after)) = (&self.told, &record)
            && before != after
        {
            self.tell(|| format!("the record is {after}"));
        }
        self.told = record;
        self.pushed = self.store.snapshot.revision;
        for node in 0..self.instances.len() {
            let epoch = self.instances[node].epoch;
            let snapshot = ToController::Snapshot(self.store.snapshot.clone());
            let message = Message::ToController(epoch, snapshot);
            self.send(Place::Store, Place::Instance(node), Channel::Watch, message);
        }
    }

    /// A heartbeat through synchronous replication, while writes are taken here.
    pub(crate) fn beat(&mut self, node: usize, epoch: u32) {
        if !self.is_current(node, epoch) {
            return;
        }
        self.after_ms(500, Happening::Beat(node, epoch));
        let begun = self.instances[node].clock.at(self.now);
        let instance = &mut self.instances[node];
        let server_epoch = instance.server.epoch;
        // One node: its commits wait for nobody, and confirm nothing.
        let confirms = |p: &mut Primary| p.access == Access::ReadWrite && p.heeded;
        let open = instance.server.primary().is_some_and(confirms);
        let Some(controller) = &mut instance.controller else { return };
        let asleep = instance.server_paused > self.now;
        if open && !asleep && controller.beating != Some(server_epoch) {
            controller.beating = Some(server_epoch);
            let entry = self.own_entry();
            self.commit(node, entry, Waiter::Heartbeat { begun });
        }
    }

    pub(crate) fn link_confirmed(
        &mut self,
        node: usize,
        epoch: u32,
        begun: Time,
    ) -> Result<(), Violation> {
        if !self.is_current(node, epoch) {
            return Ok(());
        }
        if let Some(controller) = &mut self.instances[node].controller {
            controller.beating = None;
        }
        self.feed(node, Event::LinkConfirmed { begun })
    }

    /// Tells the warden until when the server may live.
    fn lend_life(&mut self, node: usize) {
        let until = self.state(node).and_then(State::may_serve_until);
        let until = until.filter(|until| *until != Time::NEVER);
        let instance = &mut self.instances[node];
        instance.lease = until;
        if let Some(until) = instance.lease
            && !instance.lease_watched
        {
            instance.lease_watched = true;
            let at = instance.clock.when(self.now, until);
            self.at(at, Happening::LeaseEnd(node));
        }
    }

    /// The warden: a process of its own, which a paused controller does not pause.
    pub(crate) fn lease_end(&mut self, node: usize) {
        let instance = &mut self.instances[node];
        instance.lease_watched = false;
        let Some(until) = instance.lease else { return };
        if instance.clock.at(self.now) < until {
            instance.lease_watched = true;
            let at = instance.clock.when(self.now, until);
            self.at(at, Happening::LeaseEnd(node));
        } else if self.bug != Some(Bug::NoWarden) {
            instance.lease = None;
            self.fence(node, "by its warden: both leases are over");
        }
    }

    /// Sends what a reading of the store means to whoever watches.
    fn publish(&mut self, node: usize, snapshot: &Arc<Snapshot>) -> Result<(), Violation> {
        let back = self.has(Bug::TopologyBack) && self.dice.chance(10);
        let view = View::of(snapshot, &self.ids);
        let Some(controller) = &mut self.instances[node].controller else { return Ok(()) };
        if controller.published.as_ref().is_some_and(|last| last.version >= view.version) && !back {
            return Ok(());
        }
        let view = controller.older.clone().filter(|_| back).unwrap_or(view);
        controller.older = controller.published.replace(view.clone());
        self.checker.published(node, self.instances[node].epoch, &view)?;
        for proxy in 0..self.proxies.len() {
            if self.proxies[proxy].guesses.is_some() {
                continue;
            }
            let message = Message::ToProxy(ToProxy::Topology(view.clone()));
            self.send(Place::Instance(node), Place::Proxy(proxy), Channel::Topology, message);
        }
        Ok(())
    }

    /// What the machine is told, which is the truth unless there is a bug.
    fn as_told(&self, node: usize, event: Event) -> Event {
        match (event, self.bug) {
            (Event::Snapshot(snapshot), Some(Bug::AsyncTakesOver)) => {
                Event::Snapshot(lie::usurped(&snapshot, &self.ids[node]).into())
            }
            (event, _) => event,
        }
    }

    fn tell_role(&mut self, node: usize, before: &State) {
        let part = |state: &State| {
            let record = state.snapshot.as_ref()?.record()?;
            Some((record.generation, record.role_of(&state.me)))
        };
        let Some(after) = self.state(node) else { return };
        let (before, after) = (part(before), part(after));
        if before != after
            && let Some((generation, role)) = after
        {
            let role = role.map_or_else(|| "no part".to_owned(), |role| role.to_string());
            self.tell(|| format!("pg-{} knows: {role} in g{generation}", node + 1));
        }
    }
}
