//! From the configuration to the options of each floor: the only place that knows both.

use super::Configuration;
use quantadb::{node, server, storage};
use std::time::Duration;

impl Configuration {
    /// The options of what lies on disk. The seed keeps strangers from choosing keys that collide.
    pub fn storage(&self, hash_seed: u64) -> node::StorageOptions {
        let storage = &self.storage;
        node::StorageOptions {
            engine: storage::DurableOptions {
                memory_bytes_max: self.memory_bytes_max.0,
                block_cache_bytes: storage.block_cache_bytes.0,
                slice_bytes: storage.slice_bytes.0,
                slice_age_max: Duration::from_millis(storage.slice_age_ms_max.0),
                reserve_bytes: storage.reserve_bytes.0,
                hash_seed,
            },
            log_segment_bytes: Some(storage.log_segment_bytes.0),
            log_cache_bytes_max: Some(storage.log_cache_bytes.size()),
        }
    }

    /// The memory engine's options, with a seed of the same kind.
    pub fn engine(&self, hash_seed: u64) -> storage::MemoryOptions {
        storage::MemoryOptions { bytes_max: self.memory_bytes_max.0, hash_seed }
    }

    /// Whether one thread serves, commits and syncs.
    pub fn one_thread(&self) -> bool {
        self.workers.0 == 1
    }

    /// The node's options.
    pub fn node(&self) -> node::NodeOptions {
        node::NodeOptions {
            shares_thread: self.one_thread(),
            log_keep_bytes: self.storage.log_keep_bytes.0,
            committer: node::CommitterOptions {
                entry_items_max: u32::try_from(self.committer.entry_items_max.0).unwrap_or(u32::MAX),
                entry_bytes_max: self.committer.entry_bytes_max.size(),
                pipeline_entries_max: self.committer.pipeline_entries_max.size(),
                pipeline_bytes_max: self.committer.pipeline_bytes_max.size(),
                resolver_bytes_max: self.committer.resolver_bytes_max.size(),
                idempotency_window: Duration::from_millis(self.idempotency.window_ms.0),
                idempotency_records_max: self.idempotency.records_max.0,
            },
            history: node::HistoryOptions {
                keep: Duration::from_millis(self.history.keep_ms.0),
                bytes_max: self.history.bytes_max.0,
            },
            admission: node::AdmissionOptions {
                requests_max: self.admission.requests_max.size(),
                bytes_max: self.admission.bytes_max.size(),
            },
        }
    }

    /// The server's options.
    pub fn server(&self) -> server::Options {
        let sessions = &self.sessions;
        server::Options {
            connections_max: sessions.connections_max.size(),
            requests_in_flight_max: sessions.requests_in_flight_max.size(),
            bytes_in_flight_max: sessions.bytes_in_flight_max.size(),
            outbound_bytes_max: sessions.outbound_bytes_max.size(),
            transactions_max: sessions.transactions_max.size(),
            scans_max: sessions.scans_max.size(),
            transaction_age_max: Duration::from_millis(sessions.transaction_age_ms_max.0),
            transaction_idle_max: Duration::from_millis(sessions.transaction_idle_ms_max.0),
            idle_max: Duration::from_millis(sessions.idle_ms_max.0),
            handshake_max: Duration::from_millis(sessions.handshake_ms_max.0),
            deadline_default: Duration::from_millis(sessions.deadline_ms_default.0),
            drain_max: Duration::from_millis(sessions.drain_ms_max.0),
            grease: sessions.grease,
            ..server::Options::default()
        }
    }
}
