//! Scans: windows of keys, each merged from recent and the base.
//!
//! A window begins where the last one ended. First its keys and rows in memory are copied, then the base is read for the
//! same window, and the two are merged, memory deciding where both speak. Copied first, for what leaves memory in
//! between is in the base by then. Windows grow as the scan goes on, so that seeking in the base is soon cheap beside
//! reading; what is copied stays bounded. Nothing is held from one window to the next.

use super::{DurableEngine, State};
use crate::{
    storage::{
        BaseError, Error, Row, Scan,
        base::FULL_KEYS_START,
        memory::{GROUP, Keys},
    },
    types::{KeyRange, Version, key_after},
};
use bytes::Bytes;
use std::{
    cmp::Ordering,
    ops::{ControlFlow, Range},
};

/// Keys in memory that a window has: at first, and at most.
const WINDOW_KEYS: (usize, usize) = if cfg!(miri) { (2, 8) } else { (16, 1024) };
/// Bytes that are copied for a window, unless one row is longer.
const WINDOW_BYTES_MAX: usize = 1024 * 1024;

/// What a window has in memory: rows and tombstones, in the order of the scan.
#[derive(Default)]
struct Window {
    keys: Keys,
    /// Index of the key, version, and where the value lies; `None` for a tombstone.
    rows: Vec<(usize, Version, Option<Range<usize>>)>,
    values: Vec<u8>,
}

impl Window {
    fn row(&self, index: usize) -> (&[u8], Option<Row<'_>>) {
        let (key, version, value) = &self.rows[index];
        let row = value.clone().map(|value| Row { version: *version, value: &self.values[value] });
        (self.keys.get(*key), row)
    }
}

impl DurableEngine {
    /// Visits rows at a version that is pinned in this state.
    pub(super) fn scan_at(
        &self,
        state: &State,
        at: Version,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut rest = scan.range.clone();
        if rest.start[..] < *FULL_KEYS_START {
            rest.start = Bytes::from_static(FULL_KEYS_START);
        }
        let mut window = Window::default();
        let mut keys_max = WINDOW_KEYS.0;
        loop {
            self.check_open()?;
            if rest.is_empty() {
                return Ok(());
            }
            let last = state.fill(&mut window, &rest, scan.reverse, keys_max, at);
            let mut range = rest.clone();
            match (&last, scan.reverse) {
                (None, _) => {}
                (Some(last), false) => range.end = key_after(last),
                (Some(last), true) => range.start = last.clone(),
            }
            let flow =
                state.merge(&window, &range, scan.reverse, at, each).map_err(|error| self.read_failed(&error))?;
            if flow.is_break() || last.is_none() {
                return Ok(());
            }
            if scan.reverse {
                rest.end = range.start;
            } else {
                rest.start = range.end;
            }
            keys_max = (keys_max * 2).min(WINDOW_KEYS.1);
        }
    }
}

impl State {
    /// Copies what memory has at the beginning of `rest`. Returns the last key that it speaks for; `None` if it speaks for
    /// all of the rest.
    fn fill(&self, window: &mut Window, rest: &KeyRange, reverse: bool, keys_max: usize, at: Version) -> Option<Bytes> {
        window.keys.reset(keys_max);
        window.rows.clear();
        window.values.clear();
        let was_all = self.chains.copy_keys(Scan { range: rest, reverse }, None, &mut window.keys);
        let count = window.keys.len();
        let guard = crossbeam_epoch::pin();
        for first in (0..count).step_by(GROUP) {
            let group_count = GROUP.min(count - first);
            let mut group: [&[u8]; GROUP] = [&[]; GROUP];
            for (i, key) in group[..group_count].iter_mut().enumerate() {
                *key = window.keys.get(first + i);
            }
            let mut found = [None; GROUP];
            self.chains.read(&group[..group_count], at, &mut found[..group_count], &guard);
            for (i, node) in found[..group_count].iter().enumerate() {
                // A key that has nothing this old in memory is the base's to tell.
                let Some(node) = node else { continue };
                let value = node.value().map(|value| {
                    let begin = window.values.len();
                    window.values.extend_from_slice(value);
                    begin..window.values.len()
                });
                window.rows.push((first + i, Version(node.version()), value));
                if window.values.len() >= WINDOW_BYTES_MAX && first + i + 1 < count {
                    return Some(Bytes::copy_from_slice(window.keys.get(first + i)));
                }
            }
        }
        (!was_all && count > 0).then(|| Bytes::copy_from_slice(window.keys.get(count - 1)))
    }

    /// Hands out the rows of a window, the base's among those of memory.
    fn merge(
        &self,
        window: &Window,
        range: &KeyRange,
        reverse: bool,
        at: Version,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, BaseError> {
        let mut next = 0;
        let mut flow = ControlFlow::Continue(());
        self.base.scan(range, reverse, at, &mut |base_key, version, value| {
            while next < window.rows.len() {
                let (key, row) = window.row(next);
                let order = if reverse { base_key.cmp(key) } else { key.cmp(base_key) };
                if order == Ordering::Greater {
                    break;
                }
                next += 1;
                if let Some(row) = row {
                    flow = each(key, row);
                }
                if flow.is_break() || order == Ordering::Equal {
                    return flow;
                }
            }
            flow = each(base_key, Row { version, value });
            flow
        })?;
        while flow.is_continue() && next < window.rows.len() {
            let (key, row) = window.row(next);
            next += 1;
            if let Some(row) = row {
                flow = each(key, row);
            }
        }
        Ok(flow)
    }
}
