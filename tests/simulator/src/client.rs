//! Clients that write and read through proxies, and remember what they were told.
//!
//! A client does one thing at a time. It adds an element of its own to a set that only grows, or
//! reads the whole set; both on the write address. The proxy knows what the newest topology says,
//! holds what cannot be served, and sends the rest to the primary. One client in four comes without
//! a proxy: it tries instances until one is a primary, as libpq does, and believes it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dugong_machine::{Access, Snapshot};
use dugong_topology::{Generation, InstanceId, Phase, Version};

use crate::happening::{Happening, Message, ToProxy};
use crate::moment::Moment;
use crate::network::{Channel, Place};
use crate::postgres::{Entry, Waiter};
use crate::world::World;

/// A client that was told nothing for so long takes the outcome for unknown.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a proxy needs of a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub version: Version,
    pub phase: Phase,
    pub primary: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Proxy {
    pub view: Option<View>,
    /// How long it takes to take a topology in: a proxy may be slow, or far away.
    pub lag: Duration,
    /// No proxy at all: what is sent from here goes to the instance that was a primary last, or to
    /// any other.
    pub guesses: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Query {
    Add(Entry),
    Read,
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The commit is acknowledged.
    Added,
    /// The set: this much of this WAL.
    Set(Rc<Vec<Entry>>, usize),
    /// The server says that it did nothing.
    Refused,
    /// The connection broke: nobody knows.
    Broken,
}

pub(crate) struct Client {
    proxy: usize,
    operation: u32,
    doing: Option<Doing>,
}

struct Doing {
    query: Query,
    begun: Moment,
    /// Where the proxy sent it; none: it is held.
    sent_to: Option<usize>,
}

impl View {
    /// The topology that `snapshot` means.
    pub(crate) fn of(snapshot: &Arc<Snapshot>, ids: &[InstanceId]) -> Self {
        let record = snapshot.record();
        let generation = record.map_or_else(Generation::default, |record| record.generation);
        let primary = record.map(|record| &record.primary);
        Self {
            version: Version { generation, revision: snapshot.revision },
            phase: snapshot.phase(),
            primary: primary.and_then(|primary| ids.iter().position(|id| id == primary)),
        }
    }

    fn open_at(&self) -> Option<usize> {
        self.primary.filter(|_| self.phase == Phase::ReadWrite)
    }
}

impl Client {
    pub(crate) fn new(proxy: usize) -> Self {
        Self { proxy, operation: 0, doing: None }
    }
}

impl World {
    /// A client's next thing.
    pub(crate) fn act(&mut self, number: usize) {
        let query = if self.dice.chance(60) {
            self.entries += 1;
            self.checker.begun(self.entries, self.now);
            Query::Add(self.entries)
        } else {
            Query::Read
        };
        let client = &mut self.clients[number];
        client.operation += 1;
        client.doing = Some(Doing { query, begun: self.now, sent_to: None });
        let operation = client.operation;
        self.at(self.now.after(PATIENCE), Happening::GiveUp(number, operation));
        self.route(number);
    }

    /// Sends what a client wants where the topology says, if it says so yet.
    fn route(&mut self, number: usize) {
        let proxy = &self.proxies[self.clients[number].proxy];
        let target = match proxy.guesses {
            Some(guess) if self.dice.chance(80) => Some(guess),
            Some(_) => Some(self.dice.index(self.instances.len())),
            None => proxy.view.as_ref().and_then(View::open_at),
        };
        let Some(target) = target else { return };
        let client = &mut self.clients[number];
        let Some(doing) = client.doing.as_mut().filter(|doing| doing.sent_to.is_none()) else {
            return;
        };
        doing.sent_to = Some(target);
        let message = Message::ToServer(number, client.operation, doing.query);
        let from = Place::Proxy(client.proxy);
        self.send(from, Place::Instance(target), Channel::Client(number), message);
    }

    pub(crate) fn give_up(&mut self, number: usize, operation: u32) {
        if self.clients[number].operation == operation {
            self.conclude(number, None);
        }
    }

    /// A client's thing is over; none: it never heard how.
    fn conclude(&mut self, number: usize, reply: Option<Reply>) {
        let Some(doing) = self.clients[number].doing.take() else { return };
        match (doing.query, reply) {
            (Query::Add(entry), Some(Reply::Added)) => {
                self.checker.acknowledged_at(entry, self.now);
            }
            (Query::Read, Some(Reply::Set(wal, visible))) => {
                self.checker.read(doing.begun, self.now, wal, visible);
            }
            (Query::Add(entry), Some(Reply::Refused)) => self.checker.never_happened(entry),
            (Query::Add(entry), None) if doing.sent_to.is_none() => {
                self.checker.never_happened(entry);
            }
            (Query::Add(_), _) => self.counts.unknown += 1,
            (Query::Read, _) => (),
        }
        let pause =
            if self.dice.chance(30) { self.dice.between(0, 5) } else { self.dice.between(5, 200) };
        self.after_ms(pause, Happening::Act(number));
    }

    pub(crate) fn proxy_receives(&mut self, node: usize, proxy: usize, message: ToProxy) {
        match message {
            ToProxy::Topology(view) => {
                let at = self.now.after(self.proxies[proxy].lag);
                self.at(at, Happening::Learn(proxy, view));
            }
            ToProxy::Reply { client, operation, reply } => {
                let known = &self.clients[client];
                let sent = known.doing.as_ref().and_then(|doing| doing.sent_to);
                if known.operation == operation && sent == Some(node) {
                    let guesses = &mut self.proxies[proxy].guesses;
                    if let (Some(guess), Reply::Added | Reply::Set(..)) = (guesses, &reply) {
                        *guess = node;
                    }
                    self.conclude(client, Some(reply));
                }
            }
        }
    }

    /// A newer topology: sessions on another primary end, held ones go on.
    pub(crate) fn learn(&mut self, proxy: usize, view: View) {
        let known = &mut self.proxies[proxy].view;
        if known.as_ref().is_some_and(|known| known.version >= view.version) {
            return;
        }
        let primary = view.primary;
        *known = Some(view);
        for number in 0..self.clients.len() {
            let client = &self.clients[number];
            if client.proxy != proxy {
                continue;
            }
            match client.doing.as_ref().map(|doing| doing.sent_to) {
                Some(Some(target)) if Some(target) != primary => {
                    self.conclude(number, Some(Reply::Broken));
                }
                Some(None) => self.route(number),
                Some(Some(_)) | None => (),
            }
        }
    }

    /// A query reaches a server.
    pub(crate) fn server_is_asked(
        &mut self,
        node: usize,
        client: usize,
        operation: u32,
        query: Query,
    ) {
        let server = &mut self.instances[node].server;
        let wal = server.disk.wal.clone();
        let admitting = server.primary().filter(|primary| primary.admits);
        let access = admitting.map(|primary| (primary.access, primary.visible));
        let reply = match (access, query) {
            // A standby is told from a primary when the session begins; one that lets nobody in says so.
            (None, _) => Reply::Broken,
            (Some((_, visible)), Query::Read) => Reply::Set(wal, visible),
            (Some((Access::ReadOnly, _)), Query::Add(_)) => Reply::Refused,
            (Some((Access::ReadWrite, _)), Query::Add(entry)) => {
                self.commit(node, entry, Waiter::Client { client, operation });
                return;
            }
        };
        self.reply(node, client, operation, reply);
    }

    pub(crate) fn reply(&mut self, node: usize, client: usize, operation: u32, reply: Reply) {
        let proxy = Place::Proxy(self.clients[client].proxy);
        let message = Message::ToProxy(ToProxy::Reply { client, operation, reply });
        self.send(Place::Instance(node), proxy, Channel::Client(client), message);
    }
}
