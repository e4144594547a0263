//! What a database begins with that is restored from a backup: see the module for why.

use super::{Error, Reader, Summary};
use crate::types::Version;
use std::io::Read;

/// How far above a backup's version the restored timeline begins, in versions: more than the old one can have assigned
/// between the backup and its end.
pub const TIMELINE_JUMP: u64 = 1 << 40;

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup holds.
    pub summary: Summary,
    /// The version that the restored database begins at: its visible version, the horizon of its history, its idempotency
    /// floor, and the version of its rows.
    pub beginning: Version,
}

/// Why a backup was not restored. What the sink took is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The file is no whole backup.
    #[error(transparent)]
    File(Error),
    /// The sink refused a row.
    #[error("a row could not be taken")]
    Sink(#[source] E),
    /// So many restores lie behind this backup that no versions are left.
    #[error("no versions are left above {0}")]
    NoVersions(Version),
}

impl<E> From<Error> for RestoreError<E> {
    fn from(error: Error) -> RestoreError<E> {
        RestoreError::File(error)
    }
}

/// The version at which a database begins that is restored from a backup of this version; `None` if as many versions again
/// are not left above it.
#[must_use]
pub const fn beginning(version: Version) -> Option<Version> {
    match version.0.checked_add(TIMELINE_JUMP) {
        Some(beginning) if beginning <= u64::MAX - TIMELINE_JUMP => Some(Version(beginning)),
        _ => None,
    }
}

/// Hands every row to `sink`: full key, the version that wrote it in the old timeline, value; in the order of full keys.
///
/// Only `Ok` means that the rows were a backup: the end of the file speaks for all of it. Until then the sink must not have
/// made what it took the database.
pub fn restore<R: Read, E>(
    reader: Reader<R>,
    mut sink: impl FnMut(&[u8], Version, &[u8]) -> Result<(), E>,
) -> Result<Restored, RestoreError<E>> {
    let version = reader.header().version;
    let beginning = beginning(version).ok_or(RestoreError::NoVersions(version))?;
    let summary = reader.read_all(&mut |row| sink(row.key, row.version, row.value).map_err(RestoreError::Sink))?;
    Ok(Restored { summary, beginning })
}
