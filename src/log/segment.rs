//! Segments: files of zeros, written once from front to back, then used again under a new generation.
//!
//! A segment's name is a number that says nothing about order; its header does. It is made under a name that ends in
//! `.new`, filled with zeros, synced, and only then renamed: whatever bears the real name has its full length on disk.
//! Writing into blocks that exist changes no metadata, so a sync writes the data and nothing else; that is what the zeros
//! are for, and what `fallocate` does not give, for its blocks are marked as unwritten until they are written.

use super::{
    block::PAGE_BYTES,
    error::{CallFailed, Calling},
};
use crate::env::{File, Files};
use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A header's page, a group's, a seal's.
pub(super) const SEGMENT_BYTES_MIN: u64 = 3 * PAGE_BYTES as u64;
/// The first segment of a log, and one that is needed before the next has been prepared.
pub(super) const SMALL_BYTES: u64 = 1 << 20;
/// What is written at once in preparing a segment, and synced, so that the log's own syncs never queue behind more.
const FILL_BYTES: usize = 1 << 20;

/// A file under one of its generations.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) length: u64,
    pub(super) generation: u64,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (generation {}, {} bytes)", self.path.display(), self.generation, self.length)
    }
}

/// A file that may be begun.
#[derive(Clone)]
pub(super) struct Free {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) length: u64,
    /// It has had a generation; else it is as it was prepared, or should be.
    pub(super) used: bool,
}

/// What a name in the log's directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Segment(u64),
    Unfinished(u64),
    Other,
}

/// Reads a name.
pub(super) fn name(path: &Path) -> Name {
    let number = path.file_stem().and_then(OsStr::to_str).filter(|stem| stem.len() >= 8);
    let number = number.filter(|stem| stem.bytes().all(|byte| byte.is_ascii_digit()));
    match (number.and_then(|stem| stem.parse().ok()), path.extension().and_then(OsStr::to_str)) {
        (Some(number), Some("seg")) => Name::Segment(number),
        (Some(number), Some("new")) => Name::Unfinished(number),
        _ => Name::Other,
    }
}

/// Makes a segment of zeros, durable under its name.
pub(super) fn prepare(files: &dyn Files, directory: &Path, number: u64, length: u64) -> Result<Free, CallFailed> {
    let unfinished = directory.join(format!("{number:08}.new"));
    let filled = fill(files, &unfinished, length);
    if filled.is_err() {
        // Half a segment is of no use, and the room may be what is wanting. If it stays, the next start removes it.
        let _ = files.remove(&unfinished);
    }
    let file = filled?;
    let path = directory.join(format!("{number:08}.seg"));
    files.rename(&unfinished, &path).calling("rename", &unfinished)?;
    files.sync_directory(directory).calling("sync", directory)?;
    Ok(Free { path, file, length, used: false })
}

fn fill(files: &dyn Files, path: &Path, length: u64) -> Result<Arc<dyn File>, CallFailed> {
    let file = files.open(path, true).calling("create", path)?;
    let zeros = vec![0; FILL_BYTES.min(usize::try_from(length).unwrap_or(FILL_BYTES))];
    let mut at = 0;
    while at < length {
        let now = (length - at).min(zeros.len() as u64);
        file.write_at(&zeros[..now as usize], at).calling("write", path)?;
        file.sync_data().calling("sync", path)?;
        at += now;
    }
    Ok(file.into())
}

/// Whether all of it is as it was prepared. Reads it all.
pub(super) fn is_zero(free: &Free) -> Result<bool, CallFailed> {
    let mut bytes = vec![0; FILL_BYTES.min(usize::try_from(free.length).unwrap_or(FILL_BYTES))];
    let mut at = 0;
    while at < free.length {
        let now = (free.length - at).min(bytes.len() as u64) as usize;
        free.file.read_at(&mut bytes[..now], at).calling("read", &free.path)?;
        if bytes[..now].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += now as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(name(Path::new("00000012.seg")), Name::Segment(12));
        assert_eq!(name(Path::new("123456789.new")), Name::Unfinished(123_456_789));
        for other in ["12.seg", "00000012", "0000001x.seg", "+0000012.seg", "00000012.seg.old", "lock"] {
            assert_eq!(name(Path::new(other)), Name::Other, "{other}");
        }
    }
}
