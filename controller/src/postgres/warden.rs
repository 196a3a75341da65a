//! The warden: a process of its own, which ends the server when its lease is over.
//!
//! A controller that is stopped (SIGSTOP, a debugger, a machine that starves it) cannot fence its
//! server, whose backends go on answering. So the controller lends its server life: it tells the
//! warden until when, again and again, and the warden kills whatever works in the data directory
//! when that time is over, or when the controller itself is.
//!
//! [`keep`] is the controller's side, [`watch`] the warden's. Between them is a pipe, with a line
//! for each word: `until 123456` (milliseconds of the boot-time clock, which is the same for all
//! processes of a machine), or `free` (no primary: nothing is lent).
//!
//! **Invariant:** the warden does nothing but read, wait and kill: there is little that can stop it.
//!
//! Source: PROTOCOL.md, "The two leases".

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dugong_machine::Time;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use super::layout;
use super::process::{StillThere, end_all};
use crate::clock::Clock;

/// The first argument of a warden's process; the instance's directory follows.
pub const COMMAND: &str = "warden";

/// A timer does not count the sleep of a machine, so the clock is looked at this often.
const GLANCE: Duration = Duration::from_millis(100);

/// Before another warden is started where one has ended.
const PAUSE: Duration = Duration::from_millis(200);

/// Keeps a warden for the instance in `dir`, and passes on every lease, until `leases` closes.
pub(crate) async fn keep(
    program: PathBuf,
    dir: PathBuf,
    mut leases: watch::Receiver<Option<Time>>,
) {
    loop {
        match lend(&program, &dir, &mut leases).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "the server has no warden for a moment; starting another one");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn lend(
    program: &Path,
    dir: &Path,
    leases: &mut watch::Receiver<Option<Time>>,
) -> io::Result<()> {
    let mut command = std::process::Command::new(program);
    command.arg(COMMAND).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null());
    // A terminal's Ctrl-C passes it by: it ends when this process has.
    command.process_group(0);
    let mut child = Command::from(command).spawn()?;
    let mut pipe: ChildStdin = child.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
    loop {
        let word = *leases.borrow_and_update();
        let line = word.map_or_else(|| "free\n".to_owned(), |until| format!("until {}\n", until.0));
        pipe.write_all(line.as_bytes()).await?;
        tokio::select! {
            changed = leases.changed() => if changed.is_err() { return Ok(()) },
            ended = child.wait() => return Err(io::Error::other(format!("it ended: {}", ended?))),
        }
    }
}

/// The warden's process: returns once its controller is gone and nothing runs in `dir`.
///
/// # Errors
///
/// Server processes that do not go, or cannot be looked for.
pub async fn watch(dir: &Path) -> io::Result<()> {
    let workplaces = layout::workplaces(&dir.canonicalize()?);
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    let mut lease = None;
    while let Some(word) = next_word(&mut words, lease).await {
        lease = match word {
            Word::Lease(lease) => lease,
            Word::Over => {
                kill(&workplaces).await?;
                None
            }
        };
    }
    kill(&workplaces).await
}

async fn kill(workplaces: &[PathBuf]) -> io::Result<()> {
    end_all(workplaces).await.map_err(|still: StillThere| io::Error::other(still.to_string()))
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Lease(Option<Time>),
    /// The time that was lent is over.
    Over,
}

/// None: the controller is gone.
async fn next_word<R: tokio::io::AsyncBufRead + Unpin>(
    words: &mut Lines<R>,
    lease: Option<Time>,
) -> Option<Word> {
    loop {
        if lease.is_some_and(|until| Clock.now() >= until) {
            return Some(Word::Over);
        }
        // A cancelled read keeps what it has read.
        let Ok(read) = tokio::time::timeout(GLANCE, words.next_line()).await else { continue };
        // An error, or a word that cannot be understood, is as good as no controller.
        return read.ok().flatten().as_deref().and_then(understood).map(Word::Lease);
    }
}

fn understood(line: &str) -> Option<Option<Time>> {
    match line.split_once(' ') {
        None if line == "free" => Some(None),
        Some(("until", time)) => time.parse().ok().map(|time| Some(Time(time))),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(said: &str, lease: Option<Time>) -> Option<Word> {
        next_word(&mut BufReader::new(said.as_bytes()).lines(), lease).await
    }

    #[tokio::test]
    async fn a_lease_is_over_in_its_time_and_everything_unclear_is_the_end() {
        let far = Time(Clock.now().0 + 60_000);
        assert_eq!(heard("until 77\n", None).await, Some(Word::Lease(Some(Time(77)))));
        assert_eq!(heard("free\n", Some(far)).await, Some(Word::Lease(None)));
        assert_eq!(heard("until 77\n", Some(Clock.now())).await, Some(Word::Over));
        assert_eq!(heard("", Some(far)).await, None, "the controller is gone");
        assert_eq!(heard("until tomorrow\n", Some(far)).await, None);
    }
}
