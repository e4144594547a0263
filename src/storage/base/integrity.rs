//! What the crate leaves unchecked: its pointer to the manifest, at every open; and all bytes of all tables, when an
//! operator asks.
//!
//! The pointer is a file `current` beside the tree of 25 bytes: the manifest's number, the 128 bits of its XXH3, both little-endian, and a
//! zero that names the checksum. The crate reads the number alone.

use super::{
    Base, LsmBase, LsmOptions, OpenError, full_keys,
    layout::{TreeNumber, write_synced},
    lsm::{TABLES, caught},
};
use crate::{
    env::{Env, Files},
    types::Version,
};
use lsm_tree::AbstractTree;
use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The pointer's file.
pub(super) const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 25;
/// The pointer's file while it is written again.
pub(super) const CURRENT_AGAIN: &str = "current.again";
/// Longest manifest that is read: some million tables.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A table is read in pieces of this size.
const PIECE_BYTES: usize = 1024 * 1024;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the directory where it is not known which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// The manifest's number in a pointer's bytes.
pub(super) fn manifest_id(current: &[u8]) -> Option<u64> {
    current.first_chunk::<8>().map(|id| u64::from_le_bytes(*id))
}

/// Checks the pointer and the manifest that it names. A directory without both is fine, if no tables lie there and it need
/// not hold a tree.
pub(super) fn check_manifest(env: &Env, directory: &Path, is_needed: bool) -> Result<(), OpenError> {
    let path = directory.join(CURRENT);
    let damaged = |path: &Path, what: String| Err(OpenError::Damaged { path: path.to_owned(), what });
    let current = match env.files().read(&path) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let has_tables = env.files().list(&directory.join(TABLES)).is_ok_and(|tables| !tables.is_empty());
            return match (is_needed, has_tables) {
                (_, true) => damaged(&path, "it is missing, and tables are there".into()),
                (true, false) => damaged(&path, "it is missing, and so are the tables".into()),
                (false, false) => Ok(()),
            };
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let (Some(id), CURRENT_BYTES, Some(0)) = (manifest_id(&current), current.len(), current.last()) else {
        return damaged(&path, format!("it has {} bytes, or another checksum than XXH3", current.len()));
    };
    let manifest_path = directory.join(format!("v{id}"));
    let length = env.files().open(&manifest_path, false).and_then(|file| file.length());
    let manifest = match length {
        Ok(length) if length > MANIFEST_BYTES_MAX => return damaged(&manifest_path, format!("it has {length} bytes")),
        Ok(_) => env.files().read(&manifest_path),
        Err(error) => Err(error),
    };
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return damaged(&path, format!("it names {}, which is not there", manifest_path.display()));
        }
        Err(source) => return Err(OpenError::Io { path: manifest_path, source }),
    };
    if current[8..24] != xxh3_128(&manifest).to_le_bytes() {
        return damaged(&manifest_path, format!("its checksum is not the one in {}", path.display()));
    }
    Ok(())
}

/// Makes durable what was read of the pointer, which may be a rename that no sync has covered: the log below what it shows
/// is given up on its word. It is written again, for after a sync that failed another one proves nothing. Before anything is
/// cleared away, for the manifest that it replaced may still be the durable one.
pub(super) fn settle(env: &Env, directory: &Path) -> Result<(), OpenError> {
    let files = env.files();
    let settle = || {
        if rewrite(files, directory)? {
            files.sync_directory(&directory.join(TABLES))?;
            files.sync_directory(directory)?;
        }
        Ok(())
    };
    settle().map_err(|source| OpenError::Io { path: directory.join(CURRENT), source })
}

/// The same for the pointer to the folder that a tree lies in.
pub(super) fn settle_place(env: &Env, directory: &Path, present: TreeNumber) -> Result<(), OpenError> {
    if present == TreeNumber::FIRST {
        return Ok(());
    }
    let settled = rewrite(env.files(), directory).and_then(|_| env.files().sync_directory(directory));
    settled.map_err(|source| OpenError::Io { path: directory.join(CURRENT), source })
}

/// Writes a pointer again, if it is there, but for the sync of its name.
fn rewrite(files: &dyn Files, directory: &Path) -> io::Result<bool> {
    let (path, again) = (directory.join(CURRENT), directory.join(CURRENT_AGAIN));
    let current = match files.read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        current => current?,
    };
    write_synced(files, &again, &current)?;
    files.rename(&again, &path)?;
    Ok(true)
}

/// Reads everything that a base in `directory` holds and tells what is wrong; nothing, if it is sound. For a base that no
/// process has open. Like any open it removes what an interrupted write left. Costs a read of all files, twice.
pub fn check_base(env: &Env, directory: &Path) -> Result<Vec<Finding>, OpenError> {
    let base = match LsmBase::open(env, directory, LsmOptions::default()) {
        Ok(base) => base,
        Err(OpenError::Damaged { path, what }) => return Ok(vec![Finding { path, what }]),
        Err(error) => return Err(error),
    };
    let mut findings = Vec::new();
    let tables = caught(|| {
        let version = base.tree().current_version();
        Ok(version
            .iter_tables()
            .map(|table| (table.path.to_path_buf(), table.checksum().into_u128()))
            .collect::<Vec<_>>())
    });
    match tables {
        Ok(tables) => {
            for (path, expected) in tables {
                let found = checksum(env, &path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
                if found != expected {
                    findings.push(Finding { path, what: "its checksum is not the one in the manifest".into() });
                }
            }
        }
        Err(error) => findings.push(Finding { path: directory.to_owned(), what: error.to_string() }),
    }
    let mut wrong = |what: String| findings.push(Finding { path: directory.to_owned(), what });
    let stored = base.marker().map_or(Version::ZERO, |marker| marker.applied.version);
    let mut last: Option<Vec<u8>> = None;
    let scanned = base.scan(&full_keys(), false, Version((1 << 62) - 1), &mut |key, version, _| {
        if version > stored {
            wrong(format!("a row has version {version}, and the marker {stored}"));
        }
        if last.as_deref().is_some_and(|last| last >= key) {
            wrong("rows are out of order".into());
        }
        last = Some(key.to_vec());
        ControlFlow::Continue(())
    });
    if let Err(error) = scanned {
        wrong(error.to_string());
    }
    Ok(findings)
}

/// The XXH3 of a whole file.
fn checksum(env: &Env, path: &Path) -> io::Result<u128> {
    let file = env.files().open(path, false)?;
    let length = file.length()?;
    let mut hasher = Xxh3::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        file.read_at(&mut piece[..count], at)?;
        hasher.update(&piece[..count]);
        at += count as u64;
    }
    Ok(hasher.digest128())
}
