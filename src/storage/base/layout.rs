//! Where the tree of a base lies: in its directory, or in a folder of it.
//!
//! ```text
//! lock
//! current           the crate's pointer to a manifest, 25 bytes: the tree is v…, tables/ beside it
//!                   or ours, 18 bytes:                           the tree is tree-<number>/
//! tree-<number>/    current, v…, tables/; and "filling" while it is a space
//! ```
//!
//! A base begins with its tree in the directory itself. A space is a folder with the next number; when it takes the place of
//! the tree that there was, `current` is replaced by a pointer to the folder: that rename is the step. A build that knows
//! only the first form finds a pointer of a strange length, and refuses it.
//!
//! The pointer: `"QDBT" · format u16 · number u64 · CRC-32 of these u32`, big-endian.

use super::{
    OpenError,
    integrity::{CURRENT, CURRENT_AGAIN},
    lsm::TABLES,
    space::{FILLING, FILLING_AGAIN},
};
use crate::{
    encoding::Reader,
    env::{Env, Files},
};
use bytes::BufMut;
use std::{
    io,
    path::{Path, PathBuf},
};

const MAGIC: [u8; 4] = *b"QDBT";
const FORMAT: u16 = 1;
const POINTER_BYTES: usize = 18;
const FOLDER: &str = "tree-";

/// Which tree: the one in the directory itself, or that of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TreeNumber(pub(super) Option<u64>);

impl TreeNumber {
    pub(super) const FIRST: TreeNumber = TreeNumber(None);

    /// Where it lies.
    pub(super) fn directory(self, base: &Path) -> PathBuf {
        self.0.map_or_else(|| base.to_owned(), |number| base.join(format!("{FOLDER}{number}")))
    }
}

/// The tree that is to be read.
pub(super) fn present_tree(env: &Env, base: &Path) -> Result<TreeNumber, OpenError> {
    let path = base.join(CURRENT);
    let damaged = |what: String| OpenError::Damaged { path: path.clone(), what };
    match env.files().read(&path) {
        Ok(bytes) if bytes.starts_with(&MAGIC) => {
            decode(&bytes).map(|number| TreeNumber(Some(number))).map_err(damaged)
        }
        Ok(_) => Ok(TreeNumber::FIRST),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folders =
                folders(env.files(), base).map_err(|source| OpenError::Io { path: base.to_owned(), source })?;
            if folders.is_empty() {
                Ok(TreeNumber::FIRST)
            } else {
                Err(damaged("it is missing, and trees are there".into()))
            }
        }
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

fn encode(number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(POINTER_BYTES);
    out.put_slice(&MAGIC);
    out.put_u16(FORMAT);
    out.put_u64(number);
    out.put_u32(crc32fast::hash(&out));
    out
}

fn decode(bytes: &[u8]) -> Result<u64, String> {
    let Some((body, checksum)) = bytes.split_last_chunk::<4>().filter(|_| bytes.len() == POINTER_BYTES) else {
        return Err(format!("it has {} bytes", bytes.len()));
    };
    if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
        return Err("its checksum is another".into());
    }
    let mut reader = Reader::new(&body[MAGIC.len()..]);
    match (reader.u16(), reader.u64()) {
        (Ok(FORMAT), Ok(number)) => Ok(number),
        _ => Err("it has another format than this program knows".into()),
    }
}

/// Makes a tree the one that is to be read. After an error from within the rename nobody knows which one is.
pub(super) fn point_to(env: &Env, base: &Path, number: u64) -> Result<(), PointError> {
    let (again, path) = (base.join(CURRENT_AGAIN), base.join(CURRENT));
    let files = env.files();
    // The folder's own name first.
    let written = write_synced(files, &again, &encode(number)).and_then(|()| files.sync_directory(base));
    written.map_err(PointError::Before)?;
    files.rename(&again, &path).and_then(|()| files.sync_directory(base)).map_err(PointError::Within)
}

/// How far pointing to another tree came.
pub(super) enum PointError {
    /// Nothing has changed.
    Before(io::Error),
    /// It may have.
    Within(io::Error),
}

/// A file of these bytes, durable but for its name.
pub(super) fn write_synced(files: &dyn Files, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = files.open(path, true)?;
    file.set_length(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()
}

/// The numbers of the folders that are there, ascending.
pub(super) fn folders(files: &dyn Files, base: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &PathBuf| name.to_str()?.strip_prefix(FOLDER)?.parse::<u64>().ok();
    let mut numbers: Vec<_> = files.list(base)?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The space beside a tree: the folder that is newer than it and can be gone on with.
pub(super) fn space_beside(files: &dyn Files, base: &Path, present: TreeNumber) -> io::Result<Option<u64>> {
    let newer = folders(files, base)?.into_iter().rev().filter(|number| TreeNumber(Some(*number)) > present);
    for number in newer {
        let directory = TreeNumber(Some(number)).directory(base);
        if files.list(&directory)?.iter().any(|name| name.as_path() == Path::new(FILLING)) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Removes every tree but the present one, and but the space that stands beside it; and what says that the present one is
/// still a space.
pub(super) fn clear(env: &Env, base: &Path, present: TreeNumber) -> io::Result<()> {
    let space = space_beside(env.files(), base, present)?;
    for number in folders(env.files(), base)? {
        if present != TreeNumber(Some(number)) && space != Some(number) {
            remove_tree(env.files(), base, TreeNumber(Some(number)))?;
        }
    }
    if present == TreeNumber::FIRST {
        return Ok(());
    }
    remove_filling(env.files(), &present.directory(base))?;
    remove_tree(env.files(), base, TreeNumber::FIRST)
}

/// Removes a tree. One that lies in the base's own directory leaves what is not its own.
pub(super) fn remove_tree(files: &dyn Files, base: &Path, tree: TreeNumber) -> io::Result<()> {
    let directory = tree.directory(base);
    // First, so that what is half removed is not gone on with.
    remove_filling(files, &directory)?;
    let tables = directory.join(TABLES);
    for name in listed(files, &tables)? {
        gone(files.remove(&tables.join(name)))?;
    }
    gone(files.remove_directory(&tables))?;
    for name in listed(files, &directory)? {
        let is_manifest = name.to_str().is_some_and(|name| name.starts_with('v'));
        if tree != TreeNumber::FIRST || is_manifest {
            gone(files.remove(&directory.join(name)))?;
        }
    }
    if tree == TreeNumber::FIRST { Ok(()) } else { gone(files.remove_directory(&directory)) }
}

/// Removes what makes a tree a space.
pub(super) fn remove_filling(files: &dyn Files, tree: &Path) -> io::Result<()> {
    gone(files.remove(&tree.join(FILLING)))?;
    gone(files.remove(&tree.join(FILLING_AGAIN)))
}

fn listed(files: &dyn Files, directory: &Path) -> io::Result<Vec<PathBuf>> {
    match files.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// What is not there is removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_read_as_it_was_written_and_any_flipped_bit_is_refused() {
        let bytes = encode(0x0102);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5144425400010000000000000102e2da6bf6");
        assert_eq!(decode(&bytes), Ok(0x0102));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(decode(&bytes[..17]).is_err() && decode(&[&bytes[..], b"x"].concat()).is_err());
    }
}
