//! One connection, and what exactly it was told.
//!
//! Statements go by the simple protocol: one round trip, and any pooler can relay it.
//!
//! **Invariant:** a warning that came before the end of an answer is part of the answer. The task
//! that drives the connection passes messages on in the order in which they came, so that a warning
//! is in the channel before the success that follows it is seen.

use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config, SimpleQueryMessage};

use super::shared::Shared;
use crate::verify::outcome::{Cause, Sqlstate};
use crate::verify::tls::Tls;

/// An address, and how long one may stand before it.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) config: Config,
    pub(super) tls: Tls,
    pub(super) within: Duration,
}

/// What was not answered as hoped.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) cause: Cause,
    /// What the server, or the way to it, said.
    pub(super) words: String,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// The first warning that came with it.
    pub(super) warning: Option<Sqlstate>,
}

/// Ends with its last use: dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    warnings: mpsc::UnboundedReceiver<Sqlstate>,
    /// Nothing that comes now can be told apart from what was asked before.
    lost: bool,
    _driver: JoinSet<()>,
}

impl Door {
    pub(super) async fn open(&self) -> Result<Connection, Trouble> {
        let connecting = self.config.connect(self.tls.clone());
        let (client, mut connection) = match tokio::time::timeout(self.within, connecting).await {
            Ok(connected) => connected.map_err(|error| trouble(&error))?,
            Err(_) => return Err(silence(self.within)),
        };
        // What is not read is bounded by one answer: it is emptied before each statement.
        let (warn, warnings) = mpsc::unbounded_channel();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notice(notice) = message
                    && notice.parsed_severity() == Some(Severity::Warning)
                    && let Some(code) = Sqlstate::new(notice.code().code())
                {
                    // Nobody listens any more: nobody is told.
                    let _ = warn.send(code);
                }
            }
        });
        Ok(Connection { client, warnings, lost: false, _driver: driver })
    }
}

impl Connection {
    /// Whether nothing can be asked any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost || self.client.is_closed()
    }

    /// Asks, for as long as the run's clients are patient.
    pub(super) async fn ask(&mut self, shared: &Shared, sql: &str) -> Result<Answer, Trouble> {
        let asked = tokio::select! {
            asked = self.ask_within(shared.answer_within, sql) => return asked,
            () = shared.over() => Cause::Ended,
        };
        self.lost = true;
        Err(Trouble { cause: asked, words: asked.to_string() })
    }

    /// Asks. Where no answer comes in time, the connection is lost: a later answer would be taken
    /// for that of the next statement.
    pub(super) async fn ask_within(
        &mut self,
        within: Duration,
        sql: &str,
    ) -> Result<Answer, Trouble> {
        while self.warnings.try_recv().is_ok() {}
        let asking = self.client.simple_query(sql);
        let messages = match tokio::time::timeout(within, asking).await {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => {
                let database = error.as_db_error();
                self.lost = database.is_none_or(|error| {
                    error.parsed_severity().is_none_or(|severity| severity != Severity::Error)
                });
                return Err(trouble(&error));
            }
            Err(_) => {
                self.lost = true;
                return Err(silence(within));
            }
        };
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
        }
        Ok(Answer { rows, warning: self.warnings.try_recv().ok() })
    }
}

impl Answer {
    /// The number in a column; none where there is another thing.
    pub(super) fn number(row: &[Option<String>], column: usize) -> Option<u64> {
        row.get(column)?.as_deref()?.parse().ok()
    }
}

fn silence(within: Duration) -> Trouble {
    Trouble { cause: Cause::Silence, words: format!("no answer within {within:?}") }
}

fn trouble(error: &tokio_postgres::Error) -> Trouble {
    let answer = error.as_db_error();
    let code = answer.and_then(|answer| Sqlstate::new(answer.code().code()));
    let words = match answer {
        Some(answer) => format!("{} (SQLSTATE {})", answer.message(), answer.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    Trouble { cause: code.map_or(Cause::ConnectionLost, Cause::Error), words }
}
