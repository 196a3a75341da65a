//! TLS towards clients: our certificate, and the handshake.
//!
//! [`Front`] is what connections see. Sessions that are there keep what they began with when files
//! are exchanged.
//!
//! Sessions are resumed by tickets, which only this process understands, and only until the files
//! are exchanged: a client whose certificate is not trusted any more shall not come back by an old
//! ticket.

use std::future::Future;
use std::io;
use std::sync::Arc;

use dugong_trust::FileError;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use crate::config::ClientTls;
use crate::stream::{Encrypted, Stream};
use crate::tls::ALPN;
use crate::tls::exchange::exchanged;

/// Why there is no TLS for clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("tls_cert and tls_key cannot be used together: {0}")]
    Unfit(rustls::Error),
    #[error("tls_client_ca: {0}")]
    ClientCa(String),
}

/// The side that connections see.
#[derive(Clone, Debug)]
pub struct Front {
    newest: watch::Receiver<Arc<Served>>,
}

/// What the files came to.
#[derive(Debug)]
struct Served {
    config: Arc<ServerConfig>,
    certificate: Arc<CertificateDer<'static>>,
}

/// How a client began to speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// It has asked, was told yes, and sends a ClientHello now.
    Asked,
    /// It sent one at once, of which these bytes were read.
    Direct([u8; 4]),
}

impl Front {
    /// Reads the files; with the duty of looking whether they were exchanged.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them.
    pub fn load(
        files: &ClientTls,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), ClientTlsError> {
        let ClientTls { cert, key, client_ca } = files.clone();
        let all = [cert, key].into_iter().chain(client_ca).collect();
        let files = files.clone();
        let (newest, duty) = exchanged(all, move || serve(&files))?;
        Ok((Self { newest }, duty))
    }

    /// The server's part of the handshake. The limit in time is the caller's.
    ///
    /// # Errors
    ///
    /// The client does not speak TLS, or does not take ours; it was told as far as TLS can.
    pub async fn accept(&self, client: TcpStream, hello: Hello) -> io::Result<Stream> {
        let mut acceptor = Acceptor::default();
        if let Hello::Direct(begun) = hello {
            acceptor.read_tls(&mut begun.as_slice())?;
        }
        let served = self.newest.borrow().clone();
        let greeted = LazyConfigAcceptor::new(acceptor, client).await?;
        let stream = TlsStream::Server(greeted.into_stream(served.config.clone()).await?);
        let shown = Some(served.certificate.clone());
        Ok(Stream::Tls(Box::new(Encrypted { stream, shown })))
    }
}

fn serve(files: &ClientTls) -> Result<Served, ClientTlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = dugong_trust::certificates("tls_cert", &files.cert)?;
    let certificate = chain.first().cloned().unwrap_or_else(|| Vec::new().into());
    let key = dugong_trust::private_key("tls_key", &files.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(ClientTlsError::Unfit)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = dugong_trust::roots("tls_client_ca", path)?.into();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|error| ClientTlsError::ClientCa(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(ClientTlsError::Unfit)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Tickets only: remembering sessions here would cost memory for each client that ever came.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new().map_err(ClientTlsError::Unfit)?;
    // Each costs a client without use for it, as libpq, a message; one is enough to come back.
    config.send_tls13_tickets = 1;
    Ok(Served { config: Arc::new(config), certificate: Arc::new(certificate) })
}
