//! Processes that are kept running: what dies is started again.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::layout::at;
use super::prepare::Prepared;
use super::progress::say;
use crate::config::is_override;
use crate::lifeline::DIE_WITH_PARENT;
use crate::run::Failure;

/// A process that lived for so long has not failed to start.
const STEADY: Duration = Duration::from_secs(5);

/// The pauses before a process is started again that keeps dying; the first death costs none.
const PAUSES_MS: [u64; 5] = [0, 500, 1_000, 2_000, 5_000];

/// Puts right what may have been destroyed.
pub(super) type Restore = Box<dyn Fn(&Prepared) -> Result<(), Failure>>;

/// How to start one process.
pub(super) struct Recipe {
    pub(super) name: String,
    /// Below the directory of programs.
    pub(super) program: &'static str,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) pid_file: PathBuf,
    /// How long it may take to end before it is killed.
    pub(super) patience: Duration,
    /// Called before each start.
    pub(super) restore: Restore,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    End,
    Kill,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    InOrder,
    Badly,
}

/// One process that is kept running.
pub(super) struct Keeper {
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts it now, and again whenever it dies.
    pub(super) fn start(prepared: Arc<Prepared>, recipe: Recipe) -> Self {
        let (orders, ordered) = watch::channel(Order::Run);
        // On the main thread, as everything of this runtime: children end with that thread.
        let task = tokio::task::spawn_local(keep(prepared, recipe, ordered));
        Self { orders, task }
    }

    /// Ends it in order, within its patience.
    pub(super) async fn end(&mut self) {
        self.orders.send_if_modified(|order| {
            let first = *order == Order::Run;
            if first {
                *order = Order::End;
            }
            first
        });
        if let Err(error) = (&mut self.task).await {
            say!("a keeper ended badly: {error}");
        }
    }

    /// What ends it at once, even while somebody waits for its orderly end.
    pub(super) fn killer(&self) -> Killer {
        Killer(self.orders.clone())
    }
}

/// Ends one process at once.
pub(super) struct Killer(watch::Sender<Order>);

impl Killer {
    pub(super) fn kill(&self) {
        self.0.send_replace(Order::Kill);
    }
}

async fn keep(prepared: Arc<Prepared>, recipe: Recipe, mut orders: watch::Receiver<Order>) {
    let mut deaths = 0;
    while *orders.borrow_and_update() == Order::Run {
        let begun = Instant::now();
        let mut ended = Ended::Badly;
        let why = match begin(&prepared, &recipe) {
            Ok(mut child) => tokio::select! {
                status = child.wait() => {
                    if status.as_ref().is_ok_and(ExitStatus::success) {
                        ended = Ended::InOrder;
                    }
                    describe(status, &recipe.log)
                }
                _ = orders.changed() => return finish(&recipe, child, orders).await,
            },
            Err(failure) => failure.to_string(),
        };
        deaths = deaths_after(deaths, ended, begun.elapsed());
        let pause = pause_after(deaths);
        let again = match pause {
            Duration::ZERO => "starting it again".to_owned(),
            pause => format!("starting it again in {pause:?}"),
        };
        say!("{}: {why}; {again}", recipe.name);
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            _ = orders.changed() => (),
        }
    }
}

/// How many times in a row a process has died, after one more end.
fn deaths_after(before: usize, ended: Ended, lived: Duration) -> usize {
    match ended {
        // Somebody told it to, and waits for its successor: its server runs on.
        Ended::InOrder => 0,
        Ended::Badly if lived > STEADY => 1,
        Ended::Badly => before + 1,
    }
}

fn pause_after(deaths: usize) -> Duration {
    let last = PAUSES_MS.len() - 1;
    Duration::from_millis(PAUSES_MS[deaths.saturating_sub(1).min(last)])
}

fn begin(prepared: &Prepared, recipe: &Recipe) -> Result<Child, Failure> {
    (recipe.restore)(prepared)?;
    let log = OpenOptions::new().create(true).append(true).open(&recipe.log);
    let log = log.map_err(|error| at(&recipe.log, &error))?;
    let both = log.try_clone().map_err(|error| at(&recipe.log, &error))?;
    let program = prepared.programs.join(recipe.program);
    let mut command = Command::new(&program);
    command
        .arg("--config")
        .arg(&recipe.config)
        .env(DIE_WITH_PARENT, std::process::id().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(both);
    // A Ctrl-C in the terminal is for the launcher, which knows the order of the end.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    // One word for all controllers would be wrong for most.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_override(name)) {
        command.env_remove(name);
    }
    prepared.user.dress(&mut command);
    let child = tokio::process::Command::from(command).spawn();
    let child = child.map_err(|error| at(&program, &error))?;
    let pid = child.id().map(|pid| format!("{pid}\n")).unwrap_or_default();
    fs::write(&recipe.pid_file, pid).map_err(|error| at(&recipe.pid_file, &error))?;
    Ok(child)
}

async fn finish(recipe: &Recipe, mut child: Child, mut orders: watch::Receiver<Order>) {
    signal(&child, if *orders.borrow() == Order::Kill { Signal::KILL } else { Signal::TERM });
    let deadline = tokio::time::sleep(recipe.patience);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            _ = child.wait() => break,
            () = &mut deadline => {
                say!("{} has not ended within {:?} and is killed", recipe.name, recipe.patience);
                signal(&child, Signal::KILL);
                let _ = child.wait().await; // A killed child ends.
                break;
            }
            Ok(()) = orders.changed() => signal(&child, Signal::KILL),
        }
    }
    // A pid that means nothing any more; one that stays is harmless.
    let _ = fs::remove_file(&recipe.pid_file);
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        say!("the process {} cannot be signalled: {error}", pid.as_raw_nonzero());
    }
}

fn describe(status: std::io::Result<ExitStatus>, log: &Path) -> String {
    let ended = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let last = super::last_line(log).unwrap_or_else(|| "it said nothing".to_owned());
    format!("ended ({ended}); its last line: {last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_no_pause_and_the_next_ones_do() {
        let pauses: Vec<_> = (1..8).map(|deaths| pause_after(deaths).as_millis()).collect();
        assert_eq!(pauses, [0, 500, 1_000, 2_000, 5_000, 5_000, 5_000]);
    }

    #[test]
    fn an_orderly_end_is_no_death() {
        let (short, long) = (Duration::from_millis(10), STEADY * 2);
        #[rustfmt::skip]
        let cases = [
            // before  ended           lived  deaths
            (0,        Ended::Badly,   short, 1),
            (3,        Ended::Badly,   short, 4),
            (3,        Ended::Badly,   long,  1),
            (3,        Ended::InOrder, short, 0),
        ];
        for (before, ended, lived, deaths) in cases {
            assert_eq!(deaths_after(before, ended, lived), deaths, "{before} {lived:?}");
        }
        assert_eq!(pause_after(0), Duration::ZERO);
    }
}
