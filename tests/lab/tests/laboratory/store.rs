//! Three members of the store on hosts of their own: what their loss does, as etcdctl sees it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dugong_lab::keeper::{Keeper, Kind};
use dugong_lab::network::{HostId, Network};
use dugong_lab::papers::Wire;
use dugong_lab::plan::{self, Plan, Programs, STORE_CLIENT, StorePlace};

/// The longest that an election, or a start, may take on a busy machine.
const SOON: Duration = Duration::from_secs(40);

struct Store {
    keepers: Vec<Keeper>,
    network: Network,
    members: Vec<HostId>,
    clients: HostId,
    _folder: tempfile::TempDir,
}

impl Store {
    fn start() -> Self {
        let plan = Plan { machines: 0, store: StorePlace::Apart, proxies: 0, wire: Wire::Clear };
        let network = Network::make(&plan.names()).unwrap();
        let folder = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let programs =
            Programs { controller: "none".into(), proxy: "none".into(), etcd: "etcd".into() };
        let services = plan::services(&plan, &network, &programs, folder.path()).unwrap();
        let keepers = services.into_iter().map(Keeper::new).collect();
        let hosts = plan.hosts();
        let (members, clients) = (hosts.store, hosts.clients);
        let mut store = Self { keepers, network, members, clients, _folder: folder };
        store.tend();
        store
    }

    fn tend(&mut self) {
        for host in self.network.hosts() {
            self.keepers[host.0].tend(self.network.namespace(host)).unwrap();
        }
    }

    /// `etcdctl` on the clients' host, with these members as endpoints.
    fn ask(&self, members: &[HostId], arguments: &[&str]) -> Result<String, String> {
        let url = |host: &HostId| format!("http://{}:{STORE_CLIENT}", self.network.address(*host));
        let endpoints: Vec<String> = members.iter().map(url).collect();
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.network.namespace(self.clients).handle().display()))
            .args(["--", "etcdctl", "--command-timeout=1s", "--dial-timeout=1s"])
            .arg(format!("--endpoints={}", endpoints.join(",")))
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Asks until the answer fits; whoever has ended meanwhile is started again.
    fn until(&mut self, what: &str, members: &[HostId], ask: &[&str], fits: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + SOON;
        loop {
            self.tend();
            let answer = self.ask(members, ask);
            if answer.as_ref().is_ok_and(|answer| fits(answer)) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {answer:?}");
        }
    }

    fn takes(&mut self, value: &str, members: &[HostId]) {
        self.until(value, members, &["put", "key", value], |answer| answer == "OK");
    }

    fn knows(&mut self, value: &str, members: &[HostId]) {
        let ask = ["get", "key", "--print-value-only"];
        self.until(value, members, &ask, |answer| answer == value);
    }

    /// The member that says of itself that it leads.
    fn leader(&self) -> HostId {
        let leads = |host: &&HostId| {
            let status = ["endpoint", "status", "--write-out=fields"];
            let answer = self.ask(&[**host], &status).unwrap_or_default();
            let field = |name: &str| {
                let line = answer.lines().find(|line| line.starts_with(&format!("\"{name}\"")))?;
                line.split(':').nth(1).map(|value| value.trim().to_owned())
            };
            field("Leader").is_some() && field("Leader") == field("MemberID")
        };
        self.members.iter().find(leads).copied().expect("one member leads")
    }

    fn drop_host(&mut self, host: HostId) {
        self.keepers[host.0].drop_host(self.network.namespace(host)).unwrap();
    }
}

#[test]
fn a_store_outlives_its_leader_and_comes_back_with_its_majority() {
    if !crate::able() {
        return;
    }
    let mut store = Store::start();
    let all = store.members.clone();
    store.takes("first", &all);

    let leader = store.leader();
    store.drop_host(leader);
    assert!(store.network.namespace(leader).processes().unwrap().is_empty());
    let rest: Vec<HostId> = all.iter().copied().filter(|host| *host != leader).collect();
    store.knows("first", &rest);
    store.takes("without its leader", &rest);

    store.drop_host(rest[0]);
    // A put without an answer may take effect later: not to the key that is looked at.
    assert!(store.ask(&rest[1..], &["put", "another key", "by one of three"]).is_err());
    assert!(store.ask(&rest[1..], &["get", "key"]).is_err(), "a read needs a majority, too");

    store.keepers[rest[0].0].raise();
    store.knows("without its leader", &rest);
    store.keepers[leader.0].raise();
    store.takes("whole", &[leader]);
}

#[test]
fn a_paused_member_answers_when_it_continues() {
    if !crate::able() {
        return;
    }
    let mut store = Store::start();
    let all = store.members.clone();
    store.takes("first", &all);
    let victim = all[0];
    store.keepers[victim.0].pause(store.network.namespace(victim)).unwrap();
    assert!(store.ask(&[victim], &["get", "key"]).is_err());
    store.takes("without one", &all[1..]);
    store.keepers[victim.0].resume(store.network.namespace(victim)).unwrap();
    store.knows("without one", &[victim]);
}

#[test]
fn a_member_that_is_cut_off_alone_answers_nothing_and_catches_up() {
    if !crate::able() {
        return;
    }
    let mut store = Store::start();
    let all = store.members.clone();
    store.takes("first", &all);
    let victim = all[0];
    for other in &all[1..] {
        store.network.cut(victim, *other);
        store.network.cut(*other, victim);
    }
    assert!(store.ask(&[victim], &["put", "another key", "lonely"]).is_err());
    store.takes("by two", &all[1..]);
    for other in &all[1..] {
        store.network.mend(victim, *other);
        store.network.mend(*other, victim);
    }
    store.knows("by two", &[victim]);
}

#[test]
fn one_kind_of_service_dies_alone_and_comes_back() {
    if !crate::able() {
        return;
    }
    let mut store = Store::start();
    let all = store.members.clone();
    store.takes("first", &all);
    for host in &all {
        store.keepers[host.0].kill_kind(Kind::Store).unwrap();
        assert!(store.network.namespace(*host).processes().unwrap().is_empty());
    }
    store.tend();
    assert!(store.ask(&all, &["get", "key"]).is_err(), "nobody starts it while it is down");
    for host in &all {
        store.keepers[host.0].raise_kind(Kind::Store);
    }
    store.knows("first", &all);
}
