//! An operator at the desk of a cluster: any of its controllers will do.

use std::collections::BTreeMap;

use dugong_machine::{Ask, Outcome, RequestNumber};
use dugong_topology::{Address, InstanceId, Member, Revision, Topology};
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{self, Newest};
use super::reach::{Controller, ReachOptions, controllers, is_here};
use crate::postgres::{Here, Reply};
use crate::publish::desk::{Asking, Freezing, Frozen, Taken, Told};
use crate::publish::migration::Migrating;
use crate::publish::reinit::Reinit;
use crate::publish::settings::{Amended, Amending, Restarting};
use crate::run::Failure;
use crate::store::{Edition, HistoryEntry};

/// What one controller says of the settings on its instance, or why it says nothing.
pub(super) struct Heard {
    /// Its place among the controllers.
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) here: Result<Here, String>,
}

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

    /// The settings of the cluster.
    pub(super) async fn settings(&self) -> Result<Edition, Failure> {
        self.send::<(), _>(&Method::GET, "/v1/settings", None).await
    }

    /// Replaces the settings that were at revision `at`, or only has that looked at.
    pub(super) async fn amend(
        &self,
        at: Revision,
        values: BTreeMap<String, String>,
        only_check: bool,
    ) -> Result<Amended, Failure> {
        let amending = Amending { by: self.by.clone(), at, values, only_check };
        self.send(&Method::PUT, "/v1/settings", Some(&amending)).await
    }

    /// What each controller says of the settings on its instance.
    pub(super) async fn settings_here(&self) -> Vec<Heard> {
        let asked = self.controllers.iter().enumerate().map(async |(place, controller)| {
            let path = "/v1/settings/here";
            let answer = client::call(controller, &Method::GET, path, Vec::new()).await;
            let here = match answer {
                Ok((status, body)) if status.is_success() => {
                    serde_json::from_slice(&body).map_err(|error| error.to_string())
                }
                Ok((status, body)) => Err(client::refusal(status, &body)),
                Err(error) => Err(error.to_string()),
            };
            Heard { place, name: controller.name.clone(), here }
        });
        join_all(asked).await
    }

    /// Has the server of the controller at that place restarted.
    pub(super) async fn restart(&self, place: usize) -> Result<(), Failure> {
        let controller = &self.controllers[place];
        let restarting = Restarting { by: self.by.clone() };
        let body = serde_json::to_vec(&restarting).map_err(Failure::runtime)?;
        match client::call(controller, &Method::POST, "/v1/server/restart", body).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, answer)) => Err(Failure::Runtime(client::refusal(status, &answer))),
            Err(error) => Err(Failure::Runtime(format!("{controller}: {error}"))),
        }
    }

    /// Gives up the data of `member`, by a word to its own controller.
    pub(super) async fn reinit(
        &self,
        member: &Member,
        from: Option<InstanceId>,
    ) -> Result<(), Failure> {
        let id = member.id.clone();
        let controller = self.controller_of(member)?;
        let asking = Reinit { by: self.by.clone(), id, from };
        let body = serde_json::to_vec(&asking).map_err(Failure::runtime)?;
        match client::call(&controller, &Method::POST, "/v1/reinit", body).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, answer)) => Err(Failure::Runtime(client::refusal(status, &answer))),
            Err(client::CallError::NoAnswer(lost)) => Err(Failure::Runtime(format!(
                "{controller} gave no answer ({lost}): look at `dugong status` before you ask again"
            ))),
            Err(error) => Err(Failure::Runtime(format!("{controller}: {error}"))),
        }
    }

    /// Who asks, for people to read.
    pub(super) fn by(&self) -> String {
        self.by.clone()
    }

    /// The controller of `member`.
    pub(super) fn controller_of(&self, member: &Member) -> Result<Controller, Failure> {
        let Some(http) = member.http.as_ref().filter(|_| member.state != "unreachable") else {
            let id = &member.id;
            return Err(Failure::Runtime(format!("the controller of {id} is not there: start it")));
        };
        self.controller_at(http)
    }

    /// What the follower there says, and does; or in words why it cannot.
    pub(super) async fn migrate(
        &self,
        follower: &Controller,
        only_check: bool,
        even_if_behind: bool,
    ) -> Result<Result<Reply, String>, Failure> {
        let asking = Migrating { by: self.by.clone(), only_check, even_if_behind };
        let body = serde_json::to_vec(&asking).map_err(Failure::runtime)?;
        match client::call(follower, &Method::POST, "/v1/migration", body).await {
            Ok((status, answer)) if status.is_success() => {
                Ok(Ok(serde_json::from_slice(&answer).map_err(Failure::runtime)?))
            }
            Ok((status @ (StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE), answer)) => {
                Ok(Err(client::refusal(status, &answer)))
            }
            Ok((status, answer)) => Err(Failure::Runtime(client::refusal(status, &answer))),
            Err(client::CallError::NoAnswer(lost)) if !only_check => {
                Err(Failure::Runtime(format!(
                    "{follower} gave no answer ({lost}): look at `dugong status` before you ask again"
                )))
            }
            Err(error) => Ok(Err(format!("{follower}: {error}"))),
        }
    }

    /// The controller that answers there, reached as the others are.
    pub(super) fn controller_at(&self, http: &Address) -> Result<Controller, Failure> {
        let address = http.to_string();
        let mut known = self.controllers.iter();
        if let Some(controller) = known.clone().find(|known| known.address == address) {
            return Ok(controller.clone());
        }
        let Some(like) = known.next() else { return Err(nobody("there is none")) };
        let name = ServerName::try_from(http.host.clone()).map_err(Failure::runtime)?;
        let tls = like.tls.as_ref().map(|(config, _)| (config.clone(), name));
        // A token is for no wire that others hear.
        let token = like.token.clone().filter(|_| tls.is_some() || is_here(&http.host));
        Ok(Controller { name: address.clone(), address, tls, token })
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
                Err(client::CallError::NoAnswer(lost))
                    if matches!(*method, Method::POST | Method::PUT) =>
                {
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
