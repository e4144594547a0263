//! The base: everything older than what lies in memory, in sorted runs on disk.
//!
//! A base holds rows (full key, version, value or tombstone), and one *marker* that says how far they go. It has no
//! journal: the log is the journal, and after a crash it is read again from the marker on. So there is one rule above all:
//!
//! > A run of rows and its marker become durable in one step. After a reopen the base holds exactly what it held when the
//! > marker that it shows was written: all rows up to the marker's version, and nothing newer.
//!
//! Of a key the base may hold several versions: those that pinned readers need, and old ones that nobody has cleared away
//! yet. A read at a version finds the newest at or below it. For example, with `a` stored at 3 and 7, deleted at 9:
//!
//! | read at | 2 | 3 | 6 | 7 | 9 |
//! |---|---|---|---|---|---|
//! | `a` | nothing | v3 | v3 | v7 | nothing |
//!
//! [`Base::compact`] clears away. It may forget a version as soon as a newer one of the same key stands in the base, if it
//! was told so; the engine tells it so only when no reader can ask for the older one.
//!
//! A snapshot of another replica is written into a *space* beside what is read ([`BaseSpace`]), and takes its place in one
//! durable step. Until then a crash leaves what was there, and as much of the space as was durable.
//!
//! Two implementations stand behind the trait: [`LsmBase`] on disk, and a simulated one in the test framework that fails
//! where a script says so. The base never decides what is stored, and never looks at the log.

mod integrity;
mod layout;
mod lsm;
mod marker;
mod restore;
mod space;
#[cfg(test)]
mod tests;

pub use integrity::{Finding, check_base};
pub use lsm::{LsmBase, LsmOptions};
pub(super) use marker::MEMBERSHIP_BYTES_MAX;
pub use marker::{Marker, MarkerError};
pub use restore::restore_base;

use crate::types::{KeyRange, Version};
use bytes::{BufMut, Bytes, BytesMut};
use std::{io, ops::ControlFlow, path::PathBuf, sync::Arc};

/// Where full keys begin: they hold the four bytes of their keyspace. What is below is the base's own.
pub(super) const FULL_KEYS_START: &[u8] = &[0; 4];
/// Where full keys end: no keyspace has this id.
pub(super) const FULL_KEYS_END: &[u8] = &[0xff; 4];

/// All full keys.
pub(super) fn full_keys() -> KeyRange {
    KeyRange { start: Bytes::from_static(FULL_KEYS_START), end: Bytes::from_static(FULL_KEYS_END) }
}

/// Why a base could not do what it was asked. Except for [`BaseError::NoSpace`] it is not asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// The disk is full. Nothing has changed; the same may be asked again when there is room.
    #[error("no space is left: {0}")]
    NoSpace(String),
    /// The disk failed, or what was read is damaged. What became of a write is known only after a reopen.
    #[error("{0}")]
    Failed(String),
}

/// Why a base could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Something is not as it was written. Restore this node, or let a replica do it.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file, or the directory where it is not known which.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later program has written it.
    #[error("{path} has format {found}, this program knows up to {known}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format of the marker.
        found: u16,
        /// The latest known one.
        known: u16,
    },
    /// The directory is not empty where a new one is wanted.
    #[error("{path} is not empty")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRow {
    /// The version that wrote it.
    pub version: Version,
    stored: Bytes,
}

/// Bytes of the version in front of a stored value.
const VERSION_BYTES: usize = size_of::<u64>();

impl BaseRow {
    /// A row from its stored form, the version's eight bytes and then the value; `None` if that is too short.
    #[must_use]
    pub fn from_stored(stored: Bytes) -> Option<BaseRow> {
        let version = Version(u64::from_be_bytes(*stored.first_chunk::<VERSION_BYTES>()?));
        Some(BaseRow { version, stored })
    }

    /// The value's bytes.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.stored[VERSION_BYTES..]
    }
}

/// A row to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// The full key.
    pub key: Bytes,
    /// The version that wrote it.
    pub version: Version,
    /// The stored form of the value, as [`BaseRow::from_stored`] takes it; `None` for a tombstone.
    pub stored: Option<Bytes>,
}

impl RunRow {
    /// A row of these parts; `None` deletes. Copies both.
    #[must_use]
    pub fn new(key: &[u8], version: Version, value: Option<&[u8]>) -> RunRow {
        let stored = value.map(|value| {
            let mut stored = BytesMut::with_capacity(VERSION_BYTES + value.len());
            stored.put_u64(version.0);
            stored.put_slice(value);
            stored.freeze()
        });
        RunRow { key: Bytes::copy_from_slice(key), version, stored }
    }
}

/// What a base holds, at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseUsage {
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Rows, as an upper estimate: versions that nobody needs any more and tombstones count until they are cleared away.
    pub rows: u64,
    /// Runs that every read has to look into.
    pub runs: u64,
    /// Bytes that the next piece of compaction may need before it gives any back, at most.
    pub compaction_bytes: u64,
}

/// What a scan of a base calls with each row: its key, version and value.
pub type EachBaseRow<'a> = dyn FnMut(&[u8], Version, &[u8]) -> ControlFlow<()> + 'a;

/// A sorted, versioned store on disk. Reads come from any thread; `write_run` and `compact` from one at a time.
pub trait Base: Send + Sync + 'static {
    /// The marker of the last run; `None` before the first.
    fn marker(&self) -> Option<Marker>;

    /// The newest row of a key at or below a version.
    fn get(&self, key: &[u8], at: Version) -> Result<Option<BaseRow>, BaseError>;

    /// Visits the newest row at or below a version of every key of a range, which is not empty, in order, until `each`
    /// breaks. Sees one state of the base, that of its beginning.
    fn scan(&self, range: &KeyRange, reverse: bool, at: Version, each: &mut EachBaseRow<'_>) -> Result<(), BaseError>;

    /// Makes rows and their marker durable in one step. The rows come by key, and of one key the newest first; all are newer
    /// than the last marker's version and none is newer than this one's. An error among them is handed back, and
    /// nothing is written.
    fn write_run(
        &self,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
        marker: &Marker,
    ) -> Result<(), BaseError>;

    /// Merges what should be merged, one bounded piece. Of versions below `forget_below` all but a key's newest may be
    /// forgotten, even if that is not below it; with `None` none may. Returns whether it did something.
    fn compact(&self, forget_below: Option<Version>) -> Result<bool, BaseError>;

    /// What it holds. Costs a look at every file's description.
    fn usage(&self) -> BaseUsage;

    /// Bytes that may still be written where it lies.
    fn available(&self) -> Result<u64, BaseError>;

    /// Begins a space beside this base, or goes on with the one under this name, should it be whole. A space under another
    /// name is discarded. Not while somebody has one.
    fn begin_space(&self, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError>;

    /// What the caller noted last in a space that stands beside this base, whatever its name; `None` if there is none.
    fn space_progress(&self) -> Option<Bytes>;

    /// Discards the space that stands beside this base, if one does. Not while somebody has it.
    fn discard_space(&self) -> Result<(), BaseError>;
}

/// A base that is being filled beside the one that is read.
pub trait BaseSpace: Send {
    /// What the caller noted with the rows that it wrote last; empty before.
    fn progress(&self) -> Bytes;

    /// Makes rows, and the caller's note of how far it has come, durable in one step. Keys ascend, over all calls, and come
    /// once.
    fn write_rows(&mut self, rows: &[RunRow], progress: Bytes) -> Result<(), BaseError>;

    /// Takes the place of the base that it stands beside, with a marker, in one durable step. The other can be read for as
    /// long as somebody has it, and is removed then; written it cannot be any more.
    ///
    /// # Errors
    /// [`BaseError::NoSpace`]: nothing has changed. [`BaseError::Failed`]: which of the two is there is known only after a
    /// reopen.
    fn switch(self: Box<Self>, marker: &Marker) -> Result<Arc<dyn Base>, BaseError>;
}
