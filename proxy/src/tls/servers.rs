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
use dugong_trust::{Belief, FileError, Keys};
use rustls::client::VerifierBuilderError;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::config::{ServerRule, ServerTls};
use crate::stream::{Encrypted, Stream};
use crate::tls::ALPN;
use crate::tls::exchange::exchanged;
use crate::wire::startup::TLS_REQUEST;

/// Why there could be no TLS to servers.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("server_ca: {0}")]
    Ca(VerifierBuilderError),
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
            Err(error) => Err(NoTls::Handshake(dugong_trust::words(&error, KEYS))),
        }
    }
}

fn configuration(tls: &ServerTls) -> Result<ClientConfig, ServerTlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServerTlsError::Unfit)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(belief(tls)?));
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = dugong_trust::certificates("server_cert", cert)?;
            let key = dugong_trust::private_key("server_key", key)?;
            builder.with_client_auth_cert(chain, key).map_err(ServerTlsError::Unfit)?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn belief(tls: &ServerTls) -> Result<Belief, ServerTlsError> {
    let Some(path) = &tls.ca else { return Ok(Belief::anybody()) };
    let roots = dugong_trust::roots("server_ca", path)?;
    match tls.rule {
        ServerRule::Prefer | ServerRule::Require => Ok(Belief::anybody()),
        ServerRule::VerifyCa => Belief::authority(roots).map_err(ServerTlsError::Ca),
        ServerRule::VerifyFull => Belief::host(roots).map_err(ServerTlsError::Ca),
    }
}
