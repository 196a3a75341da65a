//! An operator at the desk of a local cluster: any of its controllers will do.

use std::path::Path;

use dugong_machine::{Ask, Outcome, RequestNumber};
use dugong_topology::Topology;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{self, Newest};
use crate::credentials::{Credentials, Password};
use crate::launch::layout::Layout;
use crate::publish::desk::{Asking, Freezing, Frozen, Taken, Told};
use crate::run::Failure;

/// Who asks, and whom.
pub(super) struct Caller {
    /// `host:port` of each controller.
    pub(super) addresses: Vec<String>,
    password: Password,
    /// Who asks, for people to read.
    by: String,
}

impl Caller {
    /// At the desk of the cluster in `dir`.
    pub(super) fn of(dir: Option<&Path>) -> Result<Self, Failure> {
        let layout = Layout::of(dir);
        let cluster = layout.existing()?;
        let credentials = Credentials::load(&layout.credentials()).map_err(Failure::runtime)?;
        let ports = cluster.instances.iter().map(|instance| instance.http_port);
        Ok(Self {
            addresses: ports.map(|port| format!("127.0.0.1:{port}")).collect(),
            password: credentials.superuser.password,
            by: who(),
        })
    }

    /// The newest topology that any controller knows.
    pub(super) async fn topology(&self) -> Result<Topology, Failure> {
        let Newest { found, silent } = client::newest(self.addresses.iter()).await;
        let why = silent.last().map_or("", |(_, why)| why);
        found.map(|(_, topology)| topology).ok_or_else(|| nobody(why))
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
        for address in &self.addresses {
            let password = self.password.expose();
            match client::call(address, method, path, password, body.clone()).await {
                Ok((status, answer)) if status.is_success() => {
                    return serde_json::from_slice(&answer).map_err(Failure::runtime);
                }
                Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::NOT_FOUND, answer)) => {
                    why = words(&answer);
                }
                Ok((_, answer)) => return Err(Failure::Runtime(words(&answer))),
                // A request may have been written although no answer came: nobody else is asked.
                Err(client::CallError::NoAnswer(lost)) if *method == Method::POST => {
                    return Err(Failure::Runtime(format!(
                        "{address} gave no answer ({lost}): look at `dugong status` before you ask \
                         again"
                    )));
                }
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(nobody(&why))
    }
}

fn nobody(why: &str) -> Failure {
    Failure::Runtime(format!("no controller could answer ({why}): is the cluster up?"))
}

/// The sentence in `{"error": …}`.
fn words(answer: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
    let sentence = parsed.as_ref().and_then(|value| value["error"].as_str()).map(str::to_owned);
    sentence.unwrap_or_else(|| String::from_utf8_lossy(answer).into_owned())
}

/// The person behind sudo, if there is one.
fn who() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let found = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(set);
    found.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
