//! `dugong dsn`: a connection string that works as it is.

use std::path::PathBuf;

use clap::Args;

use crate::credentials::Credentials;
use crate::launch::layout::{ClusterFile, Layout};
use crate::run::Failure;

/// What `dugong dsn` is told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The cluster's directory.
    #[arg(long, env = "DUGONG_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The read address (a standby, eventually consistent) instead of the write address.
    #[arg(long)]
    pub read: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Write,
    Read,
}

/// The connection string for the ready-made role and database.
///
/// # Errors
///
/// There is no cluster, or its passwords cannot be read.
pub fn dsn(options: &Options) -> Result<String, Failure> {
    let layout = Layout::of(options.dir.as_deref());
    let cluster = layout.existing()?;
    let credentials = Credentials::load(&layout.credentials()).map_err(Failure::runtime)?;
    let purpose = if options.read { Purpose::Read } else { Purpose::Write };
    Ok(string(&cluster, &credentials, purpose))
}

/// In libpq's form of keywords and values.
pub(crate) fn string(cluster: &ClusterFile, credentials: &Credentials, purpose: Purpose) -> String {
    let port = match purpose {
        Purpose::Write => cluster.write_port,
        Purpose::Read => cluster.read_port,
    };
    let login = &credentials.application;
    format!(
        "host=127.0.0.1 port={port} user={} password={} dbname={}",
        quoted(&login.name),
        quoted(login.password.expose()),
        quoted(&login.database)
    )
}

/// Source: PostgreSQL manual, "Keyword/Value Connection Strings".
fn quoted(value: &str) -> String {
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_libpq_wants_it() {
        #[rustfmt::skip]
        let cases = [
            ("app",     "app"),
            ("",        "''"),
            ("a b",     "'a b'"),
            ("a'b",     r"'a\'b'"),
            (r"a\b",    r"'a\\b'"),
        ];
        for (value, expected) in cases {
            assert_eq!(quoted(value), expected);
        }
    }
}
