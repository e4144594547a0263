//! The words of the design as types: versions, keyspaces, full keys, ranges, and the limits that bound them.
//!
//! Everything here is plain data. Nothing reads a clock, allocates without a bound, or knows of any other floor.

mod atomic;
mod full_key;
pub mod limits;

pub use atomic::AtomicOp;
pub use full_key::{FullKey, KeyRange, key_after, split_full_key};

use std::fmt;

/// A position in the serial order: every committed transaction gets a greater one than all before it.
///
/// `Version(0)` is the empty database. Dense today; no caller may rely on that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The version of the empty database.
    pub const ZERO: Version = Version(0);

    /// The version that follows this one.
    #[must_use]
    pub const fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A keyspace: a separate ordered map of keys. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

impl KeyspaceId {
    /// The system's own: catalog, idempotency records.
    pub const SYSTEM: KeyspaceId = KeyspaceId(0);
    /// The keyspace that every database begins with, named `default`.
    pub const DEFAULT: KeyspaceId = KeyspaceId(1);
    /// The first id that the catalog gives out.
    pub const FIRST_CREATED: KeyspaceId = KeyspaceId(16);
    /// The greatest id the catalog gives out, so that every keyspace has an exclusive upper bound.
    pub const LAST: KeyspaceId = KeyspaceId(u32::MAX - 1);
}

impl fmt::Display for KeyspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A Raft term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A node of a cluster. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The place of an entry in the log, and who put it there.
///
/// Ordered by term and leader before index, as Raft orders logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term in which it was proposed.
    pub term: Term,
    /// Who led that term.
    pub leader: NodeId,
    /// Its index: the first entry of a log has index 0, and the log has no gap.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.term.0, self.leader.0, self.index)
    }
}

/// A cluster, named at random when it is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of one attempt to commit: sixteen bytes of the client's choice, and a version that it had seen.
///
/// Every attempt that means the same commit carries the same pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyPair {
    /// Chosen at random by the client.
    pub key: [u8; 16],
    /// A version that the client had seen when it made the pair; decides when the record expires.
    pub seen: Version,
}

/// What a transaction's reads are checked for at commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Everything that was read must be unchanged: strict serializability.
    #[default]
    Serializable,
    /// Only the keys that it writes must be unchanged: snapshot isolation.
    Snapshot,
}
