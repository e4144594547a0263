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

mod chains;
mod node;
mod order;
mod prefetch;
pub(crate) use prefetch::prefetch;

mod table;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

pub(super) use chains::{Chains, check_writes, row};
pub(super) use order::Keys;
pub(super) use table::GROUP;
pub(super) use writer::Absent;

use super::{Applied, Engine, Error, Pin, Pins, Pressure, Row, Scan, Usage, Write};
use crate::types::Version;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

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
    chains: Chains,
    visible: AtomicU64,
    pins: Arc<Pins>,
    /// Moves under its lock together with `visible`.
    marker: Mutex<Applied>,
    membership: Mutex<Bytes>,
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
        MemoryEngine {
            chains: Chains::new(options.hash_seed, Absent::Nowhere),
            visible: AtomicU64::new(0),
            pins: Arc::default(),
            marker: Mutex::default(),
            membership: Mutex::default(),
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

    /// One attempt to read up to [`UNPINNED_KEYS_MAX`] keys without a pin.
    fn try_get_latest(&self, keys: &[&[u8]], each: &mut dyn FnMut(usize, Version, Option<Row<'_>>)) -> Option<Version> {
        let guard = crossbeam_epoch::pin();
        let version = self.visible();
        let mut found = [None; UNPINNED_KEYS_MAX];
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            self.chains.read(keys, version, &mut found[..keys.len()], &guard);
        }
        if self.pins.floor() > version {
            return None;
        }
        for (i, found) in found[..keys.len()].iter().enumerate() {
            each(i, version, found.and_then(row));
        }
        Some(version)
    }
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
            self.chains.read(keys, version, found, &guard);
            for (i, found) in found.iter().enumerate() {
                each(group * GROUP + i, found.and_then(row));
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
            let was_all = self.chains.copy_keys(scan, last.as_deref(), &mut keys);
            let guard = crossbeam_epoch::pin();
            for first in (0..keys.len()).step_by(GROUP) {
                let count = GROUP.min(keys.len() - first);
                let mut group: [&[u8]; GROUP] = [&[]; GROUP];
                for (i, key) in group[..count].iter_mut().enumerate() {
                    *key = keys.get(first + i);
                }
                let mut found = [None; GROUP];
                self.chains.read(&group[..count], version, &mut found[..count], &guard);
                for (key, found) in group[..count].iter().zip(found) {
                    if let Some(row) = found.and_then(row)
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
        let mut writer = self.chains.writer();
        self.check_open()?;
        check_writes(self.visible(), writes, applied)?;
        let guard = crossbeam_epoch::pin();
        self.chains.push(&mut writer, writes, &guard).map_err(|why| self.fail(why))?;
        {
            let mut marker = self.marker.lock();
            self.visible.store(applied.version.0, Ordering::Release);
            *marker = applied;
        }
        let horizon = self.pins.horizon();
        self.chains.cut(&mut writer, horizon, horizon, writes.len() * APPLY_TRIM_ITEMS, &guard);
        Ok(())
    }

    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error> {
        self.check_open()?;
        let mut marker = self.marker.lock();
        check_writes(self.visible(), &[], applied)?;
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
        let mut writer = self.chains.writer();
        let horizon = self.pins.raise_horizon(target.min(self.visible()));
        let guard = crossbeam_epoch::pin();
        self.chains.cut(&mut writer, horizon, horizon, TRIM_ITEMS_MAX, &guard);
        writer.hand_over(&guard);
        writer.is_behind(horizon.0)
    }

    fn usage(&self) -> Usage {
        let (pins, oldest) = self.pins.live();
        Usage {
            pressure: Pressure::None,
            bytes: self.chains.bytes(),
            bytes_max: self.bytes_max,
            history_bytes: self.chains.history_bytes(),
            keys: self.chains.keys(),
            pins,
            oldest_pin: oldest.unwrap_or_else(|| self.visible()),
            horizon: self.pins.floor(),
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
