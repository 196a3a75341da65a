//! Who is let in while passwords are exchanged, as the server beside us has it: asked of the server,
//! and of the primary's, changed.
//!
//! **Invariant:** whether somebody is let in is tried by a login of that kind, over TCP, as others
//! come: that shows the role, its password and `pg_hba.conf` at once.

use std::collections::BTreeMap;

use dugong_topology::Address;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Config, NoTls};

use super::control::{DEADLINE, Door, LookError, only, text};
use super::roles;
use crate::credentials::{Kind, Login, Logins};

/// Looks who is let in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    listen: Address,
    door: Door,
}

/// What the server shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which of the logins are refused, and why.
    pub refused: BTreeMap<Kind, String>,
    /// A standby's; none is a primary's.
    pub standby: Option<Receiving>,
    /// Who receives WAL from here: the name that it gives, and the role that it has.
    pub senders: Vec<(String, String)>,
}

/// How a standby receives WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiving {
    /// The role that its connection has; none: nothing is received just now.
    pub role: Option<String>,
}

/// Why it was not done, or seen.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    #[error("the server here is no primary: ask the controller of the one that is")]
    Standby,
    /// It may be done later, or have been done.
    #[error("{0}")]
    Server(String),
}

const LOOK: &str = "SELECT pg_is_in_recovery(); \
    SELECT conninfo FROM pg_stat_wal_receiver WHERE status = 'streaming'; \
    SELECT application_name, usename FROM pg_stat_replication ORDER BY 1";

impl Doorkeeper {
    pub(super) fn new(listen: Address, door: Door) -> Self {
        Self { listen, door }
    }

    /// Looks, and tries `logins`; `database` is the application's.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn look(&self, logins: &Logins, database: &str) -> Result<Seen, NotDone> {
        let session = self.door.open("postgres", "").await.map_err(said)?;
        let sets = session.ask(LOOK).await.map_err(said)?;
        let in_recovery = only(&sets, 0).map_err(said)?;
        let standby = (text(in_recovery, 0) == Some("t")).then(|| {
            let conninfo = sets.get(1).and_then(|rows| text(rows.first()?, 0));
            Receiving { role: conninfo.and_then(role_of) }
        });
        let senders = sets.get(2).into_iter().flatten().filter_map(|row| {
            let word = |column| text(row, column).map(str::to_owned);
            Some((word(0)?, word(1)?))
        });
        let senders = senders.collect();
        let mut refused = BTreeMap::new();
        for (kind, login) in logins {
            let database = if *kind == Kind::Application { database } else { "postgres" };
            if let Err(why) = self.try_login(login, database).await {
                refused.insert(*kind, why);
            }
        }
        Ok(Seen { refused, standby, senders })
    }

    async fn try_login(&self, login: &Login, database: &str) -> Result<(), String> {
        let mut config = Config::new();
        config
            .host(&self.listen.host)
            .port(self.listen.port)
            .user(&login.name)
            .password(login.password.expose())
            .dbname(database)
            .application_name("dugong_controller");
        // Plain: it is this machine, which is let in without TLS.
        match tokio::time::timeout(DEADLINE, config.connect(NoTls)).await {
            Ok(Ok(_dropped_and_closed)) => Ok(()),
            Ok(Err(error)) => Err(LookError::from(error).to_string()),
            Err(_elapsed) => Err(LookError::Silent.to_string()),
        }
    }

    /// Makes the roles that come next, with their passwords. Safe to repeat.
    ///
    /// # Errors
    ///
    /// See [`NotDone`].
    pub async fn make(&self, next: &Logins) -> Result<(), NotDone> {
        let session = self.primary().await?;
        roles::make_next(next, &session).await.map_err(said)
    }

    /// Lets the former ones in no more. Safe to repeat.
    ///
    /// # Errors
    ///
    /// See [`NotDone`].
    pub async fn end(&self, next: &Logins, former: &Logins) -> Result<(), NotDone> {
        let session = self.primary().await?;
        roles::end_former(next, former, &session).await.map_err(said)
    }

    async fn primary(&self) -> Result<super::control::Session, NotDone> {
        let session = self.door.open("postgres", "").await.map_err(said)?;
        let sets = session.ask("SELECT pg_is_in_recovery()").await.map_err(said)?;
        match text(only(&sets, 0).map_err(said)?, 0) {
            Some("f") => Ok(session),
            Some(_) | None => Err(NotDone::Standby),
        }
    }
}

fn said(error: LookError) -> NotDone {
    NotDone::Server(error.to_string())
}

/// The role in what the server shows of a connection, where nothing is quoted.
fn role_of(conninfo: &str) -> Option<String> {
    conninfo.split(' ').find_map(|word| word.strip_prefix("user=").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_shows_its_role() {
        let shown = "user=dugong_replication_b passfile=/a/b connect_timeout=2 host=127.0.0.1";
        assert_eq!(role_of(shown).as_deref(), Some("dugong_replication_b"));
        assert_eq!(role_of("host=127.0.0.1"), None);
    }
}
