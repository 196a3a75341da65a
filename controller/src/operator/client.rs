//! Asking controllers: for the topology, once or for ever; or to do something.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dugong_topology::{Topology, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A controller on this machine answers within this time, or not at all.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest that a call may take: a write into the store, or a wait for another one's.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Controllers say something at least every 5 s: a stream that is quiet for longer is dead.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// The pause before a controller is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The document of the controller at `address` (`host:port`), as it was sent, and as it reads.
///
/// # Errors
///
/// Why there is none, in words.
pub async fn fetch(address: &str) -> Result<(Bytes, Topology), String> {
    let asking = async {
        let answer = get(address, "/v1/topology").await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        let topology = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok((body, topology))
    };
    let limited = tokio::time::timeout(LIMIT, asking).await;
    limited.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

/// The newest topology of several controllers on this machine, whichever of them answer.
pub fn follow(ports: Vec<u16>) -> watch::Receiver<Option<Arc<Topology>>> {
    follow_addresses(ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect())
}

/// The newest topology of the controllers at these addresses.
pub fn follow_addresses(addresses: Vec<String>) -> watch::Receiver<Option<Arc<Topology>>> {
    let (sender, receiver) = watch::channel(None);
    let sender = Arc::new(sender);
    for address in addresses {
        let sender = Arc::clone(&sender);
        // Ends when nobody follows any more.
        tokio::spawn(async move {
            while !sender.is_closed() {
                // Whatever ended the stream, the controller is asked again.
                let _ = follow_one(&address, &sender).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    receiver
}

async fn follow_one(
    address: &str,
    newest: &watch::Sender<Option<Arc<Topology>>>,
) -> Result<(), String> {
    let asking = get(address, "/v1/topology/watch");
    let limited = tokio::time::timeout(LIMIT, asking).await.map_err(|error| error.to_string())?;
    let mut body = limited?.into_body();
    let mut decoder = stream::Decoder::default();
    loop {
        let frame = tokio::time::timeout(QUIET_MAX, body.frame()).await;
        let Some(frame) = frame.map_err(|error| error.to_string())? else { return Ok(()) };
        let Ok(bytes) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
        for topology in decoder.push(&bytes).map_err(|error| error.to_string())? {
            let topology = Arc::new(topology);
            newest.send_if_modified(|known| {
                let newer = known.as_ref().is_none_or(|known| topology.supersedes(known));
                if newer {
                    *known = Some(topology);
                }
                newer
            });
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// For certain it was not heard.
    #[error("{0}")]
    NotSent(String),
    /// It may have been heard.
    #[error("{0}")]
    NoAnswer(String),
}

/// One call of an operator, and its answer.
pub(super) async fn call(
    address: &str,
    method: &Method,
    path: &str,
    password: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), CallError> {
    let stream = tokio::time::timeout(LIMIT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| CallError::NotSent("no answer".to_owned()))?;
    let stream = stream.map_err(|error| CallError::NotSent(error.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header("authorization", format!("Bearer {password}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| CallError::NotSent(error.to_string()))?;
    let answering = async {
        let answer = send(stream, request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let limited = tokio::time::timeout(CALL_LIMIT, answering).await;
    let answer = limited.unwrap_or_else(|_| Err(format!("no answer within {CALL_LIMIT:?}")));
    answer.map_err(CallError::NoAnswer)
}

async fn get(address: &str, path: &str) -> Result<Response<Incoming>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = Request::builder().uri(path).header("host", address).body(Full::default());
    send(stream, request.map_err(|error| error.to_string())?).await
}

async fn send(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends with the answer, or with the controller: the answer shows both.
    tokio::spawn(connection);
    requests.send_request(request).await.map_err(|error| error.to_string())
}
