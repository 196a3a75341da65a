//! PostgreSQL's programs: where they are, and whether they are of a version that will do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::versions::{NEWEST_TRIED, OLDEST, least_minor};

/// PostgreSQL's version: 15.18 is major 15, minor 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why there are no programs to run.
#[derive(Debug, thiserror::Error)]
pub enum BinError {
    #[error(
        "no PostgreSQL server found in /usr/lib/postgresql, /usr/pgsql-* or beside pg_config: \
         install postgresql-15 (Debian: apt-get install postgresql)"
    )]
    NoneFound,
    #[error(
        "{} holds no PostgreSQL server programs: it needs postgres, initdb, pg_basebackup and \
         pg_controldata; install postgresql-15 (Debian: apt-get install postgresql), or name \
         another directory",
        path.display()
    )]
    NoServer { path: PathBuf },
    #[error(
        "PostgreSQL {version} in {} is too old: version {OLDEST} or later is needed \
         (Debian: apt-get install postgresql)",
        path.display()
    )]
    TooOld { path: PathBuf, version: Version },
    #[error("{} does not say its version: {said:?}", path.display())]
    NoVersion { path: PathBuf, said: String },
}

/// The directory of the server programs, and their version: the one that is named, or else the
/// newest that is installed.
///
/// # Errors
///
/// See [`BinError`].
pub fn find_bin(explicit: Option<&Path>) -> Result<(PathBuf, Version), BinError> {
    let (path, version) = match explicit {
        Some(path) if !is_complete(path) => {
            return Err(BinError::NoServer { path: path.to_owned() });
        }
        Some(path) => (path.to_owned(), version_of(path)?),
        None => {
            let mut found: Vec<_> = candidates().into_iter().filter(|p| is_complete(p)).collect();
            found.dedup();
            // One that cannot say its version is passed over as long as another one can.
            let newest = found
                .into_iter()
                .filter_map(|path| version_of(&path).ok().map(|version| (path, version)))
                .max_by_key(|(_, version)| *version);
            newest.ok_or(BinError::NoneFound)?
        }
    };
    if version.major < OLDEST {
        return Err(BinError::TooOld { path, version });
    }
    if version.major > NEWEST_TRIED {
        tracing::warn!(%version, "newer than any PostgreSQL that Dugong was tried with");
    }
    let Version { major, minor } = version;
    if let Some(least) = least_minor(major).filter(|least| minor < *least) {
        tracing::warn!(
            "PostgreSQL {version} has defects by which a cluster may not become whole after the loss of \
             its primary: install {major}.{least} or later"
        );
    }
    Ok((path, version))
}

/// Where distributions put the programs.
fn candidates() -> Vec<PathBuf> {
    let children = |dir: &str| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let debian = children("/usr/lib/postgresql").into_iter();
    let red_hat = children("/usr").into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"pgsql-"))
    });
    let mut found: Vec<_> = debian.chain(red_hat).map(|path| path.join("bin")).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        found.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    found
}

fn is_complete(bin: &Path) -> bool {
    ["postgres", "initdb", "pg_basebackup", "pg_controldata"]
        .iter()
        .all(|program| bin.join(program).is_file())
}

/// The version of the server in a directory of programs.
///
/// # Errors
///
/// It does not say one.
pub(super) fn version_of(bin: &Path) -> Result<Version, BinError> {
    let no_version = |said: String| BinError::NoVersion { path: bin.join("postgres"), said };
    let output = Command::new(bin.join("postgres"))
        .arg("--version")
        .output()
        .map_err(|error| no_version(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&said).ok_or_else(|| no_version(said.trim().to_owned()))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; `18devel`, `19beta1` have no minor.
fn parse_version(said: &str) -> Option<Version> {
    let text = said.split_once("(PostgreSQL) ")?.1;
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let word = text.split_whitespace().next()?;
    let (major, minor) = word.split_once('.').unwrap_or((word, "0"));
    Some(Version { major: number(major)?, minor: number(minor)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_distributions_write_them() {
        #[rustfmt::skip]
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",  Some((15, 18))),
            ("postgres (PostgreSQL) 13.0\n",                            Some((13, 0))),
            ("postgres (PostgreSQL) 19beta1\n",                         Some((19, 0))),
            ("postgres (PostgreSQL) 9.6.24\n",                          Some((9, 6))),
            ("something else 15.1\n",                                   None),
            ("postgres (PostgreSQL) new\n",                             None),
        ];
        for (said, expected) in cases {
            let version = parse_version(said).map(|v| (v.major, v.minor));
            assert_eq!(version, expected, "{said:?}");
        }
    }

    #[test]
    fn a_directory_without_a_server_and_an_old_server_are_refused_in_words() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let empty = find_bin(Some(folder.path())).unwrap_err().to_string();
        assert!(empty.contains("apt-get install postgresql"), "{empty}");

        for program in ["postgres", "initdb", "pg_basebackup", "pg_controldata"] {
            let path = folder.path().join(program);
            std::fs::write(&path, "#!/bin/sh\necho 'postgres (PostgreSQL) 12.22'\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let old = find_bin(Some(folder.path())).unwrap_err().to_string();
        assert!(old.contains("12.22") && old.contains("13 or later"), "{old}");
    }
}
