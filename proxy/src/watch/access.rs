//! How controllers are reached: over TLS where their URL says so, with whatever they ask for.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{Scheme, Trust};
use crate::socket;
use crate::watch::find::Endpoint;

/// For the TCP connection, and again for the TLS handshake.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// What the files said.
#[derive(Clone)]
pub struct Access {
    tls: Arc<ClientConfig>,
    /// `Bearer …`, marked as what must not be shown.
    token: Option<HeaderValue>,
}

/// Why controllers could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{key}: {} cannot be read: {error}", path.display())]
    Unreadable { key: &'static str, path: PathBuf, error: io::Error },
    #[error(
        "{key}: {0} has mode {mode:04o}, so that others may read it: run `chmod 600 {0}`",
        path.display()
    )]
    Exposed { key: &'static str, path: PathBuf, mode: u32 },
    #[error("{key}: {} holds no {what}", path.display())]
    Malformed { key: &'static str, path: PathBuf, what: &'static str },
    #[error("controller_cert and controller_key cannot be used together: {0}")]
    Unfit(rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("no connection within {CONNECT_MAX:?}")]
    Timeout,
    #[error("no connection: {0}")]
    Tcp(io::Error),
    #[error("no TLS: {0}; is it verified by controller_ca, and named as its certificate says?")]
    Tls(io::Error),
}

/// Either kind of connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them.
    pub fn load(trust: &Trust) -> Result<Self, AccessError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &trust.ca {
            roots.add_parsable_certificates(certificates("controller_ca", path)?);
        }
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(AccessError::Unfit)?
            .with_root_certificates(roots);
        let tls = match &trust.identity {
            None => builder.with_no_client_auth(),
            Some((cert, path)) => {
                let chain = certificates("controller_cert", cert)?;
                let secret = secret("controller_key", path)?;
                let (key, what) = ("controller_key", "private key in PEM");
                let secret = PrivateKeyDer::from_pem_slice(secret.as_bytes())
                    .map_err(|_| AccessError::Malformed { key, path: path.clone(), what })?;
                builder.with_client_auth_cert(chain, secret).map_err(AccessError::Unfit)?
            }
        };
        let token = trust.token_file.as_ref().map(|path| {
            let key = "controller_token_file";
            let text = secret(key, path)?;
            let text = text.trim_end_matches(['\r', '\n']);
            let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
                .ok()
                .filter(|_| !text.is_empty())
                .ok_or_else(|| AccessError::Malformed { key, path: path.clone(), what: "token" })?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self { tls: Arc::new(tls), token: token.transpose()? })
    }

    pub(super) fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    pub(super) async fn connect(&self, to: &Endpoint) -> Result<Box<dyn Stream>, NoConnection> {
        let stream = timeout(CONNECT_MAX, TcpStream::connect(to.socket()))
            .await
            .map_err(|_| NoConnection::Timeout)?
            .map_err(NoConnection::Tcp)?;
        socket::prepare(&stream).map_err(NoConnection::Tcp)?;
        match to.scheme {
            Scheme::Http => return Ok(Box::new(stream)),
            Scheme::Https => (),
        }
        let name = ServerName::try_from(to.name.host.clone())
            .map_err(|error| NoConnection::Tls(io::Error::other(error)))?;
        let greeting = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = timeout(CONNECT_MAX, greeting)
            .await
            .map_err(|_| NoConnection::Timeout)?
            .map_err(NoConnection::Tls)?;
        Ok(Box::new(stream))
    }
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let pem = fs::read(path).map_err(|error| AccessError::Unreadable {
        key,
        path: path.to_owned(),
        error,
    })?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| AccessError::Malformed {
        key,
        path: path.to_owned(),
        what: "certificate in PEM",
    })
}

/// The text of a file that nobody else may read.
fn secret(key: &'static str, path: &Path) -> Result<String, AccessError> {
    let unreadable = |error| AccessError::Unreadable { key, path: path.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the opened file, not of the path: nobody can exchange it in between.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AccessError::Exposed { key, path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}
