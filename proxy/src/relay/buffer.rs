//! What one direction has read and the other side did not take yet; bounded.

/// The most that is read at once, and so the most that is ever kept.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Filled as a whole, emptied as a whole, and empty most of the time: then it owns no memory.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    /// Bytes before this place were sent.
    start: usize,
}

impl Rest {
    /// What is still to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Keeps what the other side did not take. Only for an empty rest.
    pub(super) fn keep(&mut self, bytes: Vec<u8>) {
        assert!(self.is_empty(), "kept more while something waits");
        *self = Self { bytes, start: 0 };
    }

    /// Keeps more of what came, behind what waits.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// The first `bytes` of [`Self::unsent`] were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.bytes.len(), "sent more than there was");
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
