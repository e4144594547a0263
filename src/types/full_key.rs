//! Keys as the store sees them: the keyspace id as four big-endian bytes, then the user's key.
//!
//! One ordered space holds everything, so a keyspace is the range `[id, id + 1)`. On the wire and in the log a key
//! stands as `length u16, keyspace u32, bytes`, which makes the full key one contiguous slice of the message.

use super::KeyspaceId;
use bytes::{BufMut, Bytes, BytesMut};

/// A full key that owns its bytes.
pub type FullKey = Bytes;

/// Splits a full key into its keyspace and the user's key; `None` if it is shorter than a keyspace id.
#[must_use]
pub fn split_full_key(full: &[u8]) -> Option<(KeyspaceId, &[u8])> {
    let (prefix, key) = full.split_first_chunk::<4>()?;
    Some((KeyspaceId(u32::from_be_bytes(*prefix)), key))
}

impl KeyspaceId {
    /// The full key of `key` in this keyspace. Allocates and copies.
    #[must_use]
    pub fn full_key(self, key: &[u8]) -> FullKey {
        let mut full = BytesMut::with_capacity(4 + key.len());
        full.put_u32(self.0);
        full.put_slice(key);
        full.freeze()
    }

    /// The least full key above every key of this keyspace.
    #[must_use]
    pub fn upper_bound(self) -> FullKey {
        debug_assert!(self <= Self::LAST);
        Bytes::copy_from_slice(&(self.0 + 1).to_be_bytes())
    }

    /// All keys of this keyspace.
    #[must_use]
    pub fn range(self) -> KeyRange {
        KeyRange { start: self.full_key(b""), end: self.upper_bound() }
    }
}

/// A range of full keys: `start` included, `end` not. Empty when `start >= end`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    /// The least key of the range.
    pub start: FullKey,
    /// The least key above the range.
    pub end: FullKey,
}

impl KeyRange {
    /// The range that holds `key` alone. Allocates.
    #[must_use]
    pub fn point(key: FullKey) -> KeyRange {
        let end = key_after(&key);
        KeyRange { start: key, end }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && key < self.end
    }

    /// Whether no key lies in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether the two share a key.
    #[must_use]
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }
}

/// The least key greater than `key`: `key` with a zero byte appended. Allocates.
#[must_use]
pub fn key_after(key: &[u8]) -> FullKey {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_the_range_of_its_prefix() {
        let range = KeyspaceId(7).range();
        assert!(range.contains(&KeyspaceId(7).full_key(b"")));
        assert!(range.contains(&KeyspaceId(7).full_key(&[0xff; 64])));
        assert!(!range.contains(&KeyspaceId(6).full_key(&[0xff; 64])));
        assert!(!range.contains(&KeyspaceId(8).full_key(b"")));
        assert!(!KeyspaceId::LAST.range().is_empty());
    }

    #[test]
    fn a_point_range_holds_one_key() {
        let range = KeyRange::point(KeyspaceId(1).full_key(b"a"));
        assert!(range.contains(&KeyspaceId(1).full_key(b"a")));
        assert!(!range.contains(&KeyspaceId(1).full_key(b"a\0")));
        assert!(!range.is_empty());
    }

    #[test]
    fn splitting_gives_back_keyspace_and_key() {
        let full = KeyspaceId(9).full_key(b"key");
        assert_eq!(split_full_key(&full), Some((KeyspaceId(9), &b"key"[..])));
        assert_eq!(split_full_key(b"abc"), None);
    }

    #[test]
    fn ranges_overlap_only_when_they_share_a_key() {
        let range =
            |a: &'static [u8], b: &'static [u8]| KeyRange { start: Bytes::from_static(a), end: Bytes::from_static(b) };
        assert!(range(b"a", b"c").overlaps(&range(b"b", b"d")));
        assert!(!range(b"a", b"b").overlaps(&range(b"b", b"c")));
        assert!(!range(b"b", b"b").overlaps(&range(b"a", b"c")));
    }
}
