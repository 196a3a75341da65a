//! Which timeline a promotion begins: the one that the record says, and no other.
//!
//! PostgreSQL takes the first number that it knows of no history file for. That may be one that
//! another primary has used, which was lost before anything of it had come here; whoever has WAL of
//! that one would take ours for its continuation. So the numbers up to ours get a history each,
//! which ends here, and what is left of an attempt that came to nothing is removed.
//!
//! **Invariant:** only in a standby that receives nothing any more. What is written about the
//! numbers of others is true from here on: nothing of theirs is in our history.
//!
//! Source: PostgreSQL, `findNewestTimeLine`, `writeTimeLineHistory`, `rescanLatestTimeLine`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dugong_topology::{Position, TimelineId};

use super::layout::{Durability, remove_all, replace_file, sync_directory};

/// Makes `wanted` the first number that is not known in `data`, whose WAL ends at `end` for good.
pub(super) fn make_next(data: &Path, end: Position, wanted: TimelineId) -> io::Result<()> {
    let wal = data.join("pg_wal");
    for used in end.timeline.0 + 1..wanted.0 {
        let path = history_of(&wal, TimelineId(used));
        if !path.try_exists()? {
            replace_file(&path, &left_at(&wal, end)?, Durability::Durable)?;
        }
    }
    let mut free = wanted.0.max(end.timeline.0 + 1);
    while history_of(&wal, TimelineId(free)).try_exists()? {
        remove_all(&history_of(&wal, TimelineId(free)))?;
        free += 1;
    }
    sync_directory(&wal)
}

/// The history of a timeline that begins at `end`.
fn left_at(wal: &Path, end: Position) -> io::Result<String> {
    let mut history = match fs::read_to_string(history_of(wal, end.timeline)) {
        Ok(history) => history,
        // The first timeline has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if !history.is_empty() && !history.ends_with('\n') {
        history.push('\n');
    }
    history.push_str(&format!("{}\t{}\tanother primary had this number\n", end.timeline, end.lsn));
    Ok(history)
}

fn history_of(wal: &Path, timeline: TimelineId) -> PathBuf {
    wal.join(format!("{:08X}.history", timeline.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dugong_topology::{History, Lsn};

    use super::*;

    #[test]
    fn the_wanted_number_is_the_first_unknown_one() {
        #[rustfmt::skip]
        let cases: [(u32, &[u32], u32, &[u32]); 5] = [
            // own  known before   wanted  known afterwards
            (1,     &[],           2,      &[]),
            (1,     &[],           4,      &[2, 3]),
            (1,     &[2],          4,      &[2, 3]),
            (3,     &[2, 3],       4,      &[2, 3]),
            (1,     &[2, 3],       2,      &[]), // of an attempt that came to nothing
        ];
        for (own, before, wanted, after) in cases {
            let data = tempfile::tempdir().unwrap();
            let wal = data.path().join("pg_wal");
            fs::create_dir(&wal).unwrap();
            for known in before {
                fs::write(history_of(&wal, TimelineId(*known)), "1\t0/100\twas here").unwrap();
            }
            let end = Position::new(TimelineId(own), Lsn(0x200));
            make_next(data.path(), end, TimelineId(wanted)).unwrap();
            let known: BTreeMap<u32, History> = (1..10)
                .filter_map(|timeline| {
                    let timeline = TimelineId(timeline);
                    let text = fs::read_to_string(history_of(&wal, timeline)).ok()?;
                    Some((timeline.0, History::parse(timeline, &text).unwrap()))
                })
                .collect();
            assert_eq!(known.keys().copied().collect::<Vec<_>>(), after, "{own} {wanted}");
            for made in known.iter().filter(|(timeline, _)| !before.contains(timeline)) {
                assert_eq!(made.1.ancestors.last(), Some(&end), "{made:?}");
            }
        }
    }
}
