//! Asking controllers: for the topology, once or for ever; or to do something.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dugong_topology::{Topology, stream};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::reach::Controller;

/// A controller on this machine answers within this time, or not at all.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest that a call may take: a write into the store, or a wait for another one's.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Controllers say something at least every 5 s: a stream that is quiet for longer is dead.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// The pause before a controller is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The document of a controller, as it was sent, and as it reads.
///
/// # Errors
///
/// Why there is none, in words.
pub async fn fetch(controller: &Controller) -> Result<(Bytes, Topology), String> {
    let asking = async {
        let answer = get(controller, "/v1/topology").await?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        let topology = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok((body, topology))
    };
    let limited = tokio::time::timeout(LIMIT, asking).await;
    limited.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

/// The newest of what several controllers say just now, and why the others say nothing.
pub(super) struct Newest {
    pub(super) found: Option<(Bytes, Topology)>,
    /// Each with its place among the controllers.
    pub(super) silent: Vec<(usize, String)>,
}

/// Asks these controllers, all at once.
pub(super) async fn newest(controllers: &[Controller]) -> Newest {
    let mut newest = Newest { found: None, silent: Vec::new() };
    let answers = join_all(controllers.iter().map(fetch)).await;
    for (place, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok((json, topology)) => {
                let known = newest.found.as_ref();
                if known.is_none_or(|(_, known)| topology.supersedes(known)) {
                    newest.found = Some((json, topology));
                }
            }
            Err(why) => newest.silent.push((place, why)),
        }
    }
    newest
}

/// The newest topology of several controllers on this machine, whichever of them answer.
pub fn follow(ports: Vec<u16>) -> watch::Receiver<Option<Arc<Topology>>> {
    follow_controllers(ports.into_iter().map(Controller::here).collect())
}

/// The newest topology of these controllers.
pub fn follow_controllers(controllers: Vec<Controller>) -> watch::Receiver<Option<Arc<Topology>>> {
    let (sender, receiver) = watch::channel(None);
    let sender = Arc::new(sender);
    for controller in controllers {
        let sender = Arc::clone(&sender);
        // Ends when nobody follows any more.
        tokio::spawn(async move {
            while !sender.is_closed() {
                // Whatever ended the stream, the controller is asked again.
                let _ = follow_one(&controller, &sender).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    receiver
}

async fn follow_one(
    controller: &Controller,
    newest: &watch::Sender<Option<Arc<Topology>>>,
) -> Result<(), String> {
    let asking = get(controller, "/v1/topology/watch");
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
    controller: &Controller,
    method: &Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), CallError> {
    let stream = tokio::time::timeout(LIMIT, connect(controller)).await;
    let stream = stream.map_err(|_| CallError::NotSent("no answer".to_owned()))?;
    let stream = stream.map_err(CallError::NotSent)?;
    let request = asking(controller, method, path)
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

async fn get(controller: &Controller, path: &str) -> Result<Response<Incoming>, String> {
    let stream = connect(controller).await?;
    let request = asking(controller, &Method::GET, path).body(Full::default());
    send(stream, request.map_err(|error| error.to_string())?).await
}

fn asking(controller: &Controller, method: &Method, path: &str) -> request::Builder {
    let asking = Request::builder().method(method).uri(path).header("host", &controller.address);
    match &controller.token {
        Some(token) => asking.header("authorization", format!("Bearer {}", token.expose())),
        None => asking,
    }
}

/// Either kind of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(controller: &Controller) -> Result<Box<dyn Stream>, String> {
    let stream = TcpStream::connect(&controller.address).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let Some((config, name)) = &controller.tls else { return Ok(Box::new(stream)) };
    let greeting = TlsConnector::from(config.clone()).connect(name.clone(), stream);
    let greeted = greeting.await.map_err(|error| {
        format!(
            "no TLS: {}",
            dugong_trust::words(&error, dugong_trust::Keys { ca: "--ca", cert: "--cert" })
        )
    })?;
    Ok(Box::new(greeted))
}

/// The controller's own sentence, and what to do about it.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let sentence = parsed.as_ref().and_then(|value| value["error"].as_str()).map(str::to_owned);
    let sentence = sentence.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    match status {
        StatusCode::UNAUTHORIZED => {
            format!("{sentence} (--token-file, or --cert and --key; see --help)")
        }
        _ => sentence,
    }
}

async fn send(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends with the answer, or with the controller: the answer shows both.
    tokio::spawn(connection);
    requests.send_request(request).await.map_err(|error| {
        // A certificate that is refused shows here: TLS 1.3 has no answer to it in the handshake.
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{error}{}", cause.unwrap_or_default())
    })
}
