//! What the node counts. Names of atomics, read by status and metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters since the node started, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The current term.
    pub term: AtomicU64,
    /// Whether this node leads.
    pub leading: AtomicBool,
    /// Entries handed over.
    pub entries: AtomicU64,
    /// Items in them: commits, fences and recorded answers.
    pub commits: AtomicU64,
    /// Entries that did not continue the applied version and changed nothing.
    pub entries_skipped: AtomicU64,
    /// Entries refused, skipped or lost.
    pub entries_failed: AtomicU64,
    /// Commits refused because something read was written since.
    pub conflicts: AtomicU64,
    /// Commits refused because their read version lay below the resolver's floor.
    pub too_old: AtomicU64,
    /// Requests decided by looking first.
    pub evaluations: AtomicU64,
    /// Pairs fenced.
    pub fences: AtomicU64,
    /// Keyed requests answered from a record, or refused for their pair.
    pub answered_by_record: AtomicU64,
    /// Commits refused because the store was full.
    pub memory_full: AtomicU64,
    /// Commits refused because what was written waited to be stored.
    pub behind: AtomicU64,
    /// Commits refused because the disk was full.
    pub disk_full: AtomicU64,
    /// Batches refused because too much was under way.
    pub overloaded: AtomicU64,
}

impl Metrics {
    /// Every counter with its name, for status and metrics.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 13] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("entries_total", read(&self.entries)),
            ("commits_total", read(&self.commits)),
            ("entries_skipped_total", read(&self.entries_skipped)),
            ("entries_failed_total", read(&self.entries_failed)),
            ("conflicts_total", read(&self.conflicts)),
            ("too_old_total", read(&self.too_old)),
            ("evaluations_total", read(&self.evaluations)),
            ("fences_total", read(&self.fences)),
            ("answered_by_record_total", read(&self.answered_by_record)),
            ("memory_full_total", read(&self.memory_full)),
            ("behind_total", read(&self.behind)),
            ("disk_full_total", read(&self.disk_full)),
            ("overloaded_total", read(&self.overloaded)),
        ]
    }
}
