//! Connections to the server beside us, over its local socket, each with a deadline.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// A server that takes longer than this for a glance does not answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Where the server's socket is, and who connects.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub socket_dir: PathBuf,
    pub port: u16,
    pub user: String,
}

/// One connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

/// One statement's rows.
pub(super) type Rows = Vec<SimpleQueryRow>;

/// Why a look at the server came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    /// It will answer: it starts, or ends.
    #[error("the server does not take connections yet")]
    NotYet,
    #[error("the server does not answer: nothing came within {DEADLINE:?}")]
    Silent,
    /// In its words.
    #[error("the server does not answer: {0}")]
    Refused(String),
    /// It went away in the middle, and may be ending.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    /// It answered something that makes no sense.
    #[error("the server's answer cannot be understood: {0}")]
    Odd(String),
    /// It runs, but not as it was told, and only a person can say what shall be.
    #[error("{0}")]
    Overridden(String),
    #[error(transparent)]
    DataDir(#[from] super::data_dir::DataDirError),
    #[error("{what}: {error}")]
    File { what: &'static str, error: std::io::Error },
}

impl Door {
    /// Opens a connection; `options` are settings of the session, as on a command line.
    pub(super) async fn open(&self, database: &str, options: &str) -> Result<Session, LookError> {
        let mut config = Config::new();
        config
            .host_path(&self.socket_dir)
            .port(self.port)
            .user(&self.user)
            .dbname(database)
            // With an underscore, so that it is never taken for an instance.
            .application_name("dugong_controller")
            .options(options);
        let connecting = tokio::time::timeout(DEADLINE, config.connect(NoTls));
        let (client, connection) = connecting.await.map_err(|_| LookError::Silent)??;
        let connection = tokio::spawn(async move {
            // Whoever uses the connection gets the error, too.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the server ended");
            }
        });
        Ok(Session { client, connection })
    }
}

impl Session {
    /// Sends statements and returns the rows of each. Dropping the future leaves the session
    /// usable.
    pub(super) async fn ask(&self, statements: &str) -> Result<Vec<Rows>, LookError> {
        let asking = tokio::time::timeout(DEADLINE, self.ask_without_deadline(statements));
        asking.await.map_err(|_| LookError::Silent)?
    }

    /// The same, for what may rightly take for ever.
    pub(super) async fn ask_without_deadline(
        &self,
        statements: &str,
    ) -> Result<Vec<Rows>, LookError> {
        let mut sets = Vec::new();
        let mut rows = Vec::new();
        for message in self.client.simple_query(statements).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push(row);
            } else if let SimpleQueryMessage::CommandComplete(_) = message {
                sets.push(std::mem::take(&mut rows));
            } // The rest describes rows.
        }
        Ok(sets)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl From<tokio_postgres::Error> for LookError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(answer) = error.as_db_error() {
            return if *answer.code() == SqlState::CANNOT_CONNECT_NOW {
                Self::NotYet
            } else {
                Self::Refused(answer.message().to_owned())
            };
        }
        let cause = std::error::Error::source(&error);
        if let Some(io) = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
            return Self::of_link(io);
        }
        if error.is_closed() {
            return Self::Broken(error.to_string());
        }
        let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        Self::Refused(format!("{error}{cause}"))
    }
}

impl LookError {
    /// What happened to the socket.
    pub(super) fn of_link(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        // No socket yet, or no more.
        if matches!(error.kind(), NotFound | ConnectionRefused) {
            Self::NotYet
        } else {
            Self::Broken(error.to_string())
        }
    }
}

/// The text of a column; none where it is null.
pub(super) fn text(row: &SimpleQueryRow, column: usize) -> Option<&str> {
    row.try_get(column).ok().flatten()
}

/// A column that is not null, parsed.
pub(super) fn value<T: std::str::FromStr>(
    row: &SimpleQueryRow,
    column: usize,
) -> Result<T, LookError> {
    let found = text(row, column);
    let odd = || LookError::Odd(format!("column {column} is {found:?}"));
    found.and_then(|text| text.parse().ok()).ok_or_else(odd)
}

/// A column, parsed; none where it is null.
pub(super) fn optional<T: std::str::FromStr>(
    row: &SimpleQueryRow,
    column: usize,
) -> Result<Option<T>, LookError> {
    text(row, column).map(|_| value(row, column)).transpose()
}

/// The one row of statement number `index`.
pub(super) fn only(sets: &[Rows], index: usize) -> Result<&SimpleQueryRow, LookError> {
    sets.get(index)
        .and_then(|rows| rows.first())
        .ok_or_else(|| LookError::Odd(format!("statement {index} has no row")))
}

/// A text as SQL writes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as SQL writes it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_while_one_connects_has_refused_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door { socket_dir: dir.path().to_owned(), port: 5432, user: "dba".to_owned() };
        let not_yet = door.open("postgres", "").await;
        assert!(matches!(not_yet, Err(LookError::NotYet)), "{:?}", not_yet.err());

        let socket = tokio::net::UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        // Without a word: what it has not read resets the connection, what it has read ends it.
        for reads in [false, true] {
            let ends = async {
                let (mut stream, _) = socket.accept().await.unwrap();
                if reads {
                    let startup = stream.read(&mut [0; 1024]).await.unwrap();
                    assert!(startup > 0);
                }
            };
            let (opened, ()) = tokio::join!(door.open("postgres", ""), ends);
            assert!(matches!(opened, Err(LookError::Broken(_))), "{reads}: {:?}", opened.err());
        }
    }
}
