//! `dugong init`: what the machines of a new cluster need, written into a directory.
//!
//! One folder for each machine, to be copied there as it is; one for its proxies; and one for the
//! authority that signs the machines' certificates, to be kept apart from all of them. What is in
//! the folders is said in `init/files.rs`, and in the files themselves.
//!
//! **Invariant:** nothing is overwritten, and nothing is left half-written: the directory appears
//! whole, or not at all.

mod authority;
mod files;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use dugong_topology::InstanceId;

use crate::config::Network;
use crate::run::Failure;

pub use authority::{AUTHORITY_DAYS, Authority, MACHINE_DAYS, Signed};

use files::{Folder, Plan};

/// With fewer the loss of one makes writes wait; above that a bootstrap would wait for a typing
/// error.
const INSTANCES: std::ops::RangeInclusive<usize> = 3..=9;

/// What a new cluster consists of.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  \
        dugong init --instance pg-1=10.0.0.1 --instance pg-2=10.0.0.2 --instance pg-3=10.0.0.3 \\\n    \
        --network 10.0.0.0/24 --proxy 10.0.0.10 --out ./cluster\n\n\
        Ports are 5432 (PostgreSQL), 8008 (controllers), 6432, 6433 and 6434 (proxy: write, read, \
        HTTP).\nChange them, and anything else, in the files.")]
pub struct Options {
    /// An instance's name, and the address of its machine; repeat it for each of them.
    #[arg(long = "instance", value_name = "NAME=HOST", required = true)]
    pub instances: Vec<Machine>,
    /// A member of etcd; repeat it [default: port 2379 of each instance's machine].
    #[arg(long = "etcd", value_name = "URL")]
    pub etcd: Vec<String>,
    /// From where clients may connect to PostgreSQL, by TLS; repeat it. Instances and proxies may anyway.
    #[arg(long = "network", value_name = "NETWORK")]
    pub networks: Vec<Network>,
    /// The address of a proxy that is on none of the instances' machines; repeat it.
    #[arg(long = "proxy", value_name = "IP")]
    pub proxies: Vec<IpAddr>,
    /// The cluster's name.
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub cluster: InstanceId,
    /// The zone of names for the cluster, which the certificates are for, too.
    #[arg(long, value_name = "NAME", default_value = "dugong.internal")]
    pub zone: String,
    /// Where an instance's folder will be on its machine; {} stands for its name.
    #[arg(long, value_name = "DIR", default_value = "/etc/dugong")]
    pub config_dir: String,
    /// Where data will be, in a directory with the instance's name.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/dugong")]
    pub data_dir: PathBuf,
    /// The directory to write; it must not exist, or be empty.
    #[arg(long, value_name = "DIR", default_value = "./cluster")]
    pub out: PathBuf,
}

/// `pg-1=10.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub id: InstanceId,
    /// A name, or an address without brackets.
    pub host: String,
}

impl FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, host) = text.split_once('=').ok_or("write NAME=HOST, as in pg-1=10.0.0.1")?;
        let id = id.parse().map_err(|error: dugong_topology::InstanceIdError| error.to_string())?;
        let host = host.trim_matches(['[', ']']);
        let is_address = host.parse::<IpAddr>().is_ok();
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let is_name = !host.is_empty() && host.chars().all(letters);
        if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
            return Err(format!("{host} is a wildcard: others reach the machine by its address"));
        }
        if is_address || is_name {
            Ok(Self { id, host: host.to_owned() })
        } else {
            Err(format!("{host:?} is no host: write a name or an address, and no port"))
        }
    }
}

/// Writes the directory, and returns what to do next.
///
/// # Errors
///
/// What was asked for makes no cluster, the directory has something in it, or it cannot be written.
pub fn init(options: &Options) -> Result<String, Failure> {
    check(options)?;
    let out = std::path::absolute(&options.out).map_err(Failure::runtime)?;
    let unwritable = |error: io::Error| {
        Failure::Runtime(format!("{} cannot be written: {error}", out.display()))
    };
    match fs::read_dir(&out).map(|mut entries| entries.next()) {
        Ok(None) => (),
        Ok(Some(_)) => {
            return Err(Failure::Runtime(format!(
                "{} is not empty, and nothing in it is overwritten: name another directory with \
                 --out",
                out.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(unwritable(error)),
    }
    let plan = Plan::new(options)?;
    let folders = plan.folders()?;
    // Under another name at first: a crash, or a full disk, leaves no half of a cluster behind.
    let mut draft = out.clone().into_os_string();
    draft.push(format!(".new-{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = write(&draft, &folders).and_then(|()| fs::rename(&draft, &out));
    if let Err(error) = written {
        // It may not even be there; and what is left over is harmless.
        let _ = fs::remove_dir_all(&draft);
        return Err(unwritable(error));
    }
    Ok(plan.next_steps(&options.out))
}

fn check(options: &Options) -> Result<(), Failure> {
    let Options { instances, networks, etcd, config_dir, data_dir, .. } = options;
    let refused = |why: String| Err(Failure::Usage(why));
    let count = instances.len();
    if !INSTANCES.contains(&count) {
        return refused(format!(
            "--instance was given {count} times: a cluster of machines has 3 to 9 instances; it \
             survives the loss of one only if a third one can become the new sync"
        ));
    }
    let distinct = |of: fn(&Machine) -> &str| instances.iter().map(of).collect::<BTreeSet<_>>();
    if distinct(|machine| machine.id.as_str()).len() < count {
        return refused("two instances have the same name: give each one of its own".to_owned());
    }
    if distinct(|machine| &machine.host).len() < count {
        return refused(
            "two instances are on the same machine: for one machine there is `dugong up`"
                .to_owned(),
        );
    }
    // Folders here, and names in the cluster's zone.
    let others = ["proxy", "ca", "controller", "primary", "sync", "replica"];
    if let Some(taken) = instances.iter().find(|m| others.contains(&m.id.as_str())) {
        return refused(format!("{} is the name of something else here: use another", taken.id));
    }
    let name = instances.iter().find(|machine| machine.host.parse::<IpAddr>().is_err());
    if let Some(name) = name.filter(|_| networks.is_empty()) {
        return refused(format!(
            "{} is a name, and PostgreSQL asks for addresses: say with --network from which the \
             instances connect to each other",
            name.host
        ));
    }
    let is_url = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
    if let Some(wrong) = etcd.iter().find(|url| !is_url(url)) {
        return refused(format!("--etcd {wrong}: write an URL, as in http://10.0.0.1:2379"));
    }
    if !Path::new(config_dir).is_absolute() || !data_dir.is_absolute() {
        return refused("--config-dir and --data-dir are whole paths, from / on".to_owned());
    }
    Ok(())
}

/// Everything is for its owner alone.
fn write(out: &Path, folders: &[Folder]) -> io::Result<()> {
    let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    for folder in folders {
        let path = out.join(&folder.name);
        private(&path)?;
        for (name, content) in &folder.files {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(0o600).open(path.join(name))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
