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
#[derive(Default)]
pub(super) struct Counters {
    bytes: AtomicU64,
    history: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_history(&self, bytes: u64) {
        self.history.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub_history(&self, bytes: u64) {
        self.history.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn history(&self) -> u64 {
        self.history.load(Ordering::Relaxed)
    }
}
