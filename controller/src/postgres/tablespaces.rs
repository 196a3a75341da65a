//! Tablespaces of a copy: where they lie, how much room they have, and what becomes of them.
//!
//! A server has a tablespace where it was created, `/fast` say, by an absolute path. A copy that is
//! made beside data which is there already cannot have it in the same place: it gets a directory of
//! its own in there, `/fast/dugong.pg-2.<which>.1`, on the same disk. `pg_tblspc` in the data
//! leads to it, so that it goes wherever the data goes.
//!
//! **Invariant:** only such directories of this very instance are ever removed, once no data of
//! it, kept or not, leads there. What PostgreSQL has made itself is left to people.
//!
//! Source: PostgreSQL manual, `pg_basebackup --tablespace-mapping`; "Tablespaces".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layout::{Layout, remove_all, workplaces};

/// Begins the name of every directory that a copy gets for a tablespace.
const PREFIX: &str = "dugong.";

/// One tablespace of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tablespace {
    /// Where its source has it.
    pub location: PathBuf,
    /// 0: not known.
    pub bytes: u64,
}

/// What a source says: a line for each, `1234|/fast`.
pub(super) fn parse(answer: &str) -> Option<Vec<Tablespace>> {
    let lines = answer.lines().filter(|line| !line.is_empty());
    let one = |line: &str| {
        let (bytes, location) = line.split_once('|')?;
        let location = PathBuf::from(location);
        location.is_absolute().then_some(Tablespace { location, bytes: bytes.parse().ok()? })
    };
    lines.map(one).collect()
}

/// Where it was created: past the directory that a copy got in there.
fn home(location: &Path) -> &Path {
    let name = location.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match location.parent() {
        Some(parent) if is_ours(name) => parent,
        Some(_) | None => location,
    }
}

/// `dugong.pg-2.0123456789abcdef.1`; of whichever instance.
fn is_ours(name: &str) -> bool {
    let mut parts = name.rsplitn(3, '.');
    let mut next = || parts.next().unwrap_or_default();
    let (number, which, rest) = (next(), next(), next());
    number.parse::<u32>().is_ok()
        && which.len() == 16
        && which.bytes().all(|byte| byte.is_ascii_hexdigit())
        && rest.starts_with(PREFIX)
}

/// How the names of this instance's directories begin. Another instance of that name, on this
/// machine, has another directory.
fn own_prefix(layout: &Layout) -> String {
    let name = layout.dir.file_name().unwrap_or_default().to_string_lossy();
    let path = layout.dir.as_os_str().as_encoded_bytes();
    // FNV-1a: the same for ever.
    let which = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{PREFIX}{name}.{which:016x}.")
}

/// Where a copy gets them: from each location of the source to one that nobody has yet.
pub(super) fn places(layout: &Layout, tablespaces: &[Tablespace]) -> Vec<(PathBuf, PathBuf)> {
    let prefix = own_prefix(layout);
    let mut taken = BTreeSet::new();
    let mut place = |of: &Tablespace| {
        let home = home(&of.location);
        let free = |path: &PathBuf| !path.exists() && taken.insert(path.clone());
        let mut paths = (1_u32..).map(|number| home.join(format!("{prefix}{number}")));
        paths.find(free).map(|new| (of.location.clone(), new))
    };
    tablespaces.iter().filter_map(&mut place).collect()
}

/// As `pg_basebackup` takes it.
pub(super) fn mapping((old, new): &(PathBuf, PathBuf)) -> String {
    let escaped = |path: &Path| path.display().to_string().replace('=', "\\=");
    format!("--tablespace-mapping={}={}", escaped(old), escaped(new))
}

/// How much a copy of `total` bytes needs on each disk, by a directory on it.
pub(super) fn needs(
    layout: &Layout,
    total: u64,
    tablespaces: &[Tablespace],
) -> Vec<(PathBuf, u64)> {
    let elsewhere: u64 = tablespaces.iter().map(|one| one.bytes).sum();
    let rest = (layout.dir.clone(), total.saturating_sub(elsewhere));
    let of = |one: &Tablespace| (existing(home(&one.location)), one.bytes);
    let mut disks: BTreeMap<Option<u64>, (PathBuf, u64)> = BTreeMap::new();
    for (path, bytes) in std::iter::once(rest).chain(tablespaces.iter().map(of)) {
        let disk = fs::metadata(&path).ok().map(|metadata| metadata.dev());
        disks.entry(disk).or_insert((path, 0)).1 += bytes;
    }
    disks.into_values().collect()
}

/// The directory itself, or what will hold it.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(path).to_owned()
}

/// Where the data of this instance leads to, all that is there.
pub(super) fn used(layout: &Layout) -> io::Result<BTreeSet<PathBuf>> {
    let kept = children(&layout.diverged)?;
    let mut used = BTreeSet::new();
    for data in workplaces(&layout.dir).into_iter().chain(kept) {
        for entry in children(&data.join("pg_tblspc"))? {
            // What is no link lies within the data itself.
            used.extend(fs::read_link(entry));
        }
    }
    Ok(used)
}

/// Removes what copies got and no data leads to any more. `known`: what there was before.
pub(super) fn sweep(layout: &Layout, known: &BTreeSet<PathBuf>) {
    if let Err(error) = try_to_sweep(layout, known) {
        // Tried again with the next copy.
        tracing::warn!(%error, "the tablespaces of data that is gone cannot be removed");
    }
}

fn try_to_sweep(layout: &Layout, known: &BTreeSet<PathBuf>) -> io::Result<()> {
    let (used, prefix) = (used(layout)?, own_prefix(layout));
    let is_own = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    let homes: BTreeSet<_> = known.iter().chain(&used).map(|path| home(path)).collect();
    for home in homes {
        for place in children(home)?.into_iter().filter(|place| is_own(place)) {
            if !used.contains(&place) {
                remove_all(&place)?;
            }
        }
    }
    for left in known.difference(&used).filter(|path| home(path) == path.as_path()) {
        tracing::warn!(
            "no data of this instance uses the tablespace in {} any more: remove what PostgreSQL \
             has left there (PG_…), unless another server has it",
            left.display()
        );
    }
    Ok(())
}

/// None where there is no such directory.
fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn layout(folder: &Path) -> Layout {
        Layout::claim(&folder.join("pg-2"), 5432).unwrap().0
    }

    #[test]
    fn a_source_tells_its_tablespaces_in_lines() {
        let told = parse("8192|/fast\n0|/srv/slow=disk\n").unwrap();
        assert_eq!(told[0], Tablespace { location: "/fast".into(), bytes: 8192 });
        let new = ("/srv/slow=disk".into(), "/srv/slow=disk/new".into());
        assert_eq!(mapping(&new), "--tablespace-mapping=/srv/slow\\=disk=/srv/slow\\=disk/new");
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("8192|fast"), None);
        for (location, expected) in [
            ("/fast/dugong.pg-1.fedcba9876543210.12", "/fast"),
            ("/fast/dugong.pg-1.fedcba9876543210", "/fast/dugong.pg-1.fedcba9876543210"),
            ("/fast/dugong.data", "/fast/dugong.data"),
            ("/", "/"),
        ] {
            assert_eq!(home(Path::new(location)), Path::new(expected));
        }
    }

    #[test]
    fn a_copy_gets_places_of_its_own_and_they_go_with_the_last_data_that_leads_there() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, fast) = (layout(folder.path()), folder.path().join("fast"));
        fs::create_dir_all(fast.join("PG_15_1")).unwrap();
        fs::create_dir(fast.join("dugong.pg-3.0123456789abcdef.1")).unwrap();
        let of = |location: &Path| Tablespace { location: location.to_owned(), bytes: 0 };
        let copied = |data: &Path, location: &Path| {
            let place = places(&layout, &[of(location)]).remove(0).1;
            fs::create_dir_all(data.join("pg_tblspc")).unwrap();
            fs::create_dir(&place).unwrap();
            symlink(&place, data.join("pg_tblspc/16384")).unwrap();
            place
        };
        let first = copied(&layout.diverged.join("then"), &fast);
        assert_eq!(first.parent(), Some(&*fast));
        // Of a copy, it is the same place.
        let second = copied(&layout.data, &fast.join("dugong.pg-3.0123456789abcdef.1"));
        assert_eq!(second.parent(), Some(&*fast));
        assert_ne!(first, second);
        let [one, other] = [of(&fast), of(&fast.join("dugong.pg-1.fedcba9876543210.7"))];
        let two = places(&layout, &[one, other]);
        assert_ne!(two[0].1, two[1].1, "each has its own");

        let known = used(&layout).unwrap();
        sweep(&layout, &known);
        assert!(first.exists() && second.exists());
        remove_all(&layout.diverged).unwrap();
        sweep(&layout, &known);
        assert!(!first.exists() && second.exists());
        assert!(
            fast.join("PG_15_1").exists() && fast.join("dugong.pg-3.0123456789abcdef.1").exists()
        );
    }

    #[test]
    fn room_is_counted_on_each_disk() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        let one = |location: &str, bytes| Tablespace { location: location.into(), bytes };
        let here = one(folder.path().join("not/yet").to_str().unwrap(), 30);
        let there = one("/proc/dugong.pg-1.fedcba9876543210.1", 50);
        let mut needs = needs(&layout, 100, &[here, there]);
        needs.sort_by_key(|(_, bytes)| *bytes);
        assert_eq!(needs[0], (PathBuf::from("/proc"), 50), "{needs:?}");
        assert_eq!(needs[1], (layout.dir.clone(), 50), "{needs:?}");
    }
}
