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
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use crate::disbelief::{self, Keys};
use crate::pem::{self, Unfit};
use crate::secret::{self, SecretError};

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
    #[error("{key}: {} {why}", path.display())]
    File { key: &'static str, path: PathBuf, why: String },
    #[error(transparent)]
    Secret(#[from] SecretError),
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
            .with_custom_certificate_verifier(Arc::new(Belief::new(words)?));
        let mut config = match (&words.cert, &words.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("sslcert", cert)?;
                let secret = secret::read("sslkey", key)?;
                let secret = PrivateKeyDer::from_pem_slice(secret.as_bytes()).map_err(|why| {
                    let why = format!("holds no private key in PEM: {why}");
                    TlsError::File { key: "sslkey", path: key.clone(), why }
                })?;
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
                Err(error) => Err(io::Error::other(disbelief::words(&error, KEYS))),
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

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem::read(path).map_err(|error| {
        let why = match error {
            Unfit::Unreadable(error) => format!("cannot be read: {error}"),
            Unfit::Nothing => "holds no certificate in PEM".to_owned(),
            Unfit::Malformed(why) => format!("holds no certificate in PEM: {why}"),
        };
        TlsError::File { key, path: path.to_owned(), why }
    })
}

/// Whom we believe.
#[derive(Debug)]
enum Belief {
    /// Any certificate, of whose key the server has proof.
    Anybody(Arc<CryptoProvider>),
    /// Whoever the authority has signed for, whatever its host.
    Authority(Arc<WebPkiServerVerifier>),
    /// The very host.
    Host(Arc<WebPkiServerVerifier>),
}

impl Belief {
    fn new(words: &Words) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let path = match (words.mode, &words.root) {
            (Mode::VerifyFull, None) => return Err(TlsError::NoRoot("verify-full")),
            (Mode::VerifyCa, None) => return Err(TlsError::NoRoot("verify-ca")),
            (Mode::Disable, _) | (Mode::Require | Mode::Prefer, None) => {
                return Ok(Self::Anybody(provider));
            }
            (_, Some(path)) => path,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("sslrootcert", path)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        let verifier = verifier.map_err(|error| {
            let why = format!("holds no authority: {error}");
            TlsError::File { key: "sslrootcert", path: path.clone(), why }
        })?;
        // Like libpq, which verifies as soon as it has something to verify by.
        let full = words.mode == Mode::VerifyFull;
        Ok(if full { Self::Host(verifier) } else { Self::Authority(verifier) })
    }

    fn provider(&self) -> Result<&CryptoProvider, &WebPkiServerVerifier> {
        match self {
            Self::Anybody(provider) => Ok(provider),
            Self::Authority(verifier) | Self::Host(verifier) => Err(verifier),
        }
    }
}

impl ServerCertVerifier for Belief {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let good = Ok(ServerCertVerified::assertion());
        match self {
            Self::Anybody(_) => good,
            Self::Host(verifier) => verifier.verify_server_cert(end, between, name, ocsp, now),
            Self::Authority(verifier) => {
                match verifier.verify_server_cert(end, between, name, ocsp, now) {
                    // The name is looked at last, once all else was good.
                    Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    )) => good,
                    verified => verified,
                }
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.provider() {
            Ok(provider) => rustls::crypto::verify_tls12_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Err(verifier) => verifier.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.provider() {
            Ok(provider) => rustls::crypto::verify_tls13_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Err(verifier) => verifier.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.provider() {
            Ok(provider) => provider.signature_verification_algorithms.supported_schemes(),
            Err(verifier) => verifier.supported_verify_schemes(),
        }
    }
}
