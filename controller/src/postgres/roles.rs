//! The roles that every cluster has, with the passwords of its credentials, and what they may do.
//!
//! **Invariant:** safe to repeat, on fresh data and on data that is somebody's: what is there gets
//! the cluster's passwords, and nothing of it is taken away.

use std::collections::BTreeSet;

use super::control::{LookError, Session, identifier, literal, text};
use crate::credentials::{Credentials, Login};

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
    let role = |login: &Login, options: &str| {
        let password = literal(login.password.expose());
        let verb = if roles.contains(&login.name) { "ALTER" } else { "CREATE" };
        format!("{verb} ROLE {} LOGIN {options} PASSWORD {password}", identifier(&login.name))
    };
    let lookup = identifier(&credentials.lookup.name);
    let application = &credentials.application;
    let owner = identifier(&application.name);
    let login = Login { name: application.name.clone(), password: application.password.clone() };
    let mut statements = vec![
        role(&credentials.superuser, "SUPERUSER"),
        role(&credentials.replication, "REPLICATION"),
        // The sizes of tablespaces, for whoever copies them.
        format!("GRANT pg_read_all_stats TO {}", identifier(&credentials.replication.name)),
        role(&credentials.lookup, ""),
        role(&login, ""),
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
        format!("GRANT USAGE ON SCHEMA dugong TO {lookup}"),
        format!("GRANT EXECUTE ON FUNCTION dugong.user_lookup(text) TO {lookup}"),
    ];
    if !databases.contains(&application.database) {
        let database = identifier(&application.database);
        statements.push(format!("CREATE DATABASE {database} OWNER {owner}"));
    }
    statements
}
