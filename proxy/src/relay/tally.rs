//! How many bytes a shard has passed on: counted by its thread alone, read by whoever scrapes.
//!
//! **Invariant:** one writer. So an addition is a load and a store, no locked instruction, on a cache
//! line that nobody else writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::listener::Listener;
use crate::relay::pair::Side;

/// By listener, then by the side that took them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells([[AtomicU64; 2]; 2]);

/// The writing side; a clone reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Cells>);

impl Tally {
    /// Adds to what this thread has counted.
    pub(super) fn add(&self, listener: Listener, to: Side, bytes: usize) {
        let cell = &self.0.0[listener.index()][to.index()];
        cell.store(cell.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
    }

    /// All that was ever counted.
    pub(super) fn total(&self, listener: Listener, to: Side) -> u64 {
        self.0.0[listener.index()][to.index()].load(Relaxed)
    }
}
