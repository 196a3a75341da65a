//! Where an operator ends the following of a foreign primary, so that the cluster begins.
//!
//! `POST /v1/migration` with a [`Migrating`], to the controller of the instance that follows; answers
//! what was found, and whether it was acted upon ([`Reply`](crate::postgres::Reply)). Any other
//! controller answers 409.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::desk::Desk;
use super::http::{encode, error};
use crate::postgres::Finish;

/// The body of `POST /v1/migration`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrating {
    /// Who asks, for people to read.
    pub by: String,
    /// Nothing is done; only looked.
    pub only_check: bool,
    /// That what the primary wrote last may be lost.
    pub even_if_behind: bool,
}

pub(super) fn router(desk: Arc<Desk>) -> Router {
    Router::new().route("/v1/migration", post(migrate)).with_state(desk)
}

async fn migrate(State(desk): State<Arc<Desk>>, Json(asked): Json<Migrating>) -> Response {
    let Migrating { by, only_check, even_if_behind } = asked;
    let interrupted =
        || error(StatusCode::SERVICE_UNAVAILABLE, "the following was interrupted: ask again");
    let Some(follower) = desk.migration.borrow().clone() else {
        return error(
            StatusCode::CONFLICT,
            &format!(
                "{} follows no primary outside of the cluster just now: see `dugong status`",
                desk.me
            ),
        );
    };
    if !only_check {
        tracing::info!(by, even_if_behind, "asked to end the following");
    }
    let (answer, answered) = oneshot::channel();
    if follower.send(Finish { only_check, even_if_behind, answer }).await.is_err() {
        return interrupted();
    }
    match answered.await {
        Ok(reply) => encode(StatusCode::OK, &reply),
        Err(_interrupted) => interrupted(),
    }
}
