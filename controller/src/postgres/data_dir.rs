//! The data directory: whose it is (R10), and what its control file says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dugong_machine::{Data, Identity, SystemIdentifier};
use dugong_topology::{History, Lsn, LsnError, Position, TimelineId};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::Settings;
use super::floors::Floors;
use super::given_up;
use super::helper::{HelperError, run_helper};
use super::layout::{Durability, replace_file};
use super::making::Stamp;
use super::process::Spawner;

const IDENTITY: &str = "dugong.identity.json";

/// What is in the data directory.
///
/// # Errors
///
/// It cannot be told just now: the directory cannot be read.
pub(super) async fn examine(
    settings: &Settings,
    spawner: &Spawner,
    data: &Path,
) -> Result<Data, DataDirError> {
    let foreign = |why: String| Ok(Data::Foreign { why });
    let shown = data.display();
    match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Data::Empty),
        Err(error) => return Err(DataDirError::Unreadable { path: data.to_owned(), error }),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(Data::Empty);
            }
        }
    }
    let identity = match read_identity(data) {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            return foreign(format!("{shown} is not empty and was not made by Dugong"));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return foreign(format!("{shown}/{IDENTITY} is damaged: {error}"));
        }
        Err(error) => {
            return Err(DataDirError::Unreadable { path: data.join(IDENTITY), error });
        }
    };
    let Identity { instance, cluster, .. } = &identity;
    if *cluster != settings.cluster {
        return foreign(format!(
            "{shown} belongs to the cluster {cluster:?}, not to {:?}",
            settings.cluster
        ));
    }
    if *instance != settings.instance {
        return foreign(format!(
            "{shown} belongs to the instance {instance}, not to {}",
            settings.instance
        ));
    }
    if given_up::is_marked(data) {
        return Ok(Data::Empty);
    }
    let control = ControlFile::read(settings, spawner, data).await?;
    if control.system_identifier != identity.system_identifier {
        return foreign(format!(
            "{shown} has the system identifier {}, but was made with {}: its files were exchanged",
            control.system_identifier, identity.system_identifier
        ));
    }
    Ok(Data::Own(identity))
}

/// Reads the identity; none where there is no such file.
pub(super) fn read_identity(data: &Path) -> io::Result<Option<Identity>> {
    match fs::read_to_string(data.join(IDENTITY)) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the identity; on disk when this returns.
pub(super) fn write_identity(data: &Path, identity: &Identity) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(identity)?;
    text.push('\n');
    replace_file(&data.join(IDENTITY), &text, Durability::Durable)
}

/// Removes the identity, whosever it is.
pub(super) fn remove_identity(data: &Path) -> io::Result<()> {
    super::layout::remove_all(&data.join(IDENTITY))
}

/// Removes what a copy has brought from its source and is not this instance's.
pub(super) fn remove_source_marks(data: &Path) -> io::Result<()> {
    for name in [IDENTITY, "dugong.conf", "standby.signal", "recovery.signal", "postmaster.opts"] {
        super::layout::remove_all(&data.join(name))?;
    }
    Ok(())
}

/// Whether a server that starts here goes into recovery and stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartsAs {
    Primary,
    Standby,
}

/// How a server would start on this data.
///
/// A directory that was last used in recovery has no timeline of its own to write on: without the
/// signal file it would go on writing on its upstream's.
pub(super) async fn starts_as(
    settings: &Settings,
    spawner: &Spawner,
    data: &Path,
) -> Result<StartsAs, DataDirError> {
    let control = ControlFile::read(settings, spawner, data).await?;
    let signal = data.join("standby.signal").exists();
    let backup = data.join("backup_label").exists();
    let recovering = control.state.contains("recovery") && control.state != "in crash recovery";
    Ok(if signal || backup || recovering { StartsAs::Standby } else { StartsAs::Primary })
}

/// What a standby on this data must have at least.
///
/// # Errors
///
/// The control file cannot be read.
pub(super) async fn floors(
    settings: &Settings,
    spawner: &Spawner,
    data: &Path,
) -> Result<Floors, DataDirError> {
    Ok(ControlFile::read(settings, spawner, data).await?.floors)
}

/// Where the shutdown checkpoint begins, if the data was last used by a primary that stopped in
/// order.
///
/// # Errors
///
/// The control file cannot be read.
pub(super) async fn shut_down_at(
    settings: &Settings,
    spawner: &Spawner,
    data: &Path,
) -> Result<Option<Position>, DataDirError> {
    let control = ControlFile::read(settings, spawner, data).await?;
    Ok((control.state == "shut down").then_some(control.checkpoint))
}

/// Makes the next start one as a standby.
pub(super) fn mark_standby(data: &Path) -> io::Result<()> {
    if data.join("standby.signal").exists() {
        return Ok(());
    }
    replace_file(&data.join("standby.signal"), "", Durability::Durable)
}

/// The branches that led to `timeline`, as the data directory knows them.
///
/// # Errors
///
/// The history file is missing or damaged.
pub(super) fn history(data: &Path, timeline: TimelineId) -> Result<History, DataDirError> {
    if timeline == TimelineId(1) {
        return Ok(History::root(timeline));
    }
    let path = data.join(format!("pg_wal/{:08X}.history", timeline.0));
    match fs::read_to_string(&path) {
        Ok(text) => {
            History::parse(timeline, &text).map_err(|error| DataDirError::History { path, error })
        }
        Err(error) => Err(DataDirError::Unreadable { path, error }),
    }
}

/// What the control file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControlFile {
    pub system_identifier: SystemIdentifier,
    /// In PostgreSQL's words: `in production`, `shut down in recovery` …
    pub state: String,
    /// The last checkpoint, and the timeline that it is on.
    pub checkpoint: Position,
    /// Every first change of a page since a checkpoint is in the WAL, hint bits included: so the
    /// WAL names every page that differs (`wal_log_hints`, or checksums).
    pub changes_logged: bool,
    /// The size of a file of WAL.
    pub segment_bytes: u64,
    /// What a standby on this data must have at least.
    pub floors: Floors,
}

impl ControlFile {
    pub(super) async fn read(
        settings: &Settings,
        spawner: &Spawner,
        data: &Path,
    ) -> Result<Self, DataDirError> {
        let mut command = Command::new(settings.bin.join("pg_controldata"));
        command.arg("-D").arg(data).env("LC_ALL", "C");
        let output = run_helper(spawner, command, Signal::KILL).await?;
        Self::parse(&output.stdout).ok_or_else(|| DataDirError::Control { path: data.to_owned() })
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.strip_prefix(':')?.trim())
        };
        let timeline = value("Latest checkpoint's TimeLineID")?.parse().ok()?;
        let lsn: Lsn = value("Latest checkpoint location")?.parse().ok()?;
        let hints = value("wal_log_hints setting") == Some("on");
        let checksums = value("Data page checksum version").is_some_and(|version| version != "0");
        Some(Self {
            changes_logged: hints || checksums,
            floors: Floors::of_control(value),
            segment_bytes: value("Bytes per WAL segment")?.parse().ok()?,
            system_identifier: SystemIdentifier(value("Database system identifier")?.parse().ok()?),
            state: value("Database cluster state")?.to_owned(),
            checkpoint: Position::new(TimelineId(timeline), lsn),
        })
    }
}

/// The identity of data that was just made.
pub(super) fn new_identity(
    settings: &Settings,
    control: &ControlFile,
    stamp: Stamp,
    made_at: Position,
) -> Identity {
    let Stamp { making, made_in } = stamp;
    Identity {
        instance: settings.instance.clone(),
        cluster: settings.cluster.clone(),
        system_identifier: control.system_identifier,
        generation: made_in,
        making,
        made_in,
        made_at,
    }
}

/// Why nothing can be said about a data directory.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataDirError {
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("the timeline history {} is damaged: {error}", path.display())]
    History { path: PathBuf, error: LsnError },
    #[error("the control file of {} cannot be understood", path.display())]
    Control { path: PathBuf },
    #[error(transparent)]
    Helper(#[from] HelperError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "\
pg_control version number:            1300
Database system identifier:           7570000000000000001
Database cluster state:               in production
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   2
wal_log_hints setting:                off
Bytes per WAL segment:                16777216
Data page checksum version:           0
";

    #[test]
    fn the_control_file_is_read_by_its_labels() {
        let control = ControlFile::parse(CONTROL).unwrap();
        assert_eq!(control.system_identifier, SystemIdentifier(7_570_000_000_000_000_001));
        assert_eq!(control.state, "in production");
        assert_eq!(control.checkpoint.to_string(), "2@0/3000060");
        assert!(!control.changes_logged);
        for (off, on) in
            [("setting:                off", "setting: on"), ("version:           0", "version: 1")]
        {
            assert!(ControlFile::parse(&CONTROL.replace(off, on)).unwrap().changes_logged, "{on}");
        }
        assert_eq!(ControlFile::parse("pg_control version number: 1300"), None);
    }

    #[test]
    fn a_timeline_without_its_history_is_not_guessed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(history(folder.path(), TimelineId(1)).unwrap(), History::root(TimelineId(1)));
        assert!(history(folder.path(), TimelineId(2)).is_err());
    }
}
