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
mod current;
mod install;
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
pub(super) use current::Current;
pub(super) use order::Keys;
pub(super) use table::GROUP;
pub(super) use writer::Absent;

use super::{
    Applied, DurableEnd, Engine, Error, Install, InstallError, Pin, Pins, Pressure, Row, Scan, Usage, Write,
    install::Received,
};
use crate::types::Version;
use bytes::Bytes;
use crossbeam_epoch::Guard;
use install::{MemoryInstall, Partial};
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
    state: Current<State>,
    /// What was replaced by snapshots and may still be looked at.
    replaced: Mutex<Vec<Arc<State>>>,
    /// What came of a snapshot whose transfer was interrupted.
    partial: Mutex<Option<Partial>>,
    hash_seed: u64,
    bytes_max: u64,
    /// Why the engine has ended, once it has.
    ended: OnceLock<String>,
}

/// What it holds: exchanged as a whole when a snapshot is installed.
struct State {
    chains: Chains,
    visible: AtomicU64,
    pins: Arc<Pins>,
    /// Moves under its lock together with `visible`.
    marker: Mutex<Applied>,
    membership: Mutex<Bytes>,
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl State {
    fn new(chains: Chains, applied: Applied, membership: Bytes) -> State {
        let pins = Arc::new(Pins::default());
        pins.raise_horizon(applied.version);
        State {
            chains,
            visible: AtomicU64::new(applied.version.0),
            pins,
            marker: Mutex::new(applied),
            membership: Mutex::new(membership),
        }
    }

    fn visible(&self) -> Version {
        Version(self.visible.load(Ordering::Acquire))
    }

    fn pin(&self) -> Pin {
        self.pins.pin_latest(|| self.visible())
    }

    /// One attempt to read up to [`UNPINNED_KEYS_MAX`] keys without a pin.
    fn try_get_latest(
        &self,
        keys: &[&[u8]],
        guard: &Guard,
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Option<Version> {
        let version = self.visible();
        let mut found = [None; UNPINNED_KEYS_MAX];
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            self.chains.read(keys, version, &mut found[..keys.len()], guard);
        }
        if self.pins.floor() > version {
            return None;
        }
        for (i, found) in found[..keys.len()].iter().enumerate() {
            each(i, version, found.and_then(row));
        }
        Some(version)
    }

    /// Reads at a version that is pinned here.
    fn get_at(&self, version: Version, keys: &[&[u8]], guard: &Guard, each: &mut dyn FnMut(usize, Option<Row<'_>>)) {
        for (group, keys) in keys.chunks(GROUP).enumerate() {
            let mut found = [None; GROUP];
            let found = &mut found[..keys.len()];
            self.chains.read(keys, version, found, guard);
            for (i, found) in found.iter().enumerate() {
                each(group * GROUP + i, found.and_then(row));
            }
        }
    }
}

impl MemoryEngine {
    /// An empty store at version zero.
    #[must_use]
    pub fn new(options: MemoryOptions) -> MemoryEngine {
        let chains = Chains::new(options.hash_seed, Absent::Nowhere);
        MemoryEngine {
            state: Current::new(Arc::new(State::new(chains, Applied::default(), Bytes::new()))),
            replaced: Mutex::default(),
            partial: Mutex::default(),
            hash_seed: options.hash_seed,
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
}

impl Engine for MemoryEngine {
    fn visible(&self) -> Version {
        self.state.load(&crossbeam_epoch::pin()).visible()
    }

    fn applied(&self) -> Applied {
        *self.state.get().marker.lock()
    }

    fn pin(&self) -> Pin {
        self.state.get().pin()
    }

    fn pin_at(&self, version: Version) -> Result<Pin, Error> {
        self.check_open()?;
        let state = self.state.get();
        let visible = state.visible();
        if version > visible {
            return Err(Error::Ahead { asked: version, visible });
        }
        state.pins.pin(version)
    }

    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        self.check_open()?;
        let guard = crossbeam_epoch::pin();
        let state = self.state.load(&guard);
        if keys.len() <= UNPINNED_KEYS_MAX {
            for _ in 0..UNPINNED_ATTEMPTS {
                if let Some(version) = state.try_get_latest(keys, &guard, each) {
                    return Ok(version);
                }
            }
        }
        let pin = state.pin();
        let version = pin.version();
        state.get_at(version, keys, &guard, &mut |i, row| each(i, version, row));
        Ok(version)
    }

    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        self.check_open()?;
        let guard = crossbeam_epoch::pin();
        let state = self.state.load(&guard);
        state.pins.check(pin)?;
        state.get_at(pin.version(), keys, &guard, each);
        Ok(())
    }

    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let state = self.state.get();
        state.pins.check(pin)?;
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
            let was_all = state.chains.copy_keys(scan, last.as_deref(), &mut keys);
            let guard = crossbeam_epoch::pin();
            for first in (0..keys.len()).step_by(GROUP) {
                let count = GROUP.min(keys.len() - first);
                let mut group: [&[u8]; GROUP] = [&[]; GROUP];
                for (i, key) in group[..count].iter_mut().enumerate() {
                    *key = keys.get(first + i);
                }
                let mut found = [None; GROUP];
                state.chains.read(&group[..count], version, &mut found[..count], &guard);
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
        let state = self.state.get();
        let mut writer = state.chains.writer();
        self.check_open()?;
        assert!(!state.pins.have_ended(), "one caller applies and installs");
        check_writes(state.visible(), writes, applied)?;
        let guard = crossbeam_epoch::pin();
        state.chains.push(&mut writer, writes, &guard).map_err(|why| self.fail(why))?;
        {
            let mut marker = state.marker.lock();
            state.visible.store(applied.version.0, Ordering::Release);
            *marker = applied;
        }
        let horizon = state.pins.horizon();
        state.chains.cut(&mut writer, horizon, horizon, writes.len() * APPLY_TRIM_ITEMS, &guard);
        Ok(())
    }

    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error> {
        self.check_open()?;
        let state = self.state.get();
        let mut marker = state.marker.lock();
        assert!(!state.pins.have_ended(), "one caller applies and installs");
        check_writes(state.visible(), &[], applied)?;
        *marker = applied;
        *state.membership.lock() = membership;
        Ok(())
    }

    fn membership(&self) -> Bytes {
        self.state.get().membership.lock().clone()
    }

    fn stored(&self) -> Applied {
        self.applied()
    }

    fn stored_membership(&self) -> Bytes {
        self.membership()
    }

    fn follow_log(&self, _durable_end: DurableEnd) {}

    fn maintain(&self) -> Result<bool, Error> {
        self.check_open()?;
        self.free_leftovers();
        Ok(false)
    }

    fn trim(&self, target: Version) -> bool {
        let state = self.state.get();
        let mut writer = state.chains.writer();
        let horizon = state.pins.raise_horizon(target.min(state.visible()));
        let guard = crossbeam_epoch::pin();
        state.chains.cut(&mut writer, horizon, horizon, TRIM_ITEMS_MAX, &guard);
        writer.hand_over(&guard);
        writer.is_behind(horizon.0)
    }

    fn usage(&self) -> Usage {
        let state = self.state.get();
        let (pins, oldest) = state.pins.live();
        Usage {
            pressure: Pressure::None,
            bytes: state.chains.bytes(),
            bytes_max: self.bytes_max,
            history_bytes: state.chains.history_bytes(),
            keys: state.chains.keys(),
            pins,
            oldest_pin: oldest.unwrap_or_else(|| state.visible()),
            horizon: state.pins.floor(),
        }
    }

    fn begin_install(
        self: Arc<Self>,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError> {
        Ok(Box::new(MemoryInstall::begin(self, Received::nothing(id, applied, membership))?))
    }

    fn persist(&self) -> Result<(), Error> {
        self.check_open()
    }

    fn close(&self) -> Result<(), Error> {
        self.fail("the engine was closed".into());
        Ok(())
    }
}
