//! What was forked, and is kept for people: data that a copy has replaced, and the WAL that a rewind
//! has taken back.
//!
//! **Invariant:** each lies whole under its final name, `diverged/<when>`, or not at all, and nothing
//! here is ever read again by a program. What is oldest goes first, and all of it before an instance
//! stays away for lack of room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dugong_topology::{History, Lsn, Position, TimelineId};

use super::layout::{remove_all, sync_directory};

/// While it is not whole.
const DRAFT: &str = "draft";

/// The WAL that one history has beyond another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surplus {
    /// Where the two part.
    pub fork: Position,
    /// The timelines on which it goes on, the fork's included.
    timelines: Vec<TimelineId>,
    end: Lsn,
}

impl Surplus {
    /// What WAL on `branch` that ends at `end` has beyond `kept`.
    pub(super) fn of(branch: &History, end: Lsn, kept: &History) -> Self {
        let fork = kept.parts_from(branch, end);
        let all = branch.ancestors.iter().map(|left| left.timeline).chain([branch.timeline]);
        let timelines = all.skip_while(|timeline| *timeline != fork.timeline).collect();
        Self { fork, timelines, end }
    }

    /// Whether that file of `pg_wal` holds some of it, or tells its history.
    fn is_in(&self, name: &str, segment_bytes: u64) -> bool {
        if let Some(timeline) = name.strip_suffix(".history") {
            return u32::from_str_radix(timeline, 16)
                .is_ok_and(|timeline| self.timelines.contains(&TimelineId(timeline)));
        }
        let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
        let (24, Some(timeline), Some(high), Some(low)) =
            (name.len(), part(0..8), part(8..16), part(16..24))
        else {
            return false;
        };
        let begin = (high << 32).saturating_add(low.saturating_mul(segment_bytes));
        let on_it = self.timelines.iter().any(|known| u64::from(known.0) == timeline);
        on_it && begin < self.end.0 && begin.saturating_add(segment_bytes) > self.fork.lsn.0
    }

    /// Its files in the data directory `data`.
    fn files(&self, data: &Path, segment_bytes: u64) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(data.join("pg_wal"))? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| self.is_in(name, segment_bytes)) {
                files.push(entry.path());
            }
        }
        Ok(files)
    }
}

/// Keeps a data directory, by moving it; the place is on the same disk.
pub(super) fn keep_data(kept: &Path, data: &Path) -> io::Result<PathBuf> {
    let place = place(kept)?;
    fs::rename(data, &place)?;
    sync_directory(kept)?;
    Ok(place)
}

/// Keeps the WAL that is about to be taken back, by copying it.
pub(super) fn keep_wal(
    kept: &Path,
    data: &Path,
    surplus: &Surplus,
    segment_bytes: u64,
) -> io::Result<PathBuf> {
    let place = place(kept)?;
    let draft = kept.join(DRAFT);
    remove_all(&draft)?;
    fs::create_dir_all(draft.join("pg_wal"))?;
    for file in surplus.files(data, segment_bytes)? {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, draft.join("pg_wal").join(name))?;
    }
    fs::rename(&draft, &place)?;
    sync_directory(kept)?;
    Ok(place)
}

/// A name that nobody has yet, and that sorts after all others.
fn place(kept: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(kept)?;
    let mut now = SystemTime::now();
    loop {
        let place = kept.join(humantime::format_rfc3339_seconds(now).to_string());
        if !place.exists() {
            return Ok(place);
        }
        now += std::time::Duration::from_secs(1);
    }
}

/// What is kept, the oldest first.
fn all(kept: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    Ok(paths)
}

/// Removes all but the newest `count`, and what never became whole.
pub(super) fn prune(kept: &Path, count: usize) -> io::Result<()> {
    remove_all(&kept.join(DRAFT))?;
    let all = all(kept)?;
    for old in all.iter().take(all.len().saturating_sub(count)) {
        tracing::info!(path = %old.display(), "forked data is removed");
        remove_all(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> Position {
        Position::new(TimelineId(timeline), Lsn(lsn))
    }

    #[test]
    fn the_surplus_is_in_the_segments_from_the_fork_to_the_end() {
        let own = History { timeline: TimelineId(2), ancestors: vec![at(1, 0x180_0000)] };
        let theirs = History { timeline: TimelineId(3), ancestors: vec![at(1, 0x150_0000)] };
        let surplus = Surplus::of(&own, Lsn(0x320_0000), &theirs);
        assert_eq!(surplus.fork, at(1, 0x150_0000));
        #[rustfmt::skip]
        let cases = [
            ("before the fork",              "000000010000000000000000",         false),
            ("the fork is in it",            "000000010000000000000001",         true),
            ("on its next timeline",         "000000020000000000000001",         true),
            ("the end is in it",             "000000020000000000000003",         true),
            ("made for what is to come",     "000000020000000000000004",         false),
            ("of the primary",               "000000030000000000000002",         false),
            ("its history",                  "00000002.history",                 true),
            ("the primary's history",        "00000003.history",                 false),
            ("not renamed yet",              "000000020000000000000003.partial", false),
            ("a folder",                     "archive_status",                   false),
        ];
        for (what, name, expected) in cases {
            assert_eq!(surplus.is_in(name, 16 << 20), expected, "{what}: {name}");
        }
    }

    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("diverged");
        let mut places = Vec::new();
        for number in 0..3 {
            let data = folder.path().join("data");
            fs::create_dir(&data).unwrap();
            fs::write(data.join("number"), number.to_string()).unwrap();
            places.push(keep_data(&kept, &data).unwrap());
        }
        fs::create_dir(kept.join(DRAFT)).unwrap();
        prune(&kept, 2).unwrap();
        assert_eq!(all(&kept).unwrap(), places[1..]);
        prune(&kept, 0).unwrap();
        assert_eq!(all(&kept).unwrap(), Vec::<PathBuf>::new());
        prune(&folder.path().join("nothing"), 1).unwrap();
    }
}
