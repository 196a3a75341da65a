//! A certificate that nobody verifies, for what TLS costs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::account;

/// Files of a certificate that has signed itself, and of its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one in `folder`, readable to PostgreSQL's account alone.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (cert, key) = (folder.join("server.crt"), folder.join("server.key"));
        for (file, content) in [(&cert, made.cert.pem()), (&key, made.signing_key.serialize_pem())]
        {
            fs::write(file, content)?;
            fs::set_permissions(file, Permissions::from_mode(0o600))?;
            account::give(file)?;
        }
        Ok(Self { cert, key })
    }
}
