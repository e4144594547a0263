//! `quantadb check` and `quantadb restore`: work on a data directory that no server uses.
//!
//! A restore writes beside the directory, under its name and `.partial`, and renames when everything is durable: whatever
//! interrupts it, a half-restored database is never one. It reads the backup twice, first to verify all of it.

use crate::{Exit, random_cluster};
use indicatif::{ProgressBar, ProgressStyle};
use quantadb::{
    backup::{self, Reader, Row, Summary},
    env::Env,
    node::{self, Checked, Directory, DirectoryError, Identity},
    storage::{self, Applied, BaseError, LsmOptions, Marker, RunRow},
    types::{NodeId, Version},
};
use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

/// A backup is read in pieces of this size.
const READ_BYTES: usize = 1024 * 1024;

/// Checks a data directory and prints what was found.
pub fn check(path: &Path) -> Exit {
    let env = Env::real();
    let directory = match Directory::existing(&env, path) {
        Ok(directory) => directory,
        Err(error) => {
            return match error {
                DirectoryError::Damaged { .. } | DirectoryError::Lost { .. } => say(Exit::Failed, &error),
                _ => say(Exit::CannotStart, &error),
            };
        }
    };
    let checked = match node::check(&env, &directory) {
        Ok(checked) => checked,
        Err(error @ storage::OpenError::Io { .. }) => return say(Exit::CannotStart, &error),
        Err(error) => return say(Exit::Failed, &error),
    };
    report(&directory, &checked)
}

fn say(exit: Exit, error: &dyn std::fmt::Display) -> Exit {
    eprintln!("error: {error}");
    exit
}

fn report(directory: &Directory, checked: &Checked) -> Exit {
    let Identity { cluster, node } = directory.identity();
    println!("format  cluster {cluster}, node {}", node.0);
    let log = &checked.log;
    let name = |log_id: Option<quantadb::types::LogId>| log_id.map_or_else(|| "nothing".into(), |id| id.to_string());
    println!(
        "log     {} entries in {} groups, {} segments of {} bytes; purged up to {}, ends at {}",
        log.entries,
        log.groups,
        log.segments,
        log.disk_bytes,
        name(log.purged),
        name(log.last)
    );
    if let Some(torn) = &log.torn {
        println!(
            "        {}: a write of {} bytes at {} was never acknowledged; opening cuts it off",
            torn.path.display(),
            torn.bytes,
            torn.offset
        );
    }
    match &checked.marker {
        Some(marker) => {
            println!("base    version {}, log applied up to {}", marker.applied.version, name(marker.applied.log_id));
        }
        None if checked.base.is_empty() => println!("base    nothing is stored yet"),
        None => println!("base    damaged"),
    }
    if checked.is_sound() {
        println!("everything is as it was written");
        return Exit::Done;
    }
    for finding in &log.findings {
        eprintln!("error: {finding}");
    }
    if let Some(refused) = &log.refused {
        eprintln!("error: {refused}");
    }
    for finding in &checked.base {
        eprintln!("error: {}: {}", finding.path.display(), finding.what);
    }
    if let Some(torn) = &checked.torn {
        eprintln!("error: {torn}");
    }
    eprintln!("Restore this node from a backup (quantadb restore), or keep a copy before you try anything else.");
    Exit::Failed
}

/// Why there is no restored database.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Backup { path: PathBuf, source: backup::Error },
    #[error("{}: no versions are left above {version}", path.display())]
    NoVersions { path: PathBuf, version: Version },
    #[error("{} is not empty; restore into a new directory", path.display())]
    Occupied { path: PathBuf },
    #[error("{}: an interrupted restore, or somebody else, left this; remove it, then try again", path.display())]
    Remains { path: PathBuf },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Base(#[from] storage::OpenError),
}

/// Makes a data directory from a backup.
pub fn restore(file: &Path, to: &Path) -> Exit {
    match restored(file, to) {
        Ok((summary, version)) => {
            println!(
                "{} rows, {} bytes restored into {}, which begins at version {version}",
                summary.rows,
                summary.bytes,
                to.display()
            );
            Exit::Done
        }
        Err(error) => {
            let exit = match error {
                RestoreError::Occupied { .. } | RestoreError::Remains { .. } | RestoreError::Directory(_) => {
                    Exit::CannotStart
                }
                _ => Exit::Failed,
            };
            say(exit, &error)
        }
    }
}

fn restored(file: &Path, to: &Path) -> Result<(Summary, Version), RestoreError> {
    let env = Env::real();
    if fs::read_dir(to).is_ok_and(|mut names| names.next().is_some()) || fs::metadata(to).is_ok_and(|to| to.is_file()) {
        return Err(RestoreError::Occupied { path: to.to_owned() });
    }
    let damaged = |source| RestoreError::Backup { path: file.to_owned(), source };
    let verified = open(file, "verifying")?.verify().map_err(damaged)?;
    let reader = open(file, "restoring")?;
    let from = reader.header().version;
    let version =
        backup::beginning(from).ok_or_else(|| RestoreError::NoVersions { path: file.to_owned(), version: from })?;
    let partial = partial_of(to);
    if partial.exists() {
        // Perhaps of a restore that was interrupted; what else it may be is not for us to remove.
        return Err(RestoreError::Remains { path: partial });
    }
    let identity = Identity { cluster: random_cluster(&env), node: NodeId(1) };
    let written = write(&env, &partial, identity, Rows::new(file, reader, version), &marker(&verified, version));
    let renamed = written.and_then(|mut directory| Ok(directory.rename(&env, to)?));
    if renamed.is_err() {
        // Whatever stopped it is told; the remains are only in the way.
        let _ = fs::remove_dir_all(&partial);
    }
    renamed.map(|()| (verified, version))
}

/// The state that the restored database begins with. Its log is empty.
fn marker(summary: &Summary, version: Version) -> Marker {
    let applied = Applied { version, clock_ms: summary.clock_ms, idempotency_floor: version, ..Applied::default() };
    Marker { applied, ..Marker::default() }
}

fn write(
    env: &Env,
    partial: &Path,
    identity: Identity,
    mut rows: Rows,
    marker: &Marker,
) -> Result<Directory, RestoreError> {
    let directory = Directory::create(env, partial, identity)?;
    let written = storage::restore_base(env, &directory.base(), LsmOptions::default(), &mut rows, marker);
    match rows.failed {
        Some(source) => Err(RestoreError::Backup { path: rows.path, source }),
        None => written.map(|()| directory).map_err(RestoreError::from),
    }
}

fn partial_of(to: &Path) -> PathBuf {
    let mut name = to.file_name().map_or_else(|| OsString::from("quantadb-data"), OsString::from);
    name.push(".partial");
    to.with_file_name(name)
}

type Source = BufReader<Box<dyn Read>>;

/// Opens a backup, with a bar on stderr if that is a terminal.
fn open(path: &Path, doing: &'static str) -> Result<Reader<Source>, RestoreError> {
    let failed = |source| RestoreError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let bar = ProgressBar::new(file.metadata().map_err(failed)?.len()).with_message(doing);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}");
    bar.set_style(style.expect("the template is fixed and right"));
    let source: Box<dyn Read> = Box::new(bar.wrap_read(file));
    let reader = Reader::open(BufReader::with_capacity(READ_BYTES, source));
    reader.map_err(|source| RestoreError::Backup { path: path.to_owned(), source })
}

/// The rows of a backup, a block at a time, as the base takes them: all of the version that the database begins at.
struct Rows {
    path: PathBuf,
    reader: Reader<Source>,
    version: Version,
    block: VecDeque<RunRow>,
    is_over: bool,
    failed: Option<backup::Error>,
}

impl Rows {
    fn new(path: &Path, reader: Reader<Source>, version: Version) -> Rows {
        Rows { path: path.to_owned(), reader, version, block: VecDeque::new(), is_over: false, failed: None }
    }

    fn read_block(&mut self) {
        let (block, version) = (&mut self.block, self.version);
        let read = self.reader.next_block(&mut |row: Row<'_>| -> Result<(), backup::Error> {
            block.push_back(RunRow::new(row.key, version, Some(row.value)));
            Ok(())
        });
        match read {
            Ok(summary) => self.is_over = summary.is_some(),
            // It was verified just now, so somebody is changing it.
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<RunRow, BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.block.is_empty() && !self.is_over && self.failed.is_none() {
            self.read_block();
        }
        match &self.failed {
            Some(error) => Some(Err(BaseError::Failed(error.to_string()))),
            None => self.block.pop_front().map(Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remains_of_a_restore_lie_beside_the_directory() {
        assert_eq!(partial_of(Path::new("a/data")), Path::new("a/data.partial"));
        assert_eq!(partial_of(Path::new("data/")), Path::new("data.partial"));
    }
}
