//! One connection of a session, to its client or to its server: plain, or encrypted.
//!
//! **Invariant:** two plain connections stay recognisable as two sockets: what moves bytes between
//! sockets only ([`crate::relay`]) takes exactly those.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    /// Boxed: a connection that is not encrypted shall not pay for the state of one that is.
    Tls(Box<Encrypted>),
}

/// An encrypted connection.
#[derive(Debug)]
pub struct Encrypted {
    pub stream: TlsStream<TcpStream>,
    /// The certificate that whoever was connected to has shown: ours to a client, a server's to us.
    pub shown: Option<Arc<CertificateDer<'static>>>,
}

impl Stream {
    /// Whether both sides agreed on this application protocol (ALPN). A plain one agrees on none.
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.stream.get_ref().1.alpn_protocol() == Some(protocol),
        }
    }

    /// The certificate of whoever was connected to; none where nothing is encrypted.
    pub fn shown(&self) -> Option<&Arc<CertificateDer<'static>>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.shown.as_ref(),
        }
    }

    /// Waits until the peer has closed. Takes nothing away from what it has sent.
    ///
    /// A peer that has sent something that nobody has read yet stays: when it leaves is noticed by
    /// whoever reads on.
    pub async fn gone(&mut self) -> io::Error {
        let sent = match self {
            Self::Plain(stream) => stream.peek(&mut [0]).await,
            Self::Tls(tls) => tls.stream.fill_buf().await.map(<[u8]>::len),
        };
        match sent {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(tls) => match Pin::new(&mut tls.stream).poll_read(cx, buffer) {
                // Closed without TLS's goodbye: closed all the same. What is cut short by that shows
                // in PostgreSQL's own messages, which have their lengths.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled @ (Poll::Ready(_) | Poll::Pending) => polled,
            },
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
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}
