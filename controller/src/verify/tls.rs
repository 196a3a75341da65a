//! TLS of a connection string, as libpq means it: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! [`split`] takes these words out of a connection string, for what is left to be read by whoever
//! connects; [`Tls`] is what it connects by. What libpq knows and this does not is refused by name.
//!
//! A password's proof is never bound to the certificate (channel binding): so the clients reach a
//! server through a proxy with TLS of its own as well.
//!
//! Source: PostgreSQL manual, "SSL Support" of libpq, "Parameter Key Words".

mod words;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dugong_trust::{Belief, FileError, Keys};
use rustls::client::VerifierBuilderError;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

pub use words::{Mode, Words, split};

const KEYS: Keys = Keys { ca: "sslrootcert", cert: "sslcert" };

/// Words about TLS that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key} is not supported here: leave it out")]
    Unsupported { key: String },
    #[error(
        "sslmode={0} is not supported: write disable, prefer, require, verify-ca or verify-full"
    )]
    Mode(String),
    #[error("sslmode={0} needs a file of authorities: add sslrootcert=FILE")]
    NoRoot(&'static str),
    #[error("sslcert and sslkey belong together")]
    HalfIdentity,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("sslrootcert: {0}")]
    Root(VerifierBuilderError),
    #[error("sslcert and sslkey cannot be used together: {0}")]
    Unfit(Error),
}

/// What connections are made by.
#[derive(Clone, Debug)]
pub struct Tls {
    mode: SslMode,
    /// Whether the host is compared with the certificate.
    named: bool,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files that the words name.
    ///
    /// # Errors
    ///
    /// The words do not go together, or a file is not good.
    pub fn new(words: &Words) -> Result<Self, TlsError> {
        let mode = match words.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unfit)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(belief(words)?));
        let mut config = match (&words.cert, &words.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = dugong_trust::certificates("sslcert", cert)?;
                let secret = dugong_trust::private_key("sslkey", key)?;
                builder.with_client_auth_cert(chain, secret).map_err(TlsError::Unfit)?
            }
            (Some(_), None) | (None, Some(_)) => return Err(TlsError::HalfIdentity),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { mode, named: words.mode == Mode::VerifyFull, config: Arc::new(config) })
    }

    /// What the library that connects has to know.
    pub fn mode(&self) -> SslMode {
        self.mode
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connect> {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // Nobody compares it with anything; a local socket has none.
            Err(_) if !self.named => ServerName::from(std::net::Ipv4Addr::UNSPECIFIED),
            Err(error) => return Err(io::Error::other(format!("{host:?}: {error}"))),
        };
        Ok(Connect { connector: TlsConnector::from(self.config.clone()), name })
    }
}

/// One handshake to be made.
pub struct Connect {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> TlsConnect<S> for Connect {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            match self.connector.connect(self.name, stream).await {
                Ok(stream) => Ok(Encrypted(Box::new(stream))),
                Err(error) => Err(io::Error::other(dugong_trust::words(&error, KEYS))),
            }
        })
    }
}

/// An encrypted connection.
#[derive(Debug)]
pub struct Encrypted<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

fn belief(words: &Words) -> Result<Belief, TlsError> {
    let path = match (words.mode, &words.root) {
        (Mode::VerifyFull, None) => return Err(TlsError::NoRoot("verify-full")),
        (Mode::VerifyCa, None) => return Err(TlsError::NoRoot("verify-ca")),
        (Mode::Disable, _) | (Mode::Require | Mode::Prefer, None) => return Ok(Belief::anybody()),
        (_, Some(path)) => path,
    };
    let roots = dugong_trust::roots("sslrootcert", path)?;
    // Like libpq, which verifies as soon as it has something to verify by.
    let full = words.mode == Mode::VerifyFull;
    let belief = if full { Belief::host(roots) } else { Belief::authority(roots) };
    belief.map_err(TlsError::Root)
}
