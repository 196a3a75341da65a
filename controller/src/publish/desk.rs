//! Where operators ask over HTTP: requests and their outcomes, the freeze.
//!
//! | path | what it does |
//! | --- | --- |
//! | `POST /v1/requests` | [`Asking`] becomes a request; answers its number |
//! | `GET /v1/requests/{number}` | whether it has an outcome, and which ([`Told`]) |
//! | `DELETE /v1/requests/{number}` | it is withdrawn, unless it has one; which it has then |
//! | `POST /v1/freeze` | [`Freezing`]: nothing in the record changes by itself any more |
//! | `DELETE /v1/freeze` | it does again |
//!
//! Any controller of the cluster will do: all of it is written into the store.
//!
//! **Invariant:** only a client on this machine that has the superuser's password is listened to.
//! The password is sent in clear, so it must not leave the machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use dugong_machine::{Ask, Outcome, RequestNumber};
use dugong_topology::Freeze;
use serde::{Deserialize, Serialize};

use super::http::{encode, error};
use crate::credentials::Password;
use crate::store::freeze::{Refrozen, freeze_by, try_to_refreeze};
use crate::store::{AskError, Store, StoreError};

/// How long a change of the freeze is tried while others change the record.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the desk needs.
#[derive(Clone)]
pub struct Desk {
    pub store: Arc<dyn Store>,
    /// The superuser's.
    pub password: Password,
}

/// The body of `POST /v1/requests`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asking {
    /// Who asks, for people to read.
    pub by: String,
    pub what: Ask,
}

/// The answer to `POST /v1/requests`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    pub number: RequestNumber,
}

/// The answer to `GET /v1/requests/{number}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// None while the request is open.
    pub outcome: Option<Outcome>,
}

/// The body of `POST /v1/freeze`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Freezing {
    pub by: String,
    pub why: String,
}

/// The answer to both methods of `/v1/freeze`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frozen {
    /// The freeze that was in force before.
    pub before: Option<Freeze>,
}

/// The paths of operators.
pub(super) fn router(desk: Desk) -> Router {
    let desk = Arc::new(desk);
    Router::new()
        .route("/v1/requests", post(ask))
        .route("/v1/requests/{number}", get(told).delete(withdraw))
        .route("/v1/freeze", post(freeze).delete(unfreeze))
        .layer(middleware::from_fn_with_state(desk.clone(), admit))
        .with_state(desk)
}

async fn admit(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    if !peer.ip().is_loopback() {
        return error(StatusCode::FORBIDDEN, "operators are listened to on this machine only");
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !is_same(given, desk.password.expose()) {
        return error(
            StatusCode::UNAUTHORIZED,
            "send the superuser's password of the cluster as a bearer token",
        );
    }
    next.run(request).await
}

/// Takes as long for a wrong password as for the right one of that length.
fn is_same(given: &str, expected: &str) -> bool {
    let differences = given.bytes().zip(expected.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    given.len() == expected.len() && differences == 0
}

async fn ask(State(desk): State<Arc<Desk>>, Json(asking): Json<Asking>) -> Response {
    tracing::info!(by = asking.by, "asked: {:?}", asking.what);
    match desk.store.ask(asking.by, asking.what).await {
        Ok(number) => encode(StatusCode::CREATED, &Taken { number }),
        Err(busy @ AskError::Busy { .. }) => error(StatusCode::CONFLICT, &busy.to_string()),
        Err(AskError::Store(trouble)) => unavailable(&trouble),
    }
}

async fn told(State(desk): State<Arc<Desk>>, Path(number): Path<u64>) -> Response {
    let number = RequestNumber(number);
    match desk.store.read().await {
        Ok(snapshot) if snapshot.requests.contains_key(&number) => {
            encode(StatusCode::OK, &Told { outcome: None })
        }
        Ok(snapshot) => match snapshot.outcomes.get(&number) {
            Some(outcome) => encode(StatusCode::OK, &Told { outcome: Some(outcome.clone()) }),
            None => error(StatusCode::NOT_FOUND, &format!("request {number} is not known here")),
        },
        Err(trouble) => unavailable(&trouble),
    }
}

async fn withdraw(State(desk): State<Arc<Desk>>, Path(number): Path<u64>) -> Response {
    let why = "it was withdrawn by whoever asked".to_owned();
    match desk.store.answer(RequestNumber(number), Outcome::Refused { why }).await {
        Ok(()) => told(State(desk), Path(number)).await,
        Err(trouble) => unavailable(&trouble),
    }
}

async fn freeze(State(desk): State<Arc<Desk>>, Json(freezing): Json<Freezing>) -> Response {
    let freeze = freeze_by(freezing.by, freezing.why);
    // Whoever froze it first has a reason that still holds.
    refreeze(&desk, |before| before.is_none().then(|| Some(freeze.clone()))).await
}

async fn unfreeze(State(desk): State<Arc<Desk>>) -> Response {
    refreeze(&desk, |before| before.is_some().then_some(None)).await
}

/// Tries to change the record's freeze until that is done.
async fn refreeze(
    desk: &Desk,
    change: impl Fn(Option<&Freeze>) -> Option<Option<Freeze>>,
) -> Response {
    let changing = async {
        loop {
            match try_to_refreeze(&*desk.store, &change).await? {
                Refrozen::Settled { before } => return Ok(before),
                Refrozen::NoRecord => {
                    return Err(StoreError("the cluster was not made yet".to_owned()));
                }
                Refrozen::Raced => (),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, changing).await {
        Ok(Ok(before)) => encode(StatusCode::OK, &Frozen { before }),
        Ok(Err(trouble)) => unavailable(&trouble),
        Err(_elapsed) => unavailable(&StoreError(format!(
            "the state record was changed by others all the time for {PATIENCE:?}: try again"
        ))),
    }
}

fn unavailable(trouble: &StoreError) -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, &trouble.to_string())
}
