//! Secrets in files: what only the file's own user may read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{key}: {} cannot be read: {error}", path.display())]
    Unreadable { key: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "{key}: {0} has mode {mode:04o}, so that others may read it: run `chmod 600 {0}`",
        path.display()
    )]
    Exposed { key: &'static str, path: PathBuf, mode: u32 },
    #[error("{key}: {} is empty", path.display())]
    Empty { key: &'static str, path: PathBuf },
}

/// Why a file that is for one user only was not read.
pub(crate) enum Refusal {
    Unreadable(io::Error),
    /// Others can read it: its mode.
    Exposed(u32),
}

/// The whole text of a file that nobody but its user can read.
pub(crate) fn text(path: &Path) -> Result<String, Refusal> {
    let mut file = File::open(path).map_err(Refusal::Unreadable)?;
    // Of the opened file, not of the path: nobody can exchange it in between.
    let mode = file.metadata().map_err(Refusal::Unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Refusal::Exposed(mode));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(Refusal::Unreadable)?;
    Ok(text)
}

/// The text of a file, without the line breaks at its end. `key`: what names the file.
///
/// # Errors
///
/// It cannot be read, others can read it, or nothing is in it.
pub(crate) fn read(key: &'static str, path: &Path) -> Result<String, SecretError> {
    let of = |refusal| match refusal {
        Refusal::Unreadable(error) => SecretError::Unreadable { key, path: path.to_owned(), error },
        Refusal::Exposed(mode) => SecretError::Exposed { key, path: path.to_owned(), mode },
    };
    let mut text = text(path).map_err(of)?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() {
        return Err(SecretError::Empty { key, path: path.to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_for_one_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let said = || read("http.token_file", &path).unwrap_err().to_string();
        assert!(said().contains("cannot be read"), "{}", said());
        fs::write(&path, "open sesame\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(said().contains("mode 0640") && said().contains("chmod 600"), "{}", said());
        assert!(!said().contains("sesame"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read("http.token_file", &path).unwrap(), "open sesame");
        fs::write(&path, "\n").unwrap();
        assert!(said().contains("is empty"), "{}", said());
    }
}
