//! WAL on its way: commits, WAL senders and receivers, and who may go on when.

use std::time::Duration;

use dugong_machine::Names;
use dugong_topology::Position;

use crate::bug::Bug;
use crate::checker::Violation;
use crate::client::Reply;
use crate::happening::{Happening, Message, OnLink};
use crate::network::{Channel, Place};
use crate::postgres::{CHECKPOINTER, Entry, Process, Receiver, Sender, Waiter};
use crate::wal::{lsn, released_by};
use crate::world::World;

/// `wal_sender_timeout` and `wal_receiver_timeout`.
const LINK_TIMEOUT: Duration = Duration::from_secs(5);

impl World {
    /// A commit: written now, flushed soon, acknowledged when all names have it.
    pub(crate) fn commit(&mut self, node: usize, entry: Entry, waiter: Waiter) {
        let server = &mut self.instances[node].server;
        let need = server.disk.append(&[entry]);
        let epoch = server.epoch;
        if let Some(primary) = server.primary() {
            primary.waiters.push((need, waiter));
        }
        let us = self.dice.between(100, 3_000);
        self.after_us(us, Happening::Flush(node, epoch, need));
    }

    pub(crate) fn flush(&mut self, node: usize, epoch: u32, upto: usize) -> Result<(), Violation> {
        let server = &mut self.instances[node].server;
        if server.epoch != epoch {
            return Ok(());
        }
        server.disk.flushed = server.disk.flushed.max(upto.min(server.disk.wal.len()));
        let flushed = server.disk.flushed;
        if let Some(receiver) = server.standby().and_then(|standby| standby.receiver.clone()) {
            self.report_flush(node, &receiver, flushed);
        }
        self.push_wal(node);
        let careless = self.has(Bug::NamesEmpty);
        let server = &mut self.instances[node].server;
        let alone = server.senders.is_empty();
        let waits = server.primary().is_none_or(|primary| primary.heeded);
        if !waits || (alone && careless) { self.release(node, flushed) } else { Ok(()) }
    }

    fn report_flush(&mut self, node: usize, receiver: &Receiver, upto: usize) {
        let Some(standby) = self.instances[node].server.standby() else { return };
        let Some(upstream) = standby.upstream else { return };
        let message = Message::Wal(receiver.connection, OnLink::Flushed(upto));
        self.send(Place::Instance(node), Place::Instance(upstream), Channel::Wal, message);
    }

    /// Sends every standby what is flushed here and not sent yet.
    pub(crate) fn push_wal(&mut self, node: usize) {
        for index in 0..self.instances[node].server.senders.len() {
            let server = &mut self.instances[node].server;
            let upto = server.disk.flushed;
            if server.senders[index].sent < upto {
                self.send_wal(node, index, upto);
            }
        }
    }

    fn send_wal(&mut self, node: usize, index: usize, upto: usize) {
        let server = &mut self.instances[node].server;
        let sender = &mut server.senders[index];
        let (connection, from, to) = (sender.connection, sender.sent, sender.standby);
        sender.sent = upto;
        let entries = server.disk.wal[from..upto].to_vec();
        let message = Message::Wal(connection, OnLink::Wal { from, entries });
        self.send(Place::Instance(node), Place::Instance(to), Channel::Wal, message);
    }

    /// Keeps connections warm, and ends those on which nothing came for too long.
    pub(crate) fn keep_links_alive(&mut self, node: usize) {
        self.after_ms(500, Happening::Keepalive(node));
        let now = self.now;
        let silent = |heard_at| now.since(heard_at) > LINK_TIMEOUT;
        let server = &mut self.instances[node].server;
        server.senders.retain(|sender| !silent(sender.heard_at));
        let deaf = server
            .standby()
            .is_some_and(|standby| standby.receiver.as_ref().is_some_and(|r| silent(r.heard_at)));
        if deaf {
            self.hang_up(node);
        }
        let flushed = self.instances[node].server.disk.flushed;
        for index in 0..self.instances[node].server.senders.len() {
            self.send_wal(node, index, flushed);
        }
        let receiver = self.instances[node].server.standby().and_then(|s| s.receiver.clone());
        if let Some(receiver) = receiver.filter(|receiver| receiver.history.is_some()) {
            self.report_flush(node, &receiver, flushed);
        }
    }

    /// Nobody here knows the connection: its other end learns that it is gone.
    fn reset(&mut self, node: usize, other: usize, connection: u64) {
        let message = Message::Wal(connection, OnLink::Closed);
        self.send(Place::Instance(node), Place::Instance(other), Channel::Wal, message);
    }

    /// Ends the WAL receiver, if there is one.
    pub(crate) fn hang_up(&mut self, node: usize) {
        let Some(standby) = self.instances[node].server.standby() else { return };
        let upstream = standby.upstream;
        if let (Some(receiver), Some(upstream)) = (standby.receiver.take(), upstream) {
            let message = Message::Wal(receiver.connection, OnLink::Closed);
            self.send(Place::Instance(node), Place::Instance(upstream), Channel::Wal, message);
        }
    }

    /// Starts a WAL receiver where there is none.
    pub(crate) fn connect(&mut self, node: usize) {
        let (connection, now) = (self.unique(), self.now);
        let server = &mut self.instances[node].server;
        let position = Position::new(server.disk.history.timeline, lsn(server.disk.wal.len()));
        let Some(standby) = server.standby() else { return };
        let Some(upstream) = standby.upstream.filter(|_| standby.receiver.is_none()) else {
            return;
        };
        standby.receiver = Some(Receiver { connection, history: None, heard_at: now });
        let message = Message::Wal(connection, OnLink::Connect(position));
        self.send(Place::Instance(node), Place::Instance(upstream), Channel::Wal, message);
    }

    pub(crate) fn link_receives(
        &mut self,
        from: usize,
        node: usize,
        connection: u64,
        message: OnLink,
    ) -> Result<(), Violation> {
        match message {
            OnLink::Connect(position) => self.let_in(node, from, connection, position),
            OnLink::Connected(history) => {
                if let Some(receiver) = self.receiver(node, connection) {
                    receiver.history = Some(history);
                    self.poke(node);
                } else {
                    self.reset(node, from, connection);
                }
            }
            OnLink::Wal { from: at, entries } => {
                if self.receiver(node, connection).is_some() {
                    self.receive_wal(node, connection, at, &entries);
                } else {
                    self.reset(node, from, connection);
                }
            }
            OnLink::Flushed(upto) => {
                let senders = &self.instances[node].server.senders;
                if senders.iter().any(|sender| sender.connection == connection) {
                    return self.standby_has(node, connection, upto);
                }
                self.reset(node, from, connection);
            }
            OnLink::Closed => {
                self.instances[node].server.senders.retain(|s| s.connection != connection);
                if self.receiver(node, connection).is_some()
                    && let Some(standby) = self.instances[node].server.standby()
                {
                    standby.receiver = None;
                    self.poke(node);
                }
            }
        }
        Ok(())
    }

    fn receiver(&mut self, node: usize, connection: u64) -> Option<&mut Receiver> {
        let now = self.now;
        let receiver = self.instances[node].server.standby()?.receiver.as_mut()?;
        receiver.heard_at = now;
        (receiver.connection == connection).then_some(receiver)
    }

    /// A standby asks for WAL from its position on: by timelines and LSNs alone.
    fn let_in(&mut self, node: usize, standby: usize, connection: u64, position: Position) {
        let now = self.now;
        let names = match &self.instances[node].server.process {
            Process::Primary(primary) => primary.names.clone(),
            Process::Standby(_) | Process::Down | Process::Busy(..) => Names::Each(Vec::new()),
        };
        let server = &mut self.instances[node].server;
        let history = server.disk.history.clone();
        let ahead = position.lsn > lsn(server.disk.flushed);
        let (here, there) = (Place::Instance(node), Place::Instance(standby));
        if !server.is_up() || ahead || !history.contains(position) {
            return self.send(here, there, Channel::Wal, Message::Wal(connection, OnLink::Closed));
        }
        server.senders.retain(|sender| sender.standby != standby);
        let sent = usize::try_from(position.lsn.0).expect("an LSN counts entries");
        let target = server.disk.flushed;
        server.senders.push(Sender {
            connection,
            standby,
            sent,
            flushed: 0,
            streaming: false,
            target,
            names,
            heard_at: now,
        });
        self.send(here, there, Channel::Wal, Message::Wal(connection, OnLink::Connected(history)));
        self.send_wal(node, self.instances[node].server.senders.len() - 1, target);
    }

    fn receive_wal(&mut self, node: usize, connection: u64, from: usize, entries: &[Entry]) {
        let Some(history) = self.receiver(node, connection).and_then(|r| r.history.clone()) else {
            return;
        };
        let server = &mut self.instances[node].server;
        if from != server.disk.wal.len() {
            return self.hang_up(node); // Something was lost on the way: ask again from here.
        }
        let upto = server.disk.append(entries);
        server.disk.follow(&history);
        let epoch = server.epoch;
        let us = if entries.is_empty() { 0 } else { self.dice.between(100, 3_000) };
        self.after_us(us, Happening::Flush(node, epoch, upto));
    }

    /// A standby says how far it has flushed.
    fn standby_has(&mut self, node: usize, connection: u64, upto: usize) -> Result<(), Violation> {
        let now = self.now;
        let server = &mut self.instances[node].server;
        let Some(sender) = server.senders.iter_mut().find(|s| s.connection == connection) else {
            return Ok(());
        };
        sender.flushed = upto;
        sender.heard_at = now;
        if upto >= sender.target && !sender.streaming {
            sender.streaming = true;
            self.poke(node);
        }
        self.release_by(node, connection)
    }

    fn release_by(&mut self, node: usize, connection: u64) -> Result<(), Violation> {
        let server = &self.instances[node].server;
        let sender = server.senders.iter().find(|sender| sender.connection == connection);
        match sender.and_then(|sender| released_by(sender, &server.senders, &self.ids)) {
            Some(upto) => self.release(node, upto),
            None => Ok(()),
        }
    }

    /// Every commit that needs no more than this much WAL is acknowledged.
    fn release(&mut self, node: usize, upto: usize) -> Result<(), Violation> {
        let server = &mut self.instances[node].server;
        let upto = upto.min(server.disk.flushed);
        let Some(primary) = server.primary() else { return Ok(()) };
        primary.visible = primary.visible.max(upto);
        let all = std::mem::take(&mut primary.waiters);
        let (done, waiting): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(need, _)| *need <= upto);
        primary.waiters = waiting;
        if !done.is_empty() {
            self.checker.may_release(&self.store, &self.ids[node], upto)?;
        }
        for (_, waiter) in done {
            self.answer(node, waiter);
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, node: usize, waiter: Waiter) {
        match waiter {
            Waiter::Client { client, operation } => {
                self.reply(node, client, operation, Reply::Added);
            }
            Waiter::Heartbeat { begun } => {
                let epoch = self.instances[node].epoch;
                self.after_us(300, Happening::LinkConfirmed(node, epoch, begun));
            }
        }
    }

    /// A WAL sender reads the configuration, as it is then.
    pub(crate) fn reloaded(&mut self, node: usize, epoch: u32, connection: u64) {
        let server = &mut self.instances[node].server;
        if server.epoch != epoch {
            return;
        }
        let Some(primary) = server.primary() else { return };
        let names = primary.names.clone();
        if connection == CHECKPOINTER {
            primary.heeded = names != Names::OneNode;
            self.poke(node);
        } else if let Some(sender) = server.senders.iter_mut().find(|s| s.connection == connection)
        {
            sender.names = names;
            self.poke(node);
        }
    }
}
