//! How much room is left on the disks of an instance.
//!
//! A server whose disk is full cannot say so: its log is often on the same disk. And what it says,
//! it says once; the disk is looked at again and again.

use std::path::Path;
use std::time::Duration;

use dugong_machine::Room;
use tokio::time::Instant;

use super::layout::Layout;

/// PostgreSQL makes WAL in files of this size: with less room it comes to a standstill soon.
const LEAST_BYTES: u64 = 16 << 20;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// The disks below an instance's directory, as last looked at.
#[derive(Debug, Default)]
pub(super) struct Disks {
    looked: Option<Instant>,
    /// The one that is full, in words.
    full: Option<String>,
}

impl Disks {
    /// Looks again, if the last look is not a recent one.
    pub(super) fn look(&mut self, layout: &Layout) {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        // The WAL may be on a disk of its own, and so may the data.
        let wal = layout.data.join("pg_wal");
        let full = [&layout.dir, &layout.data, &wal].into_iter().find(|path| is_full(path));
        self.full = full.map(|path| {
            let mebibytes = LEAST_BYTES >> 20;
            let path = path.display();
            format!("the disk of {path} is full: less than {mebibytes} MB are free, make room")
        });
    }

    pub(super) fn room(&self) -> Room {
        if self.full.is_some() { Room::Short } else { Room::Enough }
    }

    /// What is in the way of the server, a full disk included.
    pub(super) fn amend(&self, trouble: Option<String>) -> Option<String> {
        match (trouble, &self.full) {
            (Some(trouble), Some(full)) => Some(format!("{trouble}; {full}")),
            (trouble, full) => trouble.or_else(|| full.clone()),
        }
    }
}

/// A disk that cannot be asked is not known to be full: whoever needs it says what is wrong.
fn is_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|disk| {
        let unit = disk.f_frsize;
        // Some file systems have no limit, and say 0 of 0.
        disk.f_blocks > 0 && disk.f_bavail.saturating_mul(unit) < LEAST_BYTES
    })
}
