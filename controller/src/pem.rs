//! Files of TLS: what they hold, and whether they are others by now.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};

/// Why a file gave nothing.
pub(crate) enum Unfit {
    Unreadable(io::Error),
    /// It has nothing of the kind.
    Nothing,
    Malformed(pem::Error),
}

/// All that a file has of a kind; at least one.
pub(crate) fn read<T: PemObject>(path: &Path) -> Result<Vec<T>, Unfit> {
    let bytes = fs::read(path).map_err(Unfit::Unreadable)?;
    let found: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
    let found = found.map_err(Unfit::Malformed)?;
    if found.is_empty() { Err(Unfit::Nothing) } else { Ok(found) }
}

/// What shows that a file is another one, or was changed; none where it is away.
pub(crate) type Mark = Option<(u64, u64, i64, i64, u64)>;

/// The mark of the file at `path`.
pub(crate) fn mark(path: &Path) -> Mark {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
}
