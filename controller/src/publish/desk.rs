//! Where operators ask over HTTP: requests and their outcomes, the freeze.
//!
//! | path | what it does |
//! | --- | --- |
//! | `POST /v1/requests` | [`Asking`] becomes a request; answers its number |
//! | `GET /v1/requests/{number}` | whether it has an outcome, and which ([`Told`]) |
//! | `DELETE /v1/requests/{number}` | it is withdrawn, unless it has one; which it has then |
//! | `POST /v1/freeze` | [`Freezing`]: nothing in the record changes by itself any more |
//! | `DELETE /v1/freeze` | it does again |
//! | `POST /v1/reinit` | [`Reinit`](super::reinit::Reinit): the data of this very instance is given up, and copied anew |
//! | `POST /v1/migration` | [`Migrating`](super::migration::Migrating): a primary outside of the cluster is followed no longer |
//! | `GET /v1/history?limit=20` | the last changes of the record ([`HistoryEntry`](crate::store::HistoryEntry)), newest first |
//!
//! The paths of settings are in `settings`, those of passwords in `credentials`. Any controller of the
//! cluster will do, but for `/v1/reinit` and `/v1/migration`: all else is written into the store.
//!
//! Who is listened to is said in `admission`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use dugong_machine::{Ask, Outcome, RequestNumber};
use dugong_topology::{Freeze, InstanceId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::credentials::{self, CredentialsDesk};
use super::http::{encode, error};
use super::migration;
use super::reinit;
use super::settings::{self, SettingsDesk};
use crate::postgres::{GiveUp, Migration};
use crate::store::freeze::{Refrozen, freeze_by, try_to_refreeze};
use crate::store::{AskError, Store, StoreError};

/// How long a change of the freeze is tried while others change the record.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes of the record in one answer: where nothing is said, and at most.
const HISTORY_LIMIT: u32 = 20;
const HISTORY_MAX: u32 = 10_000;

/// What the desk needs.
#[derive(Clone)]
pub struct Desk {
    pub store: Arc<dyn Store>,
    /// None: there is no server beside this desk, so that nobody can judge settings.
    pub settings: Option<SettingsDesk>,
    /// The same for passwords.
    pub credentials: Option<CredentialsDesk>,
    /// Whose controller this is, and who looks after its data.
    pub me: InstanceId,
    pub give_up: mpsc::Sender<GiveUp>,
    /// Who follows a primary outside of the cluster, if anybody does here.
    pub migration: Migration,
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
    let settings = desk.settings.clone().map(settings::router).unwrap_or_default();
    let credentials = desk.credentials.clone().map(credentials::router).unwrap_or_default();
    let desk = Arc::new(desk);
    Router::new()
        .route("/v1/requests", post(ask))
        .route("/v1/requests/{number}", get(told).delete(withdraw))
        .route("/v1/freeze", post(freeze).delete(unfreeze))
        .route("/v1/history", get(history))
        .with_state(desk.clone())
        .merge(reinit::router(desk.clone()))
        .merge(migration::router(desk))
        .merge(settings)
        .merge(credentials)
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

/// How many changes of the record are wanted.
#[derive(Deserialize)]
struct Limit {
    limit: Option<u32>,
}

async fn history(State(desk): State<Arc<Desk>>, Query(wanted): Query<Limit>) -> Response {
    let limit = wanted.limit.unwrap_or(HISTORY_LIMIT).min(HISTORY_MAX);
    match desk.store.history(limit).await {
        Ok(entries) => encode(StatusCode::OK, &entries),
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

pub(super) fn unavailable(trouble: &StoreError) -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, &trouble.to_string())
}
