//! The controller's HTTP side: topology, its stream, health checks, metrics; for operators the
//! paths of `desk`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use bytes::Bytes;
use dugong_topology::{InstanceId, stream};
use futures_util::stream as futures;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Topologies;
use super::desk::{self, Desk};
use super::patroni::{Check, parse_lag};
use super::services;
use super::wait::{RawWait, UNCHANGED, Wait, Waited, etag};
use crate::clock::Clock;
use crate::driver::Local;

/// A quiet stream says at least this often that it is alive; the contract promises 5 s.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(4);

/// A machine that has not stepped for this long is hung: it steps at least every 50 ms.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// Answers everybody who connects, for ever.
///
/// # Errors
///
/// The listener's own.
pub async fn serve(listener: TcpListener, pages: Pages, desk: Desk) -> io::Result<()> {
    let router = router(pages).merge(desk::router(desk));
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await
}

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    pub me: InstanceId,
    pub clock: Clock,
    pub topologies: Topologies,
    pub local: watch::Receiver<Local>,
    pub metrics: PrometheusHandle,
}

/// Every path that anybody may ask for.
fn router(pages: Pages) -> Router {
    let mut router = Router::new()
        .route("/v1/topology", get(topology))
        .route("/v1/topology/watch", get(watch_topology))
        .route("/v1/health", get(health))
        .route(
            "/liveness",
            checked(|State(pages): State<Arc<Pages>>| async move { liveness(&pages) }),
        )
        .route("/metrics", get(metrics))
        .route("/replica", checked(replica_within));
    #[rustfmt::skip]
    let checks = [
        ("/primary",      Check::Primary),
        ("/read-write",   Check::Primary),
        ("/leader",       Check::Primary),
        ("/sync",         Check::Sync),
        ("/synchronous",  Check::Sync),
        ("/async",        Check::Async),
        ("/asynchronous", Check::Async),
        ("/read-only",    Check::ReadOnly),
        ("/health",       Check::Health),
        ("/readiness",    Check::Readiness),
    ];
    for (path, check) in checks {
        let answer = move |State(pages): State<Arc<Pages>>| async move { answer(&pages, check) };
        router = router.route(path, checked(answer));
    }
    router.merge(services::pages::router()).fallback(not_found).with_state(Arc::new(pages))
}

/// Load balancers ask with any of the three.
fn checked<H, T>(handler: H) -> MethodRouter<Arc<Pages>>
where
    H: axum::handler::Handler<T, Arc<Pages>>,
    T: 'static,
{
    on(MethodFilter::GET.or(MethodFilter::HEAD).or(MethodFilter::OPTIONS), handler)
}

async fn topology(State(pages): State<Arc<Pages>>, Query(raw): Query<RawWait>) -> Response {
    let wait = match Wait::try_from(raw) {
        Ok(wait) => wait,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why),
    };
    match wait.on(&pages.topologies, |published| published.topology.version()).await {
        Waited::Ready(published) => {
            let version = published.topology.version();
            (etag(version), json(StatusCode::OK, published.json.clone())).into_response()
        }
        Waited::Unchanged => UNCHANGED.into_response(),
        Waited::Unread => unavailable(&pages),
    }
}

/// Server-sent events: the newest topology at once, then each newer one; comments in between.
async fn watch_topology(State(pages): State<Arc<Pages>>) -> Response {
    let mut topologies = pages.topologies.clone();
    topologies.mark_changed();
    let events = futures::unfold(topologies, |mut topologies| async {
        let event = next_event(&mut topologies).await?;
        Some((Ok::<_, Infallible>(event), topologies))
    });
    let headers =
        [(header::CONTENT_TYPE, stream::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

/// None once the controller ends.
async fn next_event(topologies: &mut Topologies) -> Option<Bytes> {
    loop {
        match tokio::time::timeout(KEEP_ALIVE_EVERY, topologies.changed()).await {
            Err(_elapsed) => return Some(Bytes::from_static(stream::KEEP_ALIVE.as_bytes())),
            Ok(Err(_closed)) => return None,
            Ok(Ok(())) => {
                let newest = topologies.borrow_and_update().clone();
                if let Some(published) = newest {
                    return Some(published.event.clone());
                }
            }
        }
    }
}

/// What this controller knows of itself.
#[derive(Serialize)]
struct Health<'a> {
    instance: &'a InstanceId,
    /// `ok`, or why not.
    store: &'a str,
    presence: &'a Option<dugong_machine::Presence>,
}

async fn health(State(pages): State<Arc<Pages>>) -> Response {
    let local = pages.local.borrow().clone();
    let trouble = local.store_trouble.as_deref();
    let body =
        Health { instance: &pages.me, store: trouble.unwrap_or("ok"), presence: &local.presence };
    let status = if trouble.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    encode(status, &body)
}

/// Patroni's `/liveness`: restart me if this fails.
fn liveness(pages: &Pages) -> Response {
    let idle = pages.clock.now().since(pages.local.borrow().stepped_at);
    let alive = idle < HUNG_AFTER;
    let status = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    encode(status, &serde_json::json!({ "instance": pages.me, "alive": alive }))
}

#[derive(Deserialize)]
struct Limits {
    lag: Option<String>,
}

async fn replica_within(State(pages): State<Arc<Pages>>, Query(limits): Query<Limits>) -> Response {
    match limits.lag.as_deref().map(parse_lag).transpose() {
        Ok(lag_bytes_max) => answer(&pages, Check::Replica { lag_bytes_max }),
        Err(why) => error(StatusCode::BAD_REQUEST, &why),
    }
}

fn answer(pages: &Pages, check: Check) -> Response {
    let newest = pages.topologies.borrow().clone();
    let Some(published) = newest else { return unavailable(pages) };
    let topology = &published.topology;
    let status = match check.holds(topology, &pages.me) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut members = topology.members();
    let me = members.find(|(_, member)| member.id == pages.me);
    let body = serde_json::json!({
        "instance": pages.me,
        "role": me.and_then(|(role, _)| role),
        "state": me.map(|(_, member)| member.state.as_str()),
        "phase": topology.phase,
        "generation": topology.generation,
        "revision": topology.revision,
    });
    encode(status, &body)
}

async fn metrics(State(pages): State<Arc<Pages>>) -> String {
    pages.metrics.render()
}

async fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "no such path; see /v1/topology, /v1/topology/watch, /v1/services, /v1/health, /primary, /replica, \
         /sync, /async, /read-write, /read-only, /leader, /health, /liveness, /readiness, /metrics; operators use the command `dugong`",
    )
}

pub(super) fn unavailable(pages: &Pages) -> Response {
    let local = pages.local.borrow().clone();
    let why = local.store_trouble.unwrap_or_else(|| "the store was not read yet".to_owned());
    error(StatusCode::SERVICE_UNAVAILABLE, &why)
}

pub(super) fn error(status: StatusCode, why: &str) -> Response {
    encode(status, &serde_json::json!({ "error": why }))
}

pub(super) fn encode(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json(status, Bytes::from(bytes)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(super) fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
