//! Where operators see and change the settings of the cluster, and have a server restarted.
//!
//! | path | what it does |
//! | --- | --- |
//! | `GET /v1/settings` | the settings of the cluster, and their revision ([`Edition`]) |
//! | `PUT /v1/settings` | [`Amending`] replaces them, if the primary's server has no objection ([`Amended`]) |
//! | `GET /v1/settings/here` | what holds on this instance ([`Here`](crate::postgres::Here)) |
//! | `POST /v1/server/restart` | this instance's server is stopped in order, and started again |
//!
//! Any controller answers the first; the second is for the primary's, which asks its server.
//!
//! Values may be secrets, so all of it is for those who may change things: see `admission`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use dugong_topology::{InstanceId, Revision};
use serde::{Deserialize, Serialize};

use super::Topologies;
use super::desk::unavailable;
use super::http::{encode, error};
use crate::clock::unix_ms;
use crate::metrics;
use crate::postgres::{Advisor, Change, Objection, Verdict};
use crate::store::{AmendError, ClusterSettings, Edition, Store};

/// Between two looks at what is pending, for the metrics.
const LOOK: Duration = Duration::from_secs(10);

/// What the paths of settings need.
#[derive(Clone)]
pub struct SettingsDesk {
    pub me: InstanceId,
    pub store: Arc<dyn Store>,
    pub topologies: Topologies,
    pub advisor: Advisor,
}

/// The body of `PUT /v1/settings`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Amending {
    /// Who asks, for people to read.
    pub by: String,
    /// The revision that these shall replace.
    pub at: Revision,
    /// All of the settings, not only what changes.
    pub values: BTreeMap<String, String>,
    /// Only say what would change.
    #[serde(default)]
    pub only_check: bool,
}

/// The answer to `PUT /v1/settings`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Amended {
    /// None: it was only checked, or nothing changes.
    pub revision: Option<Revision>,
    pub changes: Vec<Change>,
}

/// The body of `POST /v1/server/restart`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Restarting {
    /// Who asks, for people to read.
    pub by: String,
}

/// The paths of settings.
pub(super) fn router(desk: SettingsDesk) -> Router {
    Router::new()
        .route("/v1/settings", get(show).put(amend))
        .route("/v1/settings/here", get(here))
        .route("/v1/server/restart", post(restart))
        .with_state(Arc::new(desk))
}

/// Keeps the metrics of settings up to date, for ever.
pub async fn measure(advisor: Advisor) {
    loop {
        let here = advisor.here().await;
        metrics::show_settings(here.revision.0, here.refused.is_some(), here.pending.len());
        tokio::time::sleep(LOOK).await;
    }
}

async fn show(State(desk): State<Arc<SettingsDesk>>) -> Response {
    match desk.store.settings().await {
        Ok(edition) => encode(StatusCode::OK, &edition),
        Err(trouble) => unavailable(&trouble),
    }
}

async fn here(State(desk): State<Arc<SettingsDesk>>) -> Response {
    encode(StatusCode::OK, &desk.advisor.here().await)
}

async fn amend(State(desk): State<Arc<SettingsDesk>>, Json(amending): Json<Amending>) -> Response {
    let Amending { by, at, values, only_check } = amending;
    if let Some(elsewhere) = not_primary(&desk) {
        return error(StatusCode::SERVICE_UNAVAILABLE, &elsewhere);
    }
    let before = match desk.store.settings().await {
        Ok(edition) => edition,
        Err(trouble) => return unavailable(&trouble),
    };
    if before.revision != at {
        return raced(&before);
    }
    // PostgreSQL takes names in any case.
    let values: BTreeMap<_, _> =
        values.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let changes = match desk.advisor.weigh(&before.settings.values, &values).await {
        Ok(changes) => changes,
        Err(objection) => return error(status_of(&objection), &objection.to_string()),
    };
    if only_check || changes.is_empty() {
        return encode(StatusCode::OK, &Amended { revision: None, changes });
    }
    tracing::info!(by, "the settings of the cluster are changed");
    let mut why = before.settings.why;
    // What somebody chooses needs no reason.
    why.retain(|name, _| values.get(name) == before.settings.values.get(name));
    let next = ClusterSettings { values, by, at_unix_ms: unix_ms(), why };
    match desk.store.amend(next, at).await {
        Ok(revision) => encode(StatusCode::OK, &Amended { revision: Some(revision), changes }),
        Err(AmendError::Raced) => error(StatusCode::CONFLICT, &AmendError::Raced.to_string()),
        Err(AmendError::Store(trouble)) => unavailable(&trouble),
    }
}

/// Whom to ask instead; none where this is the primary's controller.
fn not_primary(desk: &SettingsDesk) -> Option<String> {
    let newest = desk.topologies.borrow().clone();
    let primary = newest.and_then(|published| published.topology.primary.clone());
    match primary {
        Some(primary) if primary.id == desk.me => None,
        Some(primary) => Some(format!(
            "the primary's server judges settings: ask the controller of {}",
            primary.id
        )),
        None => Some("the primary's server judges settings, and there is none yet".to_owned()),
    }
}

fn raced(newest: &Edition) -> Response {
    let ClusterSettings { by, .. } = &newest.settings;
    let by = if by.is_empty() { "nobody" } else { by };
    let why = format!(
        "the settings are at revision {} by {by}, not at the one that you saw: look at them with \
         `dugong config show`, and try again",
        newest.revision.0
    );
    error(StatusCode::CONFLICT, &why)
}

fn status_of(objection: &Objection) -> StatusCode {
    match objection {
        Objection::Owned { .. }
        | Objection::NotKnown { .. }
        | Objection::Internal { .. }
        | Objection::Value { .. }
        | Objection::TooFew { .. }
        | Objection::WalLevel
        | Objection::Verdict(Verdict::Refused(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        Objection::Verdict(Verdict::Unknown(_)) | Objection::Server(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

async fn restart(
    State(desk): State<Arc<SettingsDesk>>,
    Json(restarting): Json<Restarting>,
) -> Response {
    let newest = desk.topologies.borrow().clone();
    let Some(published) = newest else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the store was not read yet");
    };
    let topology = &published.topology;
    let in_office = topology.primary.as_ref().is_some_and(|primary| primary.id == desk.me);
    if in_office && topology.frozen.is_none() && topology.sync.is_some() {
        let why = format!(
            "{} is the primary: its sync would take over. Freeze the cluster first, or use \
             `dugong restart {} --primary in-place`, which does",
            desk.me, desk.me
        );
        return error(StatusCode::CONFLICT, &why);
    }
    tracing::info!(by = restarting.by, "asked to restart the server");
    desk.advisor.restart();
    encode(StatusCode::ACCEPTED, &serde_json::json!({ "restarting": desk.me }))
}
