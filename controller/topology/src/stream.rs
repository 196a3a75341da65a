//! Framing of the topology stream: server-sent events, each `data:` one whole document.
//!
//! Sans-IO: [`event`] renders one, a [`Decoder`] takes bytes as they arrive.
//!
//! Source: WHATWG HTML, "Server-sent events", the parts that a publisher of whole documents needs.

use crate::Topology;

/// The content type of the stream.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// The comment line that keeps a quiet stream alive.
pub const KEEP_ALIVE: &str = ": still here\n\n";

/// The most bytes of one event that a reader keeps: a thousand instances fit many times.
pub const EVENT_BYTES_MAX: usize = 4 << 20;

/// One event of the stream: the whole document on one line.
pub fn event(document_json: &str) -> String {
    format!("data: {document_json}\n\n")
}

/// Turns the bytes of a stream into documents, however they were cut on their way.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes after the last complete line.
    rest: Vec<u8>,
    /// The `data:` lines of the event that is not complete yet.
    data: String,
}

/// Why a stream cannot be read on. The reader connects again.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("an event of more than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    #[error("an event that is no topology document")]
    NoTopology(#[from] serde_json::Error),
}

impl Decoder {
    /// Takes the next bytes; returns the documents that they completed, oldest first.
    ///
    /// # Errors
    ///
    /// See [`StreamError`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Topology>, StreamError> {
        self.rest.extend_from_slice(bytes);
        let mut documents = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[begin..begin + length]).into_owned();
            begin += length + 1;
            if let Some(document) = self.line(line.trim_end_matches('\r'))? {
                documents.push(document);
            }
        }
        self.rest.drain(..begin);
        if self.rest.len() + self.data.len() > EVENT_BYTES_MAX {
            return Err(StreamError::TooLong);
        }
        Ok(documents)
    }

    /// An empty line completes an event; comments and fields other than `data` carry nothing.
    fn line(&mut self, line: &str) -> Result<Option<Topology>, StreamError> {
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            self.data.push('\n');
            return Ok(None);
        }
        if !line.is_empty() || self.data.is_empty() {
            return Ok(None);
        }
        let document = serde_json::from_str(&std::mem::take(&mut self.data))?;
        Ok(Some(document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    #[test]
    fn documents_arrive_whole_however_the_bytes_are_cut() {
        let first = Topology::unformed("main".to_owned(), Revision(1));
        let second = Topology::unformed("main".to_owned(), Revision(2));
        let mut bytes = Vec::new();
        for document in [&first, &second] {
            bytes.extend(event(&serde_json::to_string(document).unwrap()).bytes());
            bytes.extend(KEEP_ALIVE.bytes());
        }
        for size in [1, 2, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let read: Vec<_> =
                bytes.chunks(size).flat_map(|chunk| decoder.push(chunk).unwrap()).collect();
            assert_eq!(read, [first.clone(), second.clone()], "chunks of {size}");
        }
    }

    #[test]
    fn what_is_no_topology_is_an_error() {
        assert!(matches!(
            Decoder::default().push(b"data: {\"half\":\n\n"),
            Err(StreamError::NoTopology(_))
        ));
        let endless = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert!(matches!(Decoder::default().push(&endless), Err(StreamError::TooLong)));
    }
}
