//! One instance in an exchange: asked, told, and judged.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dugong_topology::InstanceId;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::super::client::{self, CallError};
use super::super::reach::Controller;
use crate::credentials::{Kind, Logins};
use crate::postgres::DoorSeen;
use crate::publish::credentials::{Instruction, Standing, Underway};
use crate::run::Failure;

/// How long an instance may be away, or not be so far, before that is told instead.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
pub(super) const AGAIN: Duration = Duration::from_millis(200);

const PATH: &str = "/v1/credentials";

/// An instance, and its controller.
pub(super) struct Place {
    pub(super) id: InstanceId,
    pub(super) controller: Controller,
}

/// Why it did not answer as hoped.
pub(super) enum Refused {
    /// Later it may.
    ForNow(String),
    /// It is not the primary's.
    NotHere(String),
    ForGood(String),
}

impl Refused {
    pub(super) fn words(self) -> String {
        match self {
            Self::ForNow(words) | Self::NotHere(words) | Self::ForGood(words) => words,
        }
    }
}

/// Who shall use the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Nobody has to.
    Allowed,
    /// The instance itself.
    Own,
    /// And the instances that receive from it.
    All,
}

/// What is expected of an instance's server.
pub(super) struct Expected<'a> {
    pub(super) next: &'a Logins,
    pub(super) former_role: Option<&'a str>,
    /// Whose logins are tried.
    pub(super) kinds: &'a BTreeSet<Kind>,
    pub(super) used: Use,
    pub(super) instances: &'a [Place],
}

impl Place {
    /// How far it is.
    pub(super) async fn standing(&self) -> Result<Standing, Refused> {
        self.call(&Method::GET, PATH, Vec::new()).await
    }

    /// The passwords of the exchange that is under way there.
    pub(super) async fn underway(&self) -> Result<Underway, Refused> {
        self.call(&Method::GET, "/v1/credentials/exchange", Vec::new()).await
    }

    /// Has a step taken; once.
    pub(super) async fn tell(&self, instruction: &Instruction) -> Result<Standing, Refused> {
        let body =
            serde_json::to_vec(instruction).map_err(|error| Refused::ForGood(error.to_string()))?;
        self.call(&Method::POST, PATH, body).await
    }

    /// The same, again and again while it is away: each step may be taken twice.
    pub(super) async fn insist(&self, instruction: &Instruction) -> Result<Standing, String> {
        let begun = Instant::now();
        loop {
            match self.tell(instruction).await {
                Ok(standing) => return Ok(standing),
                Err(Refused::ForNow(_)) if begun.elapsed() < PATIENCE => (),
                Err(refused) => return Err(format!("{}: {}", self.id, refused.words())),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until its server is as `expected`.
    pub(super) async fn until(
        &self,
        expected: &Expected<'_>,
        wait: &mut impl FnMut(&str),
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let lacks = match self.standing().await {
                Ok(Standing { server: Some(Ok(seen)), .. }) => expected.lacks(&seen),
                Ok(Standing { server: Some(Err(why)), .. }) => Some(why),
                Ok(Standing { server: None, .. }) => Some("its server was not asked".to_owned()),
                Err(Refused::ForNow(why)) => Some(why),
                Err(refused) => return Err(format!("{}: {}", self.id, refused.words())),
            };
            let Some(why) = lacks else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} for {PATIENCE:?} now: {why}", self.id));
            }
            if begun.elapsed() > AGAIN * 5 && why != told {
                wait(&format!("waiting for {}: {why}", self.id));
                told = why;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<A, Refused> {
        match client::call(&self.controller, method, path, body).await {
            Ok((status, answer)) if status.is_success() => {
                serde_json::from_slice(&answer).map_err(|error| Refused::ForGood(error.to_string()))
            }
            Ok((status, answer)) => {
                let words = client::refusal(status, &answer);
                Err(match status {
                    StatusCode::SERVICE_UNAVAILABLE => Refused::ForNow(words),
                    StatusCode::MISDIRECTED_REQUEST => Refused::NotHere(words),
                    StatusCode::NOT_FOUND => Refused::ForGood(format!(
                        "{words} (a controller before this version? exchange its program first)"
                    )),
                    _ => Refused::ForGood(words),
                })
            }
            Err(error @ (CallError::NotSent(_) | CallError::NoAnswer(_))) => {
                Err(Refused::ForNow(format!("its controller does not answer: {error}")))
            }
        }
    }
}

impl Expected<'_> {
    /// What is not so yet, in words.
    pub(super) fn lacks(&self, seen: &DoorSeen) -> Option<String> {
        let refused = |kind: &&Kind| seen.refused.contains_key(kind);
        if let Some(kind) = self.kinds.iter().find(refused) {
            let why = seen.refused.get(kind).map_or("", String::as_str);
            return Some(format!("its server does not let the {kind} role in: {why}"));
        }
        let next = self.next.get(&Kind::Replication).filter(|_| self.used != Use::Allowed)?;
        if let Some(standby) = &seen.standby {
            match &standby.role {
                Some(role) if *role == next.name => (),
                Some(role) => return Some(format!("it still receives as {role}")),
                None => return Some("it receives nothing just now".to_owned()),
            }
        }
        if self.used == Use::Own {
            return None;
        }
        let is_instance = |name: &str| self.instances.iter().any(|it| it.id.as_str() == name);
        let former = |(name, role): &&(String, String)| {
            is_instance(name) && Some(role.as_str()) == self.former_role
        };
        let late = seen.senders.iter().find(former)?;
        Some(format!("{} still receives from it as {}", late.0, late.1))
    }
}

/// The calls of an operator fail in one sentence.
pub(super) fn runtime(words: impl Into<String>) -> Failure {
    Failure::Runtime(words.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Login, Password};
    use crate::postgres::Receiving;

    #[test]
    fn the_former_passwords_end_only_once_nobody_uses_them() {
        let name = "dugong_replication_b".to_owned();
        let next: Logins =
            [(Kind::Replication, Login { name, password: Password::fresh().unwrap() })].into();
        let kinds = [Kind::Replication].into();
        let place = Place { id: "pg-3".parse().unwrap(), controller: Controller::here(1) };
        let instances = [place];
        let of = |used| Expected {
            next: &next,
            former_role: Some("dugong_replication"),
            kinds: &kinds,
            used,
            instances: &instances,
        };
        let standby = |role: Option<&str>| Some(Receiving { role: role.map(str::to_owned) });
        let sender = |name: &str, role: &str| vec![(name.to_owned(), role.to_owned())];
        let (old, new) = ("dugong_replication", "dugong_replication_b");
        #[rustfmt::skip]
        let cases = [
            // what is so             refused  receives as         sends to                   allowed  own      all
            ("all of it",             false,   standby(Some(new)), sender("pg-3", new),       [true,   true,    true]),
            ("a primary",             false,   None,               sender("pg-3", new),       [true,   true,    true]),
            ("not let in",            true,    standby(Some(new)), vec![],                    [false,  false,   false]),
            ("receives as before",    false,   standby(Some(old)), vec![],                    [true,   false,   false]),
            ("receives nothing",      false,   standby(None),      vec![],                    [true,   false,   false]),
            ("sends as before",       false,   None,               sender("pg-3", old),       [true,   true,    false]),
            ("a backup that began",   false,   None,               sender("backup", old),     [true,   true,    true]),
        ];
        for (what, refuses, standby, senders, expected) in cases {
            let refused = if refuses { vec![(Kind::Replication, "no".to_owned())] } else { vec![] };
            let seen = DoorSeen { refused: refused.into_iter().collect(), standby, senders };
            let found =
                [Use::Allowed, Use::Own, Use::All].map(|used| of(used).lacks(&seen).is_none());
            assert_eq!(found, expected, "{what}");
        }
    }
}
