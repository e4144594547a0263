//! What the engine holds, counted as it changes, so that asking costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an allocation of `size` bytes costs, at most: mimalloc's size classes, or glibc's header and rounding.
pub(super) fn allocated(size: usize) -> u64 {
    if size == 0 {
        return 0;
    }
    let glibc = (size + 8).next_multiple_of(16);
    let mimalloc =
        if size <= 64 { size.next_multiple_of(8) } else { size.next_multiple_of(size.next_power_of_two() / 8) };
    glibc.max(mimalloc) as u64
}

/// Bytes held, except the ordered index's. What was retired counts until it is freed.
///
/// What is written and what is freed are counted apart: the writer, who alone adds, then needs no locked instruction. One
/// for each version made it wait until the version's bytes had reached the cache, which was two fifths of an update.
#[derive(Default)]
pub(super) struct Counters {
    written: AtomicU64,
    freed: AtomicU64,
    history_written: AtomicU64,
    history_freed: AtomicU64,
}

impl Counters {
    /// Only for the writer.
    pub(super) fn add(&self, bytes: u64) {
        add_alone(&self.written, bytes);
    }

    /// For any thread.
    pub(super) fn sub(&self, bytes: u64) {
        self.freed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Only for the writer.
    pub(super) fn add_history(&self, bytes: u64) {
        add_alone(&self.history_written, bytes);
    }

    /// For any thread.
    pub(super) fn sub_history(&self, bytes: u64) {
        self.history_freed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        difference(&self.written, &self.freed)
    }

    pub(super) fn history(&self) -> u64 {
        difference(&self.history_written, &self.history_freed)
    }
}

fn add_alone(counter: &AtomicU64, bytes: u64) {
    counter.store(counter.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
}

fn difference(written: &AtomicU64, freed: &AtomicU64) -> u64 {
    // In this order, for what is counted as freed was written before; saturating, for the two are not one step.
    let freed = freed.load(Ordering::Acquire);
    written.load(Ordering::Relaxed).saturating_sub(freed)
}
