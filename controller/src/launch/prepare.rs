//! Everything that must be right before the first process is started.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dugong_topology::InstanceId;

use super::UpOptions;
use super::layout::{ClusterFile, InstancePorts, Layout, at};
use super::ports::Ports;
use super::user::User;
use crate::config::{Config, ConfigProblem, chosen};
use crate::credentials::Credentials;
use crate::first_settings::Machine;
use crate::postgres::find_bin;
use crate::run::Failure;

/// Fewer cannot lose one and go on: a sync that takes over needs another one to become its sync.
const INSTANCES_MIN: usize = 3;
const INSTANCES_MAX: usize = 9;

/// The programs that are started beside this one.
pub(super) const PROGRAMS: [&str; 2] = ["dugong-controller", "dugong-proxy"];

/// A cluster that can be started.
pub(super) struct Prepared {
    pub(super) layout: Layout,
    pub(super) cluster: ClusterFile,
    pub(super) credentials: Credentials,
    pub(super) user: User,
    /// Where the programs lie.
    pub(super) programs: PathBuf,
    /// Keeps other launchers away while it is open.
    pub(super) _lock: File,
    /// The same for the ports.
    pub(super) _ports: Ports,
}

/// Checks and writes everything; starts nothing.
pub(super) fn prepare(options: &UpOptions) -> Result<Prepared, Failure> {
    if let Some(count) = options.instances
        && !options.one_node
        && !(INSTANCES_MIN..=INSTANCES_MAX).contains(&count)
    {
        return Err(Failure::Usage(format!(
            "--instances {count}: a cluster has {INSTANCES_MIN} to {INSTANCES_MAX} instances here; \
             it survives the loss of one only if a third one can become the new sync"
        )));
    }
    if options.one_node && options.instances.is_some_and(|count| count > 1) {
        return Err(Failure::Usage(
            "--one-node is a single instance: leave --instances away, and use it later to make a \
             cluster of it"
                .to_owned(),
        ));
    }
    let user = User::choose(options.pg_user.as_deref())?;
    let layout = Layout::of(options.dir.as_deref());
    let (pg_bin, _version) = find_bin(options.pg_bin.as_deref()).map_err(Failure::runtime)?;
    claim(&layout, &user)?;
    let lock = layout.lock()?;
    let programs = programs(&layout, &user)?;

    let before = layout.read()?;
    let mut cluster = before.clone().unwrap_or_else(|| Layout::fresh(pg_bin.clone(), user.name()));
    cluster.pg_bin = pg_bin;
    cluster.pg_user = user.name();
    if options.one_node && before.is_none() {
        cluster.one_node = true;
    }
    if options.one_node && !cluster.one_node {
        return Err(Failure::Runtime(format!(
            "the cluster has {} instances: one that has a sync never goes back to one node",
            cluster.instances.len()
        )));
    }
    let mut ports = Ports::new().map_err(Failure::runtime)?;
    instances(&mut cluster, options.instances, &mut ports)?;
    let (before, asked) = (before.as_ref(), options);
    let mut port = |flag, asked, of: fn(&ClusterFile) -> u16, usual| {
        ports.choose(flag, asked, before.map(of), usual)
    };
    cluster.write_port = port("--write-port", asked.write_port, |file| file.write_port, 6432)?;
    cluster.read_port = port("--read-port", asked.read_port, |file| file.read_port, 6433)?;
    cluster.http_port = port("--http-port", asked.http_port, |file| file.http_port, 6434)?;
    choose(&layout, &mut cluster, &options.set)?;
    layout.write(&cluster)?;

    let credentials = credentials(&layout, &user)?;
    let (_lock, _ports) = (lock, ports);
    let prepared = Prepared { layout, cluster, credentials, user, programs, _lock, _ports };
    for instance in &prepared.cluster.instances {
        prepared.write_instance(instance)?;
    }
    prepared.write_proxy()?;
    Ok(prepared)
}

/// Makes the directory, and sees that it is ours and can be used.
fn claim(layout: &Layout, user: &User) -> Result<(), Failure> {
    let root = layout.root();
    fs::create_dir_all(root).map_err(|error| at(root, &error))?;
    let entries = fs::read_dir(root).map_err(|error| at(root, &error))?;
    // What a launcher may have left before it came to writing cluster.json.
    let early = ["lock", "up.log", "bin", "cluster.json.new"];
    let foreign = entries
        .flatten()
        .map(|entry| entry.file_name())
        .find(|name| !early.iter().any(|own| name.to_str() == Some(*own)));
    if let Some(name) = foreign
        && !layout.cluster_file().exists()
    {
        return Err(Failure::Runtime(format!(
            "{} is not empty ({}) and holds no cluster of Dugong's: name an empty directory with \
             --dir",
            root.display(),
            name.to_string_lossy()
        )));
    }
    user.own(root)?;
    if !user.can("-w", root) {
        let who = user.name().map_or_else(|| "you".to_owned(), |name| format!("the user {name}"));
        return Err(Failure::Runtime(format!(
            "{who} cannot write to {}: name a directory that is writable, and reachable through \
             all of its parents, with --dir",
            root.display()
        )));
    }
    Ok(())
}

/// Where the programs lie: beside this one, or in a copy that the unprivileged user can reach.
fn programs(layout: &Layout, user: &User) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(Failure::runtime)?;
    let beside = own.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    for program in PROGRAMS {
        if !beside.join(program).exists() {
            return Err(Failure::Runtime(format!(
                "{program} is not in {}: build all programs with `cargo build --release`",
                beside.display()
            )));
        }
    }
    if PROGRAMS.iter().all(|program| user.can("-x", &beside.join(program))) {
        return Ok(beside);
    }
    let copy = layout.bin();
    fs::create_dir_all(&copy).map_err(|error| at(&copy, &error))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))
        .map_err(|error| at(&copy, &error))?;
    for program in PROGRAMS {
        let (target, new) = (copy.join(program), copy.join(format!("{program}.new")));
        fs::copy(beside.join(program), &new)
            .and_then(|_| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&new, &target))
            .map_err(|error| at(&target, &error))?;
    }
    Ok(copy)
}

/// Adds instances up to `wanted`, and gives each instance ports that are free.
fn instances(
    cluster: &mut ClusterFile,
    wanted: Option<usize>,
    ports: &mut Ports,
) -> Result<(), Failure> {
    let there = cluster.instances.len();
    let least = if cluster.one_node { 1 } else { INSTANCES_MIN };
    let wanted = wanted.unwrap_or_else(|| there.max(least));
    cluster.one_node &= wanted == 1;
    if wanted < there {
        return Err(Failure::Runtime(format!(
            "the cluster has {there} instances: it can grow, but not shrink to {wanted}"
        )));
    }
    for instance in &mut cluster.instances {
        for port in [&mut instance.postgres_port, &mut instance.http_port] {
            if ports.claim(*port).is_err() {
                *port = ports.any().map_err(Failure::runtime)?;
            }
        }
    }
    for number in there + 1..=wanted {
        let id: InstanceId = format!("pg-{number}").parse().map_err(Failure::runtime)?;
        let mut any = || ports.any().map_err(Failure::runtime);
        let (postgres_port, http_port) = (any()?, any()?);
        cluster.instances.push(InstancePorts { id, postgres_port, http_port });
    }
    Ok(())
}

/// What is chosen for all controllers, and kept only if they would take it.
fn choose(layout: &Layout, cluster: &mut ClusterFile, words: &[String]) -> Result<(), Failure> {
    let refused = |problem: ConfigProblem| Failure::Usage(format!("--set: {problem}"));
    let mut next = cluster.clone();
    for word in words {
        chosen::choose(&mut next.chosen, word).map_err(refused)?;
    }
    for instance in &next.instances {
        let content = controller_toml(layout, &next, instance).map_err(refused)?;
        Config::check(&content).map_err(refused)?;
    }
    *cluster = next;
    Ok(())
}

fn controller_toml(
    layout: &Layout,
    cluster: &ClusterFile,
    instance: &InstancePorts,
) -> Result<String, ConfigProblem> {
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    let bootstrap = match cluster.one_node {
        true => "one_node = true".to_owned(),
        false => format!("bootstrap_size = {}", cluster.instances.len()),
    };
    let memory = chosen::value(&cluster.chosen, "postgres", "memory")?;
    let memory = memory
        .map_or_else(|| memory_each(cluster.instances.len()), |size| format!("memory = {size}\n"));
    Ok(format!(
        "# Written by `dugong up` at each start.\n\
         cluster = \"{}\"\ninstance = \"{}\"\ndir = {}\ncredentials = {}\n\
         {bootstrap}\n\n[postgres]\nbin = {}\nlisten = \"127.0.0.1:{}\"\n{memory}\n\
         [http]\nlisten = \"127.0.0.1:{}\"\n\n[store]\nkind = \"sqlite\"\npath = {}\n{}",
        cluster.cluster,
        instance.id,
        quoted(&layout.instance(&instance.id)),
        quoted(&layout.credentials()),
        quoted(&cluster.pg_bin),
        instance.postgres_port,
        instance.http_port,
        quoted(&layout.store()),
        chosen::sections(&cluster.chosen)?,
    ))
}

/// Half of this machine for all instances: it has other things to do, too. Nothing where that is not
/// known.
fn memory_each(instances: usize) -> String {
    let each = |machine: Machine| (machine.memory / 2 / instances.max(1) as u64) >> 20;
    let each = Machine::here().map(each).unwrap_or_default();
    if each < 64 { String::new() } else { format!("memory = \"{each}MB\"\n") }
}

fn credentials(layout: &Layout, user: &User) -> Result<Credentials, Failure> {
    let path = layout.credentials();
    if !path.exists() {
        let fresh = Credentials::generate().map_err(Failure::runtime)?;
        fresh.store_new(&path).map_err(Failure::runtime)?;
    }
    user.own(&path)?;
    Credentials::load(&path).map_err(Failure::runtime)
}

impl Prepared {
    /// An instance's directory and its controller's configuration.
    pub(super) fn write_instance(&self, instance: &InstancePorts) -> Result<(), Failure> {
        let directory = self.layout.instance(&instance.id);
        fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
            .map_err(|error| at(&directory, &error))?;
        self.user.own(&directory)?;
        let path = directory.join("controller.toml");
        let content = controller_toml(&self.layout, &self.cluster, instance);
        let content = content.map_err(Failure::runtime)?;
        fs::write(&path, content).map_err(|error| at(&path, &error))?;
        self.user.own(&path)
    }

    fn write_proxy(&self) -> Result<(), Failure> {
        let controllers: Vec<_> = self.cluster.instances.iter().map(|i| i.http_port).collect();
        let controllers: Vec<_> =
            controllers.iter().map(|port| format!("\"http://127.0.0.1:{port}\"")).collect();
        let path = self.layout.proxy("toml");
        let content = format!(
            "# Written by `dugong up` at each start.\n\
             controllers = [{}]\nlisten = \"127.0.0.1\"\nwrite_port = {}\nread_port = {}\n\
             http_port = {}\n",
            controllers.join(", "),
            self.cluster.write_port,
            self.cluster.read_port,
            self.cluster.http_port,
        );
        fs::write(&path, content).map_err(|error| at(&path, &error))?;
        self.user.own(&path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_controller_would_take_is_not_kept() {
        let layout = Layout::new("/srv/dugong".into());
        let mut cluster = Layout::fresh("/usr/bin".into(), None);
        let instance = |number: u16| InstancePorts {
            id: format!("pg-{number}").parse().unwrap(),
            postgres_port: 20_000 + number,
            http_port: 20_010 + number,
        };
        cluster.instances = (1..=3).map(instance).collect();
        let mut choose = |word: &str| choose(&layout, &mut cluster, &[word.to_owned()]);
        choose("repair.keep_diverged=100").unwrap();
        let refused = choose("repair.keep_diverged=101").unwrap_err().to_string();
        assert!(refused.contains("0 to 100"), "{refused}");
        let refused = choose("timings.link_ttl=1h").unwrap_err().to_string();
        assert!(refused.starts_with("--set: timings.link_ttl = "), "{refused}");
    }
}
