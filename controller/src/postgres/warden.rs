//! The warden: a small process that is the parent of a server, and ends it when its controller
//! cannot.
//!
//! A controller that is paused cannot fence its primary, and one that is restarted cannot be its
//! server's parent. So each server has a warden between the two: [`keep`] is its whole life.
//! `warden/term.rs` decides until when the server may live, `warden/word.rs` is what controller and
//! warden say to each other; `link.rs` is the controller's end of the connection.
//!
//! **Invariant:** the server dies at the end of the last lease that its controller named, whatever
//! became of the controller; and at once when the connection is lost without an orderly goodbye.
//!
//! **Invariant:** the warden kills its own descendants and nobody else. All of the server's
//! processes are: whatever loses its parent becomes a child of the warden. So when it has no child
//! any more, nothing is left of the server.
//!
//! **Invariant:** one thread, which the server's parent-death signal is bound to; nothing waits
//! but `poll`.
//!
//! Source: PROTOCOL.md, "The two leases"; Linux manual, `PR_SET_CHILD_SUBREAPER`.

mod term;
mod word;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dugong_machine::Time;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{self as os, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use self::term::{Controller, Why, end_of};
use super::process::{Stat, number, processes, tie_to_parent};
use crate::clock::Clock;

pub(super) use self::term::Term;
pub(super) use self::word::{Lines, News, Order};

/// The first argument of a controller's program that shall be a warden.
pub const COMMAND: &str = "warden";

/// Where the next controller finds the warden, in the directory of the server's sockets, which only
/// its owner can enter.
pub(super) const SOCKET: &str = "warden.sock";

/// Between two rounds of killing; longer from round to round, for what a hung disk holds.
const ROUND: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Starts a server and keeps it until no process of it is left.
///
/// `arguments`: the path of its socket, the [`Term`] of the server, and the server's command. The
/// controller's end of the first connection is the standard input.
///
/// # Errors
///
/// It cannot keep a server: then none was started, or none is left.
pub fn keep(arguments: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let mut arguments = arguments.into_iter();
    let odd = || io::Error::other(format!("`{COMMAND}` is for a controller, not for people"));
    let socket = PathBuf::from(arguments.next().ok_or_else(odd)?);
    let term = arguments.next().and_then(|term| term.to_str()?.parse().ok()).ok_or_else(odd)?;
    let mut command = Command::new(arguments.next().ok_or_else(odd)?);
    command.args(arguments);

    let first = io::stdin().as_fd().try_clone_to_owned()?;
    let mut controller = Connection::new(first.into())?;
    match Warden::begin(&socket, term, command) {
        Ok(mut warden) => {
            warden.greet(controller);
            warden.run()
        }
        Err(error) => {
            controller.tell(&News::Failed(error.to_string()));
            Err(error)
        }
    }
}

struct Warden {
    postmaster: Pid,
    /// Readable once the postmaster has ended.
    handle: OwnedFd,
    /// How it ended, once it was reaped.
    exited: Option<i32>,
    listener: UnixListener,
    timer: OwnedFd,
    term: Term,
    controller: Controller,
    connection: Option<Connection>,
    /// For the next controller.
    note: Option<String>,
}

/// Whether a process of the server is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Some,
    Nobody,
}

impl Warden {
    fn begin(socket: &PathBuf, term: Term, mut command: Command) -> io::Result<Self> {
        // A terminal's signals are for the controller, which knows the order of an end.
        os::setsid()?;
        os::set_child_subreaper(Some(os::getpid()))?;
        if let Err(error) = fs::remove_file(socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        if let Some((end, why)) = end_of(term, Controller::There)
            && Clock.now() >= end
        {
            return Err(io::Error::other(format!("no server is started: {why}")));
        }
        command.stdin(Stdio::null()).process_group(0);
        // An immediate shutdown: the server must not outlive its warden.
        tie_to_parent(&mut command, Signal::QUIT);
        let raw = i32::try_from(command.spawn()?.id()).ok().and_then(Pid::from_raw);
        let postmaster = raw.ok_or_else(|| io::Error::other("a child without a pid"))?;
        // Nobody but this process reaps it, so that the number is still its own.
        let handle = os::pidfd_open(postmaster, PidfdFlags::empty())?;
        Ok(Self {
            postmaster,
            handle,
            exited: None,
            listener,
            timer,
            term,
            controller: Controller::There,
            connection: None,
            note: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            // Words first: one that has come already may make the lease longer.
            self.hear()?;
            self.reap()?;
            let end = end_of(self.term, self.controller);
            if self.exited.is_some() {
                return self.end(None);
            }
            if let Some((at, why)) = end
                && Clock.now() >= at
            {
                return self.end(Some(why));
            }
            self.wait(end)?;
        }
    }

    /// Returns when there is something to do, at the latest at the end.
    fn wait(&self, end: Option<(Time, Why)>) -> io::Result<()> {
        // Not by the time limit of poll, whose clock stands still while the machine is suspended.
        let timer = Itimerspec {
            it_interval: Timespec::default(),
            it_value: end.map_or_else(Timespec::default, |(at, _)| timespec(at)),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
        let peer = match &self.connection {
            Some(connection) => connection.stream.as_fd(),
            None => self.listener.as_fd(),
        };
        let mut watched = [peer, self.timer.as_fd(), self.handle.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in what the controller has said, or a new controller.
    fn hear(&mut self) -> io::Result<()> {
        let Some(mut connection) = self.connection.take() else {
            if let Controller::Changing { .. } = self.controller {
                match self.listener.accept() {
                    Ok((stream, _)) => self.greet(Connection::new(stream)?),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        };
        let open = connection.read();
        let understood = loop {
            match connection.lines.next::<Order>() {
                Ok(Some(order)) => self.obey(order)?,
                Ok(None) => break true,
                Err(error) => {
                    say(&format!("ERROR:  a word of the controller: {error}"));
                    break false;
                }
            }
        };
        let goodbye = matches!(self.controller, Controller::Changing { .. });
        if open && understood {
            self.connection = Some(connection);
        } else if !goodbye || !understood {
            self.controller = Controller::Gone;
        }
        Ok(())
    }

    fn greet(&mut self, mut connection: Connection) {
        connection.tell(&News::Running { postmaster: self.postmaster, note: self.note.take() });
        self.controller = Controller::There;
        self.connection = Some(connection);
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        let signal = match order {
            Order::Until(end) => {
                self.term = Term::Until(end);
                return Ok(());
            }
            Order::Keep(note) => {
                self.note = Some(note);
                self.controller = Controller::Changing { since: Clock.now() };
                return Ok(());
            }
            Order::Reload => Signal::HUP,
            Order::StopFast => Signal::INT,
            Order::StopImmediate => Signal::QUIT,
            Order::End => Signal::KILL,
        };
        match os::pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps every child that has ended, adopted ones included.
    fn reap(&mut self) -> io::Result<Left> {
        loop {
            match os::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.postmaster => {
                    self.exited = Some(status.as_raw());
                }
                Ok(Some(_)) | Err(Errno::INTR) => (),
                Ok(None) => return Ok(Left::Some),
                Err(Errno::CHILD) => return Ok(Left::Nobody),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Kills what is left of the server, and returns once nothing is. Says why, if it is not because the
    /// server has ended by itself: after the kill, since the log may be on a disk that hangs.
    fn end(&mut self, mut why: Option<Why>) -> io::Result<()> {
        let mut round = ROUND.0;
        while self.reap()? == Left::Some {
            let me = number(os::getpid());
            for pid in processes()? {
                let parent = Stat::read(pid).map(|stat| stat.parent);
                // The postmaster, and what has lost its parent.
                let ours = parent == Some(me);
                // Once it is reaped, its number may be somebody else's.
                let its = self.exited.is_none() && parent == Some(number(self.postmaster));
                if ours || its {
                    // An error: it has just ended.
                    let _ = os::kill_process(pid, Signal::KILL);
                }
            }
            // In the first round the postmaster was killed, in the next one what it had made meanwhile.
            if round > ROUND.0
                && let Some(why) = why.take()
            {
                say(&format!("FATAL:  {why}: every process of the server is killed"));
            }
            std::thread::sleep(round);
            round = ROUND.1.min(round * 2);
        }
        if let Some(why) = why {
            say(&format!("FATAL:  {why}: every process of the server is killed"));
        }
        if let (Some(connection), Some(status)) = (&mut self.connection, self.exited) {
            connection.tell(&News::Exited(status));
        }
        Ok(())
    }
}

struct Connection {
    stream: UnixStream,
    lines: Lines,
}

impl Connection {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, lines: Lines::default() })
    }

    /// Takes in what has come; false once no more can.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.lines.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(_) => return false,
            }
        }
    }

    fn tell(&mut self, news: &News) {
        // A controller that is gone is noticed by its silence.
        let _ = self.stream.write_all(format!("{news}\n").as_bytes());
    }
}

/// A line for people, in the server's log.
fn say(words: &str) {
    // A log that takes nothing must not keep the server alive.
    let _ = writeln!(io::stderr(), "warden: {words}");
}

fn timespec(at: Time) -> Timespec {
    // Zero would mean never; it is past in any case.
    let millis = at.0.max(1);
    Timespec {
        tv_sec: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
    }
}
