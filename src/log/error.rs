//! What can go wrong with a log, and where.

use super::Owner;
use crate::types::LogId;
use std::{io, path::PathBuf, sync::Arc};

/// Something on disk is not what was written there, and no power cut explains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {damage}", path.display())]
pub struct Corruption {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
}

/// What is wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is no whole number of pages long, or shorter than the smallest segment.
    #[error("a segment is not {bytes} bytes long")]
    Length {
        /// How long it is.
        bytes: u64,
    },
    /// The header of a segment that is needed cannot be read.
    #[error("the segment's header is unreadable")]
    Header,
    /// Groups stand in a segment whose header is older than they are.
    #[error("groups of generation {generation} stand behind an older header")]
    HeaderLost {
        /// Theirs.
        generation: u64,
    },
    /// Two files claim the same generation.
    #[error("another file holds generation {generation} too")]
    Doubled {
        /// Which.
        generation: u64,
    },
    /// A segment that must be there is not.
    #[error("the segment of generation {generation} is missing")]
    SegmentMissing {
        /// Which.
        generation: u64,
    },
    /// A block of a group is not what was written.
    #[error("a block is not what was written there")]
    Block,
    /// A group is missing: one that came later is there.
    #[error("a group is missing: a later one, of sequence {sequence}, is there")]
    GroupMissing {
        /// The later one's.
        sequence: u64,
    },
    /// All blocks of a group are whole, and its records make no sense.
    #[error("a group's records cannot be read")]
    Records,
    /// What a header or a record says contradicts what came before it.
    #[error("what stands here contradicts what stands before it")]
    Contradiction,
    /// Entries above the purge point are missing.
    #[error("entries from index {index} on are missing")]
    EntriesMissing {
        /// The first of them.
        index: u64,
    },
}

/// Why a log was not opened. Nothing has been changed, unless it is an error of a write or a sync.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A call of the file system failed.
    #[error("{call} of {} failed: {source}", path.display())]
    Io {
        /// Which call.
        call: &'static str,
        /// Of which file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The log is another node's, or another cluster's.
    #[error("{} belongs to node {} of cluster {}, not to node {} of cluster {}", path.display(), found.node.0,
        found.cluster, wanted.node.0, wanted.cluster)]
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Whose it should be.
        wanted: Owner,
    },
    /// The log was written by a newer program.
    #[error("{} has format {version}, this program knows 1", path.display())]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The log is damaged. Never repaired by guessing: restore the node from the others.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// Why a call was refused, or an entry is not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A write or a sync failed. What is on disk is unknown from there on, so the log takes nothing more; never retry,
    /// stop the node and open the log anew.
    #[error("the log has failed: {call} of {}: {source}", path.display())]
    Failed {
        /// Which call.
        call: &'static str,
        /// Of which file.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// What was read back is not what was written.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The log has been closed, or its thread is gone.
    #[error("the log is closed")]
    Closed,
    /// Entries do not follow the last one. Nothing was appended.
    #[error("entry {found} does not follow: index {expected} is next")]
    Gap {
        /// The index that comes next.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// What was asked for has been purged.
    #[error("entries up to {purged} are purged")]
    Purged {
        /// The last entry that is.
        purged: LogId,
    },
    /// The log has no such entry: nothing at its index, or another one. Nothing was changed.
    #[error("entry {asked} is not in the log")]
    Absent {
        /// Which.
        asked: LogId,
    },
    /// An entry is larger than the log takes. Nothing was appended.
    #[error("an entry of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Its payload.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// A file system's call that failed, on its way to one of the above.
#[derive(Debug)]
pub(super) struct CallFailed {
    pub(super) call: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl From<CallFailed> for OpenError {
    fn from(failed: CallFailed) -> OpenError {
        OpenError::Io { call: failed.call, path: failed.path, source: failed.source }
    }
}

impl From<CallFailed> for LogError {
    fn from(failed: CallFailed) -> LogError {
        LogError::Failed { call: failed.call, path: failed.path, source: Arc::new(failed.source) }
    }
}

/// Names the call and the file of an error.
pub(super) trait Calling<T> {
    fn calling(self, call: &'static str, path: &std::path::Path) -> Result<T, CallFailed>;
}

impl<T> Calling<T> for io::Result<T> {
    fn calling(self, call: &'static str, path: &std::path::Path) -> Result<T, CallFailed> {
        self.map_err(|source| CallFailed { call, path: path.to_owned(), source })
    }
}
