//! A base backup that a command of the operator's brings: `pgbackrest restore`, `tar`, `cp`.
//!
//! The command gets an empty directory, and ends when that is full. What it has started must have
//! ended with it; what is left of one whose controller was killed is found by its environment.
//!
//! **Invariant:** two commands never work on the directory at once.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::process::{Signal, kill_process};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::data_dir::remove_identity;
use super::helper::{HelperError, Line, run_and_hear};
use super::making::{MakingError, Workshop, remove_in_background};
use super::process::{number, processes};
use super::programs::version_of;

/// Names the directory to the command.
const DATA: &str = "DUGONG_DATA";
/// Names the directory of PostgreSQL's programs.
const BIN: &str = "DUGONG_BIN";

/// So many last lines of a command that failed are told.
const LINES: usize = 5;

/// The longest that a killed command may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

impl Workshop<'_> {
    /// Runs the command, and looks whether what it leaves can be a cluster's data.
    pub(super) async fn restore(
        self,
        line: &str,
        words: &watch::Sender<String>,
    ) -> Result<(), MakingError> {
        let data = &self.layout.data_restored;
        end_commands_on(data).await?;
        remove_in_background(data).await?;
        DirBuilder::new().mode(0o700).create(data)?;
        let mut command = Command::new("sh");
        command
            .arg("-c")
            // What it says goes one way, so that it is heard in order.
            .arg(format!("exec 1>&2\n{line}"))
            .env(DATA, data)
            .env(BIN, &self.settings.bin)
            .current_dir(&self.layout.dir);
        let mut last = VecDeque::new();
        let hear = |said: &str| {
            let said = said.trim();
            if !said.is_empty() {
                tracing::info!("the command of [bootstrap]: {said}");
                words.send_replace(format!("the command of [bootstrap] runs: {said}"));
                last.push_back(said.to_owned());
                if last.len() > LINES {
                    last.pop_front();
                }
            }
            Line::Keep
        };
        tracing::info!("the command of [bootstrap] begins to fill {}", data.display());
        words.send_replace("the command of [bootstrap] runs".to_owned());
        match run_and_hear(self.spawner, command, Signal::KILL, hear).await {
            Ok(_) => (),
            Err(HelperError::Failed { ended, .. }) => {
                let said: Vec<_> = last.into_iter().collect();
                let said = if said.is_empty() { "it said nothing".into() } else { said.join("; ") };
                return Err(MakingError::Command { ended, said });
            }
            Err(error @ HelperError::Start { .. }) => return Err(error.into()),
        }
        // Whatever instance's it was, in whatever cluster.
        remove_identity(data)?;
        let usable = self.is_usable(data).and_then(|()| {
            let ends = !data.join("standby.signal").exists();
            ends.then_some(()).ok_or_else(|| {
                "has a standby.signal, and a standby's recovery never ends: restore with \
                 recovery.signal, to the end of the archive or to a target"
                    .to_owned()
            })
        });
        usable.map_err(|why| MakingError::NotRestored { path: data.clone(), why })
    }

    /// Whether our server may start on what came from elsewhere.
    pub(super) fn is_usable(self, data: &Path) -> Result<(), String> {
        let found = match fs::read_to_string(data.join("PG_VERSION")) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("is no data directory: it has no PG_VERSION".to_owned());
            }
            Err(error) => return Err(format!("has a PG_VERSION that cannot be read: {error}")),
        };
        let ours = version_of(&self.settings.bin).map_err(|error| format!("({error})"))?;
        if found != ours.major.to_string() {
            return Err(format!(
                "is of PostgreSQL {found}, and the programs in {} are of {ours}: name those of \
                 {found} in [postgres] bin",
                self.settings.bin.display()
            ));
        }
        Ok(())
    }
}

/// Kills what a command has left running that lost its controller.
async fn end_commands_on(data: &Path) -> io::Result<()> {
    let mark = [DATA.as_bytes(), b"=", data.as_os_str().as_encoded_bytes()].concat();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = false;
        for pid in processes()? {
            // Not readable: it is gone, or another user's.
            let environment = fs::read(format!("/proc/{}/environ", number(pid)));
            let environment = environment.unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|one| one == mark) {
                left = true;
                // An error: it has just ended.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !left {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "an earlier command still works on {} and does not go",
                data.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
