//! What the proxy answers over HTTP: metrics, health, and the topology that it believes.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | Prometheus text |
//! | `/health` | 200 and a JSON object; 503 while no topology is known |
//! | `/v1/topology` | the document in use; 503 while there is none |
//!
//! **Invariant:** reads only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::listener::Listener;
use crate::runtime::Shared;

/// What the answers are made of.
pub struct Admin {
    pub shared: Arc<Shared>,
    pub prometheus: PrometheusHandle,
    /// By [`Listener::index`].
    pub listeners: [SocketAddr; 2],
    pub http: SocketAddr,
}

/// Answers until the runtime ends.
pub async fn run(socket: TcpListener, admin: Admin) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/v1/topology", get(topology))
        .fallback(nothing_here)
        .with_state(Arc::new(admin));
    // By its documentation this neither fails nor ends: errors of accept are waited out.
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(%error, "the http port");
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    admin.shared.crew.publish();
    ([(header::CONTENT_TYPE, text)], admin.prometheus.render()).into_response()
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    let shared = &admin.shared;
    let topology = shared.topologies.newest.borrow().clone();
    let status = if topology.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let listener = |listener: Listener| {
        json!({
            "address": admin.listeners[listener.index()],
            "open": shared.gauges.open_now(listener),
            "held": shared.gauges.held_now(listener),
        })
    };
    let known = topology.as_deref();
    let (found, connected) = shared.sources.now();
    let body = json!({
        "status": if known.is_some() { "ok" } else { "no topology is known yet" },
        "listeners": {
            "write": listener(Listener::Write),
            "read": listener(Listener::Read),
            "http": { "address": admin.http },
        },
        "cluster": known.map(|topology| &topology.cluster),
        "phase": known.map(|topology| topology.phase),
        "generation": known.map(|topology| topology.generation),
        "revision": known.map(|topology| topology.revision),
        "primary": known.and_then(|topology| topology.primary.as_ref()).map(|member| &member.id),
        "waiting": known.and_then(|topology| topology.waiting.as_ref()),
        "relay": {
            "engine": shared.crew.engine.as_str(),
            "sessions": shared.crew.sessions(),
        },
        "sources": {
            "configured": shared.sources.configured,
            "found": found,
            "connected": connected,
        },
    });
    (status, Json(body)).into_response()
}

async fn topology(State(admin): State<Arc<Admin>>) -> Response {
    let topology = admin.shared.topologies.newest.borrow().clone();
    match topology {
        Some(topology) => Json(topology.as_ref()).into_response(),
        None => refused(StatusCode::SERVICE_UNAVAILABLE, "no topology is known yet"),
    }
}

async fn nothing_here() -> Response {
    refused(StatusCode::NOT_FOUND, "there is /metrics, /health and /v1/topology")
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json::<Value>(json!({ "error": error }))).into_response()
}
