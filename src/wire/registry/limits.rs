//! The limits that WELCOME announces.

use crate::types::limits as bounds;

/// The number of a limit in WELCOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId(pub u16);

/// What is known of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitRow {
    /// Its number.
    pub id: LimitId,
    /// Its name in the specification.
    pub name: &'static str,
    /// The value every server of this protocol version has, or `None` where it is the operator's.
    pub value: Option<u64>,
    /// What it bounds.
    pub doc: &'static str,
}

macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $value:expr; )+) => {
        impl LimitId {
            $( $(#[doc = $doc])+ pub const $name: LimitId = LimitId($number); )+
        }

        /// Every limit, by number.
        pub const LIMITS: &[LimitRow] = &[
            $( LimitRow { id: LimitId::$name, name: $text, value: $value, doc: concat!($($doc),+) }, )+
        ];
    };
}

limits! {
    /// Longest key, without its keyspace.
    KEY_BYTES = 1, "key_bytes", Some(bounds::KEY_BYTES_MAX as u64);
    /// Longest value.
    VALUE_BYTES = 2, "value_bytes", Some(bounds::VALUE_BYTES_MAX as u64);
    /// Largest transaction: mutations as encoded, and its read ranges.
    TRANSACTION_BYTES = 3, "transaction_bytes", Some(bounds::TRANSACTION_BYTES_MAX as u64);
    /// Longest payload of a frame once HELLO was accepted.
    FRAME_PAYLOAD_BYTES = 4, "frame_payload_bytes", Some(bounds::FRAME_PAYLOAD_BYTES_MAX as u64);
    /// Longest payload of a CHUNK, unless a single row is longer.
    CHUNK_BYTES = 5, "chunk_bytes", Some(bounds::CHUNK_BYTES_MAX as u64);
    /// Longest payload of a reply of many rows outside a stream, unless a single value is longer.
    REPLY_BYTES = 6, "reply_bytes", Some(bounds::REPLY_BYTES_MAX as u64);
    /// Most keys in one GET_MANY.
    GET_MANY_KEYS = 7, "get_many_keys", Some(bounds::GET_MANY_KEYS_MAX as u64);
    /// Most conditions, and most operations in each branch, of one EXECUTE.
    EXECUTE_ITEMS = 8, "execute_items", Some(bounds::EXECUTE_ITEMS_MAX as u64);
    /// Most requests of one connection without a terminal frame.
    REQUESTS_IN_FLIGHT = 9, "requests_in_flight", None;
    /// Most payload bytes of requests of one connection without a terminal frame.
    BYTES_IN_FLIGHT = 10, "bytes_in_flight", None;
    /// Most open transactions of one connection.
    TRANSACTIONS_PER_SESSION = 11, "transactions_per_session", None;
    /// How old a transaction may grow, in milliseconds.
    TRANSACTION_AGE_MS = 12, "transaction_age_ms", None;
    /// How long a transaction may stay without a request, in milliseconds.
    TRANSACTION_IDLE_MS = 13, "transaction_idle_ms", None;
    /// How long a connection may stay silent, in milliseconds.
    IDLE_MS = 14, "idle_ms", None;
    /// The deadline of a request that names none, in milliseconds.
    DEFAULT_DEADLINE_MS = 15, "default_deadline_ms", None;
    /// Most open scans of one connection.
    SCANS_PER_SESSION = 16, "scans_per_session", None;
    /// Most savepoints in one transaction.
    SAVEPOINTS = 17, "savepoints", Some(bounds::SAVEPOINTS_MAX as u64);
}
