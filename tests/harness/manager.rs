//! A service manager, as far as a service speaks to it: the socket of `sd_notify(3)`.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest that a service may say nothing of what is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// What the watchdog grants.
const WATCHDOG: Duration = Duration::from_millis(300);

/// Hears what services say.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl ServiceManager {
    /// Listens.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let socket = UnixDatagram::bind(directory.path().join("notify"));
        Self { socket: socket.expect("a socket can be made"), directory }
    }

    /// Makes a command one of its services, with a watchdog.
    pub fn manages(&self, command: &mut Command) {
        command
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }

    /// Waits until a service says this, and returns what it said before.
    pub fn hears(&self, state: &str) -> Vec<String> {
        let (begun, mut before) = (Instant::now(), Vec::new());
        self.socket.set_read_timeout(Some(LIMIT)).expect("the limit is not zero");
        while begun.elapsed() < LIMIT {
            let mut bytes = [0; 256];
            let read = match self.socket.recv(&mut bytes) {
                Ok(read) => read,
                // Some process of the test has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{state} was not said: {error}"),
            };
            let said = String::from_utf8_lossy(&bytes[..read]).trim().to_owned();
            if said == state {
                return before;
            }
            before.push(said);
        }
        panic!("{state} was not said within {LIMIT:?}, but {before:?}");
    }
}
