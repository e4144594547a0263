//! The tags of the tagged section.

use super::kinds::{Direction, Kind};
use super::opcodes::ReservedRange;
use std::fmt;

/// The number of a tag. Bit 0x8000 makes it critical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u16);

/// How a tag's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagType {
    /// Nothing: the tag alone says it.
    Empty,
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// Any bytes.
    Bytes,
    /// UTF-8.
    Text,
    /// A keyspace as four bytes, then the user's key.
    FullKey,
    /// Sixteen bytes, then a version as eight.
    Pair,
    /// A mode as one byte; for mode 1 four more: the greatest staleness in milliseconds.
    Consistency,
}

/// What is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagRow {
    /// Its number.
    pub tag: Tag,
    /// Its name in the specification.
    pub name: &'static str,
    /// How its value is encoded.
    pub kind: TagType,
    /// Who sends it.
    pub direction: Direction,
    /// The kinds of frames that it stands on, besides the requests whose opcode lists it.
    pub kinds: &'static [Kind],
    /// What it means.
    pub doc: &'static str,
}

/// Whether a tag must be understood.
#[inline]
#[must_use]
pub const fn is_critical(tag: u16) -> bool {
    tag & 0x8000 != 0
}

/// Whether a tag means nothing, is never assigned and is sent at random.
#[must_use]
pub const fn is_grease_tag(tag: u16) -> bool {
    tag & 0xff0f == 0x7a0a
}

/// A set of assigned tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagSet(u32);

impl TagSet {
    /// No tag.
    pub const EMPTY: TagSet = TagSet(0);

    /// The tags of a slice.
    #[must_use]
    pub const fn of(tags: &[Tag]) -> TagSet {
        let mut set = TagSet::EMPTY;
        let mut at = 0;
        while at < tags.len() {
            set = set.with(tags[at]);
            at += 1;
        }
        set
    }

    /// This set and one more tag, which is an assigned one.
    #[must_use]
    pub const fn with(self, tag: Tag) -> TagSet {
        TagSet(self.0 | bit(tag))
    }

    /// Whether the tag is in the set.
    #[inline]
    #[must_use]
    pub const fn has(self, tag: Tag) -> bool {
        self.0 & bit(tag) != 0
    }
}

/// Tags are 0x0001..=0x001F and 0x8001..=0x800F while they are this few: five bits of number, and the critical ones above.
const fn bit(tag: Tag) -> u32 {
    match tag.0 {
        0x0001..=0x001a => 1 << (tag.0 - 1),
        0x8001..=0x8005 => 1 << (26 + tag.0 - 0x8001),
        _ => 0,
    }
}

impl Tag {
    /// What is known of it.
    #[must_use]
    pub fn row(self) -> Option<&'static TagRow> {
        TAGS.iter().find(|row| row.tag == self)
    }

    /// Its name in the specification, or `UNKNOWN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("UNKNOWN", |row| row.name)
    }

    /// Whether it is reserved for what is not built yet.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        RESERVED_TAGS.iter().any(|range| range.contains(self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.name),
            None => write!(f, "tag {:#06x}", self.0),
        }
    }
}

use Direction::{Both, ToClient, ToServer};

macro_rules! tags {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal $kind:ident $direction:ident [ $($on:ident)* ]; )+) => {
        impl Tag {
            $( $(#[doc = $doc])+ pub const $name: Tag = Tag($number); )+
        }

        /// Every assigned tag, by number.
        pub const TAGS: &[TagRow] = &[ $( TagRow {
            tag: Tag::$name,
            name: stringify!($name),
            kind: TagType::$kind,
            direction: $direction,
            kinds: &[ $( Kind::$on ),* ],
            doc: concat!($($doc),+),
        }, )+ ];
    };
}

tags! {
    /// How long the client waits, in milliseconds from receipt. 0 has passed already.
    DEADLINE = 0x0001 U32 ToServer [];
    /// W3C traceparent, at most 64 bytes.
    TRACE_PARENT = 0x0002 Bytes ToServer [];
    /// Answer at this version or a later one; wait for it until the deadline.
    MIN_VERSION = 0x0003 U64 ToServer [];
    /// The limit that was met.
    LIMIT = 0x0010 U64 ToClient [Error Goaway];
    /// The value that met it.
    ACTUAL = 0x0011 U64 ToClient [Error Goaway];
    /// A key that conflicts.
    CONFLICT_KEY = 0x0012 FullKey ToClient [Error];
    /// The code of the transaction's first error.
    CAUSE = 0x0013 U16 ToClient [Error];
    /// Where a stream goes on; opaque to clients.
    RESUME_TOKEN = 0x0014 Bytes Both [Chunk End];
    /// The address of the node that leads.
    LEADER = 0x0015 Text ToClient [Welcome Error Notice];
    /// The tag that was not understood.
    TAG = 0x0016 U16 ToClient [Error Goaway];
    /// The oldest version that can be read.
    HORIZON = 0x0018 U64 ToClient [Error];
    /// The least protocol or framing version that the server speaks.
    VERSION_MIN = 0x0019 U8 ToClient [Goaway];
    /// The greatest protocol or framing version that the server speaks.
    VERSION_MAX = 0x001a U8 ToClient [Goaway];
    /// The transaction, by the id of its BEGIN request.
    TRANSACTION = 0x8001 U64 ToServer [];
    /// The pair that names the commit.
    IDEMPOTENCY = 0x8002 Pair ToServer [];
    /// The pair may have been sent before.
    RETRY_MARK = 0x8003 Empty ToServer [];
    /// How fresh an answer must be.
    CONSISTENCY = 0x8004 Consistency ToServer [];
    /// What to do when the token's version is gone: 0 error, 1 go on at a newer one.
    IF_GONE = 0x8005 U8 ToServer [];
}

/// Opcodes that require the tag TRANSACTION are those that act on one; a request without it is malformed.
pub const TRANSACTION_REQUIRED: &[super::Opcode] =
    &[super::Opcode::Commit, super::Opcode::Rollback, super::Opcode::Savepoint, super::Opcode::RollbackTo];

/// Critical tags kept for what is not built yet. A request that carries one is UNSUPPORTED.
pub const RESERVED_TAGS: &[ReservedRange] = &[
    ReservedRange { first: 0x80f0, last: 0x80f0, name: "GROUP" },
    ReservedRange { first: 0x80f1, last: 0x80f1, name: "EPOCH" },
    ReservedRange { first: 0x80f2, last: 0x80f2, name: "LANE" },
    ReservedRange { first: 0x80f3, last: 0x80f3, name: "COMPRESSION" },
    ReservedRange { first: 0x80f4, last: 0x80f4, name: "TOKEN" },
];
