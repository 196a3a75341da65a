//! A client that would bind its password's proof to the certificate that it sees, which is not the
//! server's: told so in one sentence, instead of the server's word for an attack.
//!
//! [`Guard`] lies around the client's side of a relay, and looks at its first bytes only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;
use crate::wire::sasl::{FIRST_WORD_BYTES, FirstWord, first_word};

/// The client would have bound its proof. Nothing of that went to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client would bind its password to the proxy's certificate")]
pub struct WouldBind;

impl WouldBind {
    /// Whether that is why reading failed.
    pub fn is_why(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// A client's stream that ends where it would bind.
#[derive(Debug)]
pub struct Guard<'a> {
    client: &'a mut Stream,
    /// The first bytes of the client; none once it is clear what they mean.
    heard: Option<Vec<u8>>,
}

impl<'a> Guard<'a> {
    pub fn new(client: &'a mut Stream) -> Self {
        Self { client, heard: Some(Vec::with_capacity(FIRST_WORD_BYTES)) }
    }
}

impl AsyncRead for Guard<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *this.client).poll_read(cx, buffer))?;
        let Some(heard) = &mut this.heard else { return Poll::Ready(Ok(())) };
        let came = &buffer.filled()[before..];
        heard.extend_from_slice(&came[..came.len().min(FIRST_WORD_BYTES - heard.len())]);
        match first_word(heard) {
            FirstWord::Incomplete => (),
            FirstWord::Other => this.heard = None,
            FirstWord::WouldBind => return Poll::Ready(Err(io::Error::other(WouldBind))),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().client).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().client).poll_shutdown(cx)
    }
}
