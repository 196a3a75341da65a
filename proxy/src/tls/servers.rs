//! TLS towards PostgreSQL servers: whom we believe, and the handshake.
//!
//! The rules are libpq's `sslmode`s. PostgreSQL remembers no sessions and hands out no tickets, so
//! that each handshake with it is a whole one.
//!
//! Source: PostgreSQL manual, "SSL Support" of libpq, table "SSL Mode Descriptions".

use std::future::Future;
use std::io;
use std::sync::Arc;

use dugong_topology::Address;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::config::{ServerRule, ServerTls};
use crate::stream::{Encrypted, Stream};
use crate::tls::ALPN;
use crate::tls::exchange::exchanged;
use crate::tls::files::{self, FileError};
use crate::tls::trouble::{self, Keys};
use crate::wire::startup::TLS_REQUEST;

/// Why there could be no TLS to servers.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("server_ca: {0}")]
    Ca(String),
    #[error("server_cert and server_key cannot be used together: {0}")]
    Unfit(Error),
}

/// Why a server and we do not encrypt. Nothing was said to it that matters.
#[derive(Debug, thiserror::Error)]
pub enum NoTls {
    #[error("it offers no TLS, and server_tls asks for it")]
    NotOffered,
    #[error("it answered the request for TLS with an error")]
    Refused,
    #[error("{0:?} is no host that a certificate can be for")]
    Name(String),
    #[error("no TLS: {0}")]
    Handshake(String),
    #[error("the connection was lost before it was encrypted ({0})")]
    Lost(io::Error),
}

const KEYS: Keys = Keys { ca: "server_ca", cert: "server_cert" };

/// The side that connections see.
#[derive(Clone, Debug)]
pub struct Back {
    rule: ServerRule,
    newest: watch::Receiver<Arc<ClientConfig>>,
}

impl Back {
    /// Reads the files; with the duty of looking whether they were exchanged.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them.
    pub fn load(
        tls: &ServerTls,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ServerTlsError> {
        let ServerTls { rule, ca, identity } = tls.clone();
        let pair = identity.clone().map(|(cert, key)| [cert, key]);
        let all = ca.iter().cloned().chain(pair.into_iter().flatten()).collect();
        let (newest, duty) = exchanged(all, move || {
            configuration(&ServerTls { rule, ca: ca.clone(), identity: identity.clone() })
        })?;
        Ok((Self { rule, newest }, duty))
    }

    /// Encrypts a connection as the rule says. The limit in time is the caller's.
    ///
    /// # Errors
    ///
    /// The server does not, or is not believed.
    pub async fn encrypt(&self, mut server: TcpStream, at: &Address) -> Result<Stream, NoTls> {
        server.write_all(TLS_REQUEST).await.map_err(NoTls::Lost)?;
        // One byte and no more: whatever came with it is TLS's to judge.
        match (server.read_u8().await.map_err(NoTls::Lost)?, self.rule) {
            (b'S', _) => (),
            (b'N', ServerRule::Prefer) => return Ok(Stream::Plain(server)),
            (b'N', _) => return Err(NoTls::NotOffered),
            _ => return Err(NoTls::Refused),
        }
        let name = match ServerName::try_from(at.host.clone()) {
            Ok(name) => name,
            Err(_) if self.rule == ServerRule::VerifyFull => {
                return Err(NoTls::Name(at.host.clone()));
            }
            // Nobody compares it with anything.
            Err(_) => ServerName::from(server.peer_addr().map_err(NoTls::Lost)?.ip()),
        };
        let connector = TlsConnector::from(self.newest.borrow().clone());
        match connector.connect(name, server).await {
            Ok(stream) => {
                let (_, session) = stream.get_ref();
                let shown = session.peer_certificates().and_then(|chain| chain.first());
                let shown = shown.cloned().map(Arc::new);
                Ok(Stream::Tls(Box::new(Encrypted { stream: TlsStream::Client(stream), shown })))
            }
            Err(error) => Err(NoTls::Handshake(trouble::words(&error, KEYS))),
        }
    }
}

fn configuration(tls: &ServerTls) -> Result<ClientConfig, ServerTlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(ServerTlsError::Unfit)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Belief::new(tls, provider)?));
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = files::certificates("server_cert", cert)?;
            let key = files::private_key("server_key", key)?;
            builder.with_client_auth_cert(chain, key).map_err(ServerTlsError::Unfit)?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
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
    fn new(tls: &ServerTls, provider: Arc<CryptoProvider>) -> Result<Self, ServerTlsError> {
        let Some(path) = &tls.ca else { return Ok(Self::Anybody(provider)) };
        let roots = Arc::new(files::roots("server_ca", path)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let verifier = verifier.build().map_err(|error| ServerTlsError::Ca(error.to_string()))?;
        Ok(match tls.rule {
            ServerRule::Prefer | ServerRule::Require => Self::Anybody(provider),
            ServerRule::VerifyCa => Self::Authority(verifier),
            ServerRule::VerifyFull => Self::Host(verifier),
        })
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
