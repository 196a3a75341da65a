//! What one direction has read and the other side did not take yet; bounded.

/// The size of a buffer: an ordinary answer in one piece, and a thousand idle sessions in 32 MiB.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Filled as a whole, emptied as a whole: there is never room for a second read beside a rest.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    /// Bytes before this place were sent.
    start: usize,
    /// Bytes from this place on are room.
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }
}

impl Buffer {
    /// What is still to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room for the next read. Only for an empty buffer.
    pub(super) fn space(&mut self) -> &mut [u8] {
        assert_eq!(self.start, self.end, "read into a buffer that holds something");
        (self.start, self.end) = (0, 0);
        &mut self.bytes
    }

    /// `bytes` were read into [`Self::space`].
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end = bytes;
    }

    /// The first `bytes` of [`Self::unsent`] were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end, "sent more than there was");
    }

    /// Puts bytes in that came from elsewhere.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }
}
