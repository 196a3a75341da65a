//! The local launcher: a whole cluster on one machine by one command.
//!
//! [`up`] prepares the directory (`layout`, `prepare`), starts one controller process per instance
//! and one proxy (`children`), tells what becomes of them (`progress`), and ends them in an order
//! that loses nothing (`cluster`). It is also the scheduler: what dies is started again. `detach`
//! does the same in the background; [`down`] ends that.
//!
//! **Invariant:** the launcher decides nothing about roles: it could be killed at any time, and the
//! only record it writes is its own freeze, while all instances stop.

mod children;
mod cluster;
mod detach;
pub mod layout;
mod ports;
mod prepare;
mod progress;
mod user;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Signal, kill_process};

use self::layout::Layout;
use self::progress::say;
use crate::run::Failure;

/// The longest that `dugong down` waits.
const DOWN_WITHIN: Duration = Duration::from_secs(120);

/// What `dugong up` is told.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// The cluster's directory [default: /var/lib/dugong for root, else ~/.local/share/dugong].
    #[arg(long, env = "DUGONG_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many instances: 3 to 9. A larger number makes an existing cluster grow [default: 3].
    #[arg(long, value_name = "N")]
    pub instances: Option<usize>,
    /// A single instance, for development: an acknowledged write is on its disk only. With
    /// --instances 3 a later `up` makes a cluster of it, which it then stays.
    #[arg(long)]
    pub one_node: bool,
    /// The port that leads to the primary [default: 6432; 0: any free one].
    #[arg(long, value_name = "PORT")]
    pub write_port: Option<u16>,
    /// The port that leads to the standbys [default: 6433; 0: any free one].
    #[arg(long, value_name = "PORT")]
    pub read_port: Option<u16>,
    /// The proxy's port for metrics and health [default: 6434; 0: any free one].
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// The directory of PostgreSQL's programs [default: the newest that is found].
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Whom PostgreSQL and its controllers run as, when started by root [default: postgres].
    #[arg(long, value_name = "USER")]
    pub pg_user: Option<String>,
    /// postgres.memory, or a key of [bootstrap], [timings] or [repair], for all controllers, as in
    /// repair.keep_diverged=2; kept for later starts until it is set again, or to nothing
    /// (repair.keep_diverged=). Repeat it for several.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Return once writes are accepted; `dugong down` stops it.
    #[arg(long)]
    pub detach: bool,
    /// Set by `--detach` for the process in the background.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub detached: bool,
}

/// What `dugong down` is told.
#[derive(Args, Clone, Debug)]
pub struct DownOptions {
    /// The cluster's directory.
    #[arg(long, env = "DUGONG_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Runs a cluster until it is told to end; with `--detach` returns once it accepts writes.
///
/// # Errors
///
/// What keeps it from running, in one sentence.
pub fn up(options: &UpOptions) -> Result<(), Failure> {
    if options.detach {
        return detach::in_background(options);
    }
    if options.detached {
        rustix::process::setsid().map_err(Failure::runtime)?;
    }
    crate::lifeline::follow_parent().map_err(Failure::runtime)?;
    let prepared = prepare::prepare(options)?;
    // Children are started by the main thread: they end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    runtime.block_on(cluster::run(prepared))
}

/// Ends a cluster that runs in the background, or in another terminal.
///
/// # Errors
///
/// It does not run, or does not end in time.
pub fn down(options: &DownOptions) -> Result<(), Failure> {
    let layout = Layout::of(options.dir.as_deref());
    let root = layout.root().display().to_string();
    let Some(pid) = layout.holder()? else {
        return Err(Failure::Runtime(format!("no cluster runs in {root}: nothing to stop")));
    };
    say!("stopping the cluster in {root} (pid {pid})");
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let raw = raw.ok_or_else(|| Failure::Runtime(format!("{pid} is no pid")))?;
    kill_process(raw, Signal::TERM)
        .map_err(|error| Failure::Runtime(format!("cannot signal the process {pid}: {error}")))?;
    let begun = Instant::now();
    while layout.holder()?.is_some() {
        if begun.elapsed() > DOWN_WITHIN {
            return Err(Failure::Runtime(format!(
                "the process {pid} has not ended within {DOWN_WITHIN:?}: see {}",
                layout.log().display()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    say!("stopped");
    Ok(())
}

/// The last line of a log that is not empty, for people.
fn last_line(path: &std::path::Path) -> Option<String> {
    let content = fs::read(path).ok()?;
    let tail = String::from_utf8_lossy(&content[content.len().saturating_sub(4096)..]).into_owned();
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
