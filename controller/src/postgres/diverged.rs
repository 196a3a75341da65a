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

    /// Whether that file of `pg_wal` holds nothing but WAL from before the fork, which both have in
    /// common.
    fn comes_after(&self, name: &str, segment_bytes: u64) -> bool {
        segment(name, segment_bytes).is_some_and(|(timeline, begin)| {
            timeline <= self.fork.timeline && begin.saturating_add(segment_bytes) <= self.fork.lsn.0
        })
    }

    /// Whether that file of `pg_wal` holds some of it, or tells its history.
    fn is_in(&self, name: &str, segment_bytes: u64) -> bool {
        if let Some(timeline) = name.strip_suffix(".history") {
            return u32::from_str_radix(timeline, 16)
                .is_ok_and(|timeline| self.timelines.contains(&TimelineId(timeline)));
        }
        segment(name, segment_bytes).is_some_and(|(timeline, begin)| {
            let ends_past = begin.saturating_add(segment_bytes) > self.fork.lsn.0;
            self.timelines.contains(&timeline) && begin < self.end.0 && ends_past
        })
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

/// The timeline of a file of WAL, and where it begins; none for any other file.
fn segment(name: &str, segment_bytes: u64) -> Option<(TimelineId, u64)> {
    let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
    let begin =
        (u64::from(high) << 32).saturating_add(u64::from(low).saturating_mul(segment_bytes));
    (name.len() == 24).then_some((TimelineId(timeline), begin))
}

/// Sets aside WAL from before the fork, by a second name: `pg_rewind` (before version 17) removes
/// what its source has not, though replay begins there.
pub(super) fn set_aside(
    aside: &Path,
    data: &Path,
    surplus: &Surplus,
    segment_bytes: u64,
) -> io::Result<()> {
    remove_all(aside)?;
    fs::create_dir(aside)?;
    for entry in fs::read_dir(data.join("pg_wal"))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| surplus.comes_after(name, segment_bytes)) {
            fs::hard_link(entry.path(), aside.join(name))?;
        }
    }
    Ok(())
}

/// Gives back what was set aside and has gone.
pub(super) fn give_back(aside: &Path, data: &Path) -> io::Result<()> {
    let wal = data.join("pg_wal");
    for entry in fs::read_dir(aside)? {
        let entry = entry?;
        let place = wal.join(entry.file_name());
        // What is there may have been written over: then the second name is that of the same file.
        if !place.exists() {
            fs::rename(entry.path(), place)?;
        }
    }
    sync_directory(&wal)?;
    remove_all(aside)
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
            let before = what == "before the fork";
            assert_eq!(surplus.comes_after(name, 16 << 20), before, "{what}: {name}");
        }
    }

    #[test]
    fn what_was_set_aside_comes_back_where_it_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (data, aside) = (folder.path().join("data"), folder.path().join("aside"));
        let wal = data.join("pg_wal");
        fs::create_dir_all(&wal).unwrap();
        let name = |number: u32| format!("0000000100000000{number:08X}");
        for number in 1..=4 {
            fs::write(wal.join(name(number)), "old").unwrap();
        }
        let root = History::root(TimelineId(1));
        let theirs = History { timeline: TimelineId(2), ancestors: vec![at(1, 0x350_0000)] };
        let surplus = Surplus::of(&root, Lsn(0x4F0_0000), &theirs);
        set_aside(&aside, &data, &surplus, 16 << 20).unwrap();
        for number in [1, 3, 4] {
            fs::remove_file(wal.join(name(number))).unwrap();
        }
        fs::write(wal.join(name(2)), "new").unwrap();
        give_back(&aside, &data).unwrap();
        let there = |number| fs::read_to_string(wal.join(name(number))).ok();
        assert_eq!([1, 2].map(there), [Some("old".to_owned()), Some("new".to_owned())]);
        assert_eq!([3, 4].map(there), [None, None], "that is not from before the fork");
        assert!(!aside.exists());
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
