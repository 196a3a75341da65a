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

/// SIGSTOP.
pub fn pause(pid: Pid) {
    send(pid, Signal::STOP);
}

/// SIGCONT.
pub fn resume(pid: Pid) {
    send(pid, Signal::CONT);
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
