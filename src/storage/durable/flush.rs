//! Moving what was written lately into the base, and out of memory. What it relies on stands in the module above.

use super::{DurableEngine, State, TRIM_ITEMS_MAX, boundaries::Boundary};
use crate::{
    storage::{
        BaseError, Error, Marker, RunRow, Scan,
        base::full_keys,
        memory::{Chains, Keys},
    },
    types::Version,
};
use std::{collections::VecDeque, sync::atomic::Ordering};

/// Keys that are looked at under one hold of a lock.
const KEYS: usize = if cfg!(miri) { 4 } else { 128 };
/// With more runs than this merging goes before flushing, or every read looks into too many.
const RUNS_MAX: u64 = 12;
/// Rounds in which the collector is asked to give back what was retired.
const COLLECTIONS: usize = 4;

/// A flush that has chosen its target.
struct Flush {
    boundary: Boundary,
    /// Everything up to here stands in the base already.
    from: Version,
    /// Pinned versions from `from` to below the target, ascending.
    pinned: Vec<Version>,
    sequence: u64,
}

/// What was written is flushed when so many slices of it stand in the log, however little memory holds of it: it bounds the
/// log, and what is applied again after a crash.
const LOG_SLICES_MAX: u64 = 8;

/// How a piece of work ended that needs room on disk.
enum Room {
    Was,
    WasNot,
}

impl DurableEngine {
    /// One piece of work, if there is one: a flush, or a merge.
    pub(super) fn maintain_piece(&self) -> Result<bool, Error> {
        let _maintenance = self.maintenance.lock();
        self.check_open()?;
        self.free_replaced();
        let state = &*self.state.get();
        self.collect(state);
        let available = self.look_at_space(state)?;
        let usage = state.base.usage();
        state.base_rows.store(usage.rows, Ordering::Relaxed);
        // A merge leaves half of the reserve to the log, whose room only a flush gives back.
        let may_merge = usage.compaction_bytes + self.options.reserve_bytes / 2 <= available;
        if usage.runs >= RUNS_MAX && may_merge && self.compact(state)? {
            return Ok(true);
        }
        let unflushed = state.unflushed_bytes();
        if unflushed + unflushed / 4 <= available
            && let Some(flush) = self.begin_flush(state, false)
        {
            return Ok(matches!(self.flush(state, &flush)?, Room::Was));
        }
        if may_merge { self.compact(state) } else { Ok(false) }
    }

    /// Flushes until nothing is left.
    pub(super) fn flush_all(&self) -> Result<(), Error> {
        let _maintenance = self.maintenance.lock();
        self.check_open()?;
        let state = &*self.state.get();
        while let Some(flush) = self.begin_flush(state, true) {
            if let Room::WasNot = self.flush(state, &flush)? {
                return Err(Error::Failed("no space is left to store what was written".into()));
            }
        }
        Ok(())
    }

    /// Takes back what readers have let go of, so that it no longer counts.
    fn collect(&self, state: &State) {
        for _ in 0..COLLECTIONS {
            state.chains.writer().hand_over(&crossbeam_epoch::pin());
        }
        self.note_memory(state);
    }

    /// Looks at the room on disk, and says whether writes must wait for more.
    fn look_at_space(&self, state: &State) -> Result<u64, Error> {
        let available = state.base.available().map_err(|error| self.fail(error.to_string()))?;
        let reserve = self.options.reserve_bytes;
        self.space.available.store(available, Ordering::Relaxed);
        // Once full, it has room again when that is worth something: an eighth of the reserve.
        let was_full = self.space.is_full.load(Ordering::Relaxed);
        let wanted = if was_full { reserve + reserve / 8 } else { reserve };
        self.space.is_full.store(available < wanted, Ordering::Release);
        Ok(available)
    }

    /// Chooses a target, if there is something to store and a reason to do it now, and closes what lies below it.
    fn begin_flush(&self, state: &State, everything: bool) -> Option<Flush> {
        let durable = self.durable();
        let _writer = state.chains.writer();
        let mut boundaries = state.boundaries.lock();
        let progress = state.progress.lock();
        let stored = &progress.stored;
        if stored.applied == progress.applied && stored.membership == progress.membership {
            return None;
        }
        let horizon = state.pins.horizon().max(stored.applied.version);
        let present = boundaries.present(progress.applied, &progress.membership);
        let is_durable = present.applied.log_id <= durable;
        let present = if is_durable { Some(present) } else { boundaries.durable(durable, horizon).cloned() };
        let is_urgent = everything || state.chains.bytes() > self.options.memory_bytes_max / 2;
        let is_old = self.env.now() - boundaries.flushed_at >= self.options.slice_age_max;
        // What is flushed leaves the log, which is what takes the room when little is written over and over.
        let is_full = self.space.is_full.load(Ordering::Relaxed);
        let from = stored.applied.version;
        let boundary = match boundaries.outlived(durable, horizon) {
            _ if is_urgent => present?,
            Some(outlived) => {
                let written = outlived.written - boundaries.flushed;
                let bytes = written.min(state.unflushed_bytes());
                let is_long = written >= self.options.slice_bytes.saturating_mul(LOG_SLICES_MAX);
                if !is_old && !is_full && !is_long && bytes < self.options.slice_bytes {
                    return None;
                }
                outlived.clone()
            }
            None if is_old || is_full => present?,
            None => return None,
        };
        let target = boundary.applied.version;
        boundaries.flushing = Some(target);
        let pinned = state.pins.close_below(from, target);
        Some(Flush { boundary, from, pinned, sequence: stored.sequence + 1 })
    }

    /// Stores what a flush has chosen, and lets it go from memory.
    fn flush(&self, state: &State, flush: &Flush) -> Result<Room, Error> {
        let Boundary { applied, membership, .. } = &flush.boundary;
        let (sequence, membership) = (flush.sequence, membership.clone());
        let marker = Marker { sequence, applied: *applied, membership, installed: false };
        let mut rows = Rows::new(&state.chains, flush);
        match state.base.write_run(&mut rows, &marker) {
            Ok(()) => {}
            Err(BaseError::NoSpace(_)) => {
                state.boundaries.lock().flushing = None;
                self.space.is_full.store(true, Ordering::Release);
                return Ok(Room::WasNot);
            }
            Err(error) => return Err(self.fail(format!("the base cannot be written: {error}"))),
        }
        {
            let _writer = state.chains.writer();
            state.flushed.store(applied.version.0, Ordering::Release);
            state.boundaries.lock().flushed(&flush.boundary, self.env.now());
            state.progress.lock().stored = marker;
        }
        state.base_rows.store(state.base.usage().rows, Ordering::Relaxed);
        self.evict(state);
        self.discard_passed(state).map_err(|error| self.fail(format!("a space cannot be removed: {error}")))?;
        Ok(Room::Was)
    }

    /// Takes everything out of memory that the base has, in pieces, between which the writer gets its turn.
    fn evict(&self, state: &State) {
        let flushed = state.flushed();
        loop {
            let guard = crossbeam_epoch::pin();
            let mut writer = state.chains.writer();
            let is_left = state.chains.cut(&mut writer, state.cut_horizon(), flushed, TRIM_ITEMS_MAX, &guard);
            if !is_left {
                break;
            }
        }
        let mut walk = Walk::new(&state.chains);
        while walk.next() {
            let guard = crossbeam_epoch::pin();
            let mut writer = state.chains.writer();
            state.chains.evict(&mut writer, &walk.keys, flushed, &guard);
        }
        self.collect(state);
    }

    /// Merges a piece of the base. What no reader can ask for may be forgotten.
    fn compact(&self, state: &State) -> Result<bool, Error> {
        let flushed = state.flushed();
        // Who comes after this is not below the floor, and that is not below what was flushed.
        let (_, oldest) = state.pins.live();
        let forget_below = oldest.is_none_or(|oldest| oldest >= flushed).then(|| flushed.next());
        match state.base.compact(forget_below) {
            Ok(is_done) => Ok(is_done),
            Err(BaseError::NoSpace(_)) => {
                self.space.is_full.store(true, Ordering::Release);
                Ok(false)
            }
            Err(error) => Err(self.fail(format!("the base cannot be merged: {error}"))),
        }
    }
}

impl State {
    /// Bytes of what only memory has, at most.
    fn unflushed_bytes(&self) -> u64 {
        self.chains.bytes().saturating_sub(self.chains.history_bytes())
    }
}

/// All keys in memory in order, some at a time. Keys that come or go meanwhile are met or not.
struct Walk<'a> {
    chains: &'a Chains,
    keys: Keys,
    last: Option<Vec<u8>>,
    was_all: bool,
}

impl Walk<'_> {
    fn new(chains: &Chains) -> Walk<'_> {
        Walk { chains, keys: Keys::default(), last: None, was_all: false }
    }

    /// Fills `keys` with the next ones; false at the end.
    fn next(&mut self) -> bool {
        if self.was_all {
            return false;
        }
        self.keys.reset(KEYS);
        let scan = Scan { range: &full_keys(), reverse: false };
        self.was_all = self.chains.copy_keys(scan, self.last.as_deref(), &mut self.keys);
        if self.keys.len() == 0 {
            return false;
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(self.keys.get(self.keys.len() - 1));
        true
    }
}

/// The rows of a flush: of every key the newest version up to the target, and for each pin the newest up to it, unless
/// the base has that already.
struct Rows<'a> {
    walk: Walk<'a>,
    flush: &'a Flush,
    next: usize,
    found: VecDeque<RunRow>,
}

impl<'a> Rows<'a> {
    fn new(chains: &'a Chains, flush: &'a Flush) -> Rows<'a> {
        Rows { walk: Walk::new(chains), flush, next: 0, found: VecDeque::new() }
    }

    fn find(&mut self) {
        let key = self.walk.keys.get(self.next);
        let guard = crossbeam_epoch::pin();
        let target = self.flush.boundary.applied.version;
        let mut newest = [None];
        self.walk.chains.read(&[key], target, &mut newest, &guard);
        let mut below = newest[0];
        let mut last = None;
        for version in std::iter::once(target).chain(self.flush.pinned.iter().rev().copied()) {
            below = below.and_then(|node| node.at(version.0));
            let Some(node) = below else { return };
            let found = Version(node.version());
            if found <= self.flush.from {
                return;
            }
            if last != Some(found) {
                self.found.push_back(RunRow::new(key, found, node.value()));
                last = Some(found);
            }
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<RunRow, BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.found.pop_front() {
                return Some(Ok(row));
            }
            if self.next >= self.walk.keys.len() {
                if !self.walk.next() {
                    return None;
                }
                self.next = 0;
            }
            self.find();
            self.next += 1;
        }
    }
}
