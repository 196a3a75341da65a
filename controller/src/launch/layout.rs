//! Where everything of a local cluster lies, and the file that describes it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use dugong_topology::InstanceId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::chosen::Chosen;
use crate::run::Failure;

/// The version of `cluster.json` that this program writes.
const VERSION: u32 = 1;

/// The paths of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// `cluster.json`: what a local cluster consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    pub instances: Vec<InstancePorts>,
    /// The one instance was asked for as a primary without a sync.
    #[serde(default)]
    pub one_node: bool,
    /// Where the proxy listens, on loopback.
    pub write_port: u16,
    pub read_port: u16,
    pub http_port: u16,
    /// The directory of PostgreSQL's programs.
    pub pg_bin: PathBuf,
    /// Whom everything runs as, where root has started it.
    pub pg_user: Option<String>,
    /// What was chosen for all controllers.
    #[serde(default, skip_serializing_if = "Chosen::is_empty")]
    pub chosen: Chosen,
}

/// One instance's ports, on loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePorts {
    pub id: InstanceId,
    pub postgres_port: u16,
    pub http_port: u16,
}

/// The directory that is meant where none is named.
fn default_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/dugong");
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from(".")).join("dugong")
}

impl Layout {
    /// The layout of the directory that was named, or else of the default one.
    pub fn of(dir: Option<&Path>) -> Self {
        Self::new(dir.map_or_else(default_dir, Path::to_owned))
    }

    /// The layout below `root`; made absolute, since other processes get its paths.
    pub fn new(root: PathBuf) -> Self {
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// The cluster's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The description of the cluster.
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// The passwords, mode 0600.
    pub fn credentials(&self) -> PathBuf {
        self.root.join("credentials.json")
    }

    /// The store that all controllers share.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.db")
    }

    /// What a launcher in the background says.
    pub fn log(&self) -> PathBuf {
        self.root.join("up.log")
    }

    /// Programs that the unprivileged user could not reach elsewhere.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// `proxy.toml`, `proxy.log` or `proxy.pid`.
    pub fn proxy(&self, extension: &str) -> PathBuf {
        self.root.join(format!("proxy.{extension}"))
    }

    /// An instance's own directory.
    pub fn instance(&self, id: &InstanceId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Reads the description of the cluster; none where there is no cluster yet.
    ///
    /// # Errors
    ///
    /// It cannot be read, or was written by a newer version.
    pub fn read(&self) -> Result<Option<ClusterFile>, Failure> {
        let path = self.cluster_file();
        let content = match fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, &error)),
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let version = serde_json::from_str::<Versioned>(&content).map(|file| file.version);
        if let Ok(version) = version
            && version > VERSION
        {
            return Err(Failure::Runtime(format!(
                "{} was written by a newer Dugong (version {version}, this one knows {VERSION}): \
                 use that one",
                path.display()
            )));
        }
        serde_json::from_str(&content).map(Some).map_err(|error| at(&path, &error))
    }

    /// Reads the description of a cluster that must be there.
    ///
    /// # Errors
    ///
    /// See [`Layout::read`]; and there is none.
    pub fn existing(&self) -> Result<ClusterFile, Failure> {
        self.read()?.ok_or_else(|| {
            Failure::Runtime(format!(
                "there is no cluster in {}: make one with `dugong up`, or name another directory \
                 with --dir",
                self.root.display()
            ))
        })
    }

    /// Replaces the description of the cluster, whole or not at all.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, cluster: &ClusterFile) -> Result<(), Failure> {
        let (path, new) = (self.cluster_file(), self.root.join("cluster.json.new"));
        let json = serde_json::to_string_pretty(cluster).map_err(|error| at(&path, &error))?;
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(json.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| at(&path, &error))
    }

    /// A description of a cluster that has no instance yet.
    pub fn fresh(pg_bin: PathBuf, pg_user: Option<String>) -> ClusterFile {
        ClusterFile {
            version: VERSION,
            cluster: "main".to_owned(),
            instances: Vec::new(),
            one_node: false,
            write_port: 0,
            read_port: 0,
            http_port: 0,
            pg_bin,
            pg_user,
            chosen: Chosen::new(),
        }
    }

    /// Takes the directory for this process; it is free again when the process ends.
    ///
    /// # Errors
    ///
    /// Another launcher has it.
    pub fn lock(&self) -> Result<File, Failure> {
        let path = self.lock_file();
        let open =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| at(&path, &error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(self.already_running(read_pid(&mut file)));
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|error| at(&path, &error))?;
        Ok(file)
    }

    /// What a second launcher is told.
    pub(super) fn already_running(&self, pid: Option<u32>) -> Failure {
        let pid = pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        Failure::Runtime(format!(
            "the cluster in {} is already running (pid {pid}): look at it with `dugong status`, \
             stop it with `dugong down`",
            self.root.display()
        ))
    }

    /// The pid of the launcher that has the directory; none where nobody has.
    ///
    /// # Errors
    ///
    /// The lock cannot be looked at.
    pub fn holder(&self) -> Result<Option<u32>, Failure> {
        let path = self.lock_file();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path, &error)),
        };
        // A shared lock for a moment: it is refused while a launcher has the exclusive one.
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok(None);
        }
        Ok(read_pid(&mut file))
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut content = String::new();
    file.read_to_string(&mut content).ok()?;
    content.trim().parse().ok()
}

/// A failure that names the path.
pub(super) fn at(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Runtime(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().to_owned());
        assert!(layout.read().unwrap().is_none());
        let cluster = Layout::fresh(PathBuf::from("/usr/bin"), None);
        layout.write(&cluster).unwrap();
        assert_eq!(layout.read().unwrap(), Some(cluster));

        fs::write(layout.cluster_file(), r#"{"version":2}"#).unwrap();
        assert!(layout.read().unwrap_err().to_string().contains("newer Dugong"));
        fs::write(layout.cluster_file(), "{").unwrap();
        assert!(layout.read().unwrap_err().to_string().contains("cluster.json"));
    }

    #[test]
    fn a_directory_has_one_launcher() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path().to_owned());
        assert_eq!(layout.holder().unwrap(), None);
        let lock = layout.lock().unwrap();
        assert_eq!(layout.holder().unwrap(), Some(std::process::id()));
        let refused = layout.lock().unwrap_err().to_string();
        assert!(refused.contains(&format!("already running (pid {})", std::process::id())));
        drop(lock);
        assert_eq!(layout.holder().unwrap(), None);
    }
}
