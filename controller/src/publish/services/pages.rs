//! Services over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /v1/services` | all services with their instances |
//! | `GET /v1/services/{name}/instances` | one service; with `Accept: text/event-stream` its events |
//! | `GET /v1/services/{name}/leader` | its leader; with `Accept: text/event-stream` its leaders |
//! | `GET /v1/services/{name}/watch` | the events of its instances, whatever is accepted |
//!
//! Documents can be waited for, see `wait`. A vacant leader is 503 (404: there is no such
//! service), but a change of it is worth a 200 to those who wait: its leader is null.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use dugong_topology::{Version, stream};
use futures_util::stream as futures;

use super::feed::Interest;
use super::{Service, ServiceState};
use crate::publish::http::{KEEP_ALIVE_EVERY, Pages, error, json, unavailable};
use crate::publish::wait::{RawWait, UNCHANGED, Wait, Waited, etag};
use crate::publish::{Published, Topologies};

pub(in crate::publish) fn router() -> Router<Arc<Pages>> {
    Router::new()
        .route("/v1/services", get(services))
        .route("/v1/services/{name}/instances", get(instances))
        .route("/v1/services/{name}/leader", get(leader))
        .route("/v1/services/{name}/watch", get(watch))
}

async fn services(State(pages): State<Arc<Pages>>, Query(raw): Query<RawWait>) -> Response {
    let whole = |published: &Published| published.services.since;
    let body = |published: &Published| (StatusCode::OK, published.services.document.clone());
    answer(&pages, raw, whole, body).await
}

async fn instances(
    State(pages): State<Arc<Pages>>,
    Path(name): Path<String>,
    Query(raw): Query<RawWait>,
    headers: HeaderMap,
) -> Response {
    let Some(service) = Service::named(&name) else { return unknown(&name) };
    if wants_events(&headers) {
        return events(&pages, service, Interest::Everything);
    }
    let since = |published: &Published| published.services.of(service).since;
    let body =
        |published: &Published| (StatusCode::OK, published.services.of(service).listing.clone());
    answer(&pages, raw, since, body).await
}

async fn leader(
    State(pages): State<Arc<Pages>>,
    Path(name): Path<String>,
    Query(raw): Query<RawWait>,
    headers: HeaderMap,
) -> Response {
    let Some(service) = Service::named(&name) else { return unknown(&name) };
    if wants_events(&headers) {
        return events(&pages, service, Interest::Leader);
    }
    let since = |published: &Published| published.services.of(service).since;
    let waits = raw.is_waiting();
    let body = |published: &Published| {
        let state = published.services.of(service);
        let vacant = state.leader.is_none() && !waits;
        let status = if vacant { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, state.leading.clone())
    };
    answer(&pages, raw, since, body).await
}

async fn watch(State(pages): State<Arc<Pages>>, Path(name): Path<String>) -> Response {
    match Service::named(&name) {
        Some(service) => events(&pages, service, Interest::Everything),
        None => unknown(&name),
    }
}

/// The document that `body` takes from a topology that is new enough.
async fn answer(
    pages: &Pages,
    raw: RawWait,
    since: impl Fn(&Published) -> Version,
    body: impl Fn(&Published) -> (StatusCode, Bytes),
) -> Response {
    let wait = match Wait::try_from(raw) {
        Ok(wait) => wait,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why),
    };
    match wait.on(&pages.topologies, &since).await {
        Waited::Ready(published) => {
            let (status, body) = body(&published);
            (etag(since(&published)), json(status, body)).into_response()
        }
        Waited::Unchanged => UNCHANGED.into_response(),
        Waited::Unread => unavailable(pages),
    }
}

fn unknown(name: &str) -> Response {
    let names = Service::ALL.map(Service::name).join(", ");
    error(StatusCode::NOT_FOUND, &format!("no service {name:?}; there are {names}"))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains(stream::CONTENT_TYPE))
}

/// The opening at once, then each change; comments in between.
fn events(pages: &Pages, service: Service, interest: Interest) -> Response {
    let mut topologies = pages.topologies.clone();
    topologies.mark_changed();
    let watcher = Watcher { topologies, service, interest, seen: None };
    let events = futures::unfold(watcher, |mut watcher| async {
        let event = watcher.next().await?;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    let headers =
        [(header::CONTENT_TYPE, stream::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

struct Watcher {
    topologies: Topologies,
    service: Service,
    interest: Interest,
    seen: Option<Arc<ServiceState>>,
}

impl Watcher {
    /// None once the controller ends.
    async fn next(&mut self) -> Option<Bytes> {
        // Changes that do not matter here must not put it off.
        let deadline = tokio::time::Instant::now() + KEEP_ALIVE_EVERY;
        loop {
            match tokio::time::timeout_at(deadline, self.topologies.changed()).await {
                Err(_elapsed) => return Some(Bytes::from_static(stream::KEEP_ALIVE.as_bytes())),
                Ok(Err(_closed)) => return None,
                Ok(Ok(())) => match self.newest() {
                    Ok(events) if events.is_empty() => (),
                    Ok(events) => return Some(events),
                    Err(error) => {
                        tracing::error!(%error, "events of a service could not be encoded");
                        return None;
                    }
                },
            }
        }
    }

    /// The events that lead to the newest state.
    fn newest(&mut self) -> Result<Bytes, serde_json::Error> {
        let newest = self.topologies.borrow_and_update().clone();
        let Some(published) = newest else { return Ok(Bytes::new()) };
        let state = published.services.of(self.service);
        let events = match &self.seen {
            None => state.feed.opening(self.interest),
            Some(seen) if Arc::ptr_eq(seen, state) => return Ok(Bytes::new()),
            Some(seen) => state.changes_since(seen, self.interest)?,
        };
        self.seen = Some(state.clone());
        Ok(events)
    }
}
