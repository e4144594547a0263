//! The base on disk: the log-structured merge tree of the `lsm-tree` crate, without its memtable and without a journal.
//!
//! A run is written straight into tables (`flush_to_tables`), and all its tables enter the tree in one step of its
//! manifest (`register_tables`), which is synced before it is shown. The marker is a row of the run, under a key that no
//! full key can equal, so it enters with it.
//!
//! # Sequence numbers
//!
//! The crate orders the items of a key by a sequence number, and shows a reader at `s` the items below `s`. Ours is
//! [`OFFSET`] + version. The crate also numbers the states of its manifest, from zero since it was opened, and gives a reader
//! at `s` the newest state below `s`. The offset keeps those numbers below all of ours, so every reader sees the newest
//! tables, and versions do the rest:
//!
//! ```text
//! 0 … states of the manifest … OFFSET … version 0, 1, 2 …
//! ```
//!
//! Compaction drops an item if its number is below a threshold and a newer item of its key exists. The threshold is
//! `OFFSET + forget_below`, or `OFFSET`, below which no item lies: then nothing is dropped, and old states of the manifest
//! are freed all the same. (The crate could also set the numbers of old items to zero; in this version it never does, and
//! a test holds it to that.) The marker's number counts its runs, for two of them may stand at one version.
//!
//! Each value carries its version in its first eight bytes: the crate hands out none, and may change its own numbers.
//!
//! # Failing
//!
//! The crate checks every block it reads, but not its own pointer to the manifest: [`super::integrity`] does, at open. On
//! bytes that pass the checksums and make no sense it panics; a panic becomes an error here. After a write that failed for want
//! of space the tables that it left are removed, so that a retry finds room. If the pointer to the manifest had moved
//! before the failure, what is durable is no longer what the tree shows: then the base has failed, and a reopen shows what
//! is true.

use super::{
    Base, BaseError, BaseRow, BaseSpace, BaseUsage, EachBaseRow, FULL_KEYS_START, Marker, MarkerError, OpenError,
    RunRow,
    integrity::{CURRENT, check_manifest, manifest_id, settle, settle_place},
    layout::{TreeNumber, clear, present_tree, remove_tree},
    marker::FORMAT,
    space,
};
use crate::{
    env::{Env, Lock},
    types::{KeyRange, Version},
};
use bytes::Bytes;
use lsm_tree::{
    AbstractTree, AnyTree, Cache, Checksum, Config, DescriptorTable, Guard, InternalValue, SequenceNumberCounter,
    Table, Tree, ValueType, compaction::Leveled,
};
use parking_lot::Mutex;
use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The sequence number of version zero.
const OFFSET: u64 = 1 << 32;
/// Where a read begins that sees everything.
const EVERYTHING: u64 = 1 << 62;
/// The marker's key: shorter than any full key.
const MARKER_KEY: &[u8] = &[0];
/// The folder of tables, as the crate names it.
pub(super) const TABLES: &str = "tables";
const LOCK: &str = "lock";
/// Runs in the first level that are merged together.
const RUNS_MERGED: u8 = 4;
/// Runs are counted in a byte on disk: before that many no more are written.
const RUNS_MAX: usize = 128;
/// Tables kept open.
const FILES_OPEN_MAX: usize = 512;

/// What the base on disk is told when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct LsmOptions {
    /// Bytes of blocks kept in memory.
    pub block_cache_bytes: u64,
    /// Bytes of a table after a merge; the first merged level holds four of them.
    pub table_bytes: u64,
}

impl Default for LsmOptions {
    fn default() -> LsmOptions {
        LsmOptions { block_cache_bytes: 256 * 1024 * 1024, table_bytes: 64 * 1024 * 1024 }
    }
}

/// The base on disk.
pub struct LsmBase {
    tree: Tree,
    env: Env,
    /// Where the base lies.
    root: PathBuf,
    number: TreeNumber,
    /// Where its tree lies.
    directory: PathBuf,
    marker: Mutex<Option<Marker>>,
    is_empty: AtomicBool,
    strategy: Arc<Leveled>,
    options: LsmOptions,
    caches: Caches,
    /// Held by whoever writes or merges.
    writing: Mutex<()>,
    /// In this order, behind the tree: its files go when nobody has them open, and nobody else comes before they have.
    removal: Removal,
    lock: Arc<dyn Lock>,
}

/// What all trees of a base share.
#[derive(Clone)]
struct Caches {
    blocks: Arc<Cache>,
    descriptors: Arc<DescriptorTable>,
}

/// Removes a tree's files when it is dropped, if another has taken its place.
struct Removal {
    env: Env,
    root: PathBuf,
    number: TreeNumber,
    is_due: Arc<AtomicBool>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if self.is_due.load(Ordering::Acquire) {
            // What cannot be removed is removed at the next open.
            let _ = remove_tree(self.env.files(), &self.root, self.number);
        }
    }
}

impl fmt::Debug for LsmBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmBase").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl LsmBase {
    /// Opens the base in a directory, or makes an empty one there. Reads the descriptions of all tables, not their rows;
    /// removes what an interrupted write left, and trees that another has taken the place of.
    pub fn open(env: &Env, directory: &Path, options: LsmOptions) -> Result<LsmBase, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        env.files().create_directory(directory).map_err(io(directory))?;
        let lock_path = directory.join(LOCK);
        let lock = env.files().lock(&lock_path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: lock_path.clone() },
            _ => OpenError::Io { path: lock_path.clone(), source },
        })?;
        let present = present_tree(env, directory)?;
        let tree = present.directory(directory);
        check_manifest(env, &tree, present != TreeNumber::FIRST)?;
        settle_place(env, directory, present)?;
        settle(env, &tree)?;
        let caches = Caches {
            blocks: Arc::new(Cache::with_capacity_bytes(options.block_cache_bytes)),
            descriptors: Arc::new(DescriptorTable::new(FILES_OPEN_MAX)),
        };
        let base = LsmBase::open_tree(env, directory, present, options, caches, Arc::from(lock))?;
        if base.marker.lock().is_none() && (!base.is_empty.load(Ordering::Relaxed) || present != TreeNumber::FIRST) {
            return Err(OpenError::Damaged { path: tree, what: "there are tables and no marker".into() });
        }
        clear(env, directory, present).map_err(io(directory))?;
        Ok(base)
    }

    /// Opens another tree of the same base, or makes an empty one.
    pub(super) fn open_beside(&self, number: TreeNumber) -> Result<LsmBase, OpenError> {
        LsmBase::open_tree(&self.env, &self.root, number, self.options, self.caches.clone(), Arc::clone(&self.lock))
    }

    fn open_tree(
        env: &Env,
        root: &Path,
        number: TreeNumber,
        options: LsmOptions,
        caches: Caches,
        lock: Arc<dyn Lock>,
    ) -> Result<LsmBase, OpenError> {
        let directory = number.directory(root);
        let damaged = |what: String| OpenError::Damaged { path: directory.clone(), what };
        let config = Config::new(&directory, SequenceNumberCounter::default(), SequenceNumberCounter::default())
            .use_cache(Arc::clone(&caches.blocks))
            .use_descriptor_table(Some(Arc::clone(&caches.descriptors)));
        let tree = match caught(|| config.open()) {
            Ok(AnyTree::Standard(tree)) => tree,
            Ok(AnyTree::Blob(_)) => return Err(damaged("values stand apart from their keys".into())),
            Err(BaseError::NoSpace(what)) => {
                let source = io::Error::new(io::ErrorKind::StorageFull, what);
                return Err(OpenError::Io { path: directory, source });
            }
            Err(BaseError::Failed(what)) => {
                let path = damaged_table(env, &directory).unwrap_or(directory);
                return Err(OpenError::Damaged { path, what });
            }
        };
        let base = LsmBase {
            is_empty: AtomicBool::new(tree.table_count() == 0),
            tree,
            env: env.clone(),
            root: root.to_owned(),
            number,
            directory: directory.clone(),
            marker: Mutex::default(),
            strategy: Arc::new(
                Leveled::default().with_l0_threshold(RUNS_MERGED).with_table_target_size(options.table_bytes),
            ),
            options,
            caches,
            writing: Mutex::default(),
            removal: Removal { env: env.clone(), root: root.to_owned(), number, is_due: Arc::default() },
            lock,
        };
        let marker = base.read_marker().map_err(|error| damaged(error.to_string()))?;
        let marker = marker.map(|row| Marker::decode(row.value())).transpose().map_err(|error| match error {
            MarkerError::Format(found) => OpenError::Format { path: directory.clone(), found, known: FORMAT },
            error => damaged(error.to_string()),
        })?;
        *base.marker.lock() = marker;
        Ok(base)
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn number(&self) -> TreeNumber {
        self.number
    }

    /// True once another tree has taken the place of this one.
    pub(super) fn is_replaced(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.removal.is_due)
    }

    fn read_marker(&self) -> Result<Option<BaseRow>, BaseError> {
        caught(|| self.tree.get(MARKER_KEY, EVERYTHING))?.map(|value| self.row(value.into())).transpose()
    }

    fn row(&self, stored: Bytes) -> Result<BaseRow, BaseError> {
        BaseRow::from_stored(stored)
            .ok_or_else(|| BaseError::Failed(format!("{} holds a value without version", self.directory.display())))
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Makes rows durable in one step, without a marker: for a tree that nobody reads yet.
    pub(super) fn write_rows(&self, rows: &[RunRow]) -> Result<(), BaseError> {
        self.write_tables(None, &mut rows.iter().cloned().map(Ok))
    }

    fn write_tables(
        &self,
        marker: Option<RunRow>,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
    ) -> Result<(), BaseError> {
        self.writing((), || {
            let mut refused = None;
            let mut last = marker.as_ref().map(|row| (row.key.clone(), row.version));
            let rows = rows.map(|row| {
                let row = row?;
                let is_next = row.key[..] >= *FULL_KEYS_START
                    && last
                        .as_ref()
                        .is_none_or(|(key, version)| *key < row.key || (*key == row.key && *version > row.version));
                last = Some((row.key.clone(), row.version));
                if is_next { Ok(row) } else { Err(BaseError::Failed("the rows of a run are out of order".into())) }
            });
            let items = marker.into_iter().map(Ok).chain(rows).map(|row| {
                row.map(item).map_err(|error| {
                    refused = Some(error);
                    lsm_tree::Error::Unrecoverable
                })
            });
            let written = caught(|| {
                let Some((tables, _)) = self.tree.flush_to_tables(items)? else { return Ok(()) };
                self.tree.register_tables(&tables, None, None, &[], OFFSET)
            });
            match refused {
                Some(error) => Err(error),
                None => written,
            }
        })?;
        self.is_empty.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes with `work`; if that fails, puts away what it left.
    ///
    /// The crate clears away old manifests at the end of a step, and a failure of that is a failure of the step, although the
    /// step is durable and shown by then. It counts as done: its answer is `shown`, and the next open clears away the rest.
    fn writing<T>(&self, shown: T, work: impl FnOnce() -> Result<T, BaseError>) -> Result<T, BaseError> {
        let _writing = self.writing.lock();
        if self.removal.is_due.load(Ordering::Acquire) {
            return Err(BaseError::Failed("another tree has taken the place of this one".into()));
        }
        let first_table = self.tree.next_table_id();
        let manifest = |tree: &Tree| caught(|| Ok(tree.current_version().id()));
        let before = manifest(&self.tree)?;
        let error = match work() {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        let after = manifest(&self.tree)?;
        let durable = self.env.files().read(&self.directory.join(CURRENT));
        let durable = durable.ok().and_then(|bytes| manifest_id(&bytes));
        if durable != Some(after) {
            return Err(BaseError::Failed(format!("{error}; what is durable is not known until a reopen")));
        }
        if after != before {
            return Ok(shown);
        }
        for table in first_table..self.tree.next_table_id() {
            // What is not there, or cannot be removed, is removed at the next open.
            let _ = self.env.files().remove(&self.directory.join(TABLES).join(table.to_string()));
        }
        Err(error)
    }
}

impl Base for LsmBase {
    fn marker(&self) -> Option<Marker> {
        self.marker.lock().clone()
    }

    fn get(&self, key: &[u8], at: Version) -> Result<Option<BaseRow>, BaseError> {
        if self.is_empty.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Some(value) = caught(|| self.tree.get(key, OFFSET + at.0 + 1))? else { return Ok(None) };
        let row = self.row(value.into())?;
        if row.version > at {
            return Err(BaseError::Failed(format!("a row of version {} was found at {at}", row.version)));
        }
        Ok(Some(row))
    }

    fn scan(&self, range: &KeyRange, reverse: bool, at: Version, each: &mut EachBaseRow<'_>) -> Result<(), BaseError> {
        if self.is_empty.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut rows = caught(|| Ok(self.tree.range(&range.start[..]..&range.end[..], OFFSET + at.0 + 1, None)))?;
        // A panic of `each` is not the crate's, so it is outside of what is caught.
        while let Some((key, value)) =
            caught(|| if reverse { rows.next_back() } else { rows.next() }.map(Guard::into_inner).transpose())?
        {
            let row = self.row(value.into())?;
            if each(&key, row.version, row.value()).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write_run(
        &self,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
        marker: &Marker,
    ) -> Result<(), BaseError> {
        if self.tree.l0_run_count() >= RUNS_MAX {
            // The engine merges long before, unless there is no room to do it in.
            return Err(BaseError::NoSpace(format!("{RUNS_MAX} runs wait to be merged")));
        }
        let marker_row = RunRow::new(MARKER_KEY, Version(marker.sequence), Some(&marker.encode()));
        self.write_tables(Some(marker_row), rows)?;
        *self.marker.lock() = Some(marker.clone());
        Ok(())
    }

    fn compact(&self, forget_below: Option<Version>) -> Result<bool, BaseError> {
        let threshold = OFFSET + forget_below.map_or(0, |version| version.0);
        let strategy = Arc::clone(&self.strategy);
        self.writing(true, || {
            caught(|| {
                let before = self.tree.current_version().id();
                self.tree.compact(strategy, threshold)?;
                Ok(self.tree.current_version().id() != before)
            })
        })
    }

    fn usage(&self) -> BaseUsage {
        let usage = caught(|| {
            let version = self.tree.current_version();
            let level_bytes = |index: usize| {
                let tables = version.level(index).into_iter().flat_map(|level| level.iter()).flat_map(|run| run.iter());
                tables.map(|table| table.metadata.file_size).sum::<u64>()
            };
            let first_merged = (1..version.level_count()).find(|&index| level_bytes(index) > 0).map_or(0, level_bytes);
            Ok(BaseUsage {
                disk_bytes: self.tree.disk_space(),
                rows: self.tree.approximate_len() as u64,
                runs: self.tree.l0_run_count() as u64,
                compaction_bytes: level_bytes(0) + first_merged.min(64 * self.options.table_bytes),
            })
        });
        // What can fail here is the crate's lock, poisoned by a panic that was told to whoever met it.
        usage.unwrap_or_default()
    }

    fn available(&self) -> Result<u64, BaseError> {
        self.env.files().available(&self.directory).map_err(|error| io_error(&error))
    }

    fn begin_space(&self, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError> {
        space::begin(self, name)
    }

    fn space_progress(&self) -> Option<Bytes> {
        // What cannot be read is found when it is gone on with.
        space::progress_beside(self).ok().flatten()
    }

    fn discard_space(&self) -> Result<(), BaseError> {
        space::discard(self).map_err(|error| io_error(&error))
    }
}

/// The first table that cannot be opened by itself, for the crate does not say which it was.
fn damaged_table(env: &Env, directory: &Path) -> Option<PathBuf> {
    let tables = env.files().list(&directory.join(TABLES)).ok()?;
    tables.into_iter().map(|name| directory.join(TABLES).join(name)).find(|path| {
        let cache = Arc::new(Cache::with_capacity_bytes(0));
        let any = Checksum::from_raw(0);
        caught(|| Table::recover(path.clone(), any, 0, 0, cache, None, true, true)).is_err()
    })
}

fn item(row: RunRow) -> InternalValue {
    let (value, kind) = match row.stored {
        Some(stored) => (stored, ValueType::Value),
        None => (Bytes::new(), ValueType::Tombstone),
    };
    InternalValue::from_components(row.key, value, OFFSET + row.version.0, kind)
}

pub(super) fn io_error(error: &io::Error) -> BaseError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BaseError::NoSpace(error.to_string()),
        _ => BaseError::Failed(error.to_string()),
    }
}

/// Calls into the crate. Its errors become ours, and so do its panics.
pub(super) fn caught<T>(call: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, BaseError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(lsm_tree::Error::Io(error))) => Err(io_error(&error)),
        Ok(Err(error)) => Err(BaseError::Failed(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(BaseError::Failed(format!("the tree panicked: {}", text.unwrap_or_default())))
        }
    }
}
