//! Where a flush may end: places between entries, each with all that its marker states.
//!
//! A marker names one entry, and what is stored under it must be what the store held right after that entry: nothing of
//! the next, and nothing missing. Versions alone do not say that, for an entry may create none. So the writer notes a
//! boundary every so many bytes, and cutting stops at one, never between:
//!
//! ```text
//! entries   | | | | | | | | | |            kept from here: a caller's wish, between two boundaries
//! boundaries      b1      b2  ^            cut up to b2; the next flush ends at b2
//! ```
//!
//! Everything here happens under the lock of the chains' writer.

use crate::{
    env::Moment,
    storage::{Applied, Write},
    types::{LogId, Version},
};
use bytes::Bytes;
use std::collections::VecDeque;

/// Boundaries for each slice.
const BOUNDARIES: u64 = 64;
/// Bytes that a write counts beside its key and value: what its version costs in memory.
const WRITE_OVERHEAD: u64 = 32;

/// A place between two entries.
#[derive(Clone, Debug)]
pub(super) struct Boundary {
    pub(super) applied: Applied,
    pub(super) membership: Bytes,
    /// Bytes written until then, since the engine was opened.
    pub(super) written: u64,
}

/// The boundaries that a flush may choose from, oldest first.
#[derive(Debug)]
pub(super) struct Boundaries {
    noted: VecDeque<Boundary>,
    written: u64,
    /// `written` at the boundary flushed last.
    pub(super) flushed: u64,
    /// When that was.
    pub(super) flushed_at: Moment,
    /// The target of the flush that is running.
    pub(super) flushing: Option<Version>,
    /// History is kept from here on, as far as memory allows.
    kept_from: Version,
    bytes_apart: u64,
}

impl Boundaries {
    pub(super) fn new(slice_bytes: u64, now: Moment) -> Boundaries {
        Boundaries {
            noted: VecDeque::new(),
            written: 0,
            flushed: 0,
            flushed_at: now,
            flushing: None,
            kept_from: Version::ZERO,
            bytes_apart: slice_bytes / BOUNDARIES,
        }
    }

    /// Counts an entry's writes, and notes the boundary behind it if the last one is far enough away.
    pub(super) fn note(&mut self, writes: &[Write<'_>], applied: Applied, membership: &Bytes) {
        let bytes = |write: &Write<'_>| (write.key.len() + write.value.map_or(0, <[u8]>::len)) as u64 + WRITE_OVERHEAD;
        self.written += writes.iter().map(bytes).sum::<u64>();
        let last = self.noted.back().map_or(self.flushed, |boundary| boundary.written);
        if self.written - last >= self.bytes_apart {
            self.push(applied, membership);
        }
    }

    fn push(&mut self, applied: Applied, membership: &Bytes) {
        self.noted.push_back(Boundary { applied, membership: membership.clone(), written: self.written });
    }

    /// The boundary after everything applied.
    pub(super) fn present(&self, applied: Applied, membership: &Bytes) -> Boundary {
        Boundary { applied, membership: membership.clone(), written: self.written }
    }

    /// History below `target` may go. Returns how far to cut: a boundary that a flush can still end at, and so none after
    /// the last entry that is durable.
    pub(super) fn keep_from(
        &mut self,
        target: Version,
        applied: Applied,
        membership: &Bytes,
        durable: Option<LogId>,
    ) -> Option<Version> {
        if target >= applied.version && self.noted.back().is_none_or(|last| last.applied.log_id != applied.log_id) {
            self.push(applied, membership);
        }
        self.kept_from = self.kept_from.max(target);
        let goal = self.noted.iter().rev().find(|boundary| self.is_outlived(boundary, durable))?.applied.version;
        let goal = self.flushing.map_or(goal, |target| goal.min(target));
        // What lies below is no longer exact. Of those at the goal itself the last is enough.
        let is_enough = |next: &Boundary| next.applied.version <= goal && next.applied.log_id <= durable;
        while self.noted.get(1).is_some_and(is_enough) {
            self.noted.pop_front();
        }
        Some(goal)
    }

    /// Whether nobody wants the history before a boundary, and the log is durable up to it.
    fn is_outlived(&self, boundary: &Boundary, durable: Option<LogId>) -> bool {
        boundary.applied.version <= self.kept_from && boundary.applied.log_id <= durable
    }

    /// The last boundary up to which the log is durable, from `horizon` on: below it something was cut.
    pub(super) fn durable(&self, durable: Option<LogId>, horizon: Version) -> Option<&Boundary> {
        let last = self.noted.iter().rev().find(|boundary| boundary.applied.log_id <= durable)?;
        (last.applied.version >= horizon).then_some(last)
    }

    /// The same among those whose older history nobody wants.
    pub(super) fn outlived(&self, durable: Option<LogId>, horizon: Version) -> Option<&Boundary> {
        let last = self.noted.iter().rev().find(|boundary| self.is_outlived(boundary, durable))?;
        (last.applied.version >= horizon).then_some(last)
    }

    /// A flush to `boundary` is done.
    pub(super) fn flushed(&mut self, boundary: &Boundary, now: Moment) {
        self.flushing = None;
        self.flushed = boundary.written;
        self.flushed_at = now;
        while self.noted.front().is_some_and(|first| first.written <= boundary.written) {
            self.noted.pop_front();
        }
    }
}
