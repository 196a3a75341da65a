//! WAL between servers: connections, what goes through them, and who is let go by it.

use dugong_machine::{Access, Event, Names};
use dugong_simulator::Bug;
use dugong_simulator::wal::{lsn, released_by};

use crate::server::{OWN, Process, Sender, Server, Waiter};
use crate::world::{Broken, World};

impl World {
    /// The upstream of `node`, if its connection is alive at both ends.
    pub(crate) fn linked_upstream(&self, node: usize) -> Option<usize> {
        let standby = self.nodes[node].server.standby()?;
        let upstream = standby.upstream?;
        let (life, history) = standby.link.as_ref()?;
        let server = &self.nodes[upstream].server;
        let known = sender_to(server, node, self.nodes[node].server.life).is_some();
        // A sender ends when its server goes on on another timeline.
        let same = server.life == *life && server.disk.history.timeline == history.timeline;
        (same && known).then_some(upstream)
    }

    fn talk(&self, one: usize, other: usize) -> bool {
        self.server_runs(one) && self.server_runs(other) && self.reach_each_other(one, other)
    }

    /// Ends that learn that the other one is gone: at once where they reach each other.
    pub(crate) fn drop_dead_links(&mut self) {
        self.drop_links(|world, one, other| world.reach_each_other(one, other));
    }

    /// Ends that have heard nothing for too long.
    pub(crate) fn time_out_links(&mut self) {
        self.drop_links(|_, _, _| true);
        for node in self.all() {
            let upstream = self.nodes[node].server.standby().and_then(|standby| standby.upstream);
            if let Some(upstream) = upstream
                && !self.talk(node, upstream)
            {
                if self.server_runs(node)
                    && let Some(standby) = self.server(node).standby_mut()
                {
                    standby.link = None;
                }
                if self.server_runs(upstream) {
                    self.server(upstream).senders.retain(|sender| sender.standby != node);
                }
            }
        }
    }

    fn drop_links(&mut self, notices: impl Fn(&Self, usize, usize) -> bool) {
        for node in self.all() {
            let standby = self.nodes[node].server.standby();
            let linked = standby.filter(|standby| standby.link.is_some());
            if let Some(upstream) = linked.and_then(|standby| standby.upstream)
                && self.linked_upstream(node).is_none()
                && notices(self, node, upstream)
                && let Some(standby) = self.server(node).standby_mut()
            {
                standby.link = None;
            }
        }
        for upstream in self.all() {
            let gone = |sender: &Sender| {
                let of_now = self.nodes[sender.standby].server.life == sender.life;
                let here = self.linked_upstream(sender.standby) == Some(upstream);
                !(of_now && here) && notices(self, upstream, sender.standby)
            };
            let kept = |sender: &&Sender| !gone(sender);
            let senders = &self.nodes[upstream].server.senders;
            let left: Vec<Sender> = senders.iter().filter(kept).cloned().collect();
            if left.len() < senders.len() {
                self.server(upstream).senders = left;
            }
        }
    }

    /// Whether a receiver would be let in: by timelines and LSNs alone.
    pub(crate) fn may_connect(&self, node: usize) -> Option<usize> {
        let server = &self.nodes[node].server;
        let standby = server.standby().filter(|s| s.link.is_none() && !s.sealed)?;
        let upstream = standby.upstream.filter(|upstream| self.talk(node, *upstream))?;
        let source = &self.nodes[upstream].server;
        let ahead = server.disk.wal.len() > source.disk.wal.len();
        let known = source.disk.history.contains(server.disk.end());
        (source.is_up() && !ahead && known).then_some(upstream)
    }

    pub(crate) fn connect(&mut self, node: usize, upstream: usize) {
        let life = self.nodes[node].server.life;
        let source = self.server(upstream);
        let names = match &source.process {
            Process::Primary(primary) => primary.names.clone(),
            Process::Standby(_) | Process::Down | Process::Busy(..) => Names::Each(Vec::new()),
        };
        source.senders.retain(|sender| sender.standby != node);
        let target = source.disk.wal.len();
        let streaming = false;
        source.senders.push(Sender { standby: node, life, flushed: 0, streaming, target, names });
        source.senders.sort_by_key(|sender| sender.standby);
        let told = (source.life, source.disk.history.clone());
        if let Some(standby) = self.server(node).standby_mut() {
            standby.link = Some(told);
        }
    }

    pub(crate) fn may_receive(&self, node: usize) -> bool {
        self.linked_upstream(node).is_some_and(|upstream| {
            let wal = |node: usize| self.nodes[node].server.disk.wal.len();
            self.talk(node, upstream) && wal(node) < wal(upstream)
        })
    }

    /// Everything that the upstream has is received and flushed.
    pub(crate) fn receive(&mut self, node: usize) {
        if !self.may_receive(node) {
            return;
        }
        let Some(upstream) = self.linked_upstream(node) else { return };
        let source = self.nodes[upstream].clone();
        let history = source.server.disk.history.clone();
        let disk = &mut self.server(node).disk;
        disk.wal.extend_from_slice(&source.server.disk.wal[disk.wal.len()..]);
        disk.follow(&history);
    }

    /// A standby says how far it has flushed; to another standby that matters to nobody.
    pub(crate) fn may_report(&self, node: usize) -> bool {
        let upstream = self.linked_upstream(node);
        let primary = upstream.filter(|it| self.nodes[*it].server.primary().is_some());
        primary.is_some_and(|upstream| {
            let sender =
                sender_to(&self.nodes[upstream].server, node, self.nodes[node].server.life);
            let flushed = self.nodes[node].server.disk.wal.len();
            let news = |sender: &Sender| {
                sender.flushed != flushed || (!sender.streaming && flushed >= sender.target)
            };
            self.talk(node, upstream) && sender.is_some_and(news)
        })
    }

    pub(crate) fn report(&mut self, node: usize) {
        let Some(upstream) = self.linked_upstream(node) else { return };
        let flushed = self.nodes[node].server.disk.wal.len();
        let server = self.server(upstream);
        if let Some(sender) = server.senders.iter_mut().find(|sender| sender.standby == node) {
            sender.flushed = flushed;
            sender.streaming |= flushed >= sender.target;
        }
        self.release_by(upstream, node);
    }

    /// Whether somebody goes by older names than the server's; the checkpointer as `node` itself.
    pub(crate) fn may_reload(&self, node: usize, whom: usize) -> bool {
        let server = &self.nodes[node].server;
        let Some(primary) = server.primary().filter(|_| self.server_runs(node)) else {
            return false;
        };
        if whom == node {
            return primary.heeded == (primary.names == Names::OneNode);
        }
        let old = |sender: &Sender| sender.standby == whom && sender.names != primary.names;
        server.senders.iter().any(old)
    }

    pub(crate) fn reload(&mut self, node: usize, whom: usize) {
        let server = self.server(node);
        let Some(primary) = server.primary_mut() else { return };
        let names = primary.names.clone();
        if whom == node {
            primary.heeded = names != Names::OneNode;
            return;
        }
        if let Some(sender) = server.senders.iter_mut().find(|sender| sender.standby == whom) {
            sender.names = names;
        }
        self.release_by(node, whom);
    }

    fn release_by(&mut self, node: usize, standby: usize) {
        let server = &self.nodes[node].server;
        let sender = server.senders.iter().find(|sender| sender.standby == standby);
        if let Some(upto) =
            sender.and_then(|sender| released_by(sender, &server.senders, &self.ids))
        {
            self.release(node, upto);
        }
    }

    /// Whoever needs no more WAL than this is told that the commit is done.
    pub(crate) fn release(&mut self, node: usize, upto: usize) {
        let released = self.server(node).release(upto);
        for waiter in released.waiters {
            match waiter {
                Waiter::Client(entry) => {
                    let record = self.store.record();
                    let another = record.is_some_and(|record| {
                        record.primary != self.ids[node] && lsn(released.upto) > record.began_at.lsn
                    });
                    if another {
                        self.broken = self.broken.or(Some(Broken::TwoWriters));
                    }
                    self.acknowledged = self.acknowledged.with(entry);
                }
                Waiter::Heartbeat { begun } => {
                    if self.controller_runs(node) {
                        self.feed(node, Event::LinkConfirmed { begun });
                    }
                }
            }
        }
    }

    /// Whether a client's write would be taken here.
    pub(crate) fn takes_writes(&self, node: usize) -> bool {
        let open = |server: &Server| {
            let primary = server.primary();
            primary.is_some_and(|primary| primary.admits && primary.access == Access::ReadWrite)
        };
        self.server_runs(node) && open(&self.nodes[node].server)
    }

    pub(crate) fn write(&mut self, node: usize) {
        self.written += 1;
        let entry = self.written;
        self.commit(node, entry, Waiter::Client(entry));
    }

    /// Every second a client writes wherever writes are taken, with or without a controller's
    /// heartbeat.
    pub(crate) fn beat(&mut self, node: usize) {
        if !self.takes_writes(node) {
            return;
        }
        self.write(node);
        let begun = self.time();
        let is_heartbeat = |(_, waiter): &(usize, Waiter)| match waiter {
            Waiter::Heartbeat { .. } => true,
            Waiter::Client(_) => false,
        };
        let primary = self.nodes[node].server.primary();
        let beats = primary.is_some_and(|primary| primary.waiters.iter().any(is_heartbeat));
        if self.controller_runs(node) && !beats {
            self.commit(node, OWN, Waiter::Heartbeat { begun });
        }
    }

    fn commit(&mut self, node: usize, entry: u8, waiter: Waiter) {
        let careless = self.has(Bug::NamesEmpty);
        let server = self.server(node);
        server.disk.wal.push(entry);
        let end = server.disk.wal.len();
        let alone = server.senders.is_empty();
        let Some(primary) = server.primary_mut() else { return };
        primary.waiters.push((end, waiter));
        if !primary.heeded || (alone && careless) {
            self.release(node, end);
        }
    }
}

fn sender_to(server: &Server, standby: usize, life: u8) -> Option<&Sender> {
    server.senders.iter().find(|sender| sender.standby == standby && sender.life == life)
}
