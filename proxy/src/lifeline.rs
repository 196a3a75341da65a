//! Ending with the process that started this one, so that a killed launcher leaves nothing behind.
//!
//! The controller does the same; the two programs share nothing but the topology.

use std::io;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Holds the launcher's pid where a process shall not outlive it.
pub const DIE_WITH_PARENT: &str = "DUGONG_DIE_WITH_PARENT";

/// Where the launcher has asked for it, this process gets SIGTERM once the launcher is gone.
///
/// Call it on the main thread, before anything else is started.
///
/// # Errors
///
/// The launcher is gone already, or the variable holds no pid.
pub fn follow_parent() -> io::Result<()> {
    let Some(parent) = std::env::var_os(DIE_WITH_PARENT) else { return Ok(()) };
    let parent = parent.to_string_lossy().parse().ok().and_then(Pid::from_raw);
    let parent = parent.ok_or_else(|| io::Error::other(format!("{DIE_WITH_PARENT} is no pid")))?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // Whoever died before that line sends no signal any more.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the process that started this one has ended"))
    }
}
