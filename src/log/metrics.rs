//! What a log counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges of a log, from when it was opened.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Groups written.
    pub groups: AtomicU64,
    /// Syncs of segments that are in use; those of preparing others are not counted.
    pub syncs: AtomicU64,
    /// Entries in the groups written.
    pub entries: AtomicU64,
    /// Bytes written into segments: blocks, with what fills them up.
    pub bytes_written: AtomicU64,
    /// Times that a segment was full and the next was begun.
    pub rolls: AtomicU64,
    /// Of these, into one that had been used before.
    pub segments_recycled: AtomicU64,
    /// Now: segments that are needed.
    pub segments_live: AtomicU64,
    /// Now: segments that wait to be begun.
    pub segments_free: AtomicU64,
    /// Now: bytes of all segments.
    pub disk_bytes: AtomicU64,
    /// Segments that could not be prepared ahead.
    pub preparations_failed: AtomicU64,
}

impl Metrics {
    /// Every counter with its name, for status and metrics.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 10] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("groups_total", read(&self.groups)),
            ("syncs_total", read(&self.syncs)),
            ("entries_total", read(&self.entries)),
            ("written_bytes_total", read(&self.bytes_written)),
            ("rolls_total", read(&self.rolls)),
            ("segments_recycled_total", read(&self.segments_recycled)),
            ("segments_live", read(&self.segments_live)),
            ("segments_free", read(&self.segments_free)),
            ("disk_bytes", read(&self.disk_bytes)),
            ("preparations_failed_total", read(&self.preparations_failed)),
        ]
    }
}
