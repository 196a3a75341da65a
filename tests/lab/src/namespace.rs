//! One network namespace: a host as far as the network is concerned.
//!
//! [`Namespace::make`] makes it, dropping it ends every process in it and removes it. Names carry
//! the pid of their owner, so that laboratories can run side by side and the leftovers of a killed
//! one can be told from the living ([`remove_leftovers`]).
//!
//! **Invariant:** a process is signalled only because it is inside one of our namespaces, never by
//! its name.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What all of our namespaces begin with.
const PREFIX: &str = "dugonglab";

/// Where iproute2 keeps the handles of namespaces.
const HANDLES: &str = "/run/netns";

/// The longest that killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// How long between two looks at what is still there.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Identifies the namespace in `/proc/PID/ns/net`.
    inode: u64,
}

/// Why there can be no laboratory here; nothing is wrong with what it would have tested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unable {
    why: String,
}

/// Whether this process may make namespaces and virtual network devices.
///
/// # Errors
///
/// What is missing, and what to do about it.
pub fn able() -> Result<(), Unable> {
    let unable = |why: &str| Err(Unable { why: why.to_owned() });
    if !rustix::process::geteuid().is_root() {
        return unable("network namespaces need root: run it as root, or with sudo");
    }
    if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return unable("/dev/net/tun cannot be opened: load the kernel's module tun");
    }
    let there = |args: &[&str]| {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !there(&["ip", "netns", "list"]) {
        return unable("`ip netns` does not work: install iproute2");
    }
    if !there(&["nsenter", "--version"]) || !there(&["setpriv", "--version"]) {
        return unable("nsenter or setpriv is missing: install util-linux");
    }
    let probe = format!("{PREFIX}{}probe", std::process::id());
    if !there(&["ip", "netns", "add", &probe]) {
        return unable("the kernel makes no network namespace (a container?): use a whole machine");
    }
    if !there(&["ip", "netns", "del", &probe]) {
        return unable("a network namespace cannot be removed again: see `ip netns list`");
    }
    Ok(())
}

impl Namespace {
    /// Makes the namespace of `host` in the laboratory numbered `lab` of this process.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn make(lab: u32, host: &str) -> anyhow::Result<Self> {
        let name = format!("{PREFIX}{}x{lab}-{host}", std::process::id());
        ip(&["netns", "add", &name])?;
        let inode = fs::metadata(handle(&name)).context(name.clone())?.ino();
        // From here on it is removed when it is dropped.
        let made = Self { name, inode };
        made.ip(&["link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn handle(&self) -> PathBuf {
        handle(&self.name)
    }

    /// Runs `ip ARGUMENTS` inside.
    ///
    /// # Errors
    ///
    /// What `ip` said.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", self.name()], arguments].concat())
    }

    /// A thread inside: every socket and device that it opens belongs to this namespace.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
        let handle = self.handle();
        let inside = move || {
            let file = File::open(&handle).with_context(|| handle.display().to_string())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        Ok(std::thread::Builder::new().name(self.name.clone()).spawn(inside)?)
    }

    /// Every process inside.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        processes_in(self.inode)
    }

    /// Sends `signal` to every process inside, until there is none that has not got it: meanwhile
    /// some may be starting others.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read, or a signal cannot be sent.
    pub fn signal_all(&self, signal: Signal) -> io::Result<usize> {
        let mut told: Vec<Pid> = Vec::new();
        loop {
            let new: Vec<Pid> =
                self.processes()?.into_iter().filter(|pid| !told.contains(pid)).collect();
            if new.is_empty() {
                return Ok(told.len());
            }
            for pid in new {
                send(pid, signal)?;
                told.push(pid);
            }
        }
    }

    /// SIGKILL to every process inside; returns when all are gone.
    ///
    /// # Errors
    ///
    /// Some are still there after ten seconds.
    pub fn kill_all(&self) -> anyhow::Result<()> {
        kill_all_in(self.inode).with_context(|| self.name.clone())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all().and_then(|()| ip(&["netns", "del", &self.name])) {
            complain(&format!("{} is left behind: {error:#}", self.name));
        }
    }
}

/// Removes the namespaces, with all processes in them, of laboratories whose owner is gone.
///
/// # Errors
///
/// One of them cannot be removed.
pub fn remove_leftovers() -> anyhow::Result<usize> {
    let Ok(entries) = fs::read_dir(HANDLES) else { return Ok(0) };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = owner(&name) else { continue };
        if Path::new("/proc").join(owner.to_string()).exists() {
            continue;
        }
        // Another laboratory that starts now may be removing the same one.
        let Ok(metadata) = entry.metadata() else { continue };
        kill_all_in(metadata.ino()).with_context(|| name.clone())?;
        if ip(&["netns", "del", &name]).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The pid in a name of ours.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

fn handle(name: &str) -> PathBuf {
    Path::new(HANDLES).join(name)
}

fn processes_in(inode: u64) -> io::Result<Vec<Pid>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has ended meanwhile, or is a zombie, is in no namespace any more.
        let Ok(of) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if of.ino() == inode && pid != own {
            found.extend(i32::try_from(pid).ok().and_then(Pid::from_raw));
        }
    }
    Ok(found)
}

fn kill_all_in(inode: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let there = processes_in(inode)?;
        if there.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{} processes are still there after {GONE_WITHIN:?}: {there:?}", there.len());
        }
        for pid in there {
            send(pid, Signal::KILL)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn send(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill_process(pid, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("ip")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("ip {}: {words}", arguments.join(" "));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "for the person who started the laboratory")]
fn complain(words: &str) {
    eprintln!("lab: {words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("dugonglab123x0-pg-1"), Some(123));
        assert_eq!(owner("dugonglab77probe"), Some(77));
        assert_eq!(owner("dugonglab-pg-1"), None);
        assert_eq!(owner("somebody-else"), None);
    }
}
