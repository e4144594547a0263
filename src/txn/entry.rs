//! What the log carries: one entry is a group of accepted commits, in the order of their versions.
//!
//! ```text
//! entry   format u8 · flags u8 · level u16 · first version u64 · clock ms u64 · idempotency floor u64 · count u32 · item*
//! item    kind u8, then
//!   COMMIT       mutations u32 · body bytes32
//!   KEYED        pair · has reply u8 · [reply bytes32] · mutations u32 · body bytes32
//!   FENCE        pair
//!   ANSWER       pair · answer bytes32
//! pair    key 16 bytes · seen u64
//! ```
//!
//! Integers are big-endian; `body` is mutations in their one encoding ([`super::mutation`]), as the client sent them.
//! Item `i` has version `first version + i`. The leader decided all of it: whoever applies an entry checks nothing but
//! that it continues the version applied before it.

use super::idempotency;
use crate::{
    encoding::{ReadError, Reader, Writer},
    types::{IdempotencyPair, Version, limits},
};
use bytes::{BufMut, Bytes, BytesMut};

/// The encoding of entries that this code writes and reads.
pub const FORMAT: u8 = 1;
/// The greatest state-machine level whose rules this code knows. A node that meets a higher one stops.
pub const LEVEL: u16 = if cfg!(feature = "skew") { LEVEL_FIRST + 1 } else { LEVEL_FIRST };
/// The level of entries until every member knows a higher one.
pub const LEVEL_FIRST: u16 = 1;
/// Where the level stands in an entry.
const LEVEL_AT: std::ops::Range<usize> = 2..4;
/// Bytes before the first item.
pub const HEADER_BYTES: usize = 1 + 1 + 2 + 8 + 8 + 8 + 4;
/// Flag: some body holds an atomic operation, so applying it needs old values.
const FLAG_ATOMICS: u8 = 1;
const FLAGS_KNOWN: u8 = FLAG_ATOMICS;

const COUNT_AT: usize = HEADER_BYTES - 4;
const FLAGS_AT: usize = 1;

const KIND_COMMIT: u8 = 1;
const KIND_KEYED: u8 = 2;
const KIND_FENCE: u8 = 3;
const KIND_ANSWER: u8 = 4;

/// Why an entry could not be read: damage, or the work of a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A field is cut short or too long.
    #[error("entry: {0}")]
    Read(#[from] ReadError),
    /// Written in a format that this code does not know.
    #[error("entry format {0} is not known here")]
    Format(u8),
    /// Needs rules that this code does not know.
    #[error("entry needs state-machine level {0}, this node knows {LEVEL}")]
    Level(u16),
    /// A flag or an item kind that does not exist.
    #[error("entry: unknown {what} {value}")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// A mutation that no leader accepts.
    #[error("entry: {0}")]
    Mutation(#[from] super::mutation::MutationError),
}

/// An entry's fixed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Whether some body holds an atomic operation.
    pub atomics: bool,
    /// The version of the first item.
    pub first_version: Version,
    /// The proposer's clock, milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Idempotency records below this version expire with this entry.
    pub idempotency_floor: Version,
    /// How many items follow.
    pub count: u32,
}

/// One item of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An accepted commit.
    Commit {
        /// Under which name, if it has one, and the reply to keep with it.
        keyed: Option<(IdempotencyPair, Option<&'a [u8]>)>,
        /// How many mutations `body` holds.
        mutations: u32,
        /// Mutations in request order.
        body: &'a [u8],
    },
    /// Nothing can commit under this pair any more.
    Fence(IdempotencyPair),
    /// The answer to a marked retry that wrote nothing.
    Answer(IdempotencyPair, &'a [u8]),
}

/// Builds an entry in one buffer; each body is copied into it once.
#[derive(Debug)]
pub struct EntryBuilder {
    bytes: BytesMut,
    first_version: Version,
    count: u32,
}

impl EntryBuilder {
    /// An entry without items.
    #[must_use]
    pub fn new(first_version: Version, clock_ms: u64, idempotency_floor: Version, capacity: usize) -> EntryBuilder {
        let mut bytes = BytesMut::with_capacity(capacity.max(HEADER_BYTES));
        bytes.put_u8(FORMAT);
        bytes.put_u8(0);
        bytes.put_u16(LEVEL_FIRST);
        bytes.put_u64(first_version.0);
        bytes.put_u64(clock_ms);
        bytes.put_u64(idempotency_floor.0);
        bytes.put_u32(0);
        EntryBuilder { bytes, first_version, count: 0 }
    }

    /// The same, by the rules of a level that every member knows.
    #[must_use]
    pub fn at_level(mut self, level: u16) -> EntryBuilder {
        self.bytes[LEVEL_AT].copy_from_slice(&level.to_be_bytes());
        self
    }

    /// The version that the next item gets.
    #[must_use]
    pub fn next_version(&self) -> Version {
        Version(self.first_version.0 + u64::from(self.count))
    }

    /// Items so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a commit of one mutation that was sent alone: its kind, then its fields as they stood in the request.
    #[inline]
    pub fn push_single(&mut self, kind: u8, fields: &[u8], atomic: bool) -> Version {
        self.bytes.reserve(fields.len() + 10);
        self.bytes.put_u8(KIND_COMMIT);
        self.bytes.put_u32(1);
        self.bytes.put_u32(1 + u32::try_from(fields.len()).expect("a mutation is within the transaction limit"));
        self.bytes.put_u8(kind);
        self.bytes.put_slice(fields);
        self.finish_item(atomic)
    }

    /// Adds a commit.
    pub fn push_commit(&mut self, mutations: u32, body: &[&[u8]], atomics: bool) -> Version {
        self.bytes.put_u8(KIND_COMMIT);
        self.put_body(mutations, body);
        self.finish_item(atomics)
    }

    /// Adds a commit with a name, and what to answer whoever sends it again if that is more than its results.
    pub fn push_keyed(
        &mut self,
        pair: IdempotencyPair,
        reply: Option<&[u8]>,
        mutations: u32,
        body: &[&[u8]],
        atomics: bool,
    ) -> Version {
        self.bytes.put_u8(KIND_KEYED);
        self.put_pair(pair);
        self.bytes.put_u8(u8::from(reply.is_some()));
        if let Some(reply) = reply {
            self.bytes.put_bytes32(reply);
        }
        self.put_body(mutations, body);
        self.finish_item(atomics)
    }

    /// Adds a fence.
    pub fn push_fence(&mut self, pair: IdempotencyPair) -> Version {
        self.bytes.put_u8(KIND_FENCE);
        self.put_pair(pair);
        self.finish_item(false)
    }

    /// Adds the answer to a marked retry.
    pub fn push_answer(&mut self, pair: IdempotencyPair, answer: &[u8]) -> Version {
        self.bytes.put_u8(KIND_ANSWER);
        self.put_pair(pair);
        self.bytes.put_bytes32(answer);
        self.finish_item(false)
    }

    /// The entry as far as it has come; its header does not count the items yet.
    #[must_use]
    pub fn unfinished(&self) -> &[u8] {
        &self.bytes
    }

    /// The finished entry.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.bytes[COUNT_AT..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
        self.bytes.freeze()
    }

    fn put_pair(&mut self, pair: IdempotencyPair) {
        self.bytes.put_slice(&pair.key);
        self.bytes.put_u64(pair.seen.0);
    }

    fn put_body(&mut self, mutations: u32, body: &[&[u8]]) {
        let length = body.iter().map(|part| part.len()).sum::<usize>();
        self.bytes.put_u32(mutations);
        self.bytes.put_u32(u32::try_from(length).expect("a body is within the transaction limit"));
        body.iter().for_each(|part| self.bytes.put_slice(part));
    }

    #[inline]
    fn finish_item(&mut self, atomics: bool) -> Version {
        if atomics {
            self.bytes[FLAGS_AT] |= FLAG_ATOMICS;
        }
        let version = self.next_version();
        self.count += 1;
        version
    }
}

/// Reads an entry's fixed fields.
pub fn read_header<'a>(reader: &mut Reader<'a>) -> Result<EntryHeader, EntryError> {
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(EntryError::Format(format));
    }
    let flags = reader.u8()?;
    let level = reader.u16()?;
    if level > LEVEL {
        return Err(EntryError::Level(level));
    }
    if flags & !FLAGS_KNOWN != 0 {
        return Err(EntryError::Unknown { what: "flags", value: flags });
    }
    Ok(EntryHeader {
        atomics: flags & FLAG_ATOMICS != 0,
        first_version: Version(reader.u64()?),
        clock_ms: reader.u64()?,
        idempotency_floor: Version(reader.u64()?),
        count: reader.u32()?,
    })
}

/// Reads the next item.
#[inline]
pub fn read_item<'a>(reader: &mut Reader<'a>) -> Result<Item<'a>, EntryError> {
    match reader.u8()? {
        KIND_COMMIT => {
            let mutations = reader.u32()?;
            Ok(Item::Commit { keyed: None, mutations, body: reader.bytes32()? })
        }
        KIND_KEYED => {
            let pair = read_pair(reader)?;
            let reply = match reader.u8()? {
                0 => None,
                1 => Some(reader.bytes32()?),
                value => return Err(EntryError::Unknown { what: "reply mark", value }),
            };
            let mutations = reader.u32()?;
            Ok(Item::Commit { keyed: Some((pair, reply)), mutations, body: reader.bytes32()? })
        }
        KIND_FENCE => Ok(Item::Fence(read_pair(reader)?)),
        KIND_ANSWER => Ok(Item::Answer(read_pair(reader)?, reader.bytes32()?)),
        value => Err(EntryError::Unknown { what: "item", value }),
    }
}

fn read_pair(reader: &mut Reader<'_>) -> Result<IdempotencyPair, ReadError> {
    Ok(IdempotencyPair { key: reader.array16()?, seen: Version(reader.u64()?) })
}

const _: () = assert!(
    limits::RECORDED_RESULT_BYTES_MAX + idempotency::RECORD_OVERHEAD_BYTES < limits::VALUE_BYTES_MAX,
    "a record is a value like any other"
);

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: IdempotencyPair = IdempotencyPair { key: [7; 16], seen: Version(3) };

    #[test]
    fn items_come_back_in_order_with_dense_versions() {
        let mut builder = EntryBuilder::new(Version(10), 1234, Version(2), 64);
        assert!(builder.is_empty());
        assert_eq!(builder.push_single(2, b"\0\x01\0\0\0\x01k", false), Version(10));
        assert_eq!(builder.push_commit(2, &[b"ab", b"c"], true), Version(11));
        assert_eq!(builder.push_keyed(PAIR, Some(b"reply"), 1, &[b"d"], false), Version(12));
        assert_eq!(builder.push_keyed(PAIR, None, 0, &[], false), Version(13));
        assert_eq!(builder.push_fence(PAIR), Version(14));
        assert_eq!(builder.push_answer(PAIR, b"no"), Version(15));
        assert_eq!((builder.count(), builder.next_version()), (6, Version(16)));
        assert!(builder.len() > HEADER_BYTES);
        let entry = builder.finish();
        let mut reader = Reader::new(&entry);
        let header = read_header(&mut reader).expect("the header is whole");
        assert_eq!(
            header,
            EntryHeader {
                atomics: true,
                first_version: Version(10),
                clock_ms: 1234,
                idempotency_floor: Version(2),
                count: 6
            }
        );
        let items: Vec<_> = (0..6).map(|_| read_item(&mut reader).expect("the item is whole")).collect();
        assert_eq!(
            items,
            [
                Item::Commit { keyed: None, mutations: 1, body: b"\x02\0\x01\0\0\0\x01k" },
                Item::Commit { keyed: None, mutations: 2, body: b"abc" },
                Item::Commit { keyed: Some((PAIR, Some(b"reply"))), mutations: 1, body: b"d" },
                Item::Commit { keyed: Some((PAIR, None)), mutations: 0, body: b"" },
                Item::Fence(PAIR),
                Item::Answer(PAIR, b"no"),
            ]
        );
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn what_a_newer_node_wrote_is_refused() {
        let entry = EntryBuilder::new(Version(1), 0, Version(0), 0).finish();
        let read = |at: usize, value: u8| {
            let mut bytes = entry.to_vec();
            bytes[at] = value;
            read_header(&mut Reader::new(&bytes)).expect_err("the entry is not of this version")
        };
        assert_eq!(read(0, 2), EntryError::Format(2));
        assert_eq!(read(1, 0x80), EntryError::Unknown { what: "flags", value: 0x80 });
        assert_eq!(read(3, 2), EntryError::Level(2));
        assert_eq!(
            read_item(&mut Reader::new(&[9])).expect_err("no such item"),
            EntryError::Unknown { what: "item", value: 9 }
        );
        let mut keyed = vec![KIND_KEYED];
        keyed.extend([0; 24]);
        keyed.push(2);
        assert_eq!(
            read_item(&mut Reader::new(&keyed)).expect_err("no such mark"),
            EntryError::Unknown { what: "reply mark", value: 2 }
        );
    }
}
