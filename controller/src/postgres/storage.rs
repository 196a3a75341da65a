//! Whether the disks below the data write: a probe with a deadline, beside the server.
//!
//! A disk that hangs holds whoever writes, and what it holds cannot even be killed. So each disk has a
//! thread of its own, which writes a small file every [`EVERY`] and waits until it is on disk; whoever
//! looks at that never touches a disk. `strikes.rs` judges what is seen.
//!
//! A full disk is no sick one: `room.rs` looks at that.
//!
//! **Invariant:** what is decided by a sick disk is decided by tasks that do not write to it. Where the
//! supervisor itself hangs in one, [`stand_in`] ends the server in its place, and tells it.
//!
//! Source: PROTOCOL.md, R11; Linux manual, fdatasync(2).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as threads};
use std::thread;
use std::time::Duration;

use dugong_machine::{Run, Server, Work};
use rustix::io::Errno;
use tokio::sync::{Mutex, MutexGuard, mpsc, watch};
use tokio::time::Instant;

use super::Seen;
use super::process::{StillThere, end_all};
use super::strikes::{Sample, Stage, Strikes};
use crate::metrics;

/// Between two writes.
const EVERY: Duration = Duration::from_secs(3);

/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(250);

/// As much as PostgreSQL writes at once.
const BYTES: usize = 8192;

/// A supervisor that has told nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(3);

const FILE: &str = "dugong.probe";

/// What is known of the disks.
#[derive(Clone, Debug, Default)]
pub(super) struct Storage {
    /// Why one is sick, in words, with its path.
    sick: Option<watch::Receiver<Option<String>>>,
    /// Whether another instance can do without the server here.
    spared: Option<watch::Receiver<bool>>,
    starts: Starts,
}

impl Storage {
    /// Starts to write, and to look at it; until nobody has the storage any more.
    pub(super) fn watch(
        data: &Path,
        deadline: Option<Duration>,
        spared: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let Some(deadline) = deadline else { return Ok(Self::default()) };
        let wal = Probe::start("wal", data.join("pg_wal"), None)?;
        // The same disk once more would only double the writes.
        let rest = Probe::start("data", data.to_owned(), Some(data.join("pg_wal")))?;
        let (told, sick) = watch::channel(None);
        tokio::spawn(judge([wal, rest], deadline, told));
        Ok(Self { sick: Some(sick), spared: Some(spared), starts: Starts::default() })
    }

    /// Why a disk is sick, in words.
    pub(super) fn sick(&self) -> Option<String> {
        self.sick.as_ref()?.borrow().clone()
    }

    /// The same, where nobody needs the server here.
    pub(super) fn sick_and_spared(&self) -> Option<String> {
        self.sick().filter(|_| self.spared.as_ref().is_some_and(|spared| *spared.borrow()))
    }

    /// Whether a server may be started.
    pub(super) fn starts(&self) -> &Starts {
        &self.starts
    }

    /// Returns when that becomes so.
    pub(super) async fn to_be_ended(&self) {
        while self.sick_and_spared().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether a server may be started: not while somebody says, in the supervisor's place, that none runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Starts(Arc<Mutex<bool>>);

impl Starts {
    /// A permit, to be held until the server can be found by whoever ends it.
    ///
    /// # Errors
    ///
    /// None is to be started.
    pub(super) async fn permit(&self) -> io::Result<MutexGuard<'_, bool>> {
        let refused = self.0.lock().await;
        if *refused {
            return Err(io::Error::other("its disk hung, and others were told that none runs"));
        }
        Ok(refused)
    }

    /// From now on none is, or again is; after those that are on their way.
    async fn refuse(&self, refused: bool) {
        *self.0.lock().await = refused;
    }
}

/// Looks at the probes, for as long as somebody wants to know.
async fn judge(probes: [Probe; 2], deadline: Duration, told: watch::Sender<Option<String>>) {
    let mut disks = probes.map(|probe| (Strikes::new(deadline), probe));
    let mut before = Instant::now();
    while !told.is_closed() {
        tokio::time::sleep(LOOK).await;
        let passed = before.elapsed();
        before = Instant::now();
        let mut sick = None;
        for (strikes, probe) in &mut disks {
            let (sample, since, took) = probe.sample.borrow().clone();
            let under_way = sample.stage == Stage::UnderWay;
            let seconds = if under_way { since.elapsed() } else { took };
            metrics::show_probe(probe.name, seconds);
            strikes.see(&sample, passed);
            if let Some(why) = strikes.sick() {
                let path = probe.path.display();
                let words = || format!("the disk under {path} does not write: {why}");
                sick = sick.or_else(|| Some(words()));
            }
        }
        told.send_if_modified(|known| {
            let changed = *known != sick;
            match (&*known, &sick) {
                (None, Some(words)) => tracing::error!("{words}"),
                (Some(_), None) => tracing::info!("the disk writes again"),
                (Some(_), Some(_)) | (None, None) => (),
            }
            *known = sick;
            changed
        });
    }
}

/// A thread that writes to one disk.
#[derive(Debug)]
struct Probe {
    name: &'static str,
    path: PathBuf,
    /// The newest write, when it was begun, and how long the last one took.
    sample: watch::Receiver<(Sample, Instant, Duration)>,
    /// Its end is the thread's, as soon as that can.
    _alive: threads::Sender<()>,
}

impl Probe {
    fn start(name: &'static str, path: PathBuf, beside: Option<PathBuf>) -> io::Result<Self> {
        let first = Sample { number: 0, stage: Stage::Done };
        let (told, sample) = watch::channel((first, Instant::now(), Duration::ZERO));
        let (alive, ends) = threads::channel::<()>();
        let dir = path.clone();
        thread::Builder::new().name(format!("probe-{name}")).spawn(move || {
            for number in 1.. {
                let begun = Instant::now();
                let of = |stage| Sample { number, stage };
                told.send_modify(|known| {
                    known.0 = of(Stage::UnderWay);
                    known.1 = begun;
                });
                let stage = write(&dir, beside.as_deref());
                told.send_replace((of(stage), begun, begun.elapsed()));
                if ends.recv_timeout(EVERY) != Err(threads::RecvTimeoutError::Timeout) {
                    break;
                }
            }
        })?;
        Ok(Self { name, path, sample, _alive: alive })
    }
}

/// Writes to the disk of `dir`, unless that is the disk of `beside`.
fn write(dir: &Path, beside: Option<&Path>) -> Stage {
    let same = |other: &Path| Ok::<_, io::Error>(dir.metadata()?.dev() == other.metadata()?.dev());
    let outcome = beside.map_or(Ok(false), same).and_then(|same| {
        if same {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(dir.join(FILE))?;
        file.write_all_at(&[0; BYTES], 0)?;
        file.sync_data()
    });
    match outcome {
        Err(error) if is_of_the_disk(&error) => Stage::Failed(error.to_string()),
        Err(error) => {
            // No data, or no room: that is somebody else's to say.
            tracing::debug!(%error, "not probed: {}", dir.display());
            Stage::Done
        }
        Ok(()) => Stage::Done,
    }
}

/// Errors of what lies below the file system, or by which it takes nothing any more.
fn is_of_the_disk(error: &io::Error) -> bool {
    let errors = [Errno::IO, Errno::ROFS, Errno::NXIO, Errno::NODEV, Errno::STALE, Errno::REMOTEIO];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Ends the server in the place of a supervisor that hangs in a sick disk, and says so, until that one
/// tells something again. What it was about to do is of yesterday then: its server is gone, and it may
/// have started none.
pub(super) async fn stand_in(
    storage: Storage,
    workplaces: [PathBuf; 9],
    mut told: watch::Receiver<Server>,
    seen: mpsc::Sender<Seen>,
) {
    let mut heard = Instant::now();
    while let Ok(news) = told.has_changed() {
        tokio::time::sleep(LOOK).await;
        if news {
            told.borrow_and_update();
            heard = Instant::now();
            storage.starts.refuse(false).await;
        }
        let Some(words) = storage.sick_and_spared() else { continue };
        if heard.elapsed() < SILENCE {
            continue;
        }
        storage.starts.refuse(true).await;
        let (run, trouble) = match end_all(&workplaces).await {
            Ok(()) | Err(StillThere::Doomed { .. }) => (Run::Down, words),
            Err(still_there) => (Run::Busy(Work::Stopping), format!("{words}; {still_there}")),
        };
        let last = told.borrow().clone();
        let server = Server { run, shut_down_at: None, trouble: Some(trouble), ..last };
        // Where nobody listens, the supervisor ends, too.
        let _ = seen.send(Seen::Observed(server)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_no_sick_disk_and_what_is_there_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let wal = folder.path().join("pg_wal");
        assert_eq!(write(&wal, None), Stage::Done, "no data");
        std::fs::create_dir(&wal).unwrap();
        assert_eq!(write(&wal, None), Stage::Done);
        assert_eq!(std::fs::read(wal.join(FILE)).unwrap().len(), BYTES);
        assert_eq!(write(folder.path(), Some(&wal)), Stage::Done);
        assert!(!folder.path().join(FILE).exists(), "it is the same disk");
    }

    #[tokio::test]
    async fn nobody_says_that_no_server_runs_while_one_is_started_and_none_is_started_after_that() {
        let starts = Starts::default();
        let permit = starts.permit().await.unwrap();
        let refusing = starts.refuse(true);
        tokio::pin!(refusing);
        assert!(futures_util::poll!(&mut refusing).is_pending());
        drop(permit);
        refusing.await;
        assert!(starts.permit().await.is_err());
        starts.refuse(false).await;
        assert!(starts.permit().await.is_ok());
    }

    #[test]
    fn a_full_disk_is_not_a_sick_one() {
        #[rustfmt::skip]
        let cases = [
            (Errno::IO,    true),
            (Errno::ROFS,  true),
            (Errno::STALE, true),
            (Errno::NOSPC, false),
            (Errno::DQUOT, false),
            (Errno::NOENT, false),
            (Errno::ACCESS, false),
        ];
        for (errno, sick) in cases {
            assert_eq!(is_of_the_disk(&errno.into()), sick, "{errno:?}");
        }
    }
}
