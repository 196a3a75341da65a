//! The server process: started, told to stop, and what it said last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use dugong_machine::Time;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Settings;
use super::layout::Layout;
use super::link::Link;
use super::process::Exit;
use super::storage::Starts;
use super::warden::{self, Order, SOCKET, Term};
use crate::service;

/// The log is put aside at a start when it is larger than this; one older log is kept.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// How much of the log's end is searched for the last words.
const LAST_WORDS_BYTES: u64 = 32 << 10;

/// A fast shutdown that takes longer than this becomes an immediate one,
const FAST_PATIENCE: Duration = Duration::from_secs(30);
/// and that one, after this, the end of every process.
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(5);

/// The running server process, as its warden tells of it. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Postmaster {
    link: Link,
    /// Where its words begin in the log.
    log_begin: u64,
    stopping: Option<Stopping>,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug)]
struct Stopping {
    since: Instant,
    /// The patience ran out once: SIGQUIT was sent.
    hurried: bool,
}

/// What a stop needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Wait,
    /// It does not even end at once when it is told to: every process must be killed.
    Lost,
}

impl Postmaster {
    /// Starts the server on `data`, below a warden. `extra` are further arguments. `starts`: whether one
    /// may be started by now; asked after the last thing that may hang in a disk.
    pub(super) async fn start(
        settings: &Settings,
        layout: &Layout,
        data: &Path,
        extra: &[String],
        term: Term,
        starts: &Starts,
    ) -> io::Result<Self> {
        let (log, log_begin) = open_log(&layout.log)?;
        let mut command = Command::new(&settings.warden);
        command
            .arg(warden::COMMAND)
            .arg(layout.run.join(SOCKET))
            .arg(term.to_string())
            .arg(settings.bin.join("postgres"))
            .arg("-D")
            .arg(data)
            .args(extra)
            .env_remove(service::SOCKET)
            .current_dir(&layout.dir)
            .stdout(log.try_clone()?)
            .stderr(log);
        let _permit = starts.permit().await?;
        let link = Link::start(command).await?;
        Ok(Self { link, log_begin, stopping: None })
    }

    /// A server that the controller before this one has left running.
    pub(super) fn adopted(link: Link, layout: &Layout) -> io::Result<Self> {
        let (_, log_begin) = open_log(&layout.log)?;
        Ok(Self { link, log_begin, stopping: None })
    }

    /// From now on it lives no longer than the lease, which may grow. Safe to repeat.
    pub(super) fn bind_to(&mut self, lease: &watch::Receiver<Time>) -> io::Result<()> {
        self.link.follow(lease)
    }

    /// Leaves it to its warden, for the next controller, which gets the note.
    pub(super) fn leave(self, note: String) -> io::Result<()> {
        self.link.leave(note)
    }

    pub(super) fn exit(&self) -> Exit {
        self.link.exit()
    }

    pub(super) fn has_exited(&self) -> bool {
        self.link.exit().is_over()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Reads its configuration files again.
    pub(super) fn reload(&self) -> io::Result<()> {
        self.link.tell(&Order::Reload)
    }

    /// Carries a fast shutdown on: asks first, hurries when that takes too long.
    pub(super) fn stop_fast(&mut self) -> io::Result<Patience> {
        let now = Instant::now();
        let Some(stopping) = &mut self.stopping else {
            self.stopping = Some(Stopping { since: now, hurried: false });
            self.link.tell(&Order::StopFast)?;
            return Ok(Patience::Wait);
        };
        if now < stopping.since + FAST_PATIENCE {
            return Ok(Patience::Wait);
        }
        if !stopping.hurried {
            stopping.hurried = true;
            self.link.tell(&Order::StopImmediate)?;
        }
        let lost = now > stopping.since + FAST_PATIENCE + IMMEDIATE_PATIENCE;
        Ok(if lost { Patience::Lost } else { Patience::Wait })
    }

    /// Kills the process itself; the others are found by their directory, and it, too, where
    /// this fails.
    pub(super) fn kill(&mut self) {
        let now = || Stopping { since: Instant::now(), hurried: true };
        self.stopping.get_or_insert_with(now);
        if !self.has_exited()
            && let Err(error) = self.link.tell(&Order::End)
        {
            tracing::warn!(%error, "the server's warden does not listen");
        }
    }

    /// Ends the warden, too, should it not have ended with its server.
    pub(super) fn kill_warden(&self) {
        self.link.kill();
    }

    /// The last line of its log that says why it ended, or else the last line.
    pub(super) fn last_words(&self, log: &Path) -> Option<String> {
        last_words_in(&self.end_of_log(log)?).map(str::to_owned)
    }

    /// The last line of its log that says why no WAL comes.
    pub(super) fn words_about_upstream(&self, log: &Path) -> Option<String> {
        words_about_upstream_in(&self.end_of_log(log)?).map(str::to_owned)
    }

    /// The line of its log by which a damaged page has ended it.
    pub(super) fn words_about_a_page(&self, log: &Path) -> Option<String> {
        words_about_a_page_in(&self.end_of_log(log)?).map(str::to_owned)
    }

    fn end_of_log(&self, log: &Path) -> Option<String> {
        let mut file = File::open(log).ok()?;
        let end = file.metadata().ok()?.len();
        let begin = self.log_begin.max(end.saturating_sub(LAST_WORDS_BYTES)).min(end);
        file.seek(SeekFrom::Start(begin)).ok()?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The most telling line: the last that is fatal, else the last error, else the last of all.
fn last_words_in(log: &str) -> Option<&str> {
    let last = |marks: &[&str]| {
        let telling = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        log.lines().rev().find(telling)
    };
    // What the warden has killed says much while it dies.
    let line = last(&["warden: FATAL:  "])
        .or_else(|| last(&["PANIC:  ", "FATAL:  "]))
        .or_else(|| last(&["ERROR:  "]))
        .or_else(|| last(&["LOG:  "]))
        .or_else(|| log.lines().rev().find(|line| !line.trim().is_empty()))?;
    Some(without_prefix(line))
}

/// What WAL receivers, and the startup process that starts them, say when they fail.
fn words_about_upstream_in(log: &str) -> Option<&str> {
    let marks = [
        "could not connect to the primary",
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "database system identifier differs",
        "forked off current database system timeline",
    ];
    let line = log.lines().rev().find(|line| marks.iter().any(|mark| line.contains(mark)))?;
    Some(without_prefix(line))
}

/// What the startup process says when it ends for a page. Where the server speaks another language,
/// nothing is found, and nothing done.
fn words_about_a_page_in(log: &str) -> Option<&str> {
    let ends = |line: &&str| line.contains("FATAL:  ") || line.contains("PANIC:  ");
    let marks = ["invalid page in block", "WAL contains references to invalid pages"];
    let line = log.lines().rev().filter(ends);
    line.filter(|line| marks.iter().any(|mark| line.contains(mark))).map(without_prefix).next()
}

/// A line of the log without the time and the process before it.
fn without_prefix(line: &str) -> &str {
    let begin = ["PANIC:", "FATAL:", "ERROR:", "LOG:"].iter().find_map(|mark| line.find(mark));
    line.get(begin.unwrap_or(0)..).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_that_has_ended_the_server_is_the_reason_of_its_end() {
        #[rustfmt::skip]
        let cases = [
            ("t [2] FATAL:  invalid page in block 3 of relation base/5/16384\nt [2] CONTEXT:  WAL redo at 0/3 for Heap/INSERT\nt [1] LOG:  shut down\n",
             Some("FATAL:  invalid page in block 3 of relation base/5/16384")),
            ("t [2] PANIC:  WAL contains references to invalid pages\n", Some("PANIC:  WAL contains references to invalid pages")),
            ("t [2] ERROR:  invalid page in block 3 of relation base/5/16384\nt [2] FATAL:  no disk\n", None),
            ("t [2] FATAL:  the database system is shutting down\n", None),
        ];
        for (log, expected) in cases {
            assert_eq!(words_about_a_page_in(log), expected, "{log:?}");
        }
    }

    #[test]
    fn the_last_words_are_the_ones_that_tell_why() {
        #[rustfmt::skip]
        let cases = [
            ("t [1] LOG:  starting\nt [2] FATAL:  no disk\nt [1] LOG:  shut down\n", Some("FATAL:  no disk")),
            ("t [1] LOG:  starting\nt [1] ERROR:  odd\nt [1] LOG:  x\n",             Some("ERROR:  odd")),
            ("t [1] LOG:  one\nt [1] LOG:  two\n",                                   Some("LOG:  two")),
            ("warden: FATAL:  late\nt [3] FATAL:  terminating\n",                    Some("FATAL:  late")),
            ("sh: not found\n\n",                                                    Some("sh: not found")),
            ("",                                                                     None),
        ];
        for (log, expected) in cases {
            assert_eq!(last_words_in(log), expected, "{log:?}");
        }
    }
}
