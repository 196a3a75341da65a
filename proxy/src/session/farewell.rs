//! The last word: said so that the client can read it, within a limit, and after what the server said.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::error::SessionError;
use crate::metrics;
use crate::relay::session::Parted;
use crate::stream::Stream;
use crate::wire::message::Answer;

/// The longest that a client gets to take its last message.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// The longest that a client gets to close after it.
const LINGER: Duration = Duration::from_millis(500);

/// Last words that are begun before anybody else has a turn: a failover of thousands of sessions must
/// not keep new clients waiting.
const BURST: usize = 16;

/// Tells those whose sessions ended on a relay thread, for ever. Owns the tasks that do.
pub async fn run(mut parted: UnboundedReceiver<Parted>) {
    let mut telling = JoinSet::new();
    let mut begun = 0_usize;
    loop {
        // What loses stays in its queue.
        tokio::select! {
            biased;
            Some(ended) = telling.join_next() => if let Err(error) = ended {
                metrics::count(metrics::PANICS);
                tracing::error!(%error, "a last word ended in a panic, which is a bug of the proxy");
            },
            Some(parted) = parted.recv() => {
                telling.spawn(part(parted));
                begun = begun.wrapping_add(1);
                if begun.is_multiple_of(BURST) {
                    yield_now().await;
                }
            }
        }
    }
}

/// Says what the server said last, and then why the session ends.
async fn part(parted: Parted) {
    let Parted { client, unsent, why, target, listener, open: _open } = parted;
    let why = match last_bytes(client, &unsent).await {
        Ok(client) => {
            if let Some(answer) = why.answer() {
                dismiss(client, &answer).await;
            }
            why
        }
        Err(Some(error)) => SessionError::Client(error),
        Err(None) => SessionError::Interrupted { why: Box::new(why) },
    };
    tracing::debug!(server = %target.id, error = %why, "session ended");
    metrics::count_reason(metrics::ENDED, listener, why.reason());
}

/// Sends what the server said last. Fails without an error where the client does not take it in time.
async fn last_bytes(client: OwnedFd, unsent: &[u8]) -> Result<Stream, Option<io::Error>> {
    let mut client = Stream::Plain(TcpStream::from_std(client.into())?);
    match timeout(FAREWELL, say(&mut client, unsent)).await {
        Ok(result) => Ok(result.map(|()| client)?),
        Err(_) => Err(None),
    }
}

/// Writes all of it, and out.
///
/// # Errors
///
/// The client takes no more.
pub async fn say(client: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    client.write_all(bytes).await?;
    client.flush().await
}

/// Says a last word and closes in a way that lets the client read it.
pub async fn dismiss(mut client: Stream, answer: &Answer) {
    let farewell = async {
        client.write_all(&answer.encode()).await?;
        client.shutdown().await
    };
    if !matches!(timeout(FAREWELL, farewell).await, Ok(Ok(()))) {
        return;
    }
    // Closing while bytes are unread resets the connection, and the client would lose the message.
    let mut bin = [0; 1024];
    let emptying = async { while matches!(client.read(&mut bin).await, Ok(1..)) {} };
    // Whether the client closed or the time is over: it has had its chance to read.
    let _ = timeout(LINGER, emptying).await;
}
