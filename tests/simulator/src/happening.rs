//! What can happen, and in which order it does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use dugong_machine::{Answer, Declaration, Outcome, RequestNumber, Snapshot, Time};
use dugong_topology::{History, Position, Revision};

use crate::client::{Query, Reply, View};
use crate::moment::Moment;
use crate::network::Place;
use crate::postgres::Entry;
use crate::store::Word;

/// What can happen. What carries an epoch is void when its process is gone.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Fault(usize),
    /// A fault is over.
    Healed(usize),
    Begin(usize),
    Tick(usize, u32),
    Renew(usize, u32),
    Supervise(usize, u32),
    Beat(usize, u32),
    /// The operator ends an instance.
    Leave(usize, u32),
    /// A heartbeat came back.
    LinkConfirmed(usize, u32, Time),
    LeaseEnd(usize),
    /// Slow work of a server is done.
    Work(usize, u32),
    Flush(usize, u32, usize),
    /// A WAL sender reads the configuration.
    Reloaded(usize, u32, u64),
    Keepalive(usize),
    Lapse,
    Push,
    Act(usize),
    /// A proxy has taken in a topology.
    Learn(usize, View),
    GiveUp(usize, u32),
    Message(Place, Place, Message),
}

#[derive(Clone, Debug)]
pub(crate) enum Message {
    ToStore(u32, ToStore),
    ToController(u32, ToController),
    /// Between a WAL sender and a WAL receiver; with the number of their connection.
    Wal(u64, OnLink),
    ToServer(usize, u32, Query),
    ToProxy(ToProxy),
}

#[derive(Clone, Debug)]
pub(crate) enum ToStore {
    Word(u64, Word),
    Declare(Box<Declaration>),
    Answer(RequestNumber, Outcome),
}

#[derive(Clone, Debug)]
pub(crate) enum ToController {
    WordTaken { number: u64, taken: bool },
    Declared { at: Option<Revision>, answer: Answer },
    Snapshot(Arc<Snapshot>),
}

#[derive(Clone, Debug)]
pub(crate) enum OnLink {
    Connect(Position),
    Connected(History),
    Wal { from: usize, entries: Vec<Entry> },
    Flushed(usize),
    Closed,
}

#[derive(Clone, Debug)]
pub(crate) enum ToProxy {
    Topology(View),
    Reply { client: usize, operation: u32, reply: Reply },
}

/// What is still to happen: the earliest first, and what was said first of what is due together.
#[derive(Default)]
pub(crate) struct Queue {
    /// When, in which order, and its place in `happenings`: a heap moves what it holds, often.
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    /// Places that are free.
    free: Vec<usize>,
    number: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Moment, what: Happening) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[place] = Some(what);
        let number = self.unique();
        self.heap.push(Reverse((at, number, place)));
    }

    pub(crate) fn pop(&mut self) -> Option<(Moment, Happening)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.happenings[place].take()?))
    }

    /// A number that was never given before.
    pub(crate) fn unique(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}
