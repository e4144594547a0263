//! A stretch of writes for range checks: runs of keys as they came, each put in key order when that pays, and all of
//! them merged into one run once the block is closed.
//!
//! | run | order | a range is found by |
//! |---|---|---|
//! | open, or never asked | of versions | comparing every write above the read version |
//! | sorted | of keys | one binary search |
//!
//! A sorted run keeps each key once, with its last version, which answers "is there a write above r?" as well as all of
//! them do. Its search goes over eight bytes of each key behind what all keys share, and compares keys only where these
//! are equal.

use crate::types::KeyRange;

/// Writes over which a sorted run keeps the greatest version, to skip them at once.
const STRIDE: usize = 64;

/// A write in a range.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) key: &'a [u8],
    pub(super) delta: u32,
}

/// Runs of writes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Block {
    runs: Vec<Run>,
    /// Whether the last run takes writes.
    open: bool,
    /// The closed runs that are sorted.
    sorted: usize,
}

impl Block {
    /// The run that takes writes.
    pub(super) fn open_run(&mut self, writes_max: usize) -> &mut Run {
        if !self.open {
            // As long as the run before it, and some: growing would copy what is there.
            let key_bytes = self.runs.last().map_or(0, |run| run.keys.len() + run.keys.len() / 16);
            self.runs.push(Run {
                keys: Vec::with_capacity(key_bytes),
                writes: Vec::with_capacity(writes_max),
                ..Run::default()
            });
            self.open = true;
        }
        self.runs.last_mut().expect("one was pushed")
    }

    /// Sorts the run that takes writes, which must then be closed.
    pub(super) fn sort_newest_run(&mut self) {
        if let Some(run) = self.runs.last_mut().filter(|run| run.order.is_none()) {
            run.sort();
            self.sorted += 1;
        }
    }

    /// The next write begins a run.
    pub(super) fn close_run(&mut self) {
        self.open = false;
    }

    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The last version written.
    pub(super) fn last(&self) -> u32 {
        self.runs.last().map_or(0, |run| run.last)
    }

    /// A write above `above` in one of the ranges, if there is one.
    pub(super) fn find(&self, above: u32, ranges: &[KeyRange]) -> Option<Found<'_>> {
        let young = self.runs.iter().rev().take_while(|run| run.last > above);
        young.into_iter().find_map(|run| match &run.order {
            Some(order) => ranges.iter().find_map(|range| run.search(order, above, range)),
            None => run.walk(above, ranges),
        })
    }

    /// How many closed runs are not sorted.
    pub(super) fn unsorted(&self) -> usize {
        self.runs.len() - usize::from(self.open) - self.sorted
    }

    /// Sorts up to `most` closed runs, newest first, and returns how many it did.
    pub(super) fn sort(&mut self, most: usize) -> usize {
        let closed = self.runs.len() - usize::from(self.open);
        if most == 0 || self.unsorted() == 0 {
            return 0;
        }
        let unsorted = self.runs[..closed].iter_mut().rev().filter(|run| run.order.is_none());
        let done = unsorted.take(most).map(Run::sort).count();
        self.sorted += done;
        done
    }

    /// Makes one run of all, if all are sorted and there are several. Returns whether it did.
    pub(super) fn merge(&mut self) -> bool {
        if self.open || self.runs.len() < 2 || self.sorted < self.runs.len() {
            return false;
        }
        self.runs = vec![Run::merged(&self.runs)];
        self.sorted = 1;
        true
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(Run::bytes).sum::<usize>() + self.runs.capacity() * size_of::<Run>()
    }
}

/// One write: where its key is, and its version.
#[derive(Clone, Copy, Debug)]
struct Write {
    start: u32,
    delta: u32,
    length: u16,
}

/// Writes and their keys.
#[derive(Debug, Default)]
pub(super) struct Run {
    keys: Vec<u8>,
    writes: Vec<Write>,
    first: u32,
    last: u32,
    /// There when the writes are in key order; else they are in version order.
    order: Option<Order>,
}

/// What makes a sorted run quick to search.
#[derive(Debug)]
struct Order {
    /// How many bytes all keys share at their front.
    shared: usize,
    /// The eight bytes behind these of each key.
    prefixes: Vec<u64>,
    /// The greatest version of each [`STRIDE`] writes.
    newest: Vec<u32>,
}

impl Run {
    /// Adds a write.
    pub(super) fn push(&mut self, delta: u32, key: &[u8]) {
        let start = u32::try_from(self.keys.len()).expect("a run is closed long before");
        let length = u16::try_from(key.len()).expect("a full key is shorter than 64 KiB");
        self.keys.extend_from_slice(key);
        if self.writes.is_empty() {
            self.first = delta;
        }
        self.last = delta;
        self.writes.push(Write { start, delta, length });
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    fn bytes(&self) -> usize {
        let order = self.order.as_ref().map_or(0, |order| order.prefixes.capacity() * 8 + order.newest.capacity() * 4);
        self.keys.capacity() + self.writes.capacity() * size_of::<Write>() + order
    }

    fn key(&self, write: &Write) -> &[u8] {
        let start = write.start as usize;
        &self.keys[start..start + usize::from(write.length)]
    }

    fn found(&self, write: &Write) -> Found<'_> {
        Found { key: self.key(write), delta: write.delta }
    }

    /// Compares every write above `above`; the writes are in version order.
    fn walk(&self, above: u32, ranges: &[KeyRange]) -> Option<Found<'_>> {
        let from = self.writes.partition_point(|write| write.delta <= above);
        let hit = |write: &&Write| ranges.iter().any(|range| range.contains(self.key(write)));
        self.writes[from..].iter().find(hit).map(|write| self.found(write))
    }

    /// Looks for a write above `above` in `range`; the writes are in key order.
    fn search(&self, order: &Order, above: u32, range: &KeyRange) -> Option<Found<'_>> {
        let from = self.lower_bound(order, &range.start);
        let inside = |at: usize| self.writes.get(at).filter(|write| self.key(write) < &range.end[..]);
        let write = inside(from)?;
        if self.first > above {
            return Some(self.found(write));
        }
        let mut at = from;
        while at < self.writes.len() {
            if at.is_multiple_of(STRIDE) && order.newest[at / STRIDE] <= above {
                at += STRIDE;
                inside(at)?;
                continue;
            }
            if self.writes[at].delta > above {
                // The first above the read version decides: those behind it have greater keys.
                return inside(at).map(|write| self.found(write));
            }
            at += 1;
        }
        None
    }

    /// The first write whose key is not below `key`.
    fn lower_bound(&self, order: &Order, key: &[u8]) -> usize {
        let Some(first) = self.writes.first() else { return 0 };
        let shared = &self.key(first)[..order.shared];
        let front = &key[..key.len().min(order.shared)];
        match front.cmp(shared) {
            std::cmp::Ordering::Less => return 0,
            std::cmp::Ordering::Greater => return self.writes.len(),
            std::cmp::Ordering::Equal => {}
        }
        let prefix = prefix_of(key, order.shared);
        let from = order.prefixes.partition_point(|other| *other < prefix);
        let equal = order.prefixes[from..].iter().take_while(|other| **other == prefix);
        match equal.take(2).count() {
            0 => from,
            _ => {
                let to = from + order.prefixes[from..].partition_point(|other| *other == prefix);
                from + self.writes[from..to].partition_point(|write| self.key(write) < key)
            }
        }
    }

    fn sort(&mut self) {
        *self = Run::merged(std::slice::from_ref(self));
    }

    /// One sorted run of all the writes in `runs`. Quick where these are sorted: the sort finds their order and merges.
    fn merged(runs: &[Run]) -> Run {
        struct Item<'a> {
            prefix: u64,
            key: &'a [u8],
            delta: u32,
        }
        let all = || runs.iter().flat_map(|run| run.writes.iter().map(|write| (run.key(write), write.delta)));
        let Some((model, _)) = all().next() else { return Run::default() };
        let shared = all().fold(model.len(), |shared, (key, _)| {
            if key.starts_with(&model[..shared]) { shared } else { shared_length(&model[..shared], key) }
        });
        let mut items: Vec<Item<'_>> =
            all().map(|(key, delta)| Item { prefix: prefix_of(key, shared), key, delta }).collect();
        items.sort_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| a.key.cmp(b.key)));
        // Stable, and writes came in version order: of one key the last is the newest.
        items.dedup_by(|later, kept| {
            let same = later.prefix == kept.prefix && later.key == kept.key;
            if same {
                kept.delta = kept.delta.max(later.delta);
            }
            same
        });
        let mut merged = Run {
            keys: Vec::with_capacity(items.iter().map(|item| item.key.len()).sum()),
            writes: Vec::with_capacity(items.len()),
            ..Run::default()
        };
        items.iter().for_each(|item| merged.push(item.delta, item.key));
        merged.first = runs.iter().map(|run| run.first).min().unwrap_or_default();
        merged.last = runs.iter().map(|run| run.last).max().unwrap_or_default();
        let newest = merged.writes.chunks(STRIDE);
        merged.order = Some(Order {
            shared,
            prefixes: items.iter().map(|item| item.prefix).collect(),
            newest: newest.map(|writes| writes.iter().map(|write| write.delta).max().unwrap_or_default()).collect(),
        });
        merged
    }
}

/// How many bytes two keys share at their front.
fn shared_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Eight bytes of a key from `at` on, filled with zero bytes: in the order of keys, or equal.
fn prefix_of(key: &[u8], at: usize) -> u64 {
    let rest = key.get(at..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(prefix) => u64::from_be_bytes(*prefix),
        None => {
            let mut prefix = [0; 8];
            prefix[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(prefix)
        }
    }
}
