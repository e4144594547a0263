//! Backups as files: one version of a database, in a form that shows any damage, and what a restored database begins with.
//!
//! # The file
//!
//! ```text
//!   header   48  │ "QDBB" 0D 0A 1A 0A · format u32 · cluster 16 · version u64 · taken_ms u64 · crc u32
//!   block    25+ │ 'B' · sequence u64 · rows u32 · length u32 · crc u32 ┃ row … row (length bytes) ┃ crc u32
//!     ⋮          │   row: key length u16 · keyspace u32 · key · version u64 · value length u32 · value
//!   footer   61  │ 'E' · blocks u64 · rows u64 · bytes u64 · clock_ms u64 · hash 16 · crc u32 · "QDBBEND" 0A
//! ```
//!
//! Integers are big-endian. Rows ascend by their full keys (keyspace, then key) through the whole file, and none is of a
//! later version than the file's. A block holds 64 KiB of rows, or a single longer one. `bytes` counts full keys and values.
//!
//! Every `crc` is a CRC-32 that goes on from the one before it, over what stands between them: the checksum of a block
//! speaks for everything up to it, so a block that was moved, doubled, left out or taken from another file is found where it
//! stands. `hash` is XXH3-128 over every byte before it, for damage that a CRC cannot be trusted with. Behind the end mark
//! nothing may follow, so that two files in one are no backup.
//!
//! For example, the database that holds `a` = `x`, written at version 3, at version 7:
//!
//! ```text
//!    0  51 44 42 42 0d 0a 1a 0a  00 00 00 01  (cluster)  00 … 07  (taken_ms)  (crc)
//!   48  42  00 … 00  00 00 00 01  00 00 00 14  (crc)          block 0: one row, 20 bytes
//!   69  00 01  00 00 00 01  61  00 … 03  00 00 00 01  78      "a" of keyspace 1, version 3, "x"
//!   89  (crc)
//!   93  45  00 … 01  00 … 01  00 … 06  (clock_ms)  (hash)  (crc)  51 44 42 42 45 4e 44 0a
//! ```
//!
//! A reader that has come to the end mark has seen what was written, all of it and nothing else; one that has met an
//! [`Error`] knows at which byte, and has seen nothing that it may keep. A header of a later format has the same length and
//! the same checksum, so that it is told apart from a damaged one.
//!
//! # A restored database
//!
//! It holds what the backup holds, and accepts nothing of the timeline that the backup was taken from, for that has gone on
//! without it: what somebody saw there after the backup may never have happened here.
//!
//! - It has a new cluster id, drawn at random. Clients that were connected to the old one refuse it; resume tokens carry a
//!   part of the id.
//! - Its versions begin at [`beginning`]: the backup's version and [`TIMELINE_JUMP`]. A version is what a client brings
//!   back, in resume tokens, idempotency pairs, MIN_VERSION and conditions; the jump puts every version that the old
//!   timeline may have assigned since *below* the beginning, where it is recognised: at a million commits a second 2^40
//!   versions take twelve days, at ten thousand three and a half years. Without it, a version of the old timeline would one
//!   day be one of the new, and would be believed.
//! - The history horizon, the resolver's floor and the idempotency floor stand at the beginning. So resume tokens of the old
//!   timeline get OTHER_TIMELINE by their cluster and SNAPSHOT_GONE by their version, pairs get KEY_EXPIRED, and
//!   transactions that read there get TOO_OLD. Records of keyed commits are not in the backup: what they answer is true of the
//!   old timeline only.
//! - Rows come with the versions that wrote them, for whoever wants to show them; they are stored *at the beginning*.
//!   Otherwise a condition VERSION_AT_MOST with a version seen in the old timeline after the backup would hold for a row
//!   that the client saw in a later state; stored at the beginning it fails, as VERSION_EQUALS does, and the client reads
//!   again.
//! - The clock begins no earlier than `clock_ms`, so that it never goes back behind what rows were stamped with.
//!
//! For example a backup of version 7, taken from a cluster that went on to version 9 and was lost: the restored one begins
//! at 7 + 2^40. A commit that brings the pair {k, seen 9} is refused as expired, and its client asks what became of it and is
//! told that nobody knows; it is not done twice.
//!
//! # What it never does
//!
//! It never holds more than a block in memory, never allocates for a length before it was checked, never names a server.
//! Reading takes any [`std::io::Read`]; files are written through [`Env`](crate::env::Env).

mod error;
mod format;

mod writer;
pub use writer::{WriteError, Writer};

mod reader;
pub use reader::Reader;

mod restore;
pub use restore::{RestoreError, Restored, TIMELINE_JUMP, beginning, restore};

mod target;
pub use target::{Target, TargetError};

#[cfg(test)]
mod tests;

pub use error::Error;

use crate::types::{ClusterId, Version};

/// What a backup is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster that it was taken from.
    pub cluster: ClusterId,
    /// The version of everything in it.
    pub version: Version,
    /// When it was begun, by the clock of whoever took it, in milliseconds since the Unix epoch.
    pub taken_ms: u64,
}

/// A row of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The full key: four big-endian bytes of keyspace, then the key.
    pub key: &'a [u8],
    /// The version that wrote the value.
    pub version: Version,
    /// The value.
    pub value: &'a [u8],
}

/// What a whole backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What it is of.
    pub header: Header,
    /// Its rows.
    pub rows: u64,
    /// Their full keys and values, in bytes.
    pub bytes: u64,
    /// A reading of the cluster's clock no earlier than the version, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// How long the file is, in bytes.
    pub file_bytes: u64,
}
