//! The network between hosts: a switch in user space.
//!
//! Each host has a TUN device, whose other end is here. One thread reads packets from all of them
//! and writes each to the host that it is addressed to, unless the [`Rules`] for this pair and this
//! direction say that it is dropped, lost by chance, or delivered later. That gives one-way cuts,
//! loss and delay in one mechanism, all of them silent: no host is told that a packet was dropped.
//! The kernel's own means would be three different ones (routes, a packet filter, netem), of which
//! not every kernel has all.
//!
//! **Invariant:** a pair's packets keep their order. A cut also drops what was on its way.

mod packet;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};

pub use rules::{Fate, Link, Port, Rules};

/// The longest packet: larger than Ethernet's, since each one costs two system calls.
pub const MTU: u16 = 9000;

/// Packets on their way at most, over all pairs; further ones are lost, as in any switch.
const ON_THEIR_WAY_MAX: usize = 100_000;

/// The most packets of one host in a row, so that a busy one does not silence the others.
const BURST: usize = 64;

/// A running switch; ends when it is dropped.
#[derive(Debug)]
pub struct Switch {
    rules: Arc<RwLock<Rules>>,
    /// Closed to tell the thread that it is over.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A host's line into the switch.
#[derive(Debug)]
pub struct Line {
    pub address: Ipv4Addr,
    /// The outer end of its TUN device.
    pub device: OwnedFd,
}

impl Switch {
    /// Starts forwarding between `lines`; a line's index is its [`Port`].
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(lines: Vec<Line>) -> io::Result<Self> {
        for line in &lines {
            rustix::io::ioctl_fionbio(&line.device, true)?;
        }
        let rules = Arc::new(RwLock::new(Rules::default()));
        let (ending, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let forwarder = Forwarder {
            ports: lines.iter().enumerate().map(|(port, line)| (line.address, port)).collect(),
            lines,
            rules: rules.clone(),
            on_their_way: BTreeMap::new(),
            queues: BTreeMap::new(),
            sent: 0,
        };
        let work = move || forwarder.forward(&ending);
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(work)?;
        Ok(Self { rules, end: Some(end), thread: Some(thread) })
    }

    /// Changes what happens to packets from now on.
    pub fn change(&self, change: impl FnOnce(&mut Rules)) {
        // A rule is replaced whole: one that panicked while it changed another left no half.
        change(&mut self.rules.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so, and has ended as well.
            let _ = thread.join();
        }
    }
}

/// A packet that is delivered later.
struct Later {
    from: Port,
    to: Port,
    packet: Vec<u8>,
}

struct Forwarder {
    ports: BTreeMap<Ipv4Addr, Port>,
    lines: Vec<Line>,
    rules: Arc<RwLock<Rules>>,
    /// By time, then in the order of their sending.
    on_their_way: BTreeMap<(Instant, u64), Later>,
    /// Of each pair that has packets on their way: how many, and when the newest arrives.
    queues: BTreeMap<(Port, Port), (usize, Instant)>,
    sent: u64,
}

impl Forwarder {
    fn forward(mut self, ending: &impl AsFd) {
        let mut buffer = vec![0; usize::from(MTU) + 64];
        loop {
            let wait = self.deliver_due();
            let mut polled: Vec<PollFd<'_>> =
                self.lines.iter().map(|line| PollFd::new(&line.device, PollFlags::IN)).collect();
            polled.push(PollFd::new(ending, PollFlags::IN));
            match poll(&mut polled, wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("poll on devices of our own: {error}"),
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.last() == Some(&true) {
                return;
            }
            for port in (0..self.lines.len()).filter(|port| ready[*port]) {
                self.take_from(port, &mut buffer);
            }
        }
    }

    fn take_from(&mut self, from: Port, buffer: &mut [u8]) {
        for _ in 0..BURST {
            // Nothing more to read; or the device's host is being removed.
            let Ok(length) = read(&self.lines[from].device, &mut *buffer) else { return };
            self.accept(from, &buffer[..length]);
        }
    }

    fn accept(&mut self, from: Port, packet: &[u8]) {
        // What is not for one of the hosts (IPv6, multicast) goes nowhere.
        let Some(to) = packet::destination(packet).and_then(|to| self.ports.get(&to).copied())
        else {
            return;
        };
        self.sent += 1;
        let fate = self.rules().fate(from, to, self.sent);
        let queue = self.queues.get(&(from, to)).copied();
        match (fate, queue) {
            (Fate::Dropped, _) => {}
            (Fate::Delivered { after: Duration::ZERO }, None) => self.deliver(to, packet),
            (Fate::Delivered { .. }, _) if self.on_their_way.len() >= ON_THEIR_WAY_MAX => {}
            (Fate::Delivered { after }, queue) => {
                let now = Instant::now();
                let (count, newest) = queue.unwrap_or((0, now));
                let due = newest.max(now + after);
                self.queues.insert((from, to), (count + 1, due));
                let later = Later { from, to, packet: packet.to_owned() };
                self.on_their_way.insert((due, self.sent), later);
            }
        }
    }

    /// Delivers what is due; returns how long until the next one is, none where there is none.
    fn deliver_due(&mut self) -> Option<Timespec> {
        loop {
            let (&(due, _), _) = self.on_their_way.first_key_value()?;
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Some(timespec(wait));
            }
            let (_, later) = self.on_their_way.pop_first()?;
            let pair = (later.from, later.to);
            match self.queues.get_mut(&pair) {
                Some((count, _)) if *count > 1 => *count -= 1,
                Some(_) | None => {
                    self.queues.remove(&pair);
                }
            }
            if !self.rules().is_cut(later.from, later.to) {
                self.deliver(later.to, &later.packet);
            }
        }
    }

    fn deliver(&self, to: Port, packet: &[u8]) {
        // A full queue, or a host that is being removed: the packet is lost, as on any network.
        let _ = write(&self.lines[to].device, packet);
    }

    fn rules(&self) -> std::sync::RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
