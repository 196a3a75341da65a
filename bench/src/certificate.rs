//! A certificate, for what TLS costs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::account;

/// Whom it names.
pub(crate) const NAME: &str = "localhost";

/// Files of a certificate that has signed itself, and of its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one in `folder`, readable to PostgreSQL's account alone.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let (cert, key) = (folder.join("server.crt"), folder.join("server.key"));
        for (file, content) in [(&cert, made.cert.pem()), (&key, made.signing_key.serialize_pem())]
        {
            fs::write(file, content)?;
            fs::set_permissions(file, Permissions::from_mode(0o600))?;
            account::give(file)?;
        }
        Ok(Self { cert, key })
    }

    /// What a client needs that believes it.
    pub(crate) fn believed(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert)?)?;
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}
