//! The data directory: whose it is, what lies where, and who may use it now.
//!
//! ```text
//! FORMAT    one line: what this is, in which format, of which cluster and node, and a checksum
//! LOCK      held by the process that uses the directory
//! log/      the log's segments
//! base/     what the store keeps on disk; beside it in a folder, for a while, a snapshot that another node sends
//! ```
//!
//! `FORMAT` is written last, to a name beside it and renamed, so it is whole or absent, and where it stands `log/` and
//! `base/` must stand too: whoever has lost one of them is told, instead of beginning anew. A directory that holds anything
//! without `FORMAT` is not ours and is refused, and so is one of a newer format. Directories are made with mode 0700.
//!
//! For example:
//!
//! ```text
//! quantadb-data 1 cluster 6f0c1b0c5d2e4b7f9a3d8e1f2a4b6c8d node 1 crc 8d1f03aa
//! ```

use super::Identity;
use crate::{
    env::{Env, Lock},
    types::{ClusterId, NodeId},
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The format of data directories that this code writes and reads: what lies in them, and the formats of log and base.
pub const FORMAT: u32 = 1;
const MAGIC: &str = "quantadb-data";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_FILE_NEW: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const LOG_DIRECTORY: &str = "log";
const BASE_DIRECTORY: &str = "base";
/// A longer file is not ours.
const FORMAT_BYTES_MAX: usize = 1024;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The operating system refused.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{}: another process uses this data directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("{}: not a data directory of QuantaDB: it is not empty and has no file FORMAT", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// There is nothing.
    #[error("{}: no data directory: it has no file FORMAT", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Something is there that must not be.
    #[error("{}: the data directory is not empty", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// A newer build wrote it.
    #[error("{}: written in format {format}, this build knows format {FORMAT} and older; use a newer build", path.display())]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// The format.
        format: u32,
    },
    /// A part of it is gone.
    #[error("{}: missing; the data directory is not whole, so restore it from a backup or another node", path.display())]
    Lost {
        /// The part.
        path: PathBuf,
    },
    /// The file FORMAT is not as it was written.
    #[error("{}: damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// A data directory that this process has to itself until this is dropped.
pub struct Directory {
    path: PathBuf,
    identity: Identity,
    is_new: bool,
    _lock: Box<dyn Lock>,
}

impl Directory {
    /// Takes the directory, and makes it with `identity` if it is not there or empty.
    pub fn open(env: &Env, path: &Path, identity: Identity) -> Result<Directory, DirectoryError> {
        let files = env.files();
        files.create_directory(path).map_err(at("it cannot be made", path))?;
        if read_format(env, path)?.is_none() {
            // Before anything is made in it: not even a lock is left in what is not ours.
            refuse_foreign(env, path)?;
        }
        let lock = take_lock(env, path)?;
        let (identity, is_new) = match read_format(env, path)? {
            Some(identity) => (identity, false),
            None => {
                refuse_foreign(env, path)?;
                make_parts(env, path)?;
                write_format(env, path, identity)?;
                (identity, true)
            }
        };
        let directory = Directory { path: path.to_owned(), identity, is_new, _lock: lock };
        directory.check_parts(env)?;
        sync_names(env, path)?;
        Ok(directory)
    }

    /// Whose the directory is; `None` if there is none yet, or it is empty.
    pub fn identity_of(env: &Env, path: &Path) -> Result<Option<Identity>, DirectoryError> {
        read_format(env, path)
    }

    /// Makes a directory that must not be there, or be empty.
    pub fn create(env: &Env, path: &Path, identity: Identity) -> Result<Directory, DirectoryError> {
        let directory = Directory::open(env, path, identity)?;
        if directory.is_new { Ok(directory) } else { Err(DirectoryError::Occupied { path: path.to_owned() }) }
    }

    /// Gives a directory that was made elsewhere its name, in one step: `to` is not there, or empty. The lock goes with it.
    pub fn rename(&mut self, env: &Env, to: &Path) -> Result<(), DirectoryError> {
        let files = env.files();
        files.rename(&self.path, to).map_err(at("it cannot take the name", to))?;
        to.clone_into(&mut self.path);
        sync_names(env, to)
    }

    /// Takes a directory that must be there.
    pub fn existing(env: &Env, path: &Path) -> Result<Directory, DirectoryError> {
        // Before anything is made: a lock in a directory that is not ours would be a trace.
        let Some(identity) = read_format(env, path)? else {
            return Err(DirectoryError::Missing { path: path.to_owned() });
        };
        let directory = Directory { path: path.to_owned(), identity, is_new: false, _lock: take_lock(env, path)? };
        directory.check_parts(env)?;
        Ok(directory)
    }

    fn check_parts(&self, env: &Env) -> Result<(), DirectoryError> {
        for part in [self.log(), self.base()] {
            match env.files().list(&part) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(DirectoryError::Lost { path: part });
                }
                Err(error) => return Err(at("it cannot be listed", &part)(error)),
            }
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where the log's segments lie.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG_DIRECTORY)
    }

    /// Where the store's base lies.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.path.join(BASE_DIRECTORY)
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { what, path, source }
}

fn take_lock(env: &Env, directory: &Path) -> Result<Box<dyn Lock>, DirectoryError> {
    let path = directory.join(LOCK_FILE);
    env.files().lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => DirectoryError::Locked { path: directory.to_owned() },
        _ => at("it cannot be locked", &path)(error),
    })
}

/// What stands in a new directory before `FORMAT` does: our lock, its parts without anything in them, and a `FORMAT` that
/// was never renamed.
fn refuse_foreign(env: &Env, directory: &Path) -> Result<(), DirectoryError> {
    let names = env.files().list(directory).map_err(at("it cannot be listed", directory))?;
    for name in names {
        let ours = match name.to_str() {
            Some(LOCK_FILE | FORMAT_FILE_NEW) => true,
            Some(LOG_DIRECTORY | BASE_DIRECTORY) => {
                env.files().list(&directory.join(&name)).is_ok_and(|names| names.is_empty())
            }
            _ => false,
        };
        if !ours {
            return Err(DirectoryError::Foreign { path: directory.to_owned() });
        }
    }
    Ok(())
}

fn make_parts(env: &Env, directory: &Path) -> Result<(), DirectoryError> {
    for part in [LOG_DIRECTORY, BASE_DIRECTORY] {
        let path = directory.join(part);
        env.files().create_directory(&path).map_err(at("it cannot be made", &path))?;
    }
    env.files().sync_directory(directory).map_err(at("it cannot be synced", directory))
}

/// Makes durable every name on the way to the directory, and those in it: each may have been made just now, or by a process
/// that ended before it came to this.
fn sync_names(env: &Env, directory: &Path) -> Result<(), DirectoryError> {
    for above in directory.ancestors() {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match env.files().sync_directory(above) {
            Ok(()) => {}
            // Where this process may not look it has made nothing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && above != directory => {}
            Err(error) => return Err(at("it cannot be synced", above)(error)),
        }
    }
    Ok(())
}

fn format_line(identity: Identity) -> String {
    let body = format!("{MAGIC} {FORMAT} cluster {} node {}", identity.cluster, identity.node.0);
    let crc = crc32fast::hash(body.as_bytes());
    format!("{body} crc {crc:08x}\n")
}

fn write_format(env: &Env, directory: &Path, identity: Identity) -> Result<(), DirectoryError> {
    let (new, path) = (directory.join(FORMAT_FILE_NEW), directory.join(FORMAT_FILE));
    let files = env.files();
    let write = || {
        let file = files.open(&new, true)?;
        file.set_length(0)?;
        file.write_at(format_line(identity).as_bytes(), 0)?;
        file.sync_data()?;
        files.rename(&new, &path)
    };
    write().map_err(at("it cannot be written", &path))
}

/// Reads `FORMAT`; `None` if there is none.
fn read_format(env: &Env, directory: &Path) -> Result<Option<Identity>, DirectoryError> {
    let path = directory.join(FORMAT_FILE);
    match env.files().read(&path) {
        Ok(bytes) => parse_format(&path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("it cannot be read", &path)(error)),
    }
}

fn parse_format(path: &Path, bytes: &[u8]) -> Result<Identity, DirectoryError> {
    let damaged = |offset, what| DirectoryError::Damaged { path: path.to_owned(), offset, what };
    if bytes.len() > FORMAT_BYTES_MAX {
        return Err(damaged(FORMAT_BYTES_MAX, "longer than such a file can be"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.valid_up_to(), "not text"))?;
    let mut words = text.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(damaged(0, "it does not begin as it should"));
    }
    // Before the rest is judged, for a newer format may look otherwise.
    let format: u32 =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| damaged(MAGIC.len() + 1, "no format number"))?;
    if format > FORMAT {
        return Err(DirectoryError::Newer { path: path.to_owned(), format });
    }
    let rest: Vec<&str> = words.collect();
    let ["cluster", cluster, "node", node, "crc", _] = rest[..] else {
        return Err(damaged(text.len(), "its words are not those that were written"));
    };
    let identity = cluster_of(cluster).zip(node.parse().ok());
    let identity = identity.map(|(cluster, node)| Identity { cluster, node: NodeId(node) });
    match identity {
        // The line says everything about itself, so one that differs anywhere is not what was written.
        Some(identity) if format_line(identity) == text => Ok(identity),
        _ => Err(damaged(MAGIC.len() + 1, "the checksum does not match the words before it")),
    }
}

fn cluster_of(digits: &str) -> Option<ClusterId> {
    let mut cluster = [0; 16];
    if digits.len() != 2 * cluster.len() || !digits.is_ascii() {
        return None;
    }
    for (place, byte) in cluster.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(ClusterId(cluster))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::testing::{
        directory::TemporaryDirectory,
        files::{Call, Fault, SimulatedFiles, environment},
    };
    use std::fs;

    const IDENTITY: Identity = Identity { cluster: ClusterId(*b"0123456789abcdef"), node: NodeId(7) };
    const OTHER: Identity = Identity { cluster: ClusterId([9; 16]), node: NodeId(1) };

    fn error(result: Result<Directory, DirectoryError>) -> String {
        result.err().map_or_else(|| "none".into(), |error| error.to_string())
    }

    #[test]
    fn a_new_directory_keeps_the_identity_that_it_was_made_with() {
        use std::os::unix::fs::PermissionsExt;
        let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
        let path = parent.path().join("a/b");
        let made = Directory::open(&env, &path, IDENTITY).unwrap();
        assert!(made.is_new());
        assert_eq!((made.log(), made.base()), (path.join("log"), path.join("base")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(made);
        let again = Directory::open(&env, &path, OTHER).unwrap();
        assert_eq!((again.identity(), again.is_new()), (IDENTITY, false));
        drop(again);
        assert_eq!(Directory::existing(&env, &path).unwrap().identity(), IDENTITY);
        assert!(error(Directory::create(&env, &path, OTHER)).contains("not empty"));
    }

    #[test]
    fn two_cannot_have_it() {
        let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
        let _first = Directory::open(&env, parent.path(), IDENTITY).unwrap();
        assert!(error(Directory::open(&env, parent.path(), IDENTITY)).contains("another process"));
        assert!(error(Directory::existing(&env, parent.path())).contains("another process"));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
        assert!(error(Directory::existing(&env, parent.path())).contains("no data directory"));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "looking leaves no trace");
        fs::write(parent.path().join("thesis.tex"), "…").unwrap();
        assert!(error(Directory::open(&env, parent.path(), IDENTITY)).contains("not a data directory"));
        assert!(error(Directory::create(&env, parent.path(), IDENTITY)).contains("not a data directory"));
    }

    #[test]
    fn a_crash_while_it_was_made_is_made_good() {
        let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
        fs::write(parent.path().join(FORMAT_FILE_NEW), "quantadb-da").unwrap();
        fs::write(parent.path().join(LOCK_FILE), "").unwrap();
        fs::create_dir(parent.path().join("log")).unwrap();
        assert!(Directory::open(&env, parent.path(), IDENTITY).unwrap().is_new());
        assert_eq!(Directory::open(&env, parent.path(), OTHER).unwrap().identity(), IDENTITY);
    }

    #[test]
    fn a_part_that_is_gone_is_missed() {
        for part in ["log", "base"] {
            let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
            drop(Directory::open(&env, parent.path(), IDENTITY).unwrap());
            fs::remove_dir(parent.path().join(part)).unwrap();
            let text = error(Directory::open(&env, parent.path(), IDENTITY));
            assert!(text.contains(part) && text.contains("missing"), "{text}");
            assert_eq!(text, error(Directory::existing(&env, parent.path())));
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let (env, parent) = (Env::real(), TemporaryDirectory::new("data"));
        fs::write(parent.path().join(FORMAT_FILE), "quantadb-data 2 and then something else").unwrap();
        let text = error(Directory::open(&env, parent.path(), IDENTITY));
        assert!(text.contains("format 2") && text.contains("FORMAT"), "{text}");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let path = Path::new("FORMAT");
        let line = format_line(IDENTITY);
        assert_eq!(parse_format(path, line.as_bytes()).unwrap(), IDENTITY);
        for bit in 0..line.len() * 8 {
            let mut bytes = line.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_format(path, &bytes).is_err(), "bit {bit}");
        }
        for length in 0..line.len() {
            assert!(parse_format(path, &line.as_bytes()[..length]).is_err(), "cut to {length}");
        }
        assert!(parse_format(path, &[b'x'; FORMAT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_directory_outlives_a_power_cut_whatever_was_made_with_it() {
        for seed in 0..50 {
            let files = SimulatedFiles::new();
            let path = Path::new("/srv/new/data");
            drop(Directory::open(&environment(files.clone()), path, IDENTITY).unwrap());
            files.crash(seed);
            assert!(files.contents(&path.join(FORMAT_FILE)).is_some(), "seed {seed}");
        }
    }

    /// Whoever opens it after a process that ended in the midst of making it speaks for its names too.
    #[test]
    fn a_directory_outlives_a_power_cut_although_its_maker_never_synced_its_name() {
        for (seed, nth) in (0..50).flat_map(|seed| (1..=5).map(move |nth| (seed, nth))) {
            let files = SimulatedFiles::new();
            files.plant(Path::new("/srv/marker"), 0, b"x");
            let (env, path) = (environment(files.clone()), Path::new("/srv/data"));
            files.fail(Call::SyncDirectory, nth, Fault::Io);
            let _ = Directory::open(&env, path, IDENTITY);
            files.restart();
            drop(Directory::open(&env, path, IDENTITY).unwrap());
            files.crash(seed);
            assert!(files.contents(&path.join(FORMAT_FILE)).is_some(), "seed {seed}, sync {nth}");
        }
    }
}
