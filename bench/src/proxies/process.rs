//! A process that the benchmark has started, and what /proc says that it costs.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The longest that an orderly end may take.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Killed, and waited for, when it is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it, with all that it says in the file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the last words in `log`, when the process has ended.
    pub(crate) fn still_runs(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let words = fs::read_to_string(log).unwrap_or_default();
        bail!("{} has ended ({status}): {}", self.name, words.trim());
    }

    /// Processor time of all its threads so far, those excepted that have ended.
    ///
    /// In nanoseconds from the scheduler: the ticks of /proc/PID/stat are 10 ms long.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds: u64 = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread that ends while this looks is passed over like those before it.
            let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let spent = line.split(' ').next().context("schedstat is empty")?;
            nanoseconds += spent.parse::<u64>().context("schedstat has no number")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Memory that is in use and not shared with files or others, in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kibibytes.context("no VmRSS")?.trim().parse::<u64>()? * 1024)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Asks it to end, and waits for that; [`Drop`] kills one that does not.
    pub(crate) fn end_by(&mut self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // One that has ended already needs no signal.
        let _ = pid.map(|pid| kill_process(pid, signal));
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
