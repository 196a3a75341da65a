//! How controllers are reached: over TLS where their URL says so, with whatever they ask for.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dugong_trust::{FileError, Keys};
use hyper::header::HeaderValue;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{Scheme, Trust};
use crate::socket;
use crate::watch::find::Endpoint;

const KEYS: Keys = Keys { ca: "controller_ca", cert: "controller_cert" };

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
    #[error(transparent)]
    File(#[from] FileError),
    #[error("controller_token_file: {} holds no token", path.display())]
    NoToken { path: PathBuf },
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
    #[error("no TLS: {0}")]
    Tls(String),
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
        let roots = match &trust.ca {
            Some(path) => dugong_trust::roots("controller_ca", path)?,
            None => RootCertStore::empty(),
        };
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(AccessError::Unfit)?
            .with_root_certificates(roots);
        let tls = match &trust.identity {
            None => builder.with_no_client_auth(),
            Some((cert, path)) => {
                let chain = dugong_trust::certificates("controller_cert", cert)?;
                let key = dugong_trust::private_key("controller_key", path)?;
                builder.with_client_auth_cert(chain, key).map_err(AccessError::Unfit)?
            }
        };
        let token = trust.token_file.as_ref().map(|path| {
            let text = dugong_trust::secret("controller_token_file", path)?;
            let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
                .map_err(|_| AccessError::NoToken { path: path.clone() })?;
            value.set_sensitive(true);
            Ok::<_, AccessError>(value)
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
            .map_err(|error| NoConnection::Tls(error.to_string()))?;
        let greeting = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = timeout(CONNECT_MAX, greeting)
            .await
            .map_err(|_| NoConnection::Timeout)?
            .map_err(|error| NoConnection::Tls(dugong_trust::words(&error, KEYS)))?;
        Ok(Box::new(stream))
    }
}
