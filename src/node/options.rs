//! What the node can be told. Every bound has a default that a test machine and a server both live with.

use super::history::HistoryOptions;
use crate::txn::ResolverOptions;
use std::time::Duration;

/// The node's options.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeOptions {
    /// The committer's.
    pub committer: CommitterOptions,
    /// How long old versions are kept.
    pub history: HistoryOptions,
    /// What may be under way.
    pub admission: AdmissionOptions,
    /// The committer and the group share the runtime of the caller, which then is blocked while the log syncs, instead of
    /// having a thread of their own. Best where that runtime is one thread: no commit wakes another.
    pub shares_thread: bool,
    /// Bytes of log that are kept for members who lag, beyond what this node needs itself; 0 for the default.
    pub log_keep_bytes: u64,
}

/// Bytes of log that are kept for members who lag. One who is further behind gets a snapshot.
pub const LOG_KEEP_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// Bounds of what the committer builds and hands over.
#[derive(Clone, Copy, Debug)]
pub struct CommitterOptions {
    /// Most commits in an entry.
    pub entry_items_max: u32,
    /// An entry takes no further commit once it has this many bytes.
    pub entry_bytes_max: usize,
    /// Most entries in flight.
    pub pipeline_entries_max: usize,
    /// No entry is handed over while this many bytes are in flight.
    pub pipeline_bytes_max: usize,
    /// Memory of the resolver's window.
    pub resolver_bytes_max: usize,
    /// How long an idempotency record is kept.
    pub idempotency_window: Duration,
    /// How many are kept at most; older ones expire before their time.
    pub idempotency_records_max: u64,
}

impl Default for CommitterOptions {
    fn default() -> CommitterOptions {
        CommitterOptions {
            entry_items_max: 8_192,
            entry_bytes_max: 1024 * 1024,
            pipeline_entries_max: 8,
            pipeline_bytes_max: 32 * 1024 * 1024,
            resolver_bytes_max: ResolverOptions::WINDOW_BYTES_DEFAULT,
            idempotency_window: Duration::from_secs(600),
            idempotency_records_max: 1_000_000,
        }
    }
}

/// What may be under way in the node, of all sessions together.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionOptions {
    /// Most requests that wait for the committer.
    pub requests_max: usize,
    /// Most bytes in them.
    pub bytes_max: usize,
}

impl Default for AdmissionOptions {
    fn default() -> AdmissionOptions {
        AdmissionOptions { requests_max: 262_144, bytes_max: 256 * 1024 * 1024 }
    }
}
