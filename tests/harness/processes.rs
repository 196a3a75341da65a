//! Signals to processes that the harness has started, by pid.

use rustix::process::{Pid as RawPid, Signal, kill_process};

/// A process of a cluster under test.
pub type Pid = u32;

/// SIGKILL.
pub fn kill(pid: Pid) {
    send(pid, Signal::KILL);
}

/// SIGTERM.
pub fn terminate(pid: Pid) {
    send(pid, Signal::TERM);
}

/// SIGINT: a postmaster stops fast, in order.
pub fn stop_fast(pid: Pid) {
    send(pid, Signal::INT);
}

/// SIGSTOP.
pub fn pause(pid: Pid) {
    send(pid, Signal::STOP);
}

/// SIGCONT.
pub fn resume(pid: Pid) {
    send(pid, Signal::CONT);
}

/// SIGUSR1: a controller ends, and leaves its server to the next one.
pub fn restart(pid: Pid) {
    send(pid, Signal::USR1);
}

/// The process that has started another one; none if that is gone.
pub fn parent_of(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn send(pid: Pid, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(RawPid::from_raw).expect("a pid is positive");
    // A process that has ended meanwhile needs no signal.
    if let Err(error) = kill_process(raw, signal)
        && error != rustix::io::Errno::SRCH
    {
        panic!("signal {signal:?} to {pid}: {error}");
    }
}
