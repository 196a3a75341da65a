//! How the passwords of a running cluster become others, without a moment in which a login fails.
//!
//! A role of PostgreSQL has one password, and a standby, which has its roles from its upstream, has it
//! later. So whoever logs in all the time, replication and lookup, has two roles that take turns:
//! `dugong_replication` and `dugong_replication_b`. The one that nobody uses is made anew with a new
//! password; once every instance lets it in, everybody uses it; once everybody does, the former one
//! is let in no more. Nobody has to guess which of two passwords is right, and whatever dies in
//! between, both roles work. The superuser and the application keep their one role, since neither
//! controllers nor standbys log in as them by password: theirs become others in the last step.
//!
//! The steps, each taken by every instance before anybody takes the next one:
//!
//! | step | what the file has then | who logs in as what |
//! | --- | --- | --- |
//! | learn | the former ones; the next ones beside them ([`Stage::Known`]) | former |
//! | make (the primary only) | the same | former; the next are let in |
//! | use | the next ones; the former ones beside them ([`Stage::Used`]) | next; the former are let in |
//! | end (the primary only) | the same | next; the former are let in no more |
//! | finish | the next ones, and which exchange they are from | next |
//!
//! **Invariant:** at every stage the file has a login for each kind that PostgreSQL lets in, and each
//! step may be taken again: whoever was at any of them goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Credentials, CredentialsError, Login, Password};

/// What the second of two roles is called beside the first.
const SECOND: &str = "_b";

/// A few letters are enough to tell two exchanges apart.
const ID_CHARACTERS: usize = 12;

/// Which exchange; no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExchangeId(String);

/// What a login is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Superuser,
    Replication,
    Lookup,
    Application,
}

/// Some of the logins.
pub type Logins = BTreeMap<Kind, Login>;

/// An exchange that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub id: ExchangeId,
    pub stage: Stage,
    /// The logins of the other side: the next ones, or the former ones.
    pub other: Logins,
}

/// How far it has come in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The next ones are known, and used by nobody.
    Known,
    /// They are used; the former ones are still let in.
    Used,
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error(
        "another exchange of passwords ({0}) is under way here: say `dugong rotate-credentials` once \
         more, which brings it to its end"
    )]
    Another(ExchangeId),
    #[error(
        "the exchange {0} is not known here: say `dugong rotate-credentials` once more, which begins \
         with what is there"
    )]
    Unknown(ExchangeId),
    #[error("the exchange {0} is not at that step here: say `dugong rotate-credentials` once more")]
    TooEarly(ExchangeId),
    #[error("the login of {kind} must be of {expected}, with a password of 32 letters and digits")]
    Unfit { kind: Kind, expected: String },
}

impl ExchangeId {
    /// One that nobody else has.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn fresh() -> Result<Self, CredentialsError> {
        let mut letters = Password::fresh()?.0;
        letters.truncate(ID_CHARACTERS);
        Ok(Self(letters))
    }
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Kind {
    pub const ALL: [Self; 4] =
        [Self::Superuser, Self::Replication, Self::Lookup, Self::Application];

    /// Whether two roles take turns.
    pub fn takes_turns(self) -> bool {
        match self {
            Self::Replication | Self::Lookup => true,
            Self::Superuser | Self::Application => false,
        }
    }

    /// The role that comes after `role`.
    pub fn next_role(self, role: &str) -> String {
        match (self.takes_turns(), role.strip_suffix(SECOND)) {
            (false, _) => role.to_owned(),
            (true, Some(first)) => first.to_owned(),
            (true, None) => format!("{role}{SECOND}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superuser => "superuser",
            Self::Replication => "replication",
            Self::Lookup => "lookup",
            Self::Application => "application",
        })
    }
}

impl Credentials {
    /// How one logs in for that.
    pub fn login(&self, kind: Kind) -> Login {
        match kind {
            Kind::Superuser => self.superuser.clone(),
            Kind::Replication => self.replication.clone(),
            Kind::Lookup => self.lookup.clone(),
            Kind::Application => {
                let own = &self.application;
                Login { name: own.name.clone(), password: own.password.clone() }
            }
        }
    }

    /// Whom to let in for that: who logs in, and who has or will.
    pub fn let_in(&self, kind: Kind) -> Vec<Login> {
        let other = self.exchange.as_ref().and_then(|exchange| exchange.other.get(&kind));
        [self.login(kind)].into_iter().chain(other.cloned()).collect()
    }

    /// The logins of the exchange under way that are there in the end, and those that are not.
    pub fn next_and_former(&self) -> Option<(Logins, Logins)> {
        let Exchange { stage, other, .. } = self.exchange.as_ref()?;
        let own: Logins = other.keys().map(|kind| (*kind, self.login(*kind))).collect();
        Some(match stage {
            Stage::Known => (other.clone(), own),
            Stage::Used => (own, other.clone()),
        })
    }

    /// Knows the `next` ones beside its own. Of an exchange that was begun at the same time as
    /// another one, and used by nobody, it may be told to forget `instead_of`.
    ///
    /// # Errors
    ///
    /// Another one is under way, or the logins are none that could come next.
    pub fn learn(
        &self,
        id: &ExchangeId,
        next: Logins,
        instead_of: Option<&ExchangeId>,
    ) -> Result<Self, Objection> {
        if self.has_finished(id) {
            return Ok(self.clone());
        }
        match &self.exchange {
            Some(exchange) if exchange.id == *id => return Ok(self.clone()),
            Some(Exchange { id: own, stage: Stage::Known, .. }) if Some(own) == instead_of => (),
            Some(exchange) => return Err(Objection::Another(exchange.id.clone())),
            None => (),
        }
        for (kind, login) in &next {
            let expected = kind.next_role(&self.login(*kind).name);
            if login.name != expected || !login.password.is_ours() {
                return Err(Objection::Unfit { kind: *kind, expected });
            }
        }
        let exchange = Exchange { id: id.clone(), stage: Stage::Known, other: next };
        Ok(Self { exchange: Some(exchange), ..self.clone() })
    }

    /// Uses the next ones from now on.
    ///
    /// # Errors
    ///
    /// That exchange is not known here.
    pub fn take_into_use(&self, id: &ExchangeId) -> Result<Self, Objection> {
        let Some(exchange) = self.under_way(id)? else { return Ok(self.clone()) };
        if exchange.stage == Stage::Used {
            return Ok(self.clone());
        }
        let mut used = self.clone();
        let mut former = Logins::new();
        for (kind, login) in &exchange.other {
            former.insert(*kind, self.login(*kind));
            used.set(*kind, login.clone());
        }
        used.exchange = Some(Exchange { id: id.clone(), stage: Stage::Used, other: former });
        Ok(used)
    }

    /// Forgets the former ones.
    ///
    /// # Errors
    ///
    /// That exchange is not known here, or the next ones are not used yet.
    pub fn finish(&self, id: &ExchangeId) -> Result<Self, Objection> {
        let Some(exchange) = self.under_way(id)? else { return Ok(self.clone()) };
        match exchange.stage {
            Stage::Known => Err(Objection::TooEarly(id.clone())),
            Stage::Used => Ok(Self { exchange: None, exchanged: Some(id.clone()), ..self.clone() }),
        }
    }

    /// The exchange with that id; none where it has been finished here.
    ///
    /// # Errors
    ///
    /// It is not known here.
    pub fn under_way(&self, id: &ExchangeId) -> Result<Option<&Exchange>, Objection> {
        match &self.exchange {
            Some(exchange) if exchange.id == *id => Ok(Some(exchange)),
            Some(exchange) => Err(Objection::Another(exchange.id.clone())),
            None if self.has_finished(id) => Ok(None),
            None => Err(Objection::Unknown(id.clone())),
        }
    }

    /// The kinds that the exchange under way is about.
    pub fn exchanging(&self) -> BTreeSet<Kind> {
        let kinds = self.exchange.iter().flat_map(|exchange| exchange.other.keys());
        kinds.copied().collect()
    }

    fn has_finished(&self, id: &ExchangeId) -> bool {
        self.exchange.is_none() && self.exchanged.as_ref() == Some(id)
    }

    fn set(&mut self, kind: Kind, login: Login) {
        match kind {
            Kind::Superuser => self.superuser = login,
            Kind::Replication => self.replication = login,
            Kind::Lookup => self.lookup = login,
            Kind::Application => {
                self.application.name = login.name;
                self.application.password = login.password;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_of(credentials: &Credentials, kinds: &[Kind]) -> Logins {
        let next = |kind: &Kind| {
            let name = kind.next_role(&credentials.login(*kind).name);
            (*kind, Login { name, password: Password::fresh().unwrap() })
        };
        kinds.iter().map(next).collect()
    }

    #[test]
    fn each_step_may_be_taken_again_and_none_leaves_a_kind_without_its_login() {
        let first = Credentials::generate().unwrap();
        let next = next_of(&first, &[Kind::Replication, Kind::Application]);
        let id = ExchangeId::fresh().unwrap();

        let known = first.learn(&id, next.clone(), None).unwrap();
        assert_eq!(known.learn(&id, next.clone(), None).unwrap(), known);
        assert_eq!(known.login(Kind::Replication), first.replication, "nothing is used yet");
        assert_eq!(known.let_in(Kind::Replication).len(), 2);
        assert_eq!(known.next_and_former().unwrap().0, next);

        let used = known.take_into_use(&id).unwrap();
        assert_eq!(used.take_into_use(&id).unwrap(), used);
        assert_eq!(used.learn(&id, next.clone(), None).unwrap(), used, "no step back");
        assert_eq!(used.replication.name, "dugong_replication_b");
        assert_eq!(used.application.name, "app", "its one role");
        assert_eq!(used.application.database, "app");
        assert_eq!(used.next_and_former().unwrap().0, next);
        assert_eq!(used.let_in(Kind::Replication)[1], first.replication);
        assert_eq!(used.lookup, first.lookup, "not meant");

        let last = used.finish(&id).unwrap();
        assert_eq!(last.let_in(Kind::Replication), [next[&Kind::Replication].clone()]);
        for again in [last.learn(&id, next, None), last.take_into_use(&id), last.finish(&id)] {
            assert_eq!(again.unwrap(), last, "it has its end");
        }
        let back = next_of(&last, &[Kind::Replication]);
        assert_eq!(back[&Kind::Replication].name, "dugong_replication", "they take turns");
    }

    #[test]
    fn a_step_of_another_exchange_is_refused() {
        let first = Credentials::generate().unwrap();
        let [one, two] = [(); 2].map(|()| ExchangeId::fresh().unwrap());
        let next = || next_of(&first, &[Kind::Lookup]);
        let known = first.learn(&one, next(), None).unwrap();
        let used = known.take_into_use(&one).unwrap();
        let last = used.finish(&one).unwrap();
        let another = || Err(Objection::Another(one.clone()));
        #[rustfmt::skip]
        let cases = [
            ("learnt beside another",     known.learn(&two, next(), None),       another()),
            ("instead of one in use",     used.learn(&two, next(), Some(&one)),  another()),
            ("used, and never learnt",    first.take_into_use(&two),             Err(Objection::Unknown(two.clone()))),
            ("used, and another is",      known.take_into_use(&two),             another()),
            ("finished before it is used", known.finish(&one),                   Err(Objection::TooEarly(one.clone()))),
            ("finished long ago",         last.finish(&two),                     Err(Objection::Unknown(two.clone()))),
        ];
        for (what, outcome, expected) in cases {
            assert_eq!(outcome, expected, "{what}");
        }
        let replaced = known.learn(&two, next(), Some(&one)).unwrap();
        assert_eq!(replaced.exchange.unwrap().id, two, "nobody used it");
    }

    #[test]
    fn only_the_role_whose_turn_it_is_comes_next() {
        let first = Credentials::generate().unwrap();
        let id = ExchangeId::fresh().unwrap();
        let login = |name: &str, password: &str| Login {
            name: name.to_owned(),
            password: Password::of(password.to_owned()),
        };
        let good = "a".repeat(32);
        #[rustfmt::skip]
        let cases = [
            ("its turn",           Kind::Replication, login("dugong_replication_b", &good),                true),
            ("not its turn",       Kind::Replication, login("dugong_replication", &good),                  false),
            ("somebody else",      Kind::Application, login("postgres", &good),                            false),
            ("the same one",       Kind::Superuser,   login("postgres", &good),                            true),
            ("a line of its own",  Kind::Lookup,      login("dugong_lookup_b", &"a\nb*".repeat(8)),        false),
            ("a short password",   Kind::Lookup,      login("dugong_lookup_b", "a"),                       false),
        ];
        for (what, kind, login, fits) in cases {
            let learnt = first.learn(&id, [(kind, login)].into(), None);
            assert_eq!(learnt.is_ok(), fits, "{what}");
        }
    }
}
