//! Every limit that a client or an operator can meet, with its unit in its name, and how they relate.

/// Longest key, in bytes, without its keyspace.
pub const KEY_BYTES_MAX: usize = 8 * 1024;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest transaction: mutations as encoded, and its read ranges.
pub const TRANSACTION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest payload of a frame once the handshake is done.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;
/// Longest payload of a frame before the handshake is done.
pub const HANDSHAKE_PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may take to complete its handshake.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Longest payload of a CHUNK, unless a single row is longer.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Longest payload of a reply of many rows outside a stream, unless a single value is longer.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Most keys in one get-many.
pub const GET_MANY_KEYS_MAX: usize = 4_096;
/// Most conditions, and most operations in each branch, of a one-shot transaction.
pub const EXECUTE_ITEMS_MAX: usize = 16_384;
/// Longest bound of a range: that of a key, and one byte more so that the range of a single key can be told.
pub const RANGE_BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;
/// Longest name of a keyspace, in bytes.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 128;
/// Longest recorded result of a keyed commit; a longer one is recorded as committed, without its results.
pub const RECORDED_RESULT_BYTES_MAX: usize = 64 * 1024;
/// Most savepoints in one transaction.
pub const SAVEPOINTS_MAX: usize = 1_024;
/// Longest name of a savepoint, in bytes.
pub const SAVEPOINT_NAME_BYTES_MAX: usize = 64;
/// Longest name that a client gives itself, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;
/// Most features that a client names.
pub const FEATURES_MAX: usize = 64;
/// Longest name of a feature, in bytes.
pub const FEATURE_BYTES_MAX: usize = 64;
/// Longest trace parent, in bytes.
pub const TRACE_PARENT_BYTES_MAX: usize = 64;
/// Longest address of a node's listener, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// Longest result of one atomic operation.
pub const ATOMIC_RESULT_BYTES_MAX: usize = VALUE_BYTES_MAX;

const _: () = {
    assert!(KEY_BYTES_MAX <= u16::MAX as usize, "a key's length is a u16 on the wire");
    assert!(RANGE_BOUND_BYTES_MAX <= u16::MAX as usize, "a bound's length is a u16 on the wire");
    assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < TRANSACTION_BYTES_MAX, "the largest row fits a transaction");
    assert!(TRANSACTION_BYTES_MAX < FRAME_PAYLOAD_BYTES_MAX, "a transaction fits a frame, with its tags");
    assert!(HANDSHAKE_PAYLOAD_BYTES_MAX < FRAME_PAYLOAD_BYTES_MAX, "what has not said hello gets less");
    assert!(CHUNK_BYTES_MAX <= REPLY_BYTES_MAX, "a chunk is the smaller unit");
    assert!(KEYSPACE_NAME_BYTES_MAX <= KEY_BYTES_MAX, "a keyspace's name is part of a catalog key");
};
