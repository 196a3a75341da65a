//! The settings that a cluster begins with, in proportion to the machine of its first instance.
//!
//! PostgreSQL's own defaults are made for the smallest of machines. So whoever makes the first data
//! from nothing writes into the cluster's settings what a person would have set first; from then on
//! they are the operator's, to be changed as any other. Data that was somebody's before keeps its own.
//!
//! Source: PostgreSQL manual, "Resource Consumption", "Query Planning"; sysfs cgroup documentation.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dugong_machine::Goal;
use dugong_topology::{InstanceId, Revision};
use tokio::sync::watch;

use crate::clock::unix_ms;
use crate::store::{AmendError, ClusterSettings, Store};

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// Ours: more is seldom faster, and needs huge pages.
const SHARED_BUFFERS_MAX: u64 = 16 * GB;

/// Before version 17 a vacuum takes no more.
const MAINTENANCE_MAX: u64 = GB;

/// PostgreSQL's default of `max_parallel_workers`, which is as many as its worker processes.
const PARALLEL_WORKERS: usize = 8;

/// Between two attempts to write them.
const AGAIN: Duration = Duration::from_millis(500);

/// What an instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) cores: usize,
}

impl Machine {
    /// This one, or as much of it as this process may use.
    ///
    /// # Errors
    ///
    /// The system does not say how much memory there is.
    pub(crate) fn here() -> io::Result<Self> {
        let unclear = || io::Error::other("/proc/meminfo does not say how much memory there is");
        let text = fs::read_to_string("/proc/meminfo")?;
        let total = total_of(&text).ok_or_else(unclear)?;
        let memory = limits().into_iter().fold(total, u64::min);
        // It knows of affinity and of a control group's share.
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self { memory, cores })
    }
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// What the control groups that this process is in allow; none that is no limit.
fn limits() -> Vec<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let files = groups.lines().flat_map(|line| limit_files(line, Path::new("/sys/fs/cgroup")));
    files.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).collect()
}

/// The files that may limit the group of one line of `/proc/self/cgroup`, its own and those above it.
fn limit_files(line: &str, root: &Path) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, file) = match controllers {
        "" => (root.to_owned(), "memory.max"),
        "memory" => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let own = root.join(group.trim_start_matches('/'));
    own.ancestors().take_while(|at| at.starts_with(&root)).map(|at| at.join(file)).collect()
}

/// What is set for a machine, and why.
fn of(machine: Machine) -> Vec<(&'static str, String, String)> {
    let Machine { memory, cores } = machine;
    let all = size(memory);
    let mut settings = vec![
        (
            "shared_buffers",
            size((memory / 4).min(SHARED_BUFFERS_MAX)),
            format!("a quarter of {all} of memory, at most {}", size(SHARED_BUFFERS_MAX)),
        ),
        (
            "effective_cache_size",
            size(memory / 4 * 3),
            format!("three quarters of {all}: the system's cache counts"),
        ),
        (
            "maintenance_work_mem",
            size((memory / 16).clamp(64 * MB, MAINTENANCE_MAX)),
            format!("a sixteenth of {all}, from 64MB to {}", size(MAINTENANCE_MAX)),
        ),
    ];
    if cores < PARALLEL_WORKERS {
        let one = if cores == 1 { "core" } else { "cores" };
        settings.push((
            "max_parallel_workers",
            cores.to_string(),
            format!("{cores} {one}: more would share them"),
        ));
    }
    settings
}

/// As PostgreSQL writes it, in whole megabytes.
fn size(bytes: u64) -> String {
    let mb = bytes / MB;
    if mb > 0 && mb.is_multiple_of(1024) { format!("{}GB", mb / 1024) } else { format!("{mb}MB") }
}

/// What a cluster begins with whose first instance is `me`.
fn document(me: &InstanceId, machine: Machine) -> ClusterSettings {
    let (mut settings, at_unix_ms) = (ClusterSettings::default(), unix_ms());
    for (name, value, why) in of(machine) {
        settings.values.insert(name.to_owned(), value);
        settings.why.insert(name.to_owned(), why);
    }
    let by = format!("{me}, as the cluster began");
    ClusterSettings { by, at_unix_ms, ..settings }
}

/// Waits until the first data is to be made here from nothing, and writes the settings, unless
/// somebody has written any. They are there before the first server starts,
/// which initdb comes before; should the store be late, they wait for a restart.
///
/// `memory`: what the operator grants; none: all that there is.
pub(crate) async fn write(
    me: InstanceId,
    memory: Option<u64>,
    store: Arc<dyn Store>,
    mut goal: watch::Receiver<Option<Goal>>,
) {
    let begins = |goal: &Option<Goal>| matches!(goal, Some(Goal::Initialised));
    while goal.wait_for(begins).await.is_ok() {
        let machine = match Machine::here() {
            Ok(here) => Machine { memory: memory.unwrap_or(here.memory), ..here },
            Err(error) => return tracing::warn!(%error, "PostgreSQL's own defaults hold"),
        };
        match store.amend(document(&me, machine), Revision(0)).await {
            Ok(_) => return tracing::info!(?machine, "the cluster's first settings are written"),
            Err(AmendError::Raced) => return,
            Err(AmendError::Store(error)) => {
                tracing::warn!(%error, "the first settings are not written yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_grow_with_the_machine_up_to_where_more_is_no_use() {
        #[rustfmt::skip]
        let cases = [
            (512 * MB, 1,  "128MB", "384MB",  "64MB",  Some("1")),
            (8 * GB,   4,  "2GB",   "6GB",    "512MB", Some("4")),
            (6_000 * MB, 2, "1500MB", "4500MB", "375MB", Some("2")),
            (256 * GB, 64, "16GB",  "192GB",  "1GB",   None),
        ];
        for (memory, cores, buffers, cache, maintenance, workers) in cases {
            let settings = document(&"pg-1".parse().unwrap(), Machine { memory, cores });
            let value = |name: &str| settings.values.get(name).map(String::as_str);
            assert_eq!(value("shared_buffers"), Some(buffers));
            assert_eq!(value("effective_cache_size"), Some(cache));
            assert_eq!(value("maintenance_work_mem"), Some(maintenance));
            assert_eq!(value("max_parallel_workers"), workers);
            let names = |map: &std::collections::BTreeMap<String, String>| {
                map.keys().cloned().collect::<Vec<_>>()
            };
            assert_eq!(names(&settings.values), names(&settings.why), "each has a reason");
        }
    }

    #[test]
    fn a_control_group_limits_memory_by_itself_and_by_those_above_it() {
        let files = |line| limit_files(line, Path::new("/c"));
        let path = PathBuf::from;
        assert_eq!(
            files("0::/system.slice/dugong.service"),
            [
                "/c/system.slice/dugong.service/memory.max",
                "/c/system.slice/memory.max",
                "/c/memory.max"
            ]
            .map(path)
        );
        let older = ["/c/memory/a/memory.limit_in_bytes", "/c/memory/memory.limit_in_bytes"];
        assert_eq!(files("7:memory:/a"), older.map(path));
        assert_eq!(files("3:cpu,cpuacct:/a"), Vec::<PathBuf>::new());
        assert_eq!(files("odd"), Vec::<PathBuf>::new());
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        assert_eq!(
            total_of("MemTotal:       24683520 kB\nMemFree: 1 kB\n"),
            Some(24_683_520 << 10)
        );
        let machine = Machine::here().unwrap();
        assert!(machine.memory > 64 * MB && machine.cores > 0, "{machine:?}");
    }
}
