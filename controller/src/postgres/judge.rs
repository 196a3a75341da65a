//! What the server's own program says of settings, before a server has to live with them.
//!
//! The configuration is written into a directory that is not the server's, and `postgres -C` reads
//! it: names, types, units, ranges, combinations, and whether the libraries are there. It starts no
//! server. So whatever PostgreSQL would refuse is refused in its own words, and none fails to start
//! for it.
//!
//! **Invariant:** nothing in the data directory is touched.
//!
//! Source: PostgreSQL manual, `postgres`, `-C`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::Settings;
use super::configuration::{self, Common, Live, Source};
use super::helper::{HelperError, Line, run_and_hear};
use super::layout::{Durability, Layout, remove_all, replace_file};
use super::process::Spawner;
use super::versions::computed_last;

/// A program that takes longer than this does not come to an end: a library may hang.
/// Whoever asks over HTTP waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Asked for where nothing is computed last: then the values alone are judged.
const FIRST: &str = "max_connections";

/// Judges settings, one set after the other.
#[derive(Debug)]
pub(super) struct Judge {
    settings: Arc<Settings>,
    layout: Arc<Layout>,
    spawner: Arc<Spawner>,
    /// Held over the whole run: the directory is one, and the runs are short and rare.
    one: Mutex<()>,
}

/// Why settings are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// In PostgreSQL's words.
    #[error("PostgreSQL refuses it: {0}")]
    Refused(String),
    #[error("whether PostgreSQL takes it cannot be told: {0}")]
    Unknown(String),
}

impl Judge {
    pub(super) fn new(settings: Arc<Settings>, layout: Arc<Layout>, spawner: Arc<Spawner>) -> Self {
        Self { settings, layout, spawner, one: Mutex::new(()) }
    }

    /// Whether a server with these settings of the cluster would start here.
    pub(super) async fn judge(&self, common: &Common) -> Result<(), Verdict> {
        let _one = self.one.lock().await;
        let room = self.layout.dir.join("judged");
        let judged = tokio::time::timeout(PATIENCE, self.judge_in(&room, common)).await;
        if let Err(error) = remove_all(&room) {
            tracing::warn!(%error, "{} cannot be removed", room.display());
        }
        let late = || Verdict::Unknown(format!("no answer within {PATIENCE:?}"));
        judged.unwrap_or_else(|_elapsed| Err(late()))
    }

    async fn judge_in(&self, room: &Path, common: &Common) -> Result<(), Verdict> {
        let failed = |error: io::Error| Verdict::Unknown(format!("{}: {error}", room.display()));
        let last = self.furnish(room, common).map_err(failed)?;
        let mut command = Command::new(self.settings.bin.join("postgres"));
        command.arg("-D").arg(room).arg("-C").arg(last.unwrap_or(FIRST)).env("LC_ALL", "C");
        let mut said = Vec::new();
        let hear = |line: &str| {
            said.push(line.to_owned());
            Line::Keep
        };
        match run_and_hear(&self.spawner, command, Signal::KILL, hear).await {
            Ok(_) => Ok(()),
            Err(HelperError::Failed { said: last, .. }) => {
                Err(Verdict::Refused(words(&said).unwrap_or(last)))
            }
            Err(error @ HelperError::Start { .. }) => Err(Verdict::Unknown(error.to_string())),
        }
    }

    /// Makes a directory that could be a server's; the last question that its program has an answer to.
    fn furnish(&self, room: &Path, common: &Common) -> io::Result<Option<&'static str>> {
        remove_all(room)?;
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        private(room)?;
        private(&room.join("global"))?;
        let live = Live::standby(Source::Nobody);
        let text = configuration::render(&self.settings, &self.layout, common, &live);
        replace_file(&room.join("postgresql.conf"), &text, Durability::Atomic)?;
        replace_file(&room.join("postgresql.auto.conf"), "", Durability::Atomic)?;
        let data = &self.layout.data;
        for file in ["PG_VERSION", "global/pg_control"] {
            match fs::copy(data.join(file), room.join(file)) {
                Ok(_) => (),
                // No data yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let version = fs::read_to_string(room.join("PG_VERSION"))?;
        Ok(version.trim().parse().ok().and_then(computed_last))
    }
}

/// What the program complained of; none where it said nothing of use.
fn words(lines: &[String]) -> Option<String> {
    let mut found = Vec::new();
    for line in lines {
        let marks = ["LOG:  ", "FATAL:  ", "ERROR:  ", "HINT:  ", "DETAIL:  "];
        let marked = marks.iter().find_map(|mark| line.split_once(mark));
        let words = match marked {
            Some((_, words)) => words,
            None => match line.strip_prefix("postgres: ") {
                Some(words) => words,
                None => continue,
            },
        };
        // Says only that something was said before.
        if !words.ends_with("contains errors") {
            found.push(words.trim().trim_end_matches('.').to_owned());
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_told_in_its_own_words() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let of_value = "\
2026-01-02 03:04:05.006 GMT [7] LOG:  invalid value for parameter \"work_mem\": \"12 parsecs\"
2026-01-02 03:04:05.006 GMT [7] HINT:  Valid units for this parameter are \"B\", \"kB\".
2026-01-02 03:04:05.006 GMT [7] FATAL:  configuration file \"/x/postgresql.conf\" contains errors
";
        let expected = "invalid value for parameter \"work_mem\": \"12 parsecs\"; \
                        Valid units for this parameter are \"B\", \"kB\"";
        assert_eq!(words(&lines(of_value)).as_deref(), Some(expected));
        let of_two = "postgres: superuser_reserved_connections (5) must be less than \
                      max_connections (5)\n";
        let expected = "superuser_reserved_connections (5) must be less than max_connections (5)";
        assert_eq!(words(&lines(of_two)).as_deref(), Some(expected));
        assert_eq!(words(&lines("Segmentation fault\n")), None);
    }
}
