//! What runs where: hosts, addresses, and the files that each service reads.
//!
//! [`Plan`] is the choice, [`Plan::hosts`] the hosts that it needs. Once those have addresses,
//! [`services`] writes the files and says what each host runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;
use dugong_controller::credentials::Credentials;

use crate::keeper::{Kind, Service};
use crate::network::{HostId, Network};
use crate::papers::{self, Papers, Wire};

/// The ports, on every host the same.
pub const POSTGRES: u16 = 5432;
pub const CONTROLLER: u16 = 8008;
pub const STORE_CLIENT: u16 = 2379;
pub const STORE_PEER: u16 = 2380;
pub const WRITE: u16 = 6432;
pub const READ: u16 = 6433;
pub const PROXY_HTTP: u16 = 6434;

/// Members of the store: one may be lost.
const STORE_MEMBERS: usize = 3;

/// Where the members of the store run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StorePlace {
    /// On the hosts of the instances, as three machines in production
    Beside,
    /// On hosts of their own, so that an instance can be cut off from the store alone
    Apart,
    /// No members: one file that all hosts share, and no network can cut off
    File,
}

/// How large a laboratory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Instances, each with its controller; at least 3.
    pub machines: usize,
    pub store: StorePlace,
    /// Each on a host of its own: clients of one may know more than clients of another.
    pub proxies: usize,
    pub wire: Wire,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An instance and its controller, and where the store is [`StorePlace::Beside`] its member.
    Machine,
    StoreMember,
    Proxy,
    Clients,
}

/// The hosts of a laboratory, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    pub machines: Vec<HostId>,
    /// Where a member of the store runs.
    pub store: Vec<HostId>,
    pub proxies: Vec<HostId>,
    pub clients: HostId,
}

impl Hosts {
    /// All hosts but the clients'.
    pub fn servers(&self) -> Vec<HostId> {
        let mut all = [&self.machines[..], &self.store, &self.proxies].concat();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Plan {
    /// The names of the hosts, in the order of their numbers.
    pub fn names(&self) -> Vec<String> {
        let numbered = |word: &'static str, count| (1..=count).map(move |n| format!("{word}-{n}"));
        let mut names: Vec<String> = numbered("pg", self.machines).collect();
        match self.store {
            StorePlace::Beside | StorePlace::File => {}
            StorePlace::Apart => names.extend(numbered("store", STORE_MEMBERS)),
        }
        names.extend(numbered("proxy", self.proxies));
        names.push("clients".to_owned());
        names
    }

    /// Which of these numbers is what.
    pub fn hosts(&self) -> Hosts {
        let machines: Vec<HostId> = (0..self.machines).map(HostId).collect();
        let (store, next): (Vec<HostId>, usize) = match self.store {
            StorePlace::Beside => (machines[..STORE_MEMBERS].to_vec(), self.machines),
            StorePlace::File => (Vec::new(), self.machines),
            StorePlace::Apart => {
                let next = self.machines + STORE_MEMBERS;
                ((self.machines..next).map(HostId).collect(), next)
            }
        };
        let proxies = (next..next + self.proxies).map(HostId).collect();
        Hosts { machines, store, proxies, clients: HostId(next + self.proxies) }
    }

    /// Whether a proxy speaks TLS with clients and instances.
    fn encrypts(&self, proxy: HostId) -> bool {
        match self.wire {
            Wire::Clear => false,
            Wire::Mixed => self.hosts().proxies.last() != Some(&proxy),
            Wire::Tls => true,
        }
    }

    /// The proxies that speak none, as those who let them in have to be told.
    fn in_clear(&self, network: &Network) -> Vec<String> {
        let clear = self.hosts().proxies.into_iter().filter(|proxy| !self.encrypts(*proxy));
        clear.map(|proxy| format!("\"{}/32\"", network.address(proxy))).collect()
    }
}

/// The programs that hosts run, in a place where the user `postgres` can reach them.
#[derive(Clone, Debug)]
pub struct Programs {
    pub controller: PathBuf,
    pub proxy: PathBuf,
    pub etcd: PathBuf,
}

/// Writes every file below `root`, and says what each host runs, by its number.
///
/// # Errors
///
/// A file cannot be written, or there is no user `postgres`.
pub fn services(
    plan: &Plan,
    network: &Network,
    programs: &Programs,
    root: &Path,
) -> anyhow::Result<Vec<Vec<Service>>> {
    let hosts = plan.hosts();
    let credentials = Credentials::generate()?;
    let authority = match plan.wire {
        Wire::Clear => None,
        Wire::Mixed | Wire::Tls => Some(papers::authority(root)?),
    };
    let mut services = Vec::new();
    // Where the store is a file, all controllers write to it.
    own(root)?;
    for host in network.hosts() {
        let folder = root.join(network.name(host));
        fs::create_dir_all(&folder)?;
        own(&folder)?;
        let mut here = Vec::new();
        let (name, address) = (network.name(host), network.address(host).into());
        let papers = authority.as_ref();
        let papers = papers.map(|by| Papers::issue(by, &folder, name, address)).transpose()?;
        let papers = papers.as_ref();
        if hosts.store.contains(&host) {
            here.push(member(&hosts, network, host, programs, &folder, papers));
        }
        if hosts.machines.contains(&host) {
            let store = store_section(plan.store, &hosts, network, root, papers);
            let passwords = folder.join("credentials.json");
            credentials.store_new(&passwords)?;
            own(&passwords)?;
            let clear = plan.in_clear(network);
            here.push(controller(network, host, programs, &folder, &store, papers, &clear)?);
        }
        if hosts.proxies.contains(&host) {
            here.push(proxy(plan, network, host, programs, &folder, papers)?);
        }
        services.push(here);
    }
    // For the clients' own connections.
    credentials.store_new(&root.join("credentials.json"))?;
    Ok(services)
}

/// The members of a cluster of etcd.
///
/// Source: etcd 3.4, "Clustering Guide", static.
pub fn member(
    hosts: &Hosts,
    network: &Network,
    host: HostId,
    programs: &Programs,
    folder: &Path,
    papers: Option<&Papers>,
) -> Service {
    let scheme = scheme(papers);
    let peer = |host| format!("{scheme}://{}:{STORE_PEER}", network.address(host));
    let client = format!("{scheme}://{}:{STORE_CLIENT}", network.address(host));
    let named = |host: &HostId| format!("{}={}", network.name(*host), peer(*host));
    let all: Vec<String> = hosts.store.iter().map(named).collect();
    let data = folder.join("etcd").display().to_string();
    let arguments = [
        ("--name", network.name(host).to_owned()),
        ("--data-dir", data),
        ("--listen-peer-urls", peer(host)),
        ("--initial-advertise-peer-urls", peer(host)),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--initial-cluster", all.join(",")),
        ("--initial-cluster-token", "laboratory".to_owned()),
        ("--logger", "zap".to_owned()),
        ("--log-outputs", "stderr".to_owned()),
    ];
    Service {
        name: format!("etcd on {}", network.name(host)),
        kind: Kind::Store,
        program: programs.etcd.clone(),
        arguments: arguments
            .into_iter()
            .flat_map(|(key, value)| [key.to_owned(), value])
            .chain(papers.into_iter().flat_map(member_papers))
            .collect(),
        log: folder.join("etcd.log"),
    }
}

/// Members show each other their certificates, and clients have to show theirs.
fn member_papers(papers: &Papers) -> Vec<String> {
    let Papers { cert, key, ca } = papers;
    let files = [("cert-file", cert), ("key-file", key), ("trusted-ca-file", ca)];
    let of = |prefix: &str| {
        let named = files.map(|(flag, path)| format!("--{prefix}{flag}={}", path.display()));
        [&named[..], &[format!("--{prefix}client-cert-auth")]].concat()
    };
    [of(""), of("peer-")].concat()
}

fn scheme(papers: Option<&Papers>) -> &'static str {
    if papers.is_some() { "https" } else { "http" }
}

/// Files under the keys that name them.
fn files(pairs: &[(&str, &Path)]) -> String {
    pairs.iter().map(|(key, path)| format!("{key} = \"{}\"\n", path.display())).collect()
}

fn store_section(
    place: StorePlace,
    hosts: &Hosts,
    network: &Network,
    root: &Path,
    papers: Option<&Papers>,
) -> String {
    match place {
        StorePlace::File => format!("[store]\npath = \"{}/store.db\"\n", root.display()),
        StorePlace::Beside | StorePlace::Apart => {
            let url = |host: &HostId| {
                format!("\"{}://{}:{STORE_CLIENT}\"", scheme(papers), network.address(*host))
            };
            let endpoints: Vec<String> = hosts.store.iter().map(url).collect();
            let trust = papers
                .map(|Papers { cert, key, ca }| files(&[("ca", ca), ("cert", cert), ("key", key)]));
            format!(
                "[store]\nkind = \"etcd\"\nendpoints = [{}]\n{}",
                endpoints.join(", "),
                trust.unwrap_or_default()
            )
        }
    }
}

fn controller(
    network: &Network,
    host: HostId,
    programs: &Programs,
    folder: &Path,
    store: &str,
    papers: Option<&Papers>,
    in_clear: &[String],
) -> anyhow::Result<Service> {
    let server = papers.map(|Papers { cert, key, ca }| {
        files(&[("tls_cert", cert), ("tls_key", key), ("tls_ca", ca)])
            + &format!("plain_networks = [{}]\n", in_clear.join(", "))
    });
    let server = server.unwrap_or_default();
    let http =
        papers.map(|Papers { cert, key, .. }| files(&[("tls_cert", cert), ("tls_key", key)]));
    let http = http.unwrap_or_default();
    let (name, address, subnet) = (network.name(host), network.address(host), network.subnet());
    let here = folder.display();
    let text = format!(
        "instance = \"{name}\"\ndir = \"{here}/instance\"\n\
         credentials = \"{here}/credentials.json\"\n\n\
         [postgres]\nlisten = \"{address}:{POSTGRES}\"\nmemory = \"512MB\"\nnetworks = [\"{subnet}\"]\n{server}\n\
         [http]\nlisten = \"{address}:{CONTROLLER}\"\n{http}\n{store}"
    );
    let file = folder.join("controller.toml");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(Service {
        name: format!("controller on {name}"),
        kind: Kind::Controller,
        program: programs.controller.clone(),
        arguments: vec!["--config".to_owned(), file.display().to_string()],
        log: folder.join("controller.log"),
    })
}

fn proxy(
    plan: &Plan,
    network: &Network,
    host: HostId,
    programs: &Programs,
    folder: &Path,
    papers: Option<&Papers>,
) -> anyhow::Result<Service> {
    let scheme = scheme(papers);
    let url = |host: &HostId| format!("\"{scheme}://{}:{CONTROLLER}\"", network.address(*host));
    let controllers: Vec<String> = plan.hosts().machines.iter().map(url).collect();
    let mut trust =
        papers.map(|papers| files(&[("controller_ca", &papers.ca)])).unwrap_or_default();
    if let Some(Papers { cert, key, ca }) = papers.filter(|_| plan.encrypts(host)) {
        trust += &files(&[("server_ca", ca), ("tls_cert", cert), ("tls_key", key)]);
        trust += "server_tls = \"verify-full\"\nwrite_tls = \"require\"\nread_tls = \"require\"\n";
    }
    let text = format!(
        "controllers = [{}]\nlisten = \"{}\"\nwrite_port = {WRITE}\nread_port = {READ}\nhttp_port = {PROXY_HTTP}\n{trust}",
        controllers.join(", "),
        network.address(host)
    );
    let file = folder.join("proxy.toml");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(Service {
        name: network.name(host).to_owned(),
        kind: Kind::Proxy,
        program: programs.proxy.clone(),
        arguments: vec!["--config".to_owned(), file.display().to_string()],
        log: folder.join("proxy.log"),
    })
}

/// Gives a file or folder to the user `postgres`.
///
/// # Errors
///
/// There is no such user, or no such file.
pub fn own(path: &Path) -> anyhow::Result<()> {
    let id = |what: &str| -> anyhow::Result<u32> {
        let output = Command::new("id").args([what, "postgres"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().context("there is no user postgres: install PostgreSQL's server")
    };
    chown(path, Some(id("-u")?), Some(id("-g")?))?;
    Ok(())
}

/// Programs where the user `postgres` can run them: copied below `root` where their own folder is
/// closed to it.
///
/// # Errors
///
/// One of them is missing, or cannot be copied.
pub fn reachable(program: &Path, root: &Path) -> anyhow::Result<PathBuf> {
    let test = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--", "test", "-x"])
        .arg(program)
        .status()?;
    if test.success() {
        return Ok(program.to_owned());
    }
    let name = program.file_name().context("a program has a name")?;
    let copy = root.join(name);
    fs::copy(program, &copy).with_context(|| program.display().to_string())?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for store in [StorePlace::Beside, StorePlace::Apart, StorePlace::File] {
            let plan = Plan { machines: 3, store, proxies: 2, wire: Wire::Mixed };
            let (names, hosts) = (plan.names(), plan.hosts());
            assert_eq!(names[hosts.machines[2].0], "pg-3");
            assert_eq!(names[hosts.proxies[1].0], "proxy-2");
            assert_eq!(names[hosts.clients.0], "clients");
            assert_eq!(hosts.clients.0 + 1, names.len());
            let members: Vec<&str> =
                hosts.store.iter().map(|host| names[host.0].as_str()).collect();
            let expected: &[&str] = match store {
                StorePlace::Beside => &["pg-1", "pg-2", "pg-3"],
                StorePlace::Apart => &["store-1", "store-2", "store-3"],
                StorePlace::File => &[],
            };
            assert_eq!(members, expected);
        }
    }
}
