//! A snapshot on its way to another replica: everything as of one version, read in parts.
//!
//! Parts follow each other by key and say where the next one begins. What a part holds depends on the captured version and
//! on where it begins, and on nothing else, so a transfer that was interrupted reads the same parts again:
//!
//! ```text
//! part 0 from ""    a b c ── next d        totals: hash of part 0, seeded with 0
//! part 1 from "d"   d e f ── next g                hash of part 1, seeded with that
//! part 2 from "g"   g     ── nothing               …
//! ```
//!
//! Rows carry the versions that wrote them, in all keyspaces, the system's included; what is deleted is not there. The pin
//! keeps the version readable for as long as the capture lives.

use super::{
    Applied, Engine, Error, Row, Snapshot,
    base::{FULL_KEYS_END, FULL_KEYS_START},
};
use crate::types::{FullKey, KeyRange, Version};
use bytes::{Bytes, BytesMut};
use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a part: another row begins the next one, unless a single row is longer.
const PART_BYTES: usize = 1024 * 1024;

/// Everything that an engine holds as of one version, and how far it had come then.
pub struct Capture {
    snapshot: Snapshot,
    applied: Applied,
    membership: Bytes,
}

/// A row of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedRow {
    /// The full key.
    pub key: FullKey,
    /// The version that wrote it.
    pub version: Version,
    /// The value's bytes.
    pub value: Bytes,
}

/// Adjacent rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPart {
    /// By key, each once. They share one piece of memory.
    pub rows: Vec<CapturedRow>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<FullKey>,
}

/// What several parts, from the first one on, amount to. Two that are equal came from the same rows in the same parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureTotals {
    /// How many parts.
    pub parts: u64,
    /// How many rows in them.
    pub rows: u64,
    /// XXH3-64 of every part as it is sent, each seeded with the hash before it, 0 before the first.
    pub hash: u64,
}

impl Capture {
    /// Captures the visible version. To be called by the one task that applies, so that nothing moves meanwhile.
    ///
    /// # Panics
    /// If something moved, which is a defect of the caller.
    #[must_use]
    pub fn now(engine: &Arc<dyn Engine>) -> Capture {
        let snapshot = Snapshot::now(engine);
        let (applied, membership) = (engine.applied(), engine.membership());
        assert_eq!(snapshot.version(), applied.version, "nothing is applied while a version is captured");
        assert_eq!(engine.applied(), applied, "nothing is applied while a version is captured");
        Capture { snapshot, applied, membership }
    }

    /// How far the engine had come.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The membership as of then, in the encoding of whoever orders entries.
    #[must_use]
    pub fn membership(&self) -> &Bytes {
        &self.membership
    }

    /// The part that begins at a full key, or at the first one if `start` is empty. Blocks while it reads.
    ///
    /// # Errors
    /// [`Error::Gone`] once the engine has installed a snapshot itself; whatever else a scan fails with.
    pub fn part(&self, start: &[u8]) -> Result<CapturedPart, Error> {
        let start = Bytes::copy_from_slice(start.max(FULL_KEYS_START));
        let range = KeyRange { start, end: Bytes::from_static(FULL_KEYS_END) };
        let mut bytes = BytesMut::new();
        let mut places: Vec<(Range<usize>, Version, Range<usize>)> = Vec::new();
        let mut next = None;
        self.snapshot.scan(&range, false, &mut |key, row: Row<'_>| {
            if !places.is_empty() && bytes.len() + key.len() + row.value.len() > PART_BYTES {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            let begin = bytes.len();
            bytes.extend_from_slice(key);
            let middle = bytes.len();
            bytes.extend_from_slice(row.value);
            places.push((begin..middle, row.version, middle..bytes.len()));
            ControlFlow::Continue(())
        })?;
        let bytes = bytes.freeze();
        let row = |(key, version, value)| CapturedRow { key: bytes.slice(key), version, value: bytes.slice(value) };
        Ok(CapturedPart { rows: places.into_iter().map(row).collect(), next })
    }
}

impl CaptureTotals {
    /// Goes on with the rows of the next part.
    pub fn add(&mut self, rows: &[CapturedRow]) {
        self.hash = self.hash_with(rows);
        self.rows += rows.len() as u64;
        self.parts += 1;
    }

    /// The hash with the rows of the next part: over its number (u64), how many rows (u32), and of each row the length of
    /// its key without the keyspace (u16), the full key, the version (u64), the length of the value (u32) and the value,
    /// integers big-endian. That is the payload of SNAPSHOT_PART.
    fn hash_with(&self, rows: &[CapturedRow]) -> u64 {
        let count = u32::try_from(rows.len()).expect("a part has few rows");
        let mut hasher = Xxh3::with_seed(self.hash);
        hasher.update(&self.parts.to_be_bytes());
        hasher.update(&count.to_be_bytes());
        for row in rows {
            // What is too long is refused elsewhere, and then it does not matter what is hashed.
            let key_length = u16::try_from(row.key.len().saturating_sub(4)).unwrap_or(u16::MAX);
            hasher.update(&key_length.to_be_bytes());
            hasher.update(&row.key);
            hasher.update(&row.version.0.to_be_bytes());
            hasher.update(&u32::try_from(row.value.len()).unwrap_or(u32::MAX).to_be_bytes());
            hasher.update(&row.value);
        }
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        storage::{MemoryEngine, MemoryOptions, Write},
        types::KeyspaceId,
    };

    /// Keyspace, key and value of a write.
    type Put<'a> = (u32, &'a [u8], Option<Vec<u8>>);

    fn engine(values: &[Put<'_>]) -> Arc<dyn Engine> {
        let engine = MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed: 7 });
        for (version, (keyspace, key, value)) in (1..).map(Version).zip(values) {
            let key = KeyspaceId(*keyspace).full_key(key);
            let write = Write { version, key: &key, value: value.as_deref() };
            engine.apply(&[write], Applied { version, ..Applied::default() }).expect("it is in order");
        }
        Arc::new(engine)
    }

    fn parts(capture: &Capture) -> Vec<CapturedPart> {
        let mut parts = vec![capture.part(b"").expect("it is pinned")];
        while let Some(next) = parts.last().and_then(|part| part.next.clone()) {
            parts.push(capture.part(&next).expect("it is pinned"));
        }
        parts
    }

    #[test]
    fn parts_hold_all_rows_of_all_keyspaces_as_of_one_version_whatever_comes_later() {
        let big = |byte: u8| Some(vec![byte; 400 * 1024]);
        let values = [
            (0, &b"record"[..], big(0)),
            (1, b"a", big(1)),
            (1, b"b", big(2)),
            (1, b"c", Some(vec![])),
            (1, b"gone", big(3)),
            (1, b"gone", None),
            (1, b"long", Some(vec![4; 3 * 1024 * 1024])),
            (u32::MAX - 1, b"", big(5)),
        ];
        let engine = engine(&values);
        let capture = Capture::now(&engine);
        let before = parts(&capture);
        assert_eq!(before.iter().map(|part| part.rows.len()).collect::<Vec<_>>(), [2, 2, 1, 1]);
        let version = Version(9);
        let key = KeyspaceId(1).full_key(b"a");
        let later = Applied { version, ..Applied::default() };
        engine.apply(&[Write { version, key: &key, value: None }], later).expect("it is in order");
        while engine.trim(version) {}
        assert_eq!(parts(&capture), before);
        let rows: Vec<_> = before.iter().flat_map(|part| &part.rows).collect();
        let found: Vec<_> = rows.iter().map(|row| (row.version.0, row.value.len())).collect();
        assert_eq!(found, [(1, 409_600), (2, 409_600), (3, 409_600), (4, 0), (7, 3 << 20), (8, 409_600)]);
        assert!(rows.is_sorted_by_key(|row| &row.key));
        assert_eq!((capture.applied().version, &capture.membership()[..]), (Version(8), &b""[..]));
    }

    #[test]
    fn an_empty_store_is_one_part_without_rows() {
        let capture = Capture::now(&engine(&[]));
        assert_eq!(parts(&capture), [CapturedPart { rows: Vec::new(), next: None }]);
    }

    #[test]
    fn totals_tell_rows_their_order_and_where_parts_end() {
        let row = |key: &'static [u8], version: u64, value: &'static [u8]| CapturedRow {
            key: Bytes::from_static(key),
            version: Version(version),
            value: Bytes::from_static(value),
        };
        let rows = [row(b"\0\0\0\x01a", 1, b"x"), row(b"\0\0\0\x01b", 2, b""), row(b"\0\0\0\x01c", 3, b"yz")];
        let totals = |parts: &[&[CapturedRow]]| {
            let mut totals = CaptureTotals::default();
            parts.iter().for_each(|rows| totals.add(rows));
            totals
        };
        let whole = totals(&[&rows[..2], &rows[2..]]);
        assert_eq!((whole.parts, whole.rows), (2, 3));
        let mut other = rows.clone();
        other[1].version = Version(3);
        let moved = [row(b"\0\0\0\x01a", 1, b"x\0\x01"), row(b"\0\0\0\x01b", 2, b""), rows[2].clone()];
        let hashes = [
            totals(&[&rows[..1], &rows[1..]]).hash,
            totals(&[&rows]).hash,
            totals(&[&rows[2..], &rows[..2]]).hash,
            totals(&[&other[..2], &other[2..]]).hash,
            totals(&[&moved[..2], &moved[2..]]).hash,
            totals(&[&rows[..2], &rows[2..], &[]]).hash,
        ];
        assert!(!hashes.contains(&whole.hash));
    }
}
