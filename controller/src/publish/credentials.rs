//! Where an operator exchanges the cluster's passwords, one instance and one step at a time.
//!
//! | path | what it does |
//! | --- | --- |
//! | `GET /v1/credentials` | how far this instance is, and whom its server lets in ([`Standing`]); no password |
//! | `POST /v1/credentials` | [`Instruction`]: one [`Step`] is taken here; what comes of it ([`Standing`]) |
//! | `GET /v1/credentials/exchange` | the exchange under way, with its next passwords ([`Underway`]): for whoever brings it to its end |
//!
//! Each controller answers for its own instance. Only the primary's makes roles and ends them.
//!
//! **Invariant:** passwords go to whoever may change things, over TLS or on this machine (see
//! `admission`), and nowhere else: not into the store, not into a log.
//!
//! Source: `credentials/exchange`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use dugong_topology::InstanceId;
use serde::{Deserialize, Serialize};

use super::http::{encode, error};
use crate::credentials::{
    Credentials, ExchangeId, Keeper, KeeperError, Kind, Logins, Objection, Stage,
};
use crate::postgres::{DoorSeen, Doorkeeper, NotDone};

/// What the paths of passwords need.
#[derive(Clone)]
pub struct CredentialsDesk {
    pub me: InstanceId,
    pub keeper: Arc<Keeper>,
    pub doorkeeper: Doorkeeper,
}

/// The body of `POST /v1/credentials`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Instruction {
    /// Who asks, for people to read.
    pub by: String,
    pub id: ExchangeId,
    pub step: Step,
}

/// One step of an exchange; each may be taken again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The next logins are known beside the former ones.
    Learn {
        next: Logins,
        /// An exchange that nobody uses, to be forgotten for this one.
        instead_of: Option<ExchangeId>,
    },
    /// The primary makes the roles that come next.
    Make,
    /// The next logins are used.
    Use,
    /// The primary lets the former ones in no more.
    End,
    /// The former ones are forgotten.
    Finish,
}

/// How far an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub instance: InstanceId,
    /// The roles that are in use.
    pub roles: BTreeMap<Kind, String>,
    /// The exchange that they are from; none: they are the cluster's first.
    pub exchanged: Option<ExchangeId>,
    /// The one that is under way.
    pub exchange: Option<(ExchangeId, Stage)>,
    pub kinds: BTreeSet<Kind>,
    /// What the server shows, where that was asked for; or why it shows nothing.
    pub server: Option<Result<DoorSeen, String>>,
}

/// The answer to `GET /v1/credentials/exchange`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Underway {
    pub id: ExchangeId,
    pub next: Logins,
}

pub(super) fn router(desk: CredentialsDesk) -> Router {
    Router::new()
        .route("/v1/credentials", get(standing).post(instruct))
        .route("/v1/credentials/exchange", get(underway))
        .with_state(Arc::new(desk))
}

impl Step {
    fn word(&self) -> &'static str {
        match self {
            Self::Learn { .. } => "learn",
            Self::Make => "make",
            Self::Use => "use",
            Self::End => "end",
            Self::Finish => "finish",
        }
    }
}

impl CredentialsDesk {
    fn now(&self) -> Arc<Credentials> {
        self.keeper.in_force().borrow().clone()
    }

    fn standing(&self, now: &Credentials) -> Standing {
        Standing {
            instance: self.me.clone(),
            roles: Kind::ALL.map(|kind| (kind, now.login(kind).name)).into(),
            exchanged: now.exchanged.clone(),
            exchange: now.exchange.as_ref().map(|it| (it.id.clone(), it.stage)),
            kinds: now.exchanging(),
            server: None,
        }
    }

    /// The logins of an exchange that is in use here; none where that has come to its end.
    fn used(now: &Credentials, id: &ExchangeId) -> Result<Option<(Logins, Logins)>, Objection> {
        match now.under_way(id)? {
            Some(exchange) if exchange.stage == Stage::Known => {
                Err(Objection::TooEarly(id.clone()))
            }
            Some(_) | None => Ok(now.next_and_former()),
        }
    }
}

async fn standing(State(desk): State<Arc<CredentialsDesk>>) -> Response {
    let now = desk.now();
    let next = now.next_and_former().map(|(next, _)| next);
    // Without an exchange all that is in use.
    let logins = next.unwrap_or_else(|| Kind::ALL.map(|kind| (kind, now.login(kind))).into());
    let seen = desk.doorkeeper.look(&logins, &now.application.database).await;
    let server = Some(seen.map_err(|error| error.to_string()));
    encode(StatusCode::OK, &Standing { server, ..desk.standing(&now) })
}

async fn underway(State(desk): State<Arc<CredentialsDesk>>) -> Response {
    let now = desk.now();
    match (&now.exchange, now.next_and_former()) {
        (Some(exchange), Some((next, _))) => {
            encode(StatusCode::OK, &Underway { id: exchange.id.clone(), next })
        }
        (None, _) | (Some(_), None) => {
            error(StatusCode::NOT_FOUND, "no exchange of passwords is under way here")
        }
    }
}

async fn instruct(
    State(desk): State<Arc<CredentialsDesk>>,
    Json(Instruction { by, id, step }): Json<Instruction>,
) -> Response {
    tracing::info!(by, exchange = %id, step = step.word(), "asked for a step of an exchange of passwords");
    let keeper = &desk.keeper;
    let done = match step {
        Step::Learn { next, instead_of } => {
            keeper.change(|now| now.learn(&id, next, instead_of.as_ref()))
        }
        Step::Use => keeper.change(|now| now.take_into_use(&id)),
        Step::Finish => keeper.change(|now| now.finish(&id)),
        Step::Make => {
            let now = desk.now();
            match now.under_way(&id).map(|_| now.next_and_former()) {
                Ok(Some((next, _))) => return roles(&desk, desk.doorkeeper.make(&next).await),
                Ok(None) => Ok(now),
                Err(objection) => Err(objection.into()),
            }
        }
        Step::End => {
            let now = desk.now();
            match CredentialsDesk::used(&now, &id) {
                Ok(Some((next, former))) => {
                    return roles(&desk, desk.doorkeeper.end(&next, &former).await);
                }
                Ok(None) => Ok(now),
                Err(objection) => Err(objection.into()),
            }
        }
    };
    match done {
        Ok(now) => encode(StatusCode::OK, &desk.standing(&now)),
        Err(KeeperError::Objection(objection)) => {
            error(StatusCode::CONFLICT, &objection.to_string())
        }
        Err(failed @ (KeeperError::File(_) | KeeperError::Unwritable { .. })) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string())
        }
    }
}

/// What became of the roles.
fn roles(desk: &CredentialsDesk, done: Result<(), NotDone>) -> Response {
    match done {
        Ok(()) => encode(StatusCode::OK, &desk.standing(&desk.now())),
        Err(refused @ NotDone::Standby) => {
            error(StatusCode::MISDIRECTED_REQUEST, &refused.to_string())
        }
        Err(failed @ NotDone::Server(_)) => {
            error(StatusCode::SERVICE_UNAVAILABLE, &failed.to_string())
        }
    }
}
