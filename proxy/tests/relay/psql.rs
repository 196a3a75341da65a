//! The real psql, with the real libpq.

use std::process::Stdio;

use tokio::process::Command;

use crate::eventually::soon;
use crate::postgres::PASSWORD;

/// What a run of psql came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) good: bool,
    /// Standard output and standard error.
    pub(crate) text: String,
}

/// Asks `sql` at a port of this machine, with further words of a connection string.
pub(crate) async fn psql(port: u16, words: &str, sql: &str) -> Said {
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres {words}");
    let running = Command::new("psql")
        .args(["-X", "-A", "-t", "-d", &dsn, "-c", sql])
        .env("PGPASSWORD", PASSWORD)
        .env("LC_ALL", "C")
        // No certificates of whoever runs the tests.
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = soon("psql ends", running).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Said { good: output.status.success(), text }
}
