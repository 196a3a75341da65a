//! Hosts and the network between them: a namespace for each host, and the switch.
//!
//! **Invariant:** no interface of the machine is touched, and nothing leads out of the network:
//! with the program that made it, every device in it is gone.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use tun_rs::DeviceBuilder;

use crate::namespace::{Namespace, remove_leftovers};
use crate::switch::{Line, Link, MTU, Port, Switch};

/// The device of every host.
const DEVICE: &str = "net0";

/// Hosts at most: one byte of the address, without its ends.
const HOSTS_MAX: usize = 250;

/// A private network with its hosts.
#[derive(Debug)]
pub struct Network {
    /// Before the hosts, so that it ends before they do.
    switch: Switch,
    hosts: Vec<Host>,
    subnet: [u8; 3],
}

#[derive(Debug)]
struct Host {
    name: String,
    namespace: Namespace,
}

/// A host of a network, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub Port);

impl Network {
    /// Makes the hosts that are named, and connects each with each.
    ///
    /// # Errors
    ///
    /// The system's; what was made is removed again.
    pub fn make(names: &[String]) -> anyhow::Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        anyhow::ensure!(names.len() <= HOSTS_MAX, "{} hosts are too many", names.len());
        remove_leftovers().context("leftovers of an earlier laboratory")?;
        let lab = LABS.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        // Two laboratories do not meet; different addresses show it in their logs.
        let subnet = [10, 64 | (high & 63), low.wrapping_add(lab.to_le_bytes()[0])];
        let (mut hosts, mut lines) = (Vec::new(), Vec::new());
        for (index, name) in names.iter().enumerate() {
            let namespace = Namespace::make(lab, name)?;
            let address = address_in(subnet, index);
            lines.push(connect(&namespace, address).with_context(|| name.clone())?);
            hosts.push(Host { name: name.clone(), namespace });
        }
        Ok(Self { switch: Switch::start(lines)?, hosts, subnet })
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// A host's name.
    pub fn name(&self, host: HostId) -> &str {
        &self.hosts[host.0].name
    }

    /// A host's namespace.
    pub fn namespace(&self, host: HostId) -> &Namespace {
        &self.hosts[host.0].namespace
    }

    /// A host's address.
    pub fn address(&self, host: HostId) -> Ipv4Addr {
        address_in(self.subnet, host.0)
    }

    /// All addresses, as `10.0.0.0/24`.
    pub fn subnet(&self) -> String {
        let [a, b, c] = self.subnet;
        format!("{a}.{b}.{c}.0/24")
    }

    /// Nothing gets from one host to another, until a [`Network::mend`] of its own.
    pub fn cut(&self, from: HostId, to: HostId) {
        self.change(from, to, |link| link.cuts += 1);
    }

    /// Takes one cut back.
    pub fn mend(&self, from: HostId, to: HostId) {
        self.change(from, to, |link| link.cuts = link.cuts.saturating_sub(1));
    }

    /// What is sent from one host to another arrives so much later than before.
    pub fn delay(&self, from: HostId, to: HostId, by: Duration) {
        self.change(from, to, |link| link.delay += by);
    }

    /// Takes one delay back.
    pub fn hasten(&self, from: HostId, to: HostId, by: Duration) {
        self.change(from, to, |link| link.delay = link.delay.saturating_sub(by));
    }

    /// Of 100 packets from one host to another, so many more are lost.
    pub fn lose(&self, from: HostId, to: HostId, percent: u8) {
        self.change(from, to, |link| link.loss_percent = link.loss_percent.saturating_add(percent));
    }

    /// Takes one loss back.
    pub fn spare(&self, from: HostId, to: HostId, percent: u8) {
        self.change(from, to, |link| link.loss_percent = link.loss_percent.saturating_sub(percent));
    }

    fn change(&self, from: HostId, to: HostId, change: impl FnOnce(&mut Link)) {
        self.switch.change(|rules| change(rules.link(from.0, to.0)));
    }
}

/// 10.x.y.1 is the first host.
fn address_in([a, b, c]: [u8; 3], index: usize) -> Ipv4Addr {
    let last = u8::try_from(index + 1).expect("no more hosts than addresses");
    Ipv4Addr::new(a, b, c, last)
}

/// A device inside, whose other end is ours.
fn connect(namespace: &Namespace, address: Ipv4Addr) -> anyhow::Result<Line> {
    let open = || DeviceBuilder::new().name(DEVICE).build_sync();
    let opened = namespace.thread(open)?.join();
    let device =
        opened.map_err(|_| anyhow::anyhow!("the thread that opens a device panicked"))??;
    let device = device.context("/dev/net/tun")?;
    namespace.ip(&["address", "add", &format!("{address}/24"), "dev", DEVICE])?;
    namespace.ip(&["link", "set", DEVICE, "mtu", &MTU.to_string(), "up"])?;
    Ok(Line { address, device: device.as_fd().try_clone_to_owned()? })
}
