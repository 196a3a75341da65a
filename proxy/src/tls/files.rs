//! Files of TLS, and other secrets: what they hold, and whether they are others by now.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file is of no use; `key` is what names it in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{key}: {} cannot be read: {error}", path.display())]
    Unreadable { key: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "{key}: {0} has mode {mode:04o}, so that others may read it: run `chmod 600 {0}`",
        path.display()
    )]
    Exposed { key: &'static str, path: PathBuf, mode: u32 },
    #[error("{key}: {} holds no {what}", path.display())]
    Malformed { key: &'static str, path: PathBuf, what: &'static str },
}

/// All certificates of a file; at least one.
///
/// # Errors
///
/// It cannot be read, or has none.
pub fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = fs::read(path).map_err(|error| FileError::Unreadable {
        key,
        path: path.to_owned(),
        error,
    })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| FileError::Malformed {
        key,
        path: path.to_owned(),
        what: "certificate in PEM",
    })
}

/// The authorities of a file; at least one.
///
/// # Errors
///
/// It cannot be read, or has none.
pub fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(certificates(key, path)?);
    let what = "certificate of an authority";
    let malformed = || FileError::Malformed { key, path: path.to_owned(), what };
    if good == 0 { Err(malformed()) } else { Ok(roots) }
}

/// The private key in a file that nobody else may read.
///
/// # Errors
///
/// It cannot be read, others may read it, or it has none.
pub fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let what = "private key in PEM";
    PrivateKeyDer::from_pem_slice(secret(key, path)?.as_bytes()).map_err(|_| FileError::Malformed {
        key,
        path: path.to_owned(),
        what,
    })
}

/// The text of a file that nobody else may read.
///
/// # Errors
///
/// It cannot be read, or others may read it.
pub fn secret(key: &'static str, path: &Path) -> Result<String, FileError> {
    let unreadable = |error| FileError::Unreadable { key, path: path.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the opened file, not of the path: nobody can exchange it in between.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { key, path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// What shows that a file is another one, or was changed; none where it is away.
pub type Mark = Option<(u64, u64, i64, i64, u64)>;

/// The mark of the file at `path`.
pub fn mark(path: &Path) -> Mark {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
}
