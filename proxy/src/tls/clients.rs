//! TLS towards clients: our certificate, and the handshake.
//!
//! [`Front`] is what connections see; [`follow`] looks whether the files were exchanged. Sessions
//! that are there keep what they began with.
//!
//! Sessions are resumed by tickets, which only this process understands, and only until the files
//! are exchanged: a client whose certificate is not trusted any more shall not come back by an old
//! ticket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use crate::config::ClientTls;
use crate::tls::ALPN;
use crate::tls::files::{self, FileError, Mark, mark};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

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
    newest: watch::Receiver<Arc<ServerConfig>>,
}

/// The side that looks at the files.
pub struct Following {
    files: ClientTls,
    served: watch::Sender<Arc<ServerConfig>>,
    /// As they were when they were last looked at.
    marks: Vec<Mark>,
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
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them.
    pub fn load(files: &ClientTls) -> Result<(Self, Following), ClientTlsError> {
        // Before they are read: what changes meanwhile is read again.
        let marks = marks(files);
        let (served, newest) = watch::channel(configuration(files)?);
        Ok((Self { newest }, Following { files: files.clone(), served, marks }))
    }

    /// The server's part of the handshake. The limit in time is the caller's.
    ///
    /// # Errors
    ///
    /// The client does not speak TLS, or does not take ours; it was told as far as TLS can.
    pub async fn accept(
        &self,
        client: TcpStream,
        hello: Hello,
    ) -> io::Result<Box<TlsStream<TcpStream>>> {
        let mut acceptor = Acceptor::default();
        if let Hello::Direct(begun) = hello {
            acceptor.read_tls(&mut begun.as_slice())?;
        }
        let config = self.newest.borrow().clone();
        let greeted = LazyConfigAcceptor::new(acceptor, client).await?;
        Ok(Box::new(TlsStream::Server(greeted.into_stream(config).await?)))
    }
}

/// Looks for ever whether the files were exchanged, and serves those that are good.
pub async fn follow(mut following: Following) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        following.look();
    }
}

impl Following {
    fn look(&mut self) {
        let now = marks(&self.files);
        if now == self.marks {
            return;
        }
        self.marks = now;
        let cert = self.files.cert.display();
        match configuration(&self.files) {
            Ok(config) => {
                self.served.send_replace(config);
                tracing::info!("the certificate {cert} was exchanged");
            }
            Err(error) => tracing::warn!(
                "the new certificate {cert} is not taken, and the one before stays: {error}"
            ),
        }
    }
}

fn marks(files: &ClientTls) -> Vec<Mark> {
    let all = [&files.cert, &files.key].into_iter().chain(&files.client_ca);
    all.map(|path| mark(path)).collect()
}

fn configuration(files: &ClientTls) -> Result<Arc<ServerConfig>, ClientTlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = files::certificates("tls_cert", &files.cert)?;
    let key = files::private_key("tls_key", &files.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(ClientTlsError::Unfit)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = files::roots("tls_client_ca", path)?.into();
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
    Ok(Arc::new(config))
}
