//! An operator at the desk of a cluster: any of its controllers will do.

use dugong_machine::{Ask, Outcome, RequestNumber};
use dugong_topology::Topology;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{self, Newest};
use super::reach::{Controller, ReachOptions, controllers};
use crate::publish::desk::{Asking, Freezing, Frozen, Taken, Told};
use crate::run::Failure;
use crate::store::HistoryEntry;

/// Who asks, and whom.
pub(super) struct Caller {
    pub(super) controllers: Vec<Controller>,
    /// Who asks, for people to read.
    by: String,
}

impl Caller {
    pub(super) fn of(options: &ReachOptions) -> Result<Self, Failure> {
        Ok(Self { controllers: controllers(options)?, by: who() })
    }

    /// The newest topology that any controller knows.
    pub(super) async fn topology(&self) -> Result<Topology, Failure> {
        let Newest { found, silent } = client::newest(&self.controllers).await;
        let why = silent.last().map_or("", |(_, why)| why);
        found.map(|(_, topology)| topology).ok_or_else(|| nobody(why))
    }

    /// The last `limit` changes of the record, newest first.
    pub(super) async fn history(&self, limit: u32) -> Result<Vec<HistoryEntry>, Failure> {
        self.send::<(), _>(&Method::GET, &format!("/v1/history?limit={limit}"), None).await
    }

    /// Writes a request.
    pub(super) async fn ask(&self, what: Ask) -> Result<RequestNumber, Failure> {
        let asking = Asking { by: self.by.clone(), what };
        let taken: Taken = self.send(&Method::POST, "/v1/requests", Some(&asking)).await?;
        Ok(taken.number)
    }

    /// The outcome of a request; none while it is open.
    pub(super) async fn outcome(&self, number: RequestNumber) -> Result<Option<Outcome>, Failure> {
        let path = format!("/v1/requests/{number}");
        let told: Told = self.send::<(), _>(&Method::GET, &path, None).await?;
        Ok(told.outcome)
    }

    /// Withdraws a request, unless it has an outcome; the one that it has then.
    pub(super) async fn withdraw(&self, number: RequestNumber) -> Result<Outcome, Failure> {
        let path = format!("/v1/requests/{number}");
        let told: Told = self.send::<(), _>(&Method::DELETE, &path, None).await?;
        told.outcome.ok_or_else(|| Failure::Runtime(format!("request {number} is still open")))
    }

    /// Freezes the cluster, unless it is; says what was so before.
    pub(super) async fn freeze(&self, why: String) -> Result<Frozen, Failure> {
        let freezing = Freezing { by: self.by.clone(), why };
        self.send(&Method::POST, "/v1/freeze", Some(&freezing)).await
    }

    /// Takes a freeze back; says what was so before.
    pub(super) async fn unfreeze(&self) -> Result<Frozen, Failure> {
        self.send::<(), _>(&Method::DELETE, "/v1/freeze", None).await
    }

    /// Asks one controller after the other until one has an answer.
    async fn send<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<A, Failure> {
        let body = body.map(serde_json::to_vec).transpose().map_err(Failure::runtime)?;
        let body = body.unwrap_or_default();
        let mut why = "the cluster has no controller".to_owned();
        for controller in &self.controllers {
            match client::call(controller, method, path, body.clone()).await {
                Ok((status, answer)) if status.is_success() => {
                    return serde_json::from_slice(&answer).map_err(Failure::runtime);
                }
                Ok((
                    status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_FOUND),
                    answer,
                )) => why = client::refusal(status, &answer),
                Ok((status, answer)) => {
                    return Err(Failure::Runtime(client::refusal(status, &answer)));
                }
                // A request may have been written although no answer came: nobody else is asked.
                Err(client::CallError::NoAnswer(lost)) if *method == Method::POST => {
                    return Err(Failure::Runtime(format!(
                        "{controller} gave no answer ({lost}): look at `dugong status` before you ask \
                         again"
                    )));
                }
                Err(error) => why = format!("{controller}: {error}"),
            }
        }
        Err(nobody(&why))
    }
}

fn nobody(why: &str) -> Failure {
    Failure::Runtime(format!("no controller could answer ({why}): is the cluster up?"))
}

/// The person behind sudo, if there is one.
fn who() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let found = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(set);
    found.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
