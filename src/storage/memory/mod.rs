//! The engine in memory: a hash from key to version chain for points, and an ordered index of keys for scans.
//!
//! ```text
//! get:   hash -> slot -> newest version -> … -> the version to read
//! scan:  ordered index -> keys, a batch at a time -> a get for each
//! ```
//!
//! One writer at a time changes anything; a mutex sees to it. Readers take no lock for points, and for scans one that is
//! held for a batch of keys or for a group of new ones. The index is touched only when a key appears or vanishes.
//!
//! Why a reader sees all of a batch or nothing: versions are pushed in front of chains with versions above the visible
//! one, which moves at the end. A reader fixes its version first and walks past what is newer.
//!
//! Why a reader finds what it may see although the writer cuts: the horizon is raised before anything below it is cut. A
//! pin keeps the horizon from passing its version. A read without one reads first, then checks that the horizon has not
//! passed its version, and only then hands out what it found. What is unlinked is freed once no reader's guard is as old.

mod node;
mod order;
mod prefetch;
pub(crate) use prefetch::prefetch;

mod table;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

use super::{Applied, Engine, Error, Pin, Pins, Pressure, Row, Scan, Usage, Write};
use crate::types::Version;
use bytes::Bytes;
use node::{NODE_VALUE_BYTES_MAX, NodeRef};
use order::{Keys, ORDER_KEY_BYTES_MAX, Order};
use parking_lot::{Mutex, RwLock};
use std::{
    fmt,
    ops::{Bound, ControlFlow},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};
use table::{GROUP, Table};
use usage::Counters;
use writer::{Pushed, Writer};

/// Keys that are read without a pin before any is handed out; for more a pin is taken.
const UNPINNED_KEYS_MAX: usize = 64;
/// Attempts at a read without a pin.
const UNPINNED_ATTEMPTS: usize = 4;
/// Keys that a scan copies at once: at first, and at most.
const SCAN_KEYS: (usize, usize) = if cfg!(miri) { (2, 4) } else { (16, 128) };
/// Superseded versions that one call of `trim` handles.
const TRIM_ITEMS_MAX: usize = 1024;
/// Superseded versions that `apply` handles for each write, so that chains do not grow between calls of `trim`.
const APPLY_TRIM_ITEMS: usize = 2;

/// What the engine is told when it is made.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// The bound that admission keeps the bytes held below. The engine itself only reports it.
    pub bytes_max: u64,
    /// Seeds the hash of keys. Unpredictable where keys come from strangers.
    pub hash_seed: u64,
}

/// A versioned, ordered store in memory.
pub struct MemoryEngine {
    table: Arc<Table>,
    visible: AtomicU64,
    pins: Arc<Pins>,
    order: RwLock<Order>,
    /// Moves under its lock together with `visible`.
    marker: Mutex<Applied>,
    membership: Mutex<Bytes>,
    writer: Mutex<Writer>,
    counters: Arc<Counters>,
    order_bytes: AtomicU64,
    keys: AtomicU64,
    bytes_max: u64,
    /// Why the engine has ended, once it has.
    ended: OnceLock<String>,
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl MemoryEngine {
    /// An empty store at version zero.
    #[must_use]
    pub fn new(options: MemoryOptions) -> MemoryEngine {
        let counters = Arc::new(Counters::default());
        let writer = Writer::new(options.hash_seed, Arc::clone(&counters));
        let order = Order::new();
        MemoryEngine {
            table: Arc::clone(writer.table()),
            visible: AtomicU64::new(0),
            pins: Arc::default(),
            order_bytes: AtomicU64::new(order.bytes()),
            order: RwLock::new(order),
            marker: Mutex::default(),
            membership: Mutex::default(),
            writer: Mutex::new(writer),
            counters,
            keys: AtomicU64::new(0),
            bytes_max: options.bytes_max,
            ended: OnceLock::new(),
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.ended.get() {
            None => Ok(()),
            Some(why) => Err(Error::Failed(why.clone())),
        }
    }

    /// Ends the engine, for it no longer holds what it should.
    fn fail(&self, why: String) -> Error {
        Error::Failed(self.ended.get_or_init(|| why).clone())
    }

    /// What `apply` relies on.
    fn check_writes(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
        let visible = self.visible();
        let mut last = visible;
        for write in writes {
            if write.version <= visible || write.version < last {
                return Err(Error::Failed(format!("a write of version {} comes after version {last}", write.version)));
            }
            last = write.version;
            if write.key.len() > ORDER_KEY_BYTES_MAX {
                return Err(Error::Failed(format!("a key of {} bytes is too long", write.key.len())));
            }
            if write.value.is_some_and(|value| value.len() > NODE_VALUE_BYTES_MAX) {
                return Err(Error::Failed("a value is too long".into()));
            }
        }
        if applied.version < last {
            return Err(Error::Failed(format!("the marker {} is behind version {last}", applied.version)));
        }
        Ok(())
    }

    /// One attempt to read up to [`UNPINNED_KEYS_MAX`] keys without a pin.
    fn try_get_latest(&self, keys: &[&[u8]], each: &mut dyn FnMut(usize, Version, Option<Row<'_>>)) -> Option<Version> {
        let guard = crossbeam_epoch::pin();
        let version = self.visible();
        let mut found = [None; UNPINNED_KEYS_MAX];
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            let found = &mut found[..keys.len()];
            self.table.newest(keys, found, &guard);
            for found in found {
                *found = found.and_then(|newest| newest.at(version.0));
            }
        }
        if self.pins.horizon() > version {
            return None;
        }
        for (i, found) in found[..keys.len()].iter().enumerate() {
            each(i, version, found.and_then(row));
        }
        Some(version)
    }
}

fn row(node: NodeRef<'_>) -> Option<Row<'_>> {
    node.value().map(|value| Row { version: Version(node.version()), value })
}

impl Engine for MemoryEngine {
    fn visible(&self) -> Version {
        Version(self.visible.load(Ordering::Acquire))
    }

    fn applied(&self) -> Applied {
        *self.marker.lock()
    }

    fn pin(&self) -> Pin {
        self.pins.pin_latest(|| self.visible())
    }

    fn pin_at(&self, version: Version) -> Result<Pin, Error> {
        self.check_open()?;
        let visible = self.visible();
        if version > visible {
            return Err(Error::Ahead { asked: version, visible });
        }
        self.pins.pin(version)
    }

    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        self.check_open()?;
        if keys.len() <= UNPINNED_KEYS_MAX {
            for _ in 0..UNPINNED_ATTEMPTS {
                if let Some(version) = self.try_get_latest(keys, each) {
                    return Ok(version);
                }
            }
        }
        let pin = self.pin();
        let version = pin.version();
        self.get_at(&pin, keys, &mut |i, row| each(i, version, row))?;
        Ok(version)
    }

    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        self.check_open()?;
        assert!(pin.is_of(&self.pins), "a pin of another engine keeps nothing here");
        let guard = crossbeam_epoch::pin();
        let version = pin.version();
        for (group, keys) in keys.chunks(GROUP).enumerate() {
            let mut found = [None; GROUP];
            let found = &mut found[..keys.len()];
            self.table.newest(keys, found, &guard);
            for (i, found) in found.iter().enumerate() {
                each(group * GROUP + i, found.and_then(|newest| newest.at(version.0)).and_then(row));
            }
        }
        Ok(())
    }

    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        assert!(pin.is_of(&self.pins), "a pin of another engine keeps nothing here");
        let version = pin.version();
        let mut keys = Keys::default();
        let mut keys_max = SCAN_KEYS.0;
        let mut last: Option<Vec<u8>> = None;
        loop {
            self.check_open()?;
            if scan.range.is_empty() {
                return Ok(());
            }
            keys.reset(keys_max);
            let (start, end) = (&scan.range.start[..], &scan.range.end[..]);
            let was_all = match (&last, scan.reverse) {
                (None, false) => self.order.read().copy_up(Bound::Included(start), end, &mut keys),
                (Some(last), false) => self.order.read().copy_up(Bound::Excluded(last), end, &mut keys),
                (last, true) => self.order.read().copy_down(start, last.as_deref().unwrap_or(end), &mut keys),
            };
            let guard = crossbeam_epoch::pin();
            for first in (0..keys.len()).step_by(GROUP) {
                let count = GROUP.min(keys.len() - first);
                let mut group: [&[u8]; GROUP] = [&[]; GROUP];
                for (i, key) in group[..count].iter_mut().enumerate() {
                    *key = keys.get(first + i);
                }
                let mut found = [None; GROUP];
                self.table.newest(&group[..count], &mut found[..count], &guard);
                for (key, found) in group[..count].iter().zip(found) {
                    if let Some(row) = found.and_then(|newest| newest.at(version.0)).and_then(row)
                        && each(key, row).is_break()
                    {
                        return Ok(());
                    }
                }
            }
            if was_all {
                return Ok(());
            }
            let end = last.get_or_insert_default();
            end.clear();
            end.extend_from_slice(keys.get(keys.len() - 1));
            keys_max = (keys_max * 2).min(SCAN_KEYS.1);
        }
    }

    fn apply(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        self.check_open()?;
        self.check_writes(writes, applied)?;
        let guard = crossbeam_epoch::pin();
        for writes in writes.chunks(GROUP) {
            let mut hashes = [table::Hash::default(); GROUP];
            let hashes = &mut hashes[..writes.len()];
            for (hash, write) in hashes.iter_mut().zip(writes) {
                *hash = self.table.hash(write.key);
            }
            writer.prefetch(hashes, &guard);
            let mut appeared = [None; GROUP];
            let mut appeared_count = 0;
            for (&hash, write) in hashes.iter().zip(writes) {
                match writer.push(hash, write.key, write.version.0, write.value, &guard) {
                    Pushed::Appeared => {
                        appeared[appeared_count] = Some(write.key);
                        appeared_count += 1;
                    }
                    Pushed::Changed | Pushed::Nothing => {}
                    Pushed::Stale => return Err(self.fail(format!("a key has version {} already", write.version))),
                }
            }
            if appeared_count > 0 {
                let mut order = self.order.write();
                appeared.iter().flatten().for_each(|key| order.insert(key));
                self.order_bytes.store(order.bytes(), Ordering::Relaxed);
            }
        }
        {
            let mut marker = self.marker.lock();
            self.visible.store(applied.version.0, Ordering::Release);
            *marker = applied;
        }
        self.keys.store(writer.keys(), Ordering::Relaxed);
        self.cut(&mut writer, writes.len() * APPLY_TRIM_ITEMS, &guard);
        Ok(())
    }

    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error> {
        self.check_open()?;
        let mut marker = self.marker.lock();
        self.check_writes(&[], applied)?;
        *marker = applied;
        *self.membership.lock() = membership;
        Ok(())
    }

    fn membership(&self) -> Bytes {
        self.membership.lock().clone()
    }

    fn stored(&self) -> Applied {
        self.applied()
    }

    fn stored_membership(&self) -> Bytes {
        self.membership()
    }

    fn maintain(&self) -> Result<bool, Error> {
        self.check_open()?;
        Ok(false)
    }

    fn trim(&self, target: Version) -> bool {
        let mut writer = self.writer.lock();
        let horizon = self.pins.raise_horizon(target.min(self.visible()));
        let guard = crossbeam_epoch::pin();
        self.cut(&mut writer, TRIM_ITEMS_MAX, &guard);
        writer.hand_over(&guard);
        writer.is_behind(horizon.0)
    }

    fn usage(&self) -> Usage {
        let (pins, oldest) = self.pins.live();
        Usage {
            pressure: Pressure::None,
            bytes: self.counters.bytes() + self.order_bytes.load(Ordering::Relaxed),
            bytes_max: self.bytes_max,
            history_bytes: self.counters.history(),
            keys: self.keys.load(Ordering::Relaxed),
            pins,
            oldest_pin: oldest.unwrap_or_else(|| self.visible()),
            horizon: self.pins.horizon(),
        }
    }

    fn persist(&self) -> Result<(), Error> {
        self.check_open()
    }

    fn close(&self) -> Result<(), Error> {
        self.fail("the engine was closed".into());
        Ok(())
    }
}

impl MemoryEngine {
    /// Cuts what the horizon allows, and takes vanished keys out of the index.
    fn cut(&self, writer: &mut Writer, items_max: usize, guard: &crossbeam_epoch::Guard) {
        writer.cut(self.pins.horizon().0, items_max, guard, |key| {
            let mut order = self.order.write();
            order.remove(key);
            self.order_bytes.store(order.bytes(), Ordering::Relaxed);
        });
    }
}
