//! Child processes: started so that they cannot outlive this process, and ended for certain. The
//! server itself is started by a warden in the same way.
//!
//! [`Spawner`] starts them, [`Child`] is one of them, [`end_all`] makes certain that no server
//! process is left in an instance's directories.
//!
//! **Invariant:** the parent-death signal fires when the *thread* that forked ends. So all children
//! are forked by one thread, which lives as long as its [`Spawner`].
//!
//! **Invariant:** nobody else's children are reaped: an adopted orphan is told by its session,
//! which a PostgreSQL process makes for itself, and a child of our own never does.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{self as os, Pid, Signal, WaitOptions};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// How long [`end_all`] waits for killed processes before it says that they do not go.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits for those that are held in the kernel, and never come back from there.
const DOOMED_PATIENCE: Duration = Duration::from_secs(1);

/// The thread that forks every child. Dropping it sends them their parent-death signal.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    answer: oneshot::Sender<io::Result<tokio::process::Child>>,
}

impl Spawner {
    /// Starts the thread, and makes this process the one that adopts orphans of its children.
    pub(super) fn start() -> io::Result<Self> {
        os::set_child_subreaper(Some(os::getpid()))?;
        let (orders, received) = mpsc::channel::<Order>();
        let runtime = Handle::current();
        thread::Builder::new().name("postgres-parent".to_owned()).spawn(move || {
            let _context = runtime.enter();
            while let Ok(Order { mut command, answer }) = received.recv() {
                // Whoever asked is gone: the child is dropped, which kills it.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a child in a process group of its own, so that a terminal's Ctrl-C passes it by.
    /// It gets `at_parent_death` when this process is gone, and SIGKILL when it is dropped.
    pub(super) async fn spawn(
        &self,
        mut command: Command,
        at_parent_death: Signal,
    ) -> io::Result<Child> {
        tie_to_parent(command.as_std_mut(), at_parent_death);
        command.process_group(0).kill_on_drop(true);
        forget_settings(command.as_std_mut());
        let (answer, answered) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        self.orders.send(Order { command, answer }).map_err(|_| gone())?;
        Child::watch(answered.await.map_err(|_| gone())??)
    }
}

/// The child gets `at_parent_death` when the thread that forks it ends.
#[expect(unsafe_code, reason = "pre_exec: there is no other way to set a parent-death signal")]
pub(super) fn tie_to_parent(command: &mut std::process::Command, at_parent_death: Signal) {
    let parent = os::getpid();
    let tie = move || {
        os::set_parent_process_death_signal(Some(at_parent_death))?;
        // It may have died before the line above.
        if os::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    // SAFETY: between fork and exec only two system calls are made, without allocation or lock.
    unsafe { command.pre_exec(tie) };
}

/// PGDATA, PGHOST, PGOPTIONS … are somebody else's.
pub(super) fn forget_settings(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
}

/// What a child writes, where that was asked for.
pub(super) type Pipes = (Option<ChildStdout>, Option<ChildStderr>);

/// A running child. Dropping it kills its process group.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    pub(super) pipes: Pipes,
    exited: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    fn watch(mut child: tokio::process::Child) -> io::Result<Self> {
        let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| io::Error::other("the child has ended already"))?;
        let pipes = (child.stdout.take(), child.stderr.take());
        let (exit, exited) = watch::channel(None);
        tokio::spawn(async move {
            // An error of wait leaves nobody who could be waited for: the sender is dropped.
            if let Ok(status) = child.wait().await {
                let _ = exit.send(Some(status));
            }
        });
        Ok(Self { pid, pipes, exited })
    }

    /// A handle that resolves when the child has ended and was reaped.
    pub(super) fn exit(&self) -> Exit {
        Exit(self.exited.clone())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.exit().is_over() {
            // Not reaped yet, so the group's number is still its own. An error: it just ended.
            let _ = os::kill_process_group(self.pid, Signal::KILL);
        }
    }
}

/// Resolves when a child has ended.
#[derive(Clone, Debug)]
pub(super) struct Exit(watch::Receiver<Option<ExitStatus>>);

impl Exit {
    /// A process that somebody else waits for; that one may go without having said how it ended.
    pub(super) fn told_by(exited: watch::Receiver<Option<ExitStatus>>) -> Self {
        Self(exited)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }

    /// None: how it ended is not known. Cancel-safe.
    pub(super) async fn wait(&mut self) -> Option<ExitStatus> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }
}

/// Kills every PostgreSQL server process that works in one of `directories`, and returns once
/// none is left.
///
/// Complete, since the postmaster, the only one that makes new ones, is killed like the others,
/// and the search is repeated until it finds nothing.
///
/// # Errors
///
/// Processes that may not be killed, or do not go.
pub(super) async fn end_all(directories: &[PathBuf]) -> Result<(), StillThere> {
    let begun = Instant::now();
    let deadline = begun + KILL_PATIENCE;
    loop {
        let found = servers_in(directories)?;
        for pid in &found {
            match os::kill_process(*pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => (),
                Err(error) => return Err(StillThere::NotOurs { pid: number(*pid), error }),
            }
        }
        let orphans = reap_orphans();
        let late = Instant::now() > deadline;
        let doomed = begun.elapsed() > DOOMED_PATIENCE && found.iter().all(|pid| is_doomed(*pid));
        match found.first() {
            Some(first) if doomed => return Err(StillThere::Doomed { pid: number(*first) }),
            Some(first) if late => return Err(StillThere::Stuck { pid: number(*first) }),
            Some(_) => (),
            // Who has left its directory does nothing any more: that is certain enough for a
            // takeover, and no reason to wait for ever.
            None if orphans == Orphans::Reaped || late => return Ok(()),
            None => (),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Whether a process will never run another instruction of its program: it was killed, and waits in
/// the kernel for what cannot be interrupted. When that ends, the process does.
fn is_doomed(pid: Pid) -> bool {
    let Some(Stat { state: 'D', flags, .. }) = Stat::read(pid) else { return false };
    if flags & EXITING != 0 {
        return true;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", number(pid))).unwrap_or_default();
    is_kill_pending(&status)
}

/// Whether `/proc/PID/status` shows SIGKILL among the pending signals, of the thread or the process.
fn is_kill_pending(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.fold(0, |all, mask| all | mask) & SIGKILL != 0
}

/// SIGKILL is number 9, and the first bit is of number 1.
const SIGKILL: u64 = 1 << 8;

/// PF_EXITING of the kernel: it is on its way out already.
const EXITING: u64 = 0x4;

/// Why it is not certain that a directory has no server process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StillThere {
    #[error("process {pid} works in the data directory and cannot be killed: {error}")]
    NotOurs { pid: i32, error: rustix::io::Errno },
    #[error(
        "process {pid} works in the data directory and does not go although it was killed: \
         its disk may hang"
    )]
    Stuck { pid: i32 },
    /// Killed, all of them, and held in the kernel: their next step is their last. What they were
    /// about to write may still be written, so that no server is to be started before they are gone.
    #[error(
        "process {pid} works in the data directory and was killed, but its disk holds it: it ends when \
         that goes on"
    )]
    Doomed { pid: i32 },
    #[error("/proc cannot be read, so server processes cannot be found: {0}")]
    Proc(#[from] io::Error),
}

pub(super) fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// The PostgreSQL server processes whose working directory is one of `directories`: every one of
/// them changes there when it starts. A person's shell in there is left alone.
pub(super) fn servers_in(directories: &[PathBuf]) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for pid in processes()? {
        // Neither can be read of a process that is gone, a zombie, or another user's.
        let Ok(cwd) = fs::read_link(format!("/proc/{}/cwd", number(pid))) else { continue };
        if !directories.contains(&without_mark(cwd)) {
            continue;
        }
        let exe = fs::read_link(format!("/proc/{}/exe", number(pid))).map(without_mark);
        // Unreadable but in there: no shell of a person, since those can be read.
        if exe.is_ok_and(|exe| exe.file_name().is_none_or(|name| name != "postgres")) {
            continue;
        }
        found.push(pid);
    }
    Ok(found)
}

/// The kernel marks what was removed since: a data directory, a replaced program.
fn without_mark(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => PathBuf::from(text),
        None => path,
    }
}

pub(super) fn processes() -> io::Result<impl Iterator<Item = Pid>> {
    let entries = fs::read_dir("/proc")?;
    let pid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(move |entry| Pid::from_raw(pid(entry)?)))
}

/// The server processes that became children of ours when their parent went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Orphans {
    Reaped,
    /// One is on its way out. The next server would take the number in `postmaster.pid` for that
    /// of a living one, and not start.
    Going,
}

/// Reaps the orphans that have ended.
fn reap_orphans() -> Orphans {
    let me = os::getpid();
    let mut orphans = Orphans::Reaped;
    // Not by getsid, whose answer is no pid in a container that was entered from outside: 0.
    let Some(Stat { session: ours, .. }) = Stat::read(me) else { return orphans };
    for pid in processes().into_iter().flatten() {
        let Some(stat) = Stat::read(pid) else { continue };
        let adopted = stat.name == "postgres" && stat.session != ours;
        if !adopted || stat.parent != number(me) {
            continue;
        }
        if stat.state == 'Z' {
            // An error: somebody else was quicker.
            let _ = os::waitpid(Some(pid), WaitOptions::NOHANG);
        } else if fs::read_link(format!("/proc/{}/cwd", number(pid))).is_err() {
            orphans = Orphans::Going;
        }
    }
    orphans
}

/// What `/proc/PID/stat` says about a process.
pub(super) struct Stat {
    name: String,
    state: char,
    pub(super) parent: i32,
    /// 0: it began outside of this PID namespace.
    session: i32,
    /// The kernel's word for what it does (PF_…).
    flags: u64,
}

impl Stat {
    pub(super) fn read(pid: Pid) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{}/stat", number(pid))).ok()?;
        // The name stands in brackets and may contain anything, brackets too.
        let (begin, end) = (text.find('(')?, text.rfind(')')?);
        let mut rest = text.get(end + 1..)?.split_whitespace();
        let state = rest.next()?.chars().next()?;
        let parent = rest.next()?.parse().ok()?;
        let session = rest.nth(1)?.parse().ok()?;
        let flags = rest.nth(2)?.parse().ok()?;
        Some(Self { name: text.get(begin + 1..end)?.to_owned(), state, parent, session, flags })
    }
}

/// How often a process went to sleep by itself; none if it is gone.
pub(super) fn sleeps(pid: i32) -> Option<u64> {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_read_off_either_mask() {
        #[rustfmt::skip]
        let cases = [
            ("Name:\tpostgres\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n", true),
            ("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n",                   true),
            ("SigPnd:\t0000000000000200\nShdPnd:\t0000000000000080\n",                   false),
            ("",                                                                           false),
        ];
        for (status, pending) in cases {
            assert_eq!(is_kill_pending(status), pending, "{status}");
        }
    }

    #[test]
    fn whoever_runs_is_not_doomed() {
        assert!(!is_doomed(os::getpid()));
        assert_eq!(Stat::read(os::getpid()).unwrap().flags & EXITING, 0);
    }
}
