//! The one who changes chains: pushes versions, and cuts below the horizon what nobody can read any more.
//!
//! Every version that supersedes another waits in a queue, in version order. Once the horizon has reached it, what lies
//! behind it is cut, one version, for its own place in the queue came earlier; and if it is a tombstone and still the
//! newest of its key, the key vanishes. For example, `a` put at 3 and 7, deleted at 9:
//!
//! ```text
//! slot -> 9 (tombstone) -> 7 -> 3          queue: 7, 9
//! horizon 7:  slot -> 9 -> 7               3 is retired
//! horizon 9:  nothing                      7 is cut and retired, then 9 itself
//! ```
//!
//! What is retired is freed when every reader that may still look at it has let go of its guard. The collector's work runs
//! on any thread that takes a guard; so that no reader pays for freeing, nor its thread's allocator for what the writer's
//! allocated, all it does is to hand a batch back to the writer.

use super::{
    node::{Node, NodeRef, OwnedNode, prefetch_node},
    table::{GROUP, Hash, Table, TableWriter, table},
    usage::Counters,
};
use crossbeam_epoch::Guard;
use parking_lot::Mutex;
use std::{collections::VecDeque, mem, ptr::NonNull, sync::Arc};

/// Retired nodes that are handed to the collector together.
const RETIRED_MAX: usize = 128;
/// Batches that come back from the collector and are freed at once: more than are handed to it.
const RETURNED_MAX: usize = 16;

/// What it means that a key is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Absent {
    /// It does not exist: a deletion of it changes nothing.
    Nowhere,
    /// It may exist below, in a base: a deletion of it must be remembered.
    Below,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The key was not there: it has appeared.
    Appeared,
    /// The key was there, perhaps as a tombstone.
    Changed,
    /// A deletion of what is not there.
    Nothing,
    /// The key has this version already, or a newer one.
    Stale,
}

/// The writer's state.
pub(in crate::storage) struct Writer {
    table: TableWriter,
    queue: Queue,
    retired: Retired,
    returned: Arc<Mutex<Vec<Retired>>>,
    counters: Arc<Counters>,
    /// Keys that exist at the version being written.
    keys: u64,
    absent: Absent,
}

impl Writer {
    pub(super) fn new(hash_seed: u64, absent: Absent, counters: Arc<Counters>) -> Writer {
        let table = table(hash_seed, Arc::clone(&counters));
        let retired = Retired::new(&counters);
        Writer { table, queue: Queue::default(), retired, returned: Arc::default(), counters, keys: 0, absent }
    }

    /// The table, for readers.
    pub(super) fn table(&self) -> &Arc<Table> {
        self.table.table()
    }

    /// Keys that exist at the version written last.
    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    /// Fetches what pushes of these keys will touch.
    pub(super) fn prefetch(&self, hashes: &[Hash], guard: &Guard) {
        self.table.prefetch(hashes, guard);
    }

    /// Writes one version of a key.
    pub(super) fn push(&mut self, hash: Hash, key: &[u8], version: u64, value: Option<&[u8]>, guard: &Guard) -> Pushed {
        let Some(found) = self.table.find(hash, key, guard) else {
            if value.is_none() && self.absent == Absent::Nowhere {
                return Pushed::Nothing;
            }
            let bytes = self.table.insert(hash, key, version, value, guard);
            match value {
                Some(_) => self.keys += 1,
                None => self.counters.add_history(bytes),
            }
            return Pushed::Appeared;
        };
        let old = found.newest;
        if old.version() >= version {
            return Pushed::Stale;
        }
        if old.is_tombstone() && value.is_none() {
            return Pushed::Nothing;
        }
        let node = found.push(key, version, value);
        // SAFETY: only this writer retires nodes, and it has not retired the one that it has just published.
        let new = unsafe { NodeRef::new(node) };
        self.counters.add(new.bytes());
        match (old.is_tombstone(), value.is_none()) {
            (false, true) => {
                self.keys -= 1;
                self.counters.add_history(old.bytes() + new.bytes());
            }
            // A tombstone was counted as history when it was written.
            (true, _) => self.keys += 1,
            (false, false) => self.counters.add_history(old.bytes()),
        }
        self.queue.push(node, &self.counters);
        Pushed::Changed
    }

    /// Handles up to `items_max` versions that the horizon has reached. A tombstone at or below `vanish_max` goes with its
    /// key; `vanish` is called with each key that is gone.
    pub(super) fn cut(
        &mut self,
        horizon: u64,
        vanish_max: u64,
        items_max: usize,
        guard: &Guard,
        mut vanish: impl FnMut(&[u8]),
    ) {
        let mut left = items_max;
        while left > 0 {
            let mut group = [None; GROUP];
            let wanted = left.min(GROUP);
            let count = self.queue.peek(&mut group[..wanted]);
            for node in group[..count].iter().flatten() {
                prefetch_node(node.as_ptr(), 1);
            }
            for node in group[..count].iter().flatten() {
                // SAFETY: a node in the queue has not been retired: that takes the turn of the version that supersedes
                // it, which is behind it in the queue, or its own.
                let node = unsafe { NodeRef::new(*node) };
                if node.version() > horizon {
                    return;
                }
                self.queue.pop(&self.counters);
                if let Some(old) = node.cut() {
                    // SAFETY: the cut took the only way to it: it is not the newest, and versions in front of it reach it
                    // through this one alone. Nothing behind it is left, for its own turn came before.
                    self.retire(unsafe { OwnedNode::take_back(old) }, guard);
                }
                if node.is_tombstone() && node.version() <= vanish_max && self.table.remove(node, guard) {
                    vanish(node.key());
                    // SAFETY: it was the newest of its key and its slot no longer leads to it; it left the queue above.
                    self.retire(unsafe { OwnedNode::take_back(node.as_ptr()) }, guard);
                }
            }
            if count < wanted {
                return;
            }
            left -= count;
        }
    }

    /// Takes a key out, with its only version, if that is at or below `floor`. Returns whether it did. Everything up to the
    /// floor has been cut.
    pub(super) fn evict(&mut self, key: &[u8], floor: u64, guard: &Guard) -> bool {
        let hash = self.table.table().hash(key);
        let Some(newest) = self.table.find(hash, key, guard).map(|found| found.newest.as_ptr()) else { return false };
        // SAFETY: its slot leads to it, and only this writer takes it out.
        let newest = unsafe { NodeRef::new(newest) };
        if newest.version() > floor {
            return false;
        }
        assert!(!self.is_behind(floor), "what is evicted no longer waits to be cut");
        assert!(newest.prev().is_none(), "what it supersedes was cut");
        if !self.table.remove(newest, guard) {
            return false;
        }
        if !newest.is_tombstone() {
            self.keys -= 1;
            // Tombstones count as history from the start, and whatever is retired is taken off again.
            self.counters.add_history(newest.bytes());
        }
        // SAFETY: its slot no longer leads to it, and no newer version does, for it was the newest. It has left the queue,
        // or was never in it, by the first assertion, and nothing stands behind it, by the second.
        self.retire(unsafe { OwnedNode::take_back(newest.as_ptr()) }, guard);
        true
    }

    /// Whether the horizon has reached a version that was not handled yet.
    pub(super) fn is_behind(&self, horizon: u64) -> bool {
        let mut first = [None];
        self.queue.peek(&mut first);
        // SAFETY: as in `cut`.
        first[0].is_some_and(|node| unsafe { NodeRef::new(node) }.version() <= horizon)
    }

    fn retire(&mut self, node: OwnedNode, guard: &Guard) {
        self.retired.nodes.push(node);
        if self.retired.nodes.len() >= RETIRED_MAX {
            self.hand_over(guard);
        }
    }

    /// Hands what was retired to the collector, and frees what came back.
    pub(in crate::storage) fn hand_over(&mut self, guard: &Guard) {
        if !self.retired.nodes.is_empty() {
            let retired = mem::replace(&mut self.retired, Retired::new(&self.counters));
            let returned = Arc::clone(&self.returned);
            guard.defer(move || returned.lock().push(retired));
        }
        guard.flush();
        let freed = {
            let mut returned = self.returned.lock();
            let kept = returned.len().saturating_sub(RETURNED_MAX);
            returned.split_off(kept)
        };
        drop(freed);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.counters.sub(self.queue.chunks.len() as u64 * CHUNK_BYTES);
    }
}

/// Nodes that no chain leads to. Frees and counts them when dropped.
struct Retired {
    nodes: Vec<OwnedNode>,
    counters: Arc<Counters>,
}

impl Retired {
    fn new(counters: &Arc<Counters>) -> Retired {
        Retired { nodes: Vec::with_capacity(RETIRED_MAX), counters: Arc::clone(counters) }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        for node in &self.nodes {
            prefetch_node(node.as_ref().as_ptr().as_ptr(), 1);
        }
        let bytes = self.nodes.iter().map(|node| node.as_ref().bytes()).sum();
        self.nodes.clear();
        self.counters.sub(bytes);
        self.counters.sub_history(bytes);
    }
}

/// Nodes in the order in which they were written, in chunks, so that it grows and shrinks by a bounded step.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<Vec<NonNull<Node>>>,
    /// Items of the first chunk that were popped.
    popped: usize,
}

// SAFETY: the queue itself never looks behind its pointers; nodes may be used by any thread.
unsafe impl Send for Queue {}

const CHUNK: usize = if cfg!(miri) { 4 } else { 1024 };
const CHUNK_BYTES: u64 = (CHUNK * size_of::<NonNull<Node>>()) as u64;

impl Queue {
    fn push(&mut self, node: NonNull<Node>, counters: &Counters) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(node),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(node);
                self.chunks.push_back(chunk);
                counters.add(CHUNK_BYTES);
            }
        }
    }

    /// The first nodes, as many as there are places; their number.
    fn peek(&self, nodes: &mut [Option<NonNull<Node>>]) -> usize {
        let skip = self.popped;
        let first = self.chunks.iter().enumerate().flat_map(|(i, chunk)| &chunk[if i == 0 { skip } else { 0 }..]);
        let mut count = 0;
        for (place, node) in nodes.iter_mut().zip(first) {
            *place = Some(*node);
            count += 1;
        }
        count
    }

    fn pop(&mut self, counters: &Counters) {
        self.popped += 1;
        if self.popped == CHUNK {
            self.chunks.pop_front();
            self.popped = 0;
            counters.sub(CHUNK_BYTES);
        }
    }
}
