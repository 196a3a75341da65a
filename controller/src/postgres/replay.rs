//! The place up to which a standby has replayed, with its timeline: asked of a WAL sender.
//!
//! SQL has no function for the timeline of the last replayed record: the control file's lags
//! behind, and the receiver's runs ahead. `IDENTIFY_SYSTEM` answers exactly it, read together with
//! the end of what was received on that timeline.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol"; `GetStandbyFlushRecPtr`.

use std::io;

use bytes::BytesMut;
use dugong_topology::{Lsn, Position, TimelineId};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::control::{DEADLINE, Door, LookError};

/// A connection to a WAL sender that sends nothing. Dropping it closes it.
#[derive(Debug)]
pub(super) struct ReplayProbe {
    stream: UnixStream,
    received: BytesMut,
}

impl ReplayProbe {
    pub(super) async fn open(door: &Door) -> Result<Self, LookError> {
        let path = door.socket_dir.join(format!(".s.PGSQL.{}", door.port));
        let stream = UnixStream::connect(path).await.map_err(broken)?;
        let mut probe = Self { stream, received: BytesMut::new() };
        let mut startup = BytesMut::new();
        let parameters = [
            ("user", door.user.as_str()),
            ("replication", "true"),
            // With an underscore, so that it is never taken for an instance.
            ("application_name", "dugong_probe"),
        ];
        frontend::startup_message(parameters, &mut startup).map_err(broken)?;
        probe.exchange(&startup).await?;
        Ok(probe)
    }

    /// The timeline of the last replayed record, and the end of the WAL that was received on it.
    ///
    /// A dropped future leaves an answer behind: the probe is not used again after that.
    pub(super) async fn look(&mut self) -> Result<Position, LookError> {
        let mut query = BytesMut::new();
        frontend::query("IDENTIFY_SYSTEM", &mut query).map_err(broken)?;
        let row = self.exchange(&query).await?;
        let odd = || LookError::Odd("IDENTIFY_SYSTEM has no position".to_owned());
        let row = row.ok_or_else(odd)?;
        let ranges: Vec<_> = row.ranges().collect().map_err(broken)?;
        let column = |index: usize| {
            let range = ranges.get(index)?.clone()?;
            std::str::from_utf8(row.buffer().get(range)?).ok()
        };
        let timeline = column(1).and_then(|text| text.parse().ok()).ok_or_else(odd)?;
        let flushed: Lsn = column(2).and_then(|text| text.parse().ok()).ok_or_else(odd)?;
        Ok(Position::new(TimelineId(timeline), flushed))
    }

    /// Sends one message and reads until the server is ready for the next; the last row, if any.
    async fn exchange(&mut self, message: &[u8]) -> Result<Option<DataRowBody>, LookError> {
        let exchanging = tokio::time::timeout(DEADLINE, self.exchange_without_deadline(message));
        exchanging.await.map_err(|_| LookError::Silent)?
    }

    async fn exchange_without_deadline(
        &mut self,
        message: &[u8],
    ) -> Result<Option<DataRowBody>, LookError> {
        self.stream.write_all(message).await.map_err(broken)?;
        let mut row = None;
        loop {
            while let Some(message) = Message::parse(&mut self.received).map_err(broken)? {
                if let Message::DataRow(body) = message {
                    row = Some(body);
                } else if let Message::ReadyForQuery(_) = message {
                    return Ok(row);
                } else if let Message::ErrorResponse(body) = message {
                    return Err(LookError::Refused(words_of(&body)));
                }
                // The rest: parameters, notices, descriptions of rows. A request for a password
                // would be answered by nobody, and end at the deadline: the socket is trusted.
            }
            if self.stream.read_buf(&mut self.received).await.map_err(broken)? == 0 {
                return Err(LookError::Broken("it closed the connection".to_owned()));
            }
        }
    }
}

fn words_of(body: &ErrorResponseBody) -> String {
    let mut said = body.fields().filter(|field| Ok(field.type_() == b'M'));
    let said = said.next().ok().flatten();
    said.map(|field| String::from_utf8_lossy(field.value_bytes()).into_owned()).unwrap_or_default()
}

fn broken(error: io::Error) -> LookError {
    LookError::of_link(&error)
}
