//! Where an operator gives up the data of an instance, to have it copied anew.
//!
//! `POST /v1/reinit` with a [`Reinit`], to the controller of that very instance, which has its data.
//!
//! **Invariant:** data is given up only while two others have all of it: the primary, open in its
//! generation, and its sync, which follows. Both are looked at again once the server is down.
//!
//! Source: PROTOCOL.md, "Data made anew".

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use dugong_machine::{Presence, ServerState, Snapshot, Upstream};
use dugong_topology::{InstanceId, Role};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::desk::{Desk, unavailable};
use super::http::{encode, error};
use crate::postgres::{GiveUp, Why};

/// The body of `POST /v1/reinit`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reinit {
    /// Who asks, for people to read.
    pub by: String,
    pub id: InstanceId,
    /// Whom to copy; none: the left neighbour in the chain.
    pub from: Option<InstanceId>,
}

/// The answer: it is given up.
#[derive(Debug, Serialize, Deserialize)]
pub struct GivenUp {
    pub id: InstanceId,
}

pub(super) fn router(desk: Arc<Desk>) -> Router {
    Router::new().route("/v1/reinit", post(reinit)).with_state(desk)
}

async fn reinit(State(desk): State<Arc<Desk>>, Json(asked): Json<Reinit>) -> Response {
    let Reinit { by, id, from } = asked;
    if id != desk.me {
        let why = format!("{id} has a controller of its own, and this is that of {}", desk.me);
        return error(StatusCode::MISDIRECTED_REQUEST, &why);
    }
    tracing::info!(by, ?from, "asked to give up the data here");
    let snapshot = match desk.store.read().await {
        Ok(snapshot) => snapshot,
        Err(trouble) => return unavailable(&trouble),
    };
    let chosen = match may_be_given_up(&snapshot, &id)
        .and_then(|()| from.as_ref().map(|from| source(&snapshot, &id, from)).transpose())
    {
        Ok(chosen) => chosen,
        Err(why) => return error(StatusCode::CONFLICT, &why),
    };
    let (answer, answered) = oneshot::channel();
    let (store, me) = (desk.store.clone(), id.clone());
    let unneeded = Box::pin(async move {
        let snapshot = store.read().await.map_err(|trouble| trouble.to_string())?;
        may_be_given_up(&snapshot, &me)
    });
    let order = GiveUp { why: Why::Asked, from: chosen, unneeded, answer };
    if desk.give_up.send(order).await.is_err() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the controller is ending: ask again");
    }
    match answered.await {
        Ok(Ok(())) => encode(StatusCode::OK, &GivenUp { id }),
        Ok(Err(why)) => error(StatusCode::CONFLICT, &why),
        Err(_ended) => {
            error(StatusCode::SERVICE_UNAVAILABLE, "the controller is ending: ask again")
        }
    }
}

/// Whether nobody needs what `me` has.
///
/// # Errors
///
/// Why it is needed, and what to do.
pub(crate) fn may_be_given_up(snapshot: &Snapshot, me: &InstanceId) -> Result<(), String> {
    let Some(record) = snapshot.record() else {
        return Err("the cluster was not made yet".to_owned());
    };
    match record.role_of(me) {
        Some(Role::Primary) => {
            return Err(format!(
                "{me} is the primary: hand its office over first (`dugong switchover`), and ask \
                 again once it is an async"
            ));
        }
        Some(Role::Sync) => {
            return Err(format!(
                "{me} is the sync, the only one beside the primary that has every acknowledged \
                 write: run `dugong switchover` twice, which makes it an async, and ask again"
            ));
        }
        Some(Role::Deposed) => return Err(anew_already(me)),
        Some(Role::Async) | None => (),
    }
    let is_copying = |presence: &Presence| presence.server == ServerState::Copying;
    if snapshot.present(me).is_some_and(is_copying) {
        return Err(anew_already(me));
    }
    let is_open = |presence: &Presence| presence.open == Some(record.generation);
    if !snapshot.present(&record.primary).is_some_and(is_open) {
        return Err(format!(
            "{} takes no writes just now, and while that is so no data is given up: see `dugong \
             status`",
            record.primary
        ));
    }
    let is_ready = |presence: &Presence| presence.server == ServerState::Ready;
    match &record.sync {
        Some(sync) if snapshot.present(sync).is_some_and(is_ready) => Ok(()),
        Some(sync) => Err(format!(
            "the sync, {sync}, does not follow, so what {me} has may be needed: see `dugong status`"
        )),
        None => {
            Err(format!("there is no sync, so what {me} has may be needed: see `dugong status`"))
        }
    }
}

fn anew_already(id: &InstanceId) -> String {
    format!("the data of {id} is being made anew already")
}

/// Whom `me` is to copy.
fn source(snapshot: &Snapshot, me: &InstanceId, from: &InstanceId) -> Result<Upstream, String> {
    if from == me {
        return Err(format!("--from {from}: nobody is copied from itself"));
    }
    let role = snapshot.record().and_then(|record| record.role_of(from));
    let has_role = matches!(role, Some(Role::Primary | Role::Sync | Role::Async));
    let runs =
        |presence: &&Presence| matches!(presence.server, ServerState::Ready | ServerState::Primary);
    match snapshot.present(from).filter(|_| has_role).filter(runs) {
        Some(presence) => Ok(Upstream { id: from.clone(), address: presence.postgres.clone() }),
        None => Err(format!(
            "--from {from}: it is not there, or does not follow; choose another one, or leave it \
             to the chain"
        )),
    }
}

#[cfg(test)]
mod tests {
    use dugong_machine::Session;
    use dugong_topology::Generation;

    use super::super::projection::tests::{id, presence, snapshot};
    use super::*;

    /// Whether `me` may be given up, and copied from `from`, where these are the states of the
    /// primary, the sync and `me`.
    fn asked(
        me: &str,
        from: &str,
        [(open, primary), (_, sync), (_, last)]: [(u64, ServerState); 3],
    ) -> Result<Upstream, String> {
        let primary =
            Presence { open: (open > 0).then_some(Generation(open)), ..presence("pg-1", primary) };
        let all = [primary, presence("pg-2", sync), presence("pg-3", last)];
        let snapshot = snapshot(all.map(|presence| (presence, Session::Alive)).to_vec());
        may_be_given_up(&snapshot, &id(me))?;
        source(&snapshot, &id(me), &id(from))
    }

    #[test]
    fn data_is_given_up_only_while_two_others_have_all_of_it() {
        use ServerState::{Copying, Primary, Ready, Standby, Stopped};
        let whole = [(3, Primary), (0, Ready), (0, Ready)];
        #[rustfmt::skip]
        let cases = [
            // what is so                 whose    from     primary, sync, async                          is told
            ("all is well",               "pg-3",  "pg-2",  whole,                                        None),
            ("the primary is chosen",     "pg-3",  "pg-1",  whole,                                        None),
            ("its server is down",        "pg-3",  "pg-1",  [(3, Primary), (0, Ready), (0, Stopped)],     None),
            ("a newcomer",                "pg-4",  "pg-2",  whole,                                        None),
            ("the primary",               "pg-1",  "pg-2",  whole,                                        Some("hand its office over first")),
            ("the sync",                  "pg-2",  "pg-1",  whole,                                        Some("switchover` twice")),
            ("copied already",            "pg-3",  "pg-2",  [(3, Primary), (0, Ready), (0, Copying)],     Some("anew already")),
            ("the primary is not open",   "pg-3",  "pg-2",  [(0, Primary), (0, Ready), (0, Ready)],       Some("pg-1 takes no writes")),
            ("it was, in its youth",      "pg-3",  "pg-2",  [(2, Primary), (0, Ready), (0, Ready)],       Some("pg-1 takes no writes")),
            ("the sync does not follow",  "pg-3",  "pg-1",  [(3, Primary), (0, Standby), (0, Ready)],     Some("pg-2, does not follow")),
            ("from itself",               "pg-3",  "pg-3",  whole,                                        Some("copied from itself")),
            ("from nobody",               "pg-3",  "pg-9",  whole,                                        Some("choose another one")),
        ];
        for (what, me, from, states, refused) in cases {
            match (asked(me, from, states), refused) {
                (Ok(source), None) => assert_eq!(source.id, id(from), "{what}"),
                (Err(why), Some(words)) => assert!(why.contains(words), "{what}: {why}"),
                (outcome, _) => panic!("{what}: {outcome:?}"),
            }
        }
        let unmade = may_be_given_up(&Snapshot::default(), &id("pg-3"));
        assert!(unmade.unwrap_err().contains("not made yet"));
    }
}
