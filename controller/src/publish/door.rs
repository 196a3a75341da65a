//! Where HTTP comes in: plain TCP, or TLS with certificates that may be exchanged.
//!
//! **Invariant:** nobody holds up others: a handshake has its own task and its own deadline, and
//! there are no more of them at a time than [`HANDSHAKES_MAX`]. Where there would be, the one that has
//! taken longest is given up for the one that comes.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use dugong_trust::{FileError, Mark, mark};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::Peer;
use crate::config::HttpTls;

/// The longest that a client may take for its part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES_MAX: usize = 256;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// After an error that is not a connection's own, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("http.tls_cert and http.tls_key cannot be used together: {0}")]
    Unfit(String),
}

/// A listener, as HTTP sees it.
#[derive(Debug)]
pub struct Door {
    address: io::Result<SocketAddr>,
    entering: mpsc::Receiver<(Stream, Peer)>,
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Door {
    /// Takes connections until this is dropped.
    ///
    /// # Errors
    ///
    /// The files cannot be used.
    pub fn open(listener: TcpListener, tls: Option<&HttpTls>) -> Result<Self, TlsError> {
        let address = listener.local_addr();
        let files = tls.map(|tls| Files::load(tls.clone())).transpose()?;
        let (sender, entering) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(take(listener, files, sender));
        Ok(Self { address, entering })
    }
}

async fn take(
    listener: TcpListener,
    mut files: Option<Files>,
    entering: mpsc::Sender<(Stream, Peer)>,
) {
    let mut greeting = Greeting::default();
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = entering.closed() => return,
        };
        let (stream, address) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(files) = &mut files else {
            let peer = Peer { address, secure: false, certified: false };
            // Closed: nobody answers any more.
            let _ = entering.send((Stream::Plain(stream), peer)).await;
            continue;
        };
        let acceptor = TlsAcceptor::from(files.newest());
        let entering = entering.clone();
        greeting.begin(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certified = stream.get_ref().1.peer_certificates().is_some();
                    let peer = Peer { address, secure: true, certified };
                    let _ = entering.send((Stream::Tls(Box::new(stream)), peer)).await;
                }
                Ok(Err(error)) => tracing::info!(%address, %error, "no TLS came about"),
                Err(_elapsed) => tracing::info!(%address, "no TLS came about within {HANDSHAKE:?}"),
            }
        });
    }
}

/// The handshakes that are under way. Dropping it ends them.
#[derive(Default)]
struct Greeting {
    tasks: JoinSet<()>,
    /// The oldest first.
    order: VecDeque<AbortHandle>,
}

impl Greeting {
    fn begin(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        // Those that have ended, in a panic or not, are nobody's business any more.
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            tracing::debug!("a handshake is given up for a newer one");
            oldest.abort();
        }
        self.order.push_back(self.tasks.spawn(handshake));
    }
}

impl Listener for Door {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        match self.entering.recv().await {
            Some(entered) => entered,
            // Whoever takes connections lives as long as this does, unless it panicked.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        let address = self.address.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Peer { address: *address, secure: false, certified: false })
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}

/// The files of TLS, and what was made of them.
struct Files {
    tls: HttpTls,
    config: Arc<ServerConfig>,
    marks: Vec<Mark>,
    looked: Instant,
}

impl Files {
    fn load(tls: HttpTls) -> Result<Self, TlsError> {
        let marks = marks(&tls);
        let config = configuration(&tls)?;
        Ok(Self { tls, config, marks, looked: Instant::now() })
    }

    /// With the files as they are, or as they last were good.
    fn newest(&mut self) -> Arc<ServerConfig> {
        if self.looked.elapsed() > LOOK {
            self.looked = Instant::now();
            let marks = marks(&self.tls);
            if marks != self.marks {
                self.marks = marks;
                match configuration(&self.tls) {
                    Ok(config) => {
                        self.config = config;
                        tracing::info!(cert = %self.tls.cert.display(), "the certificate was exchanged");
                    }
                    Err(error) => tracing::warn!(%error, "the new certificate is not taken"),
                }
            }
        }
        self.config.clone()
    }
}

fn marks(tls: &HttpTls) -> Vec<Mark> {
    let all = [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca);
    all.map(|path| mark(path)).collect()
}

fn configuration(tls: &HttpTls) -> Result<Arc<ServerConfig>, TlsError> {
    let unfit = |error: rustls::Error| TlsError::Unfit(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let chain = dugong_trust::certificates("http.tls_cert", &tls.cert)?;
    let key = dugong_trust::private_key("http.tls_key", &tls.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = dugong_trust::roots("http.client_ca", path)?.into();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Unfit(format!("http.client_ca: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
