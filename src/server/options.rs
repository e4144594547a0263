//! What the server can be told. The bounds that a client must know are announced in WELCOME.

use crate::{types::limits, wire::LimitId};
use std::time::Duration;

/// The server's options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most connections at once.
    pub connections_max: usize,
    /// Most requests of one connection without a terminal frame.
    pub requests_in_flight_max: usize,
    /// Most bytes of one connection in requests without a terminal frame, and in replies that it has not read.
    pub bytes_in_flight_max: usize,
    /// Reading a connection stops while this many bytes of replies wait for it to read.
    pub outbound_bytes_max: usize,
    /// Most open transactions of one connection.
    pub transactions_max: usize,
    /// Most scans of one connection.
    pub scans_max: usize,
    /// How old a transaction may grow.
    pub transaction_age_max: Duration,
    /// How long a transaction may stay without a request.
    pub transaction_idle_max: Duration,
    /// How long a connection may stay without a frame.
    pub idle_max: Duration,
    /// How long a connection may take to complete its handshake.
    pub handshake_max: Duration,
    /// How long a request may take that states no deadline.
    pub deadline_default: Duration,
    /// At shutdown, how long accepted requests and scans may take to end.
    pub drain_max: Duration,
    /// How the server names itself.
    pub name: String,
    /// Whether it sends reserved tags at random, so that clients keep ignoring what they do not know.
    pub grease: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: 10_000,
            requests_in_flight_max: 65_536,
            bytes_in_flight_max: 64 * 1024 * 1024,
            outbound_bytes_max: 96 * 1024 * 1024,
            transactions_max: 4_096,
            scans_max: 256,
            transaction_age_max: Duration::from_secs(60),
            transaction_idle_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(600),
            handshake_max: Duration::from_millis(limits::HANDSHAKE_MS_MAX),
            deadline_default: Duration::from_secs(10),
            drain_max: Duration::from_secs(10),
            name: concat!("quantadb ", env!("CARGO_PKG_VERSION")).into(),
            grease: true,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Options {
    /// What WELCOME announces.
    pub(super) fn limits(&self) -> [(LimitId, u64); 17] {
        [
            (LimitId::KEY_BYTES, limits::KEY_BYTES_MAX as u64),
            (LimitId::VALUE_BYTES, limits::VALUE_BYTES_MAX as u64),
            (LimitId::TRANSACTION_BYTES, limits::TRANSACTION_BYTES_MAX as u64),
            (LimitId::FRAME_PAYLOAD_BYTES, limits::FRAME_PAYLOAD_BYTES_MAX as u64),
            (LimitId::CHUNK_BYTES, limits::CHUNK_BYTES_MAX as u64),
            (LimitId::REPLY_BYTES, limits::REPLY_BYTES_MAX as u64),
            (LimitId::GET_MANY_KEYS, limits::GET_MANY_KEYS_MAX as u64),
            (LimitId::EXECUTE_ITEMS, limits::EXECUTE_ITEMS_MAX as u64),
            (LimitId::REQUESTS_IN_FLIGHT, self.requests_in_flight_max as u64),
            (LimitId::BYTES_IN_FLIGHT, self.bytes_in_flight_max as u64),
            (LimitId::TRANSACTIONS_PER_SESSION, self.transactions_max as u64),
            (LimitId::TRANSACTION_AGE_MS, ms(self.transaction_age_max)),
            (LimitId::TRANSACTION_IDLE_MS, ms(self.transaction_idle_max)),
            (LimitId::IDLE_MS, ms(self.idle_max)),
            (LimitId::DEFAULT_DEADLINE_MS, ms(self.deadline_default)),
            (LimitId::SCANS_PER_SESSION, self.scans_max as u64),
            (LimitId::SAVEPOINTS, limits::SAVEPOINTS_MAX as u64),
        ]
    }
}
