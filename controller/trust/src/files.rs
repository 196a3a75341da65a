//! Files of TLS, and other secrets: what they hold, and whether they are others by now.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file is of no use; `key` is what names it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{key}: {} cannot be read: {error}", path.display())]
    Unreadable { key: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "{key}: {0} has mode {mode:04o}, so that others may read it: run `chmod 600 {0}`",
        path.display()
    )]
    Exposed { key: &'static str, path: PathBuf, mode: u32 },
    #[error("{key}: {} is empty", path.display())]
    Empty { key: &'static str, path: PathBuf },
    #[error("{key}: {} holds no {what} in PEM: {why}", path.display())]
    Malformed { key: &'static str, path: PathBuf, what: &'static str, why: String },
}

/// All that a file has of a kind (`what`, in words); at least one.
///
/// # Errors
///
/// It cannot be read, or has none.
pub fn pem<T: PemObject>(
    key: &'static str,
    what: &'static str,
    path: &Path,
) -> Result<Vec<T>, FileError> {
    let bytes = fs::read(path).map_err(|error| FileError::Unreadable {
        key,
        path: path.to_owned(),
        error,
    })?;
    let malformed = |why: String| FileError::Malformed { key, path: path.to_owned(), what, why };
    let found: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(error.to_string()))?;
    if found.is_empty() { Err(malformed("there is none in it".to_owned())) } else { Ok(found) }
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
    pem(key, "certificate", path)
}

/// The authorities of a file; at least one.
///
/// # Errors
///
/// It cannot be read, or has none.
pub fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(certificates(key, path)?);
    if good == 0 {
        let (path, what) = (path.to_owned(), "certificate of an authority");
        let why = format!("none of the {bad} in it can be read");
        return Err(FileError::Malformed { key, path, what, why });
    }
    Ok(roots)
}

/// The private key in a file that nobody else may read.
///
/// # Errors
///
/// It cannot be read, others may read it, or it has none.
pub fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(private_text(key, path)?.as_bytes()).map_err(|error| {
        let (path, why) = (path.to_owned(), error.to_string());
        FileError::Malformed { key, path, what: "private key", why }
    })
}

/// The secret in a file that nobody else may read: its text without the line breaks at its end.
///
/// # Errors
///
/// It cannot be read, others may read it, or nothing is in it.
pub fn secret(key: &'static str, path: &Path) -> Result<String, FileError> {
    let mut text = private_text(key, path)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() {
        return Err(FileError::Empty { key, path: path.to_owned() });
    }
    Ok(text)
}

/// The whole text of a file that nobody else may read.
///
/// # Errors
///
/// It cannot be read, or others may read it.
pub fn private_text(key: &'static str, path: &Path) -> Result<String, FileError> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_for_one_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let said = || secret("http.token_file", &path).unwrap_err().to_string();
        assert!(said().contains("cannot be read"), "{}", said());
        fs::write(&path, "open sesame\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(said().contains("mode 0640") && said().contains("chmod 600"), "{}", said());
        assert!(!said().contains("sesame"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(secret("http.token_file", &path).unwrap(), "open sesame");
        fs::write(&path, "\n").unwrap();
        assert!(said().contains("is empty"), "{}", said());
    }

    #[test]
    fn a_file_without_what_is_looked_for_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        fs::write(&path, "moon\n").unwrap();
        let said = certificates("tls_ca", &path).unwrap_err().to_string();
        let name = path.display();
        let told = format!("tls_ca: {name} holds no certificate in PEM: there is none in it");
        assert_eq!(said, told);
    }
}
