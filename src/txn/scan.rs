//! A scan of one fixed view: the rows of a snapshot with a transaction's own writes over them.
//!
//! A scan begins by fixing its view, then is stepped, a bounded amount of work at a time; what the transaction writes
//! meanwhile does not change what it finds. Every [`Step`] says what it has *told*: the range that its rows speak for,
//! from where the step began to the last position it passed, or to the bound itself when nothing is left. Rows that the
//! caller filtered out and keys that the transaction deleted are told as well: that they were not among the rows is
//! part of the answer.
//!
//! ```text
//!   range [a, z)   stored  b  d  f     own writes  c = 1, d deleted
//!   step of two keys    visits b, c            told [a, c]
//!   step of two keys    visits f (d is gone)   told (c, f]
//!   step of two keys    visits nothing, ends   told (f, z)
//! ```
//!
//! Without own writes it serves a scan outside of transactions. It holds no lock between steps.

use super::write_buffer::{FrozenEntry, FrozenOverlay};
use crate::{
    storage::{self, Snapshot},
    types::{FullKey, KeyRange, Version, key_after},
};
use bytes::Bytes;
use std::{ops::ControlFlow, ops::Range};

/// A value as a transaction sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRow<'a> {
    /// Commit version of who wrote it; `None` where this transaction did.
    pub version: Option<Version>,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// What a visitor says to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Taken, or filtered out: go on.
    Continue,
    /// Taken, or filtered out: the step ends behind it.
    StopAfter,
    /// Not taken, there is no room: the step ends before it, and the next one begins with it.
    StopBefore,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The keys that it speaks for, to be added to the transaction's reads; may be empty.
    pub told: KeyRange,
    /// Keys passed: rows taken or filtered out, and keys that the transaction itself deleted.
    pub examined: usize,
    /// Whether nothing is left.
    pub exhausted: bool,
}

/// A scan, between two steps.
#[derive(Clone)]
pub struct TransactionScan {
    snapshot: Snapshot,
    reverse: bool,
    /// What no step has passed.
    remaining: KeyRange,
    overlay: FrozenOverlay,
    /// The overlay's entries that no step has passed.
    entries_left: Range<usize>,
    exhausted: bool,
}

impl TransactionScan {
    /// A scan of `range` in `snapshot` with own writes over it; `overlay` was taken of the same range.
    #[must_use]
    pub fn new(snapshot: Snapshot, overlay: FrozenOverlay, range: KeyRange, reverse: bool) -> TransactionScan {
        let entries_left = 0..overlay.len();
        TransactionScan { snapshot, reverse, remaining: range, overlay, entries_left, exhausted: false }
    }

    /// A scan of `range` in `snapshot` alone.
    #[must_use]
    pub fn without_writes(snapshot: Snapshot, range: KeyRange, reverse: bool) -> TransactionScan {
        TransactionScan::new(snapshot, FrozenOverlay::default(), range, reverse)
    }

    /// The version of the snapshot.
    #[must_use]
    pub fn version(&self) -> Version {
        self.snapshot.version()
    }

    /// Memory that its copy of the transaction's writes takes, beyond the keys and values that it shares with it.
    #[must_use]
    pub fn overlay_bytes(&self) -> usize {
        self.overlay.bytes()
    }

    /// Whether it goes from the end to the start.
    #[must_use]
    pub fn is_reverse(&self) -> bool {
        self.reverse
    }

    /// What no step has passed: with the version, all that a resume token needs.
    #[must_use]
    pub fn remaining(&self) -> &KeyRange {
        &self.remaining
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Visits rows in order until `each` stops, `examined_max` keys are passed (at least one is), or nothing is left.
    ///
    /// `each` runs inside the engine: it copies what it wants and returns, and never calls the engine.
    pub fn step(
        &mut self,
        examined_max: usize,
        each: &mut dyn FnMut(&[u8], ReadRow<'_>) -> Visit,
    ) -> Result<Step, storage::Error> {
        let mut merge = Merge {
            reverse: self.reverse,
            entries: self.overlay.entries(),
            left: self.entries_left.clone(),
            position: None,
            examined: 0,
            examined_max,
            each,
        };
        let mut flow = ControlFlow::Continue(());
        if !self.exhausted && !self.remaining.is_empty() {
            self.snapshot.scan(&self.remaining, self.reverse, &mut |key, row| {
                flow = merge.stored(key, row);
                flow
            })?;
            if flow.is_continue() {
                flow = merge.rest();
            }
        }
        let Merge { left, position, examined, .. } = merge;
        self.entries_left = left;
        self.exhausted |= flow.is_continue();
        let told = self.pass(position);
        Ok(Step { told, examined, exhausted: self.exhausted })
    }

    /// Moves past `position`, or to the bound when nothing is left; returns what was passed.
    fn pass(&mut self, position: Option<Vec<u8>>) -> KeyRange {
        let KeyRange { start, end } = self.remaining.clone();
        let border: FullKey = match (position, self.reverse) {
            (_, false) if self.exhausted => end.clone(),
            (_, true) if self.exhausted => start.clone(),
            (Some(last), false) => key_after(&last),
            (Some(last), true) => last.into(),
            (None, false) => start.clone(),
            (None, true) => end.clone(),
        };
        let (lower, upper) = (KeyRange { start, end: border.clone() }, KeyRange { start: border, end });
        let (told, remaining) = if self.reverse { (upper, lower) } else { (lower, upper) };
        self.remaining = remaining;
        told
    }
}

/// One step's merge of stored rows with own writes.
struct Merge<'a> {
    reverse: bool,
    entries: &'a [FrozenEntry],
    left: Range<usize>,
    /// The last key passed.
    position: Option<Vec<u8>>,
    examined: usize,
    examined_max: usize,
    each: &'a mut dyn FnMut(&[u8], ReadRow<'_>) -> Visit,
}

impl<'a> Merge<'a> {
    /// A stored row, and the own writes that come before it.
    fn stored(&mut self, key: &[u8], row: storage::Row<'_>) -> ControlFlow<()> {
        while let Some(entry) = self.peek() {
            let order = entry.key[..].cmp(key);
            let order = if self.reverse { order.reverse() } else { order };
            if order.is_gt() {
                break;
            }
            let base = order.is_eq().then_some(row.value);
            self.own(entry, base)?;
            if order.is_eq() {
                return ControlFlow::Continue(());
            }
        }
        self.visit(key, Some(ReadRow { version: Some(row.version), value: row.value }))
    }

    /// The own writes behind the last stored row.
    fn rest(&mut self) -> ControlFlow<()> {
        while let Some(entry) = self.peek() {
            self.own(entry, None)?;
        }
        ControlFlow::Continue(())
    }

    fn peek(&self) -> Option<&'a FrozenEntry> {
        let at = if self.reverse { self.left.end.checked_sub(1)? } else { self.left.start };
        if self.left.contains(&at) { self.entries.get(at) } else { None }
    }

    fn own(&mut self, entry: &FrozenEntry, base: Option<&[u8]>) -> ControlFlow<()> {
        let value = entry.value(base);
        let examined = self.examined;
        let flow = self.visit(&entry.key, value.as_deref().map(|value| ReadRow { version: None, value }));
        if self.examined > examined {
            if self.reverse { self.left.end -= 1 } else { self.left.start += 1 }
        }
        flow
    }

    fn visit(&mut self, key: &[u8], row: Option<ReadRow<'_>>) -> ControlFlow<()> {
        let visit = row.map_or(Visit::Continue, |row| (self.each)(key, row));
        if visit == Visit::StopBefore {
            return ControlFlow::Break(());
        }
        self.examined += 1;
        let position = self.position.get_or_insert_default();
        position.clear();
        position.extend_from_slice(key);
        match visit == Visit::StopAfter || self.examined >= self.examined_max {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Rows of a scan gathered for a caller that wants them owned.
impl TransactionScan {
    /// Takes up to `rows_max` rows, their keys and values copied, and what was told.
    pub fn take(&mut self, rows_max: usize) -> Result<(Vec<(FullKey, Bytes)>, Step), storage::Error> {
        let mut rows = Vec::new();
        let step = self.step(usize::MAX, &mut |key, row| {
            if rows.len() == rows_max {
                return Visit::StopBefore;
            }
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row.value)));
            if rows.len() == rows_max { Visit::StopAfter } else { Visit::Continue }
        })?;
        Ok((rows, step))
    }
}
