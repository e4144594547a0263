//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server started, and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections accepted.
    pub connections_total: AtomicU64,
    /// Connections turned away because there were too many.
    pub connections_refused_total: AtomicU64,
    /// Accepts that failed, for want of descriptors for example.
    pub accept_errors_total: AtomicU64,
    /// Requests received.
    pub requests_total: AtomicU64,
    /// Requests answered with an error.
    pub errors_total: AtomicU64,
    /// Connections ended for breaking the protocol.
    pub protocol_errors_total: AtomicU64,
    /// Reads of single keys.
    pub gets_total: AtomicU64,
    /// Scans begun.
    pub scans_total: AtomicU64,
    /// Backups begun, those that go on from a token included.
    pub backups_total: AtomicU64,
    /// Transactions open now.
    pub transactions: AtomicU64,
    /// Transactions begun.
    pub transactions_total: AtomicU64,
    /// Transactions ended for their age or for silence.
    pub transactions_expired_total: AtomicU64,
    /// Bytes read from clients.
    pub bytes_in_total: AtomicU64,
    /// Bytes written to clients.
    pub bytes_out_total: AtomicU64,
}

impl Metrics {
    /// Every counter with its name.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 15] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("connections", read(&self.connections)),
            ("connections_total", read(&self.connections_total)),
            ("connections_refused_total", read(&self.connections_refused_total)),
            ("accept_errors_total", read(&self.accept_errors_total)),
            ("requests_total", read(&self.requests_total)),
            ("errors_total", read(&self.errors_total)),
            ("protocol_errors_total", read(&self.protocol_errors_total)),
            ("gets_total", read(&self.gets_total)),
            ("scans_total", read(&self.scans_total)),
            ("backups_total", read(&self.backups_total)),
            ("transactions", read(&self.transactions)),
            ("transactions_total", read(&self.transactions_total)),
            ("transactions_expired_total", read(&self.transactions_expired_total)),
            ("bytes_in_total", read(&self.bytes_in_total)),
            ("bytes_out_total", read(&self.bytes_out_total)),
        ]
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
