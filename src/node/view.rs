//! What an evaluation sees: everything decided before it, applied or under way, and its own writes on top.
//!
//! Three layers, newest first: the evaluation's own write buffer, the commits under way, the applied state. A value's
//! version is the version of the commit that wrote it, be it applied or not; for the evaluation's own writes it is the
//! version that it will have if it commits.

use super::{
    in_flight::{Found, InFlight},
    request::EvaluationError,
};
use crate::{
    storage::{self, Snapshot},
    txn::{Mutation, MutationError, Overlay, WriteBuffer},
    types::{FullKey, KeyRange, Version, limits},
};
use bytes::Bytes;
use std::{cell::Cell, collections::BTreeMap, ops::ControlFlow};

/// Most rows that one evaluation looks at, in all its scans: the committer waits for it, and everybody for the committer.
/// As many keys of ten bytes can be deleted in one transaction.
pub const EVALUATION_ROWS_MAX: u64 = 1 << 20;

/// A view over everything decided so far, to read and to write.
pub struct View<'a> {
    snapshot: Snapshot,
    in_flight: &'a InFlight,
    writes: WriteBuffer,
    version: Version,
    /// Rows that may still be looked at.
    rows_left: Cell<u64>,
}

/// A row's visitor: full key, version, value.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], Version, &[u8]) -> ControlFlow<()>;

impl<'a> View<'a> {
    pub(super) fn new(snapshot: Snapshot, in_flight: &'a InFlight, version: Version) -> View<'a> {
        View { snapshot, in_flight, writes: WriteBuffer::new(), version, rows_left: Cell::new(EVALUATION_ROWS_MAX) }
    }

    /// What is at `key`.
    pub fn get(&self, key: &[u8]) -> Result<Found, storage::Error> {
        match self.writes.overlay(key) {
            Overlay::Determined(value) => Ok(value.map(|value| (self.version, Bytes::copy_from_slice(&value)))),
            Overlay::Untouched => self.decided(key),
            Overlay::NeedsBase => {
                let base = self.decided(key)?;
                let value = self.writes.read(key, base.as_ref().map(|(_, value)| &value[..]));
                Ok(value.map(|value| (self.version, Bytes::copy_from_slice(&value))))
            }
        }
    }

    fn decided(&self, key: &[u8]) -> Result<Found, storage::Error> {
        let stored = self.snapshot.get(key, |row| row.map(|row| (row.version, Bytes::copy_from_slice(row.value))))?;
        Ok(self.in_flight.fold(key, self.snapshot.version(), stored))
    }

    /// Visits the rows of a range in order until `each` breaks. All scans of an evaluation together look at no more than
    /// [`EVALUATION_ROWS_MAX`] rows.
    ///
    /// Memory: the keys of the range that are under way or written here; the applied rows are streamed.
    pub fn scan(&self, range: &KeyRange, reverse: bool, each: Visit<'_>) -> Result<(), EvaluationError> {
        let mut overlay: BTreeMap<FullKey, Found> = BTreeMap::new();
        let base = self.snapshot.version();
        let under_way = self.in_flight.keys_in(range).filter(|key| self.in_flight.touches(key, base));
        for key in under_way.cloned().chain(self.own_keys(range)) {
            self.look_at_one()?;
            let found = self.get(&key)?;
            overlay.insert(key, found);
        }
        let mut rest: Vec<(FullKey, Found)> = overlay.into_iter().collect();
        // Taken from the back, in the direction of the scan.
        if !reverse {
            rest.reverse();
        }
        let before = |overlay: &FullKey, stored: &[u8]| if reverse { *overlay > stored } else { *overlay < stored };
        let mut broken = false;
        let mut looked = Ok(());
        self.snapshot.scan(range, reverse, &mut |key, row| {
            looked = self.look_at_one();
            if looked.is_err() {
                return ControlFlow::Break(());
            }
            let flow = emit_while(&mut rest, each, |overlay| before(overlay, key));
            if flow.is_break() {
                broken = true;
                return flow;
            }
            let replaced = rest.last().is_some_and(|(overlay, _)| *overlay == key);
            let flow = match if replaced { rest.pop() } else { None } {
                Some((key, Some((version, value)))) => each(&key, version, &value),
                Some((_, None)) => ControlFlow::Continue(()),
                None => each(key, row.version, row.value),
            };
            broken = flow.is_break();
            flow
        })?;
        looked?;
        if !broken {
            let _ = emit_while(&mut rest, each, |_| true);
        }
        Ok(())
    }

    fn look_at_one(&self) -> Result<(), EvaluationError> {
        let left = self.rows_left.get().checked_sub(1);
        self.rows_left.set(left.ok_or(EvaluationError::TooLong { rows_max: EVALUATION_ROWS_MAX })?);
        Ok(())
    }

    fn own_keys(&self, range: &KeyRange) -> Vec<FullKey> {
        self.writes.keys().filter(|key| range.contains(key)).map(Bytes::copy_from_slice).collect()
    }

    /// Writes; later reads of this view see it.
    pub fn write(&mut self, mutation: Mutation<'_>) -> Result<(), Overgrown> {
        mutation.check()?;
        let bytes = self.writes.bytes() + mutation.encoded_len();
        if bytes > limits::TRANSACTION_BYTES_MAX {
            return Err(Overgrown::Transaction { bytes });
        }
        self.writes.push(mutation);
        Ok(())
    }

    /// The version that the evaluation gets if it commits.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many mutations were written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn into_writes(self) -> WriteBuffer {
        self.writes
    }
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overgrown {
    /// The mutation alone is over a limit.
    #[error(transparent)]
    Mutation(#[from] MutationError),
    /// With it the transaction would be over its limit.
    #[error("transaction of {bytes} bytes is over the limit of {} bytes", limits::TRANSACTION_BYTES_MAX)]
    Transaction {
        /// What it would have.
        bytes: usize,
    },
}

fn emit_while(rest: &mut Vec<(FullKey, Found)>, each: Visit<'_>, wanted: impl Fn(&FullKey) -> bool) -> ControlFlow<()> {
    while rest.last().is_some_and(|(key, _)| wanted(key)) {
        if let Some((key, Some((version, value)))) = rest.pop() {
            each(&key, version, &value)?;
        }
    }
    ControlFlow::Continue(())
}
