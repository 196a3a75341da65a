//! A controller as far as the proxy sees one: a stream of the documents that a test publishes.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dugong_topology::{Generation, Member, Phase, Revision, Topology, stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Controller {
    pub(crate) port: u16,
    published: watch::Sender<Option<Topology>>,
    task: JoinHandle<()>,
}

impl Controller {
    /// One that has published nothing yet.
    pub(crate) async fn start() -> Self {
        Self::start_on(0).await
    }

    pub(crate) async fn start_on(port: u16) -> Self {
        let socket = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let (published, seen) = watch::channel(None);
        let router = Router::new().route("/v1/topology/watch", get(watching)).with_state(seen);
        let task = tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        Self { port, published, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn publish(&self, mut topology: Topology) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        topology.published_at_ms = Some(u64::try_from(now.as_millis()).unwrap());
        self.published.send_replace(Some(topology));
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Seen = watch::Receiver<Option<Topology>>;

async fn watching(State(mut seen): State<Seen>) -> Response {
    seen.mark_changed();
    let events = futures_util::stream::unfold(seen, |mut seen| async {
        loop {
            seen.changed().await.ok()?;
            let topology = seen.borrow_and_update().clone();
            if let Some(topology) = topology {
                let event = stream::event(&serde_json::to_string(&topology).unwrap());
                return Some((Ok::<_, Infallible>(Bytes::from(event)), seen));
            }
        }
    });
    ([("content-type", stream::CONTENT_TYPE)], Body::from_stream(events)).into_response()
}

/// A cluster whose primary and asyncs listen on these ports; `pg-N` where `N` stands beside them.
pub(crate) fn cluster(
    generation: u64,
    revision: u64,
    primary: Instance,
    asyncs: &[Instance],
) -> Topology {
    Topology {
        generation: Generation(generation),
        phase: Phase::ReadWrite,
        primary: Some(member(primary)),
        asyncs: asyncs.iter().copied().map(member).collect(),
        ..Topology::unformed("main".to_owned(), Revision(revision))
    }
}

/// Its number and its port.
pub(crate) type Instance = (u8, u16);

pub(crate) fn member((number, port): Instance) -> Member {
    serde_json::from_value(serde_json::json!({
        "id": format!("pg-{number}"), "address": format!("127.0.0.1:{port}"), "healthy": true,
        "lag_bytes": 0,
    }))
    .unwrap()
}
