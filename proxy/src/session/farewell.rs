//! The last word: said so that the client can read it, within a limit, and after what the server said.

use std::io;
use std::time::Duration;

use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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
            Some(parted) = parted.recv() => {
                telling.spawn(tell(Words::begin(parted)));
                begun = begun.wrapping_add(1);
                if begun.is_multiple_of(BURST) {
                    yield_now().await;
                }
            }
            Some(ended) = telling.join_next() => if let Err(error) = ended {
                metrics::count(metrics::PANICS);
                tracing::error!(%error, "a last word ended in a panic, which is a bug of the proxy");
            },
        }
    }
}

/// What a client is still to be told.
struct Words {
    parted: Parted,
    /// What the server said last, then why the session ends.
    all: Vec<u8>,
    told: usize,
}

impl Words {
    /// Says what the client's socket takes at once, which is nearly always all of it.
    ///
    /// Before anybody's task has its turn: nobody shall wait for the others' closing.
    fn begin(mut parted: Parted) -> Self {
        let mut all = std::mem::take(&mut parted.unsent);
        all.extend(parted.why.answer().map(|answer| answer.encode()).unwrap_or_default());
        // Whatever goes wrong is met again by the task.
        let told = send(&parted.client, &all, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let told = told.unwrap_or_default();
        if told == all.len() {
            let _ = shutdown(&parted.client, Shutdown::Write);
        }
        Self { parted, all, told }
    }
}

/// Says the rest, and waits until the client has read it.
async fn tell(words: Words) {
    let Words { parted, all, told } = words;
    let Parted { client, why, target, listener, open: _open, .. } = parted;
    let rest = &all[told..];
    let concluded = match TcpStream::from_std(client.into()) {
        Ok(mut client) => conclude(&mut client, rest).await,
        Err(error) => Err(Some(error)),
    };
    let why = match concluded {
        Ok(()) => why,
        Err(Some(error)) => SessionError::Client(error),
        Err(None) => SessionError::Interrupted { why: Box::new(why) },
    };
    tracing::debug!(server = %target.id, error = %why, "session ended");
    metrics::count_reason(metrics::ENDED, listener, why.reason());
}

/// Says the rest, and waits until the client has read it. Fails without an error where the client does
/// not take it in time.
async fn conclude(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    rest: &[u8],
) -> Result<(), Option<io::Error>> {
    if !rest.is_empty() {
        let saying = async {
            client.write_all(rest).await?;
            client.shutdown().await
        };
        timeout(FAREWELL, saying).await.map_err(|_| None)??;
    }
    linger(client).await;
    Ok(())
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
    // Who does not take it in time is left: nobody else has to be told.
    let _ = conclude(&mut client, &answer.encode()).await;
}

/// Closing while bytes are unread resets the connection, and the client would lose the message.
async fn linger(client: &mut (impl AsyncRead + Unpin)) {
    let mut bin = [0; 1024];
    let emptying = async { while matches!(client.read(&mut bin).await, Ok(1..)) {} };
    // Whether the client closed or the time is over: it has had its chance to read.
    let _ = timeout(LINGER, emptying).await;
}
