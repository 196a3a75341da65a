//! The roles that every cluster has, with the passwords of its credentials, and what they may do.
//!
//! **Invariant:** safe to repeat, on fresh data and on data that is somebody's: what is there gets
//! the cluster's passwords, and nothing of it is taken away.
//!
//! **Invariant:** the server hears the verifiers of passwords only: whatever it logs of a statement,
//! no password is in it.

use std::collections::BTreeSet;

use postgres_protocol::password::scram_sha_256;

use super::control::{LookError, Session, identifier, literal, text};
use super::remote::rewind_grants;
use crate::credentials::{Credentials, Kind, Login, Logins};

/// Makes them, or gives those that are there their passwords.
pub(super) async fn make(credentials: &Credentials, session: &Session) -> Result<(), LookError> {
    let names = |rows: &[tokio_postgres::SimpleQueryRow]| -> BTreeSet<String> {
        rows.iter().filter_map(|row| text(row, 0).map(str::to_owned)).collect()
    };
    let sets = session.ask("SELECT rolname FROM pg_roles; SELECT datname FROM pg_database").await?;
    let mut sets = sets.iter().map(|rows| names(rows));
    let (roles, databases) = (sets.next().unwrap_or_default(), sets.next().unwrap_or_default());
    for statement in statements(credentials, &roles, &databases) {
        session.ask_without_deadline(&statement).await?;
    }
    Ok(())
}

fn statements(
    credentials: &Credentials,
    roles: &BTreeSet<String>,
    databases: &BTreeSet<String>,
) -> Vec<String> {
    let application = &credentials.application;
    let owner = identifier(&application.name);
    let mut statements: Vec<_> =
        Kind::ALL.iter().map(|kind| role(*kind, &credentials.login(*kind), roles)).collect();
    statements.extend([
        // The sizes of tablespaces, for whoever copies them.
        format!("GRANT pg_read_all_stats TO {}", identifier(&credentials.replication.name)),
        "CREATE SCHEMA IF NOT EXISTS dugong".to_owned(),
        // The verifier of one role, for whoever checks passwords in front of the server.
        "CREATE OR REPLACE FUNCTION dugong.user_lookup(name text, OUT rolname text, \
         OUT rolpassword text) \
         RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER \
         SET search_path = pg_catalog, pg_temp AS $$ \
         SELECT a.rolname::text, a.rolpassword FROM pg_catalog.pg_authid a \
         WHERE a.rolname = $1 AND a.rolcanlogin $$"
            .to_owned(),
        "REVOKE ALL ON SCHEMA dugong FROM PUBLIC".to_owned(),
        "REVOKE ALL ON FUNCTION dugong.user_lookup(text) FROM PUBLIC".to_owned(),
    ]);
    statements.extend(lookup_grants(&credentials.lookup.name));
    if !databases.contains(&application.database) {
        let database = identifier(&application.database);
        statements.push(format!("CREATE DATABASE {database} OWNER {owner}"));
    }
    statements
}

/// The role, with its password, and let in.
fn role(kind: Kind, login: &Login, there: &BTreeSet<String>) -> String {
    let verb = if there.contains(&login.name) { "ALTER" } else { "CREATE" };
    let right = match kind {
        Kind::Superuser => "SUPERUSER ",
        Kind::Replication => "REPLICATION ",
        Kind::Lookup | Kind::Application => "",
    };
    format!("{verb} ROLE {} LOGIN {right}{}", identifier(&login.name), password(login))
}

fn password(login: &Login) -> String {
    format!("PASSWORD {}", literal(&scram_sha_256(login.password.expose().as_bytes())))
}

fn lookup_grants(role: &str) -> [String; 2] {
    let role = identifier(role);
    [
        format!("GRANT USAGE ON SCHEMA dugong TO {role}"),
        format!("GRANT EXECUTE ON FUNCTION dugong.user_lookup(text) TO {role}"),
    ]
}

/// Makes the roles that come next, where two take turns: all that they need, at once or not at all.
pub(super) async fn make_next(next: &Logins, session: &Session) -> Result<(), LookError> {
    let there = there(next, session).await?;
    let mut statements = Vec::new();
    for (kind, login) in next.iter().filter(|(kind, _)| kind.takes_turns()) {
        statements.push(role(*kind, login, &there));
        match kind {
            Kind::Replication => statements.extend(rewind_grants(&login.name)),
            Kind::Lookup => statements.extend(lookup_grants(&login.name)),
            Kind::Superuser | Kind::Application => (),
        }
    }
    at_once(&statements, session).await
}

/// Lets the former ones in no more: a role that has had its turn has no password; of one that has
/// none beside it, the next password counts.
pub(super) async fn end_former(
    next: &Logins,
    former: &Logins,
    session: &Session,
) -> Result<(), LookError> {
    let there = there(former, session).await?;
    let mut statements = Vec::new();
    for (kind, login) in former.iter().filter(|(_, login)| there.contains(&login.name)) {
        let role = identifier(&login.name);
        match (kind.takes_turns(), next.get(kind)) {
            (true, _) => statements.push(format!("ALTER ROLE {role} NOLOGIN PASSWORD NULL")),
            (false, Some(next)) => statements.push(format!("ALTER ROLE {role} {}", password(next))),
            (false, None) => (),
        }
    }
    at_once(&statements, session).await
}

async fn there(logins: &Logins, session: &Session) -> Result<BTreeSet<String>, LookError> {
    let names: Vec<_> = logins.values().map(|login| literal(&login.name)).collect();
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let names = names.join(", ");
    let ask = format!("SELECT rolname FROM pg_roles WHERE rolname IN ({names})");
    let sets = session.ask(&ask).await?;
    Ok(sets.iter().flatten().filter_map(|row| text(row, 0).map(str::to_owned)).collect())
}

/// Statements that are sent together are one transaction; it is on the sync when this returns.
async fn at_once(statements: &[String], session: &Session) -> Result<(), LookError> {
    if statements.is_empty() {
        return Ok(());
    }
    session.ask(&statements.join("; ")).await.map(|_| ())
}
