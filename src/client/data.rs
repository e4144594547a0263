//! What callers give and get: values, rows, ranges, atomic operations.

use super::error::Error;
use crate::types::limits::{KEY_BYTES_MAX, RANGE_BOUND_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::{KeyspaceId, Version, key_after};
use crate::wire::{self, DecodeError, ErrorCode, RangeRef};
use bytes::Bytes;
use std::ops;

/// Up to this length a value is copied out of the buffer that it arrived in, so that keeping it does not keep the buffer.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// A value, and the version that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub value: Bytes,
    /// The version that wrote it.
    pub version: Version,
}

/// A row of a scan. Key and value share the memory of the part of the scan that they came in, at most 64 KiB unless a row
/// is longer; copy what is kept for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// The version that wrote the value.
    pub version: Version,
    /// The value; empty if keys alone were asked for.
    pub value: Bytes,
}

/// What a delete-range did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The version that removed the keys; in a transaction its read version.
    pub version: Version,
    /// How many keys were removed.
    pub count: u64,
}

/// What an atomic operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The version that it created.
    pub version: Version,
    /// What it gave; see [`AtomicOp`](crate::types::AtomicOp).
    pub result: Bytes,
}

/// A range of keys: start included, end not.
///
/// Made from the standard ranges over anything that is bytes, or by name.
///
/// ```
/// # use quantadb::client::KeyRange;
/// let all = KeyRange::from(..);
/// let some = KeyRange::from("a".."c");
/// let users = KeyRange::prefix("user/");
/// # let _ = (all, some, users);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub(super) start: Bytes,
    pub(super) end: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> KeyRange {
        KeyRange { start: Bytes::new(), end: None }
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> KeyRange {
        let prefix = prefix.as_ref();
        // The least key above all of them: without the 0xff at its end, and the byte before one greater.
        let end = prefix.iter().rposition(|byte| *byte != 0xff).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        });
        KeyRange { start: Bytes::copy_from_slice(prefix), end }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let end = self.end.as_ref();
        let longest = self.start.len().max(end.map_or(0, Bytes::len));
        if longest > RANGE_BOUND_BYTES_MAX {
            return Err(Error::over(ErrorCode::KEY_TOO_LARGE, RANGE_BOUND_BYTES_MAX, longest));
        }
        if end.is_some_and(|end| self.start > end) {
            return Err(Error::local(ErrorCode::BAD_RANGE));
        }
        Ok(())
    }

    pub(super) fn within(&self, keyspace: KeyspaceId) -> RangeRef<'_> {
        RangeRef { keyspace, start: &self.start, end: self.end.as_deref() }
    }
}

fn owned(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

impl From<ops::RangeFull> for KeyRange {
    fn from(_: ops::RangeFull) -> KeyRange {
        KeyRange::all()
    }
}

impl<K: AsRef<[u8]>> From<ops::Range<K>> for KeyRange {
    fn from(range: ops::Range<K>) -> KeyRange {
        KeyRange { start: owned(range.start), end: Some(owned(range.end)) }
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeInclusive<K>> for KeyRange {
    fn from(range: ops::RangeInclusive<K>) -> KeyRange {
        KeyRange { start: owned(range.start()), end: Some(key_after(range.end().as_ref())) }
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeFrom<K>> for KeyRange {
    fn from(range: ops::RangeFrom<K>) -> KeyRange {
        KeyRange { start: owned(range.start), end: None }
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeTo<K>> for KeyRange {
    fn from(range: ops::RangeTo<K>) -> KeyRange {
        KeyRange { start: Bytes::new(), end: Some(owned(range.end)) }
    }
}

impl<K: AsRef<[u8]>> From<ops::RangeToInclusive<K>> for KeyRange {
    fn from(range: ops::RangeToInclusive<K>) -> KeyRange {
        KeyRange { start: Bytes::new(), end: Some(key_after(range.end.as_ref())) }
    }
}

/// The full key, if the key is within the limit.
pub(super) fn full_key(keyspace: KeyspaceId, key: &[u8]) -> Result<Vec<u8>, Error> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::over(ErrorCode::KEY_TOO_LARGE, KEY_BYTES_MAX, key.len()));
    }
    let mut full = Vec::with_capacity(4 + key.len());
    full.extend_from_slice(&keyspace.0.to_be_bytes());
    full.extend_from_slice(key);
    Ok(full)
}

/// The value, if it is within the limit.
pub(super) fn checked_value(value: &[u8]) -> Result<&[u8], Error> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Error::over(ErrorCode::VALUE_TOO_LARGE, VALUE_BYTES_MAX, value.len()));
    }
    Ok(value)
}

/// A part of a payload, to be kept by the caller.
pub(super) fn keep(payload: &Bytes, part: &[u8]) -> Bytes {
    if part.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(part) } else { payload.slice_ref(part) }
}

pub(super) fn value_of(payload: &Bytes, found: Option<wire::Found<'_>>) -> Option<Value> {
    found.map(|found| Value { value: keep(payload, found.value), version: found.version })
}

/// A row that shares the payload's memory.
pub(super) fn row_of(payload: &Bytes, row: &wire::Row<'_>) -> Row {
    let part = |bytes: &[u8]| if bytes.is_empty() { Bytes::new() } else { payload.slice_ref(bytes) };
    Row { key: part(row.key), version: row.version, value: part(row.value) }
}

/// The eight bytes that integer operations give.
pub(super) fn integer(result: &[u8]) -> Result<u64, Error> {
    let short = || Error::reply(DecodeError::malformed("the result of an atomic operation is no integer"));
    result.try_into().map(u64::from_be_bytes).map_err(|_| short())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(range: impl Into<KeyRange>) -> (Vec<u8>, Option<Vec<u8>>) {
        let range = range.into();
        (range.start.to_vec(), range.end.map(|end| end.to_vec()))
    }

    #[test]
    fn ranges_are_made_from_what_rust_has() {
        assert_eq!(bounds(..), (vec![], None));
        assert_eq!(bounds("a".."c"), (b"a".to_vec(), Some(b"c".to_vec())));
        assert_eq!(bounds("a"..="c"), (b"a".to_vec(), Some(b"c\0".to_vec())));
        assert_eq!(bounds("a"..), (b"a".to_vec(), None));
        assert_eq!(bounds(.."c"), (vec![], Some(b"c".to_vec())));
        assert_eq!(bounds(..="c"), (vec![], Some(b"c\0".to_vec())));
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(bounds(KeyRange::prefix("ab")), (b"ab".to_vec(), Some(b"ac".to_vec())));
        assert_eq!(bounds(KeyRange::prefix([1, 0xff])), (vec![1, 0xff], Some(vec![2])));
        assert_eq!(bounds(KeyRange::prefix([0xff, 0xff])), (vec![0xff, 0xff], None));
        assert_eq!(bounds(KeyRange::prefix("")), (vec![], None));
    }

    #[test]
    fn what_is_over_a_limit_is_refused_before_it_is_sent() {
        let long = vec![0; KEY_BYTES_MAX + 1];
        assert_eq!(full_key(KeyspaceId(1), &long[1..]).map(|key| key.len()).ok(), Some(KEY_BYTES_MAX + 4));
        let error = full_key(KeyspaceId(1), &long).expect_err("too long");
        assert_eq!(
            (error.code(), error.limit(), error.actual()),
            (Some(ErrorCode::KEY_TOO_LARGE), Some(8192), Some(8193))
        );
        let value = vec![0; VALUE_BYTES_MAX + 1];
        assert!(checked_value(&value[1..]).is_ok());
        assert_eq!(checked_value(&value).expect_err("too long").code(), Some(ErrorCode::VALUE_TOO_LARGE));
        assert!(KeyRange::from(&long[..]..).check().is_ok(), "a bound may be a byte longer than a key");
        assert!(KeyRange::from(&value[..]..).check().is_err());
        assert_eq!(KeyRange::from("b".."a").check().expect_err("reversed").code(), Some(ErrorCode::BAD_RANGE));
    }

    #[test]
    fn small_parts_are_copied_and_large_ones_shared() {
        let payload = Bytes::from(vec![7; COPIED_BYTES_MAX + 2]);
        assert_ne!(keep(&payload, &payload[..8]).as_ptr(), payload.as_ptr());
        assert_eq!(keep(&payload, &payload[1..]).as_ptr(), payload[1..].as_ptr());
        assert_eq!(integer(&7_u64.to_be_bytes()).ok(), Some(7));
        assert!(integer(b"1").is_err());
    }
}
