//! The controller's end of the connection to the warden of its server.
//!
//! **Invariant:** dropping a [`Link`] ends the warden, and with it the server; but for
//! [`Link::leave`], after which both live on.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use dugong_machine::Time;
use rustix::fd::OwnedFd;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::{Exit, forget_settings};
use super::warden::{Lines, News, Order, SOCKET};

/// How long a warden may take to greet: it has little more to do than to fork.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// The same for one that runs already, and is asked while nothing else can begin.
const KNOWN_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to name the lease to a warden that does not listen.
const INSIST: Duration = Duration::from_millis(50);

/// A warden, and the server below it.
#[derive(Debug)]
pub(super) struct Link {
    grip: Grip,
    exited: watch::Receiver<Option<ExitStatus>>,
    /// The lease that the server is bound to, once it is.
    lease: Option<watch::Receiver<Time>>,
    /// Names the lease, where there is one to name.
    follower: JoinSet<()>,
}

/// A warden that the controller before this one has left.
#[derive(Debug)]
pub(super) struct Found {
    pub link: Link,
    pub postmaster: Pid,
    /// What that controller wrote for this one.
    pub note: String,
}

impl Link {
    /// Starts a warden by `command`, which lacks nothing but the connection, and waits until its
    /// server is started. Dropping the future kills it.
    pub(super) async fn start(mut command: Command) -> io::Result<Self> {
        let (ours, theirs) = StdStream::pair()?;
        forget_settings(command.as_std_mut());
        // It may outlive this process; what ends it is the connection, or the grip.
        let mut child = command.stdin(OwnedFd::from(theirs)).kill_on_drop(false).spawn()?;
        drop(command); // It holds the warden's end of the connection.
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the warden has ended already"))?;
        let grip = Grip::new(ours, pid)?;
        // Reaped, whatever becomes of this value.
        tokio::spawn(async move { child.wait().await });
        let mut lines = Lines::default();
        let greeting = tokio::time::timeout(GREETING_PATIENCE, grip.next(&mut lines));
        let silent = || io::Error::other(format!("no word within {GREETING_PATIENCE:?}"));
        match greeting.await.map_err(|_| silent())?? {
            Some(News::Running { .. }) => Ok(Self::over(grip, lines)),
            Some(News::Failed(why)) => Err(io::Error::other(why)),
            Some(News::Exited(_)) | None => Err(io::Error::other("the warden ended at once")),
        }
    }

    /// The warden that waits for a new controller below `run`, if there is one.
    ///
    /// Blocks for a moment: call it before the work of the runtime begins, but within it.
    pub(super) fn find(run: &Path) -> Option<Found> {
        let mut stream = StdStream::connect(run.join(SOCKET)).ok()?;
        let found = (|| {
            stream.set_read_timeout(Some(KNOWN_PATIENCE))?;
            let mut lines = Lines::default();
            let (postmaster, note) = hear_out(&mut stream, &mut lines)?;
            let warden = socket_peercred(&stream)?.pid;
            let link = Self::over(Grip::new(stream, warden)?, lines);
            Ok(Found { link, postmaster, note })
        })();
        found.map_err(|error: io::Error| tracing::warn!(%error, "a warden does not greet")).ok()
    }

    fn over(grip: Grip, mut lines: Lines) -> Self {
        let (exit, exited) = watch::channel(None);
        let stream = Arc::clone(&grip.stream);
        // Ends with the connection, which ends with the warden, or with the grip.
        tokio::spawn(async move {
            let mut status = None;
            while let Ok(Some(news)) = next(&stream, &mut lines).await {
                if let News::Exited(raw) = news {
                    status = Some(ExitStatus::from_raw(raw));
                }
            }
            // Only now, when the warden is gone, too. Nobody listens any more: nobody is told.
            let _ = exit.send(status);
        });
        Self { grip, exited, lease: None, follower: JoinSet::new() }
    }

    /// Says one word to the warden.
    pub(super) fn tell(&self, order: &Order) -> io::Result<()> {
        tell(&self.grip.stream, order)
    }

    /// Names the end of the lease, and each new one. Safe to repeat.
    pub(super) fn follow(&mut self, lease: &watch::Receiver<Time>) -> io::Result<()> {
        if !self.follower.is_empty() {
            return Ok(());
        }
        let mut lease = lease.clone();
        self.lease = Some(lease.clone());
        let now = *lease.borrow_and_update();
        self.tell(&Order::Until(now))?;
        let stream = Arc::clone(&self.grip.stream);
        self.follower.spawn(async move {
            while lease.changed().await.is_ok() {
                loop {
                    let until = *lease.borrow_and_update();
                    match tell(&stream, &Order::Until(until)) {
                        Ok(()) => break,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            tokio::time::sleep(INSIST).await;
                        }
                        Err(_) => return, // The warden is gone: its server ends.
                    }
                }
            }
        });
        Ok(())
    }

    /// Leaves the warden and its server to the next controller, which gets the note.
    pub(super) fn leave(mut self, note: String) -> io::Result<()> {
        // The newest end may not have been named yet.
        self.follower.abort_all();
        if let Some(lease) = &self.lease {
            self.tell(&Order::Until(*lease.borrow()))?;
        }
        self.tell(&Order::Keep(note))?;
        self.grip.left = true;
        Ok(())
    }

    /// A handle that resolves when the warden is gone, and no process of its server is left unless
    /// somebody has killed the warden.
    pub(super) fn exit(&self) -> Exit {
        Exit::told_by(self.exited.clone())
    }

    /// Kills the warden.
    pub(super) fn kill(&self) {
        self.grip.kill();
    }
}

/// What a warden's life depends on.
#[derive(Debug)]
struct Grip {
    stream: Arc<UnixStream>,
    /// The warden's process: unlike its number, this never names another one.
    warden: OwnedFd,
    left: bool,
}

impl Grip {
    fn new(stream: StdStream, warden: Pid) -> io::Result<Self> {
        let warden = pidfd_open(warden, PidfdFlags::empty())?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream: Arc::new(UnixStream::from_std(stream)?), warden, left: false })
    }

    async fn next(&self, lines: &mut Lines) -> io::Result<Option<News>> {
        next(&self.stream, lines).await
    }

    fn kill(&self) {
        // An error: it has ended already.
        let _ = pidfd_send_signal(&self.warden, Signal::KILL);
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        if !self.left {
            // Not by the connection alone: a warden that has not forked yet must not do so later.
            self.kill();
        }
        // The reader holds the connection, too. An error: the warden has closed it.
        let _ = shutdown(&*self.stream, Shutdown::Both);
    }
}

/// What a warden that runs already says of its server, and the note that was left with it.
fn hear_out(stream: &mut impl Read, lines: &mut Lines) -> io::Result<(Pid, String)> {
    loop {
        match lines.next().map_err(io::Error::other)? {
            Some(News::Running { postmaster, note: Some(note) }) => return Ok((postmaster, note)),
            Some(news) => return Err(io::Error::other(news.to_string())),
            None => (),
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => lines.push(&buffer[..count]),
            // A read that has a time limit is broken off by any signal: signal(7).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}

/// The next news; none once the warden is gone.
async fn next(stream: &UnixStream, lines: &mut Lines) -> io::Result<Option<News>> {
    loop {
        if let Some(news) = lines.next().map_err(io::Error::other)? {
            return Ok(Some(news));
        }
        stream.readable().await?;
        let mut buffer = [0; 1024];
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => lines.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
    }
}

/// Never waits: whoever is told a lease must not be the reason that nothing else goes on.
fn tell(stream: &UnixStream, order: &Order) -> io::Result<()> {
    let line = format!("{order}\n");
    let count = send(stream, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    if count == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each read brings the next piece; none: a signal comes in between.
    struct Pieces<'a>(&'a [Option<&'a str>]);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((next, rest)) = self.0.split_first() else { return Ok(0) };
            self.0 = rest;
            next.ok_or(io::ErrorKind::Interrupted)?.as_bytes().read(buffer)
        }
    }

    #[test]
    fn a_warden_is_heard_out_through_signals_and_in_pieces() {
        let postmaster = Pid::from_raw(4711).unwrap();
        let said = News::Running { postmaster, note: Some("for the next".to_owned()) };
        let line = format!("{said}\n");
        let (one, other) = line.split_at(5);
        let heard = |pieces: &[Option<&str>]| hear_out(&mut Pieces(pieces), &mut Lines::default());
        let whole = heard(&[None, Some(one), None, None, Some(other)]).unwrap();
        assert_eq!(whole, (postmaster, "for the next".to_owned()));
        let half = heard(&[None, Some(one)]).unwrap_err();
        assert_eq!(half.kind(), io::ErrorKind::UnexpectedEof);
    }
}
