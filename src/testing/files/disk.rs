//! What is on the disk and what is not there yet: names and contents, each with its two states.

use crate::testing::generators::Random;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A file, whatever its names.
pub(super) type Node = usize;

/// Names and files.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// What programs see.
    seen: Names,
    /// What a power cut leaves in any case.
    synced: Names,
    /// Between the two, in order.
    pending: Vec<Change>,
    files: Vec<Content>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, Node>,
    directories: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
enum Change {
    Directory(PathBuf),
    Create(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveDirectory(PathBuf),
}

impl Change {
    fn is_in(&self, directory: &Path) -> bool {
        let (Change::Directory(path)
        | Change::Create(path, _)
        | Change::Remove(path)
        | Change::RemoveDirectory(path)
        | Change::Rename(path, _)) = self;
        let target = if let Change::Rename(_, to) = self { to } else { path };
        path.parent() == Some(directory) || target.parent() == Some(directory)
    }
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Directory(path) => _ = self.directories.insert(path.clone()),
            Change::Create(path, node) => _ = self.files.insert(path.clone(), *node),
            Change::Rename(from, to) => {
                if let Some(node) = self.files.remove(from) {
                    self.files.insert(to.clone(), node);
                }
            }
            Change::Remove(path) => _ = self.files.remove(path),
            Change::RemoveDirectory(path) => _ = self.directories.remove(path),
        }
    }
}

/// Whether a directory is there without having been made: the root, and where relative paths begin.
fn is_given(path: &Path) -> bool {
    path.parent().is_none() || path.as_os_str().is_empty() || path == Path::new(".")
}

impl Disk {
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        self.seen.files.get(path).copied()
    }

    pub(super) fn file_mut(&mut self, node: Node) -> &mut Content {
        &mut self.files[node]
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.seen.files.keys().cloned().collect()
    }

    /// Bytes of all files that have a name.
    pub(super) fn bytes(&self) -> u64 {
        self.seen.files.values().map(|node| self.files[*node].seen.len() as u64).sum()
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        is_given(path) || self.seen.directories.contains(path)
    }

    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.pending.push(change);
    }

    fn has_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !self.is_directory(parent) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Node> {
        self.has_parent(path)?;
        self.files.push(Content::default());
        let node = self.files.len() - 1;
        self.change(Change::Create(path.to_owned(), node));
        Ok(node)
    }

    /// A file that is there and synced, and its directories with it.
    pub(super) fn plant(&mut self, path: &Path) -> Node {
        for directory in path.ancestors().skip(1).filter(|path| !is_given(path)) {
            self.seen.directories.insert(directory.to_owned());
            self.synced.directories.insert(directory.to_owned());
        }
        let node = self.find(path).unwrap_or_else(|| {
            self.files.push(Content::default());
            self.files.len() - 1
        });
        self.seen.files.insert(path.to_owned(), node);
        self.synced.files.insert(path.to_owned(), node);
        node
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<_> =
            path.ancestors().filter(|path| !self.is_directory(path)).map(Path::to_owned).collect();
        while let Some(directory) = missing.pop() {
            self.change(Change::Directory(directory));
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.find(from).ok_or(io::ErrorKind::NotFound)?;
        self.has_parent(to)?;
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(Change::RemoveDirectory(path.to_owned()));
        Ok(())
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        if !self.is_directory(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = self.seen.files.keys().chain(&self.seen.directories);
        let within = all.filter(|path| path.parent() == Some(directory));
        let mut names: Vec<_> = within.filter_map(|path| path.file_name()).map(PathBuf::from).collect();
        names.sort();
        Ok(names)
    }

    /// The names in one directory become durable; changes elsewhere stay in their order.
    pub(super) fn sync_directory(&mut self, path: &Path) {
        let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(|change| change.is_in(path));
        self.pending = later;
        let now: Vec<Change> = now;
        now.iter().for_each(|change| self.synced.apply(change));
    }

    /// Power is cut.
    pub(super) fn crash(&mut self, draw: &mut Random) {
        let survive = match draw.below(3) {
            0 => 0,
            1 => self.pending.len(),
            _ => draw.below(self.pending.len() as u64 + 1) as usize,
        };
        let mut names = self.synced.clone();
        for change in self.pending.drain(..).take(survive) {
            names.apply(&change);
        }
        let there = |path: &Path, directories: &BTreeSet<PathBuf>| {
            path.ancestors().skip(1).all(|path| is_given(path) || directories.contains(path))
        };
        let directories = names.directories.clone();
        names.directories.retain(|path| there(path, &directories));
        names.files.retain(|path, _| there(path, &directories));
        // Some cuts lose all that was not synced, some nothing, most something.
        let odds = [0, 1, 2, 4, 6, 7, 8][draw.below(7) as usize];
        let mut files = Vec::new();
        for node in names.files.values_mut() {
            let mut content = std::mem::take(&mut self.files[*node]);
            content.crash(draw, odds);
            files.push(content);
            *node = files.len() - 1;
        }
        *self = Disk { seen: names.clone(), synced: names, pending: Vec::new(), files };
    }

    /// The same with everything on the disk that programs see.
    pub(super) fn settled(&self) -> Disk {
        let mut disk = self.clone();
        disk.pending.clear();
        disk.synced = disk.seen.clone();
        disk.files.iter_mut().for_each(Content::sync);
        disk.files.iter_mut().for_each(|file| file.synced.clone_from(&file.seen));
        disk
    }
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) seen: Vec<u8>,
    pub(super) synced: Vec<u8>,
    /// Sectors that were written since the last sync, with every version.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
}

impl Content {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let (from, end) = (offset as usize, offset as usize + bytes.len());
        if bytes.is_empty() {
            return;
        }
        if end > self.seen.len() {
            self.seen.resize(end, 0);
            self.lengths.push(end);
        }
        self.seen[from..end].copy_from_slice(bytes);
        self.touch(from, end);
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let (before, length) = (self.seen.len(), length as usize);
        self.seen.resize(length, 0);
        self.lengths.push(length);
        // What is beyond is zero, should the length grow again.
        self.touch(before.min(length), before.max(length));
    }

    fn touch(&mut self, from: usize, end: usize) {
        for sector in from / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let from = (sector * SECTOR_BYTES).min(self.seen.len());
            let end = ((sector + 1) * SECTOR_BYTES).min(self.seen.len());
            let mut bytes = self.seen[from..end].to_vec();
            bytes.resize(SECTOR_BYTES, 0);
            self.dirty.entry(sector).or_default().push(bytes);
        }
    }

    pub(super) fn sync(&mut self) {
        // Only what is dirty is written: what a failed sync has called clean is not.
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let from = (sector * SECTOR_BYTES).min(self.seen.len());
            let end = ((sector + 1) * SECTOR_BYTES).min(self.seen.len());
            if self.synced.len() < end {
                self.synced.resize(end, 0);
            }
            self.synced[from..end].copy_from_slice(&self.seen[from..end]);
        }
        self.synced.resize(self.seen.len(), 0);
        self.lengths.clear();
    }

    /// A sync that fails: of the dirty sectors some reach the disk, and all are clean.
    pub(super) fn sync_badly(&mut self, draw: &mut Random) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if let Some(newest) = versions.last().filter(|_| draw.below(3) < 1) {
                self.put(sector, newest);
            }
        }
    }

    fn put(&mut self, sector: usize, bytes: &[u8]) {
        let from = sector * SECTOR_BYTES;
        if let Some(there) = self.synced.get_mut(from..) {
            let length = there.len().min(SECTOR_BYTES);
            there[..length].copy_from_slice(&bytes[..length]);
        }
    }

    /// Power is cut: each sector survives so many times in eight.
    fn crash(&mut self, draw: &mut Random, odds: u64) {
        let lengths = std::mem::take(&mut self.lengths);
        if !lengths.is_empty() && draw.below(8) < odds {
            self.synced.resize(lengths[draw.below(lengths.len() as u64) as usize], 0);
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if draw.below(8) < odds {
                let newest = draw.below(4) < 3;
                let version = if newest { versions.len() - 1 } else { draw.below(versions.len() as u64) as usize };
                self.put(sector, &versions[version]);
            }
        }
        self.seen.clone_from(&self.synced);
    }
}
