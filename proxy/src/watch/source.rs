//! One controller's topology stream: connect, read, connect again.
//!
//! **Invariant:** bounded waits only. A stream that is silent for longer than its keep-alives allow
//! is dropped: it may be the half of a connection whose other end is gone.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use dugong_topology::Topology;
use dugong_topology::stream::{self, Decoder, StreamError};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::metrics;
use crate::watch::Sources;
use crate::watch::access::{Access, NoConnection};
use crate::watch::find::Endpoint;

const PATH: &str = "/v1/topology/watch";

/// Controllers send a comment every 5 s at least.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Between two tries: doubled from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A document, from whom, and whether it came because it was new.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) from: Endpoint,
    pub(super) topology: Topology,
    pub(super) push: Push,
}

/// Whether a document was published while its stream was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// The first of a stream: what was current when it began.
    Current,
    /// A later one.
    Pushed,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] NoConnection),
    #[error("the answer was {status}{}", advice(*status))]
    Status { status: StatusCode },
    #[error("nothing came for {SILENCE_MAX:?}")]
    Silence,
    #[error("it closed the stream")]
    Closed,
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The proxy is ending.
    #[error("nobody listens any more")]
    Unheard,
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => ": controller_token_file must have the controllers' token",
        _ => "",
    }
}

/// Follows one controller for ever.
pub(super) async fn follow(
    from: Endpoint,
    access: Access,
    to: mpsc::Sender<Heard>,
    sources: Arc<Sources>,
) {
    let mut link = Link { from, access, to, sources, stands: false };
    let mut pause = PAUSE_MIN;
    let mut complained = false;
    loop {
        let lost = match link.read_stream().await {
            Ok(never) => match never {},
            Err(lost) => lost,
        };
        let stood = link.fell();
        if stood {
            pause = PAUSE_MIN;
        }
        if stood || !complained {
            tracing::warn!("topology from {}: {lost}; trying again", link.from);
            complained = true;
        } else {
            tracing::debug!("topology from {}: {lost}", link.from);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The connection to one controller, and whether it stands.
struct Link {
    from: Endpoint,
    access: Access,
    to: mpsc::Sender<Heard>,
    sources: Arc<Sources>,
    stands: bool,
}

impl Link {
    /// Connects and reads until the stream ends, which it always does with a reason.
    async fn read_stream(&mut self) -> Result<Infallible, Lost> {
        let stream = self.access.connect(&self.from).await?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection only moves bytes while it is polled; how it ended, the reader learns.
        let moving = async {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "topology connection");
            }
            std::future::pending::<Infallible>().await
        };
        // Both live and die together.
        tokio::select! {
            result = self.read_body(requests) => result,
            never = moving => match never {},
        }
    }

    async fn read_body(
        &mut self,
        mut requests: http1::SendRequest<Empty<Bytes>>,
    ) -> Result<Infallible, Lost> {
        let mut request = Request::get(PATH)
            .header(header::HOST, self.from.name.to_string())
            .header(header::ACCEPT, stream::CONTENT_TYPE)
            .body(Empty::new())?;
        if let Some(token) = self.access.token() {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let response = timeout(SILENCE_MAX, requests.send_request(request))
            .await
            .map_err(|_| Lost::Silence)??;
        if response.status() != StatusCode::OK {
            return Err(Lost::Status { status: response.status() });
        }
        self.read_events(response.into_body()).await
    }

    async fn read_events(&mut self, mut body: Incoming) -> Result<Infallible, Lost> {
        let mut decoder = Decoder::default();
        let mut push = Push::Current;
        loop {
            let frame = timeout(SILENCE_MAX, body.frame())
                .await
                .map_err(|_| Lost::Silence)?
                .ok_or(Lost::Closed)??;
            let Ok(data) = frame.into_data() else { continue };
            for topology in decoder.push(&data)? {
                self.stood();
                let heard = Heard { from: self.from.clone(), topology, push };
                self.to.send(heard).await.map_err(|_| Lost::Unheard)?;
                push = Push::Pushed;
            }
        }
    }

    /// The first document of a stream came.
    fn stood(&mut self) {
        if !std::mem::replace(&mut self.stands, true) {
            let connected = self.sources.connected.fetch_add(1, Relaxed) + 1;
            metrics::set(metrics::SOURCES_CONNECTED, connected as u64);
            tracing::info!("topology from {}: connected", self.from);
        }
    }

    /// The stream ended; whether it had stood.
    fn fell(&mut self) -> bool {
        let stood = std::mem::take(&mut self.stands);
        if stood {
            let connected = self.sources.connected.fetch_sub(1, Relaxed) - 1;
            metrics::set(metrics::SOURCES_CONNECTED, connected as u64);
        }
        stood
    }
}

/// A source that is not wanted any more is dropped in the middle of its stream.
impl Drop for Link {
    fn drop(&mut self) {
        self.fell();
    }
}
