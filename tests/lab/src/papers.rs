//! What is encrypted between hosts, and the certificates for that, as `dugong init` makes them.
//!
//! Each host has a certificate for its name and its address, beside the authority's in its folder;
//! the clients find the authority's in the laboratory's own.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use dugong_controller::operator::init::Authority;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::plan::own;

/// What is encrypted, and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Nothing
    Clear,
    /// Everything, but for what the last proxy speaks with clients and instances
    Mixed,
    /// Everything
    Tls,
}

/// The certificates of one host.
#[derive(Clone, Debug)]
pub struct Papers {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// Where the clients find whom to believe.
const AUTHORITY: &str = "ca.crt";

impl Papers {
    /// Makes them, in the host's folder.
    ///
    /// # Errors
    ///
    /// They cannot be signed or written.
    pub fn issue(
        authority: &Authority,
        folder: &Path,
        name: &str,
        address: IpAddr,
    ) -> anyhow::Result<Self> {
        let signed = authority.sign(&[name, &address.to_string()])?;
        let write = |file: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            own(&path)?;
            Ok(path)
        };
        Ok(Self {
            cert: write("host.crt", &signed.certificate)?,
            key: write("host.key", &signed.key)?,
            ca: write(AUTHORITY, &authority.certificate())?,
        })
    }
}

/// An authority, whose certificate the clients find.
///
/// # Errors
///
/// It cannot be made, or written.
pub fn authority(root: &Path) -> anyhow::Result<Authority> {
    let authority = Authority::new("laboratory")?;
    fs::write(root.join(AUTHORITY), authority.certificate())?;
    Ok(authority)
}

/// The file of whom the clients believe; none where nothing is encrypted.
pub fn believed(root: &Path) -> Option<PathBuf> {
    let path = root.join(AUTHORITY);
    path.exists().then_some(path)
}

/// What speaks HTTPS with controllers.
#[derive(Clone, Debug)]
pub struct Https(Arc<ClientConfig>);

impl Https {
    /// By whom the clients believe; none where nothing is encrypted.
    ///
    /// # Errors
    ///
    /// The file is no certificate.
    pub fn of(root: &Path) -> anyhow::Result<Option<Self>> {
        let Some(path) = believed(root) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path)?)?;
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Self(Arc::new(config))))
    }

    /// Greets a host, which must be the one at that address.
    ///
    /// # Errors
    ///
    /// It is not, or is gone.
    pub async fn greet(
        &self,
        address: IpAddr,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.0.clone()).connect(ServerName::from(address), stream).await
    }
}
