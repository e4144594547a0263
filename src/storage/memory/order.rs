//! All keys in order, for scans: a map of leaves, each a run of adjacent keys without the prefix that they share.
//!
//! ```text
//! ""       -> prefix "\0\0\0\1key:00", rest "0001" "0007" "0042"
//! "key:01" -> prefix "\0\0\0\1key:01", rest …
//! ```
//!
//! A leaf stands under its separator: a lower bound of its keys that never changes and is above all keys of the leaf
//! before it. The first leaf's separator is empty, so every key has a leaf. The index knows no versions: a key is here from when
//! its first version is written until its tombstone is trimmed, which is longer than any reader can see it.

use super::usage::allocated;
use std::{collections::BTreeMap, ops::Bound};

/// A leaf of more keys is split.
const LEAF_KEYS_MAX: usize = if cfg!(miri) { 8 } else { 128 };
/// A leaf of fewer keys joins the one before it, if that has room.
const LEAF_KEYS_MIN: usize = LEAF_KEYS_MAX / 4;
/// A leaf of more bytes is split.
const LEAF_BYTES_MAX: usize = 32 * 1024;
/// Longest key: with it a leaf's bytes are still counted in 16 bits before it is split.
pub(in crate::storage) const ORDER_KEY_BYTES_MAX: usize = 16 * 1024;
/// What a leaf costs in the map beside its own allocations: 72 bytes, in nodes that are half full at worst.
const LEAF_OVERHEAD: u64 = 144;

const _: () = assert!(LEAF_BYTES_MAX + ORDER_KEY_BYTES_MAX <= u16::MAX as usize, "ends are counted in 16 bits");

/// The ordered set of keys.
pub(super) struct Order {
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    bytes: u64,
}

/// Adjacent keys: `bytes` is the prefix that all share, and then the rest of each; `ends` says where each ends.
#[derive(Default)]
struct Leaf {
    bytes: Vec<u8>,
    ends: Vec<u16>,
    prefix: u16,
}

impl Order {
    pub(super) fn new() -> Order {
        let first = Leaf::default();
        Order { bytes: first.cost(b""), leaves: BTreeMap::from([(Box::default(), first)]) }
    }

    /// What it costs, at most.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.leaves.values().map(|leaf| leaf.ends.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: &[u8]) {
        let (separator, leaf) = leaf_of(&mut self.leaves, key);
        let before = leaf.cost(separator);
        leaf.insert(key);
        let split = leaf.is_too_large().then(|| leaf.split());
        self.bytes = self.bytes + leaf.cost(separator) - before;
        if let Some((separator, right)) = split {
            self.bytes += right.cost(&separator);
            self.leaves.insert(separator, right);
        }
    }

    /// Removes a key that is there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let (separator, leaf) = leaf_of(&mut self.leaves, key);
        let before = leaf.cost(separator);
        leaf.remove(key);
        self.bytes = self.bytes + leaf.cost(separator) - before;
        if leaf.ends.len() < LEAF_KEYS_MIN && !separator.is_empty() {
            self.join(key);
        }
    }

    /// Moves the keys of the leaf that covers `key` to the one before it, if that has room.
    fn join(&mut self, key: &[u8]) {
        let mut backwards = self.leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).rev();
        let Some((separator, leaf)) = backwards.next() else { return };
        let Some((separator_before, leaf_before)) = backwards.next() else { return };
        let keys = leaf.ends.len() + leaf_before.ends.len();
        let bytes = leaf.full_bytes() + leaf_before.full_bytes();
        if leaf.ends.is_empty() || (keys <= LEAF_KEYS_MAX / 2 && bytes <= LEAF_BYTES_MAX) {
            let before = leaf_before.cost(separator_before);
            let mut key = Vec::new();
            for index in 0..leaf.ends.len() {
                leaf.key(index, &mut key);
                leaf_before.insert(&key);
            }
            self.bytes = self.bytes + leaf_before.cost(separator_before) - before - leaf.cost(separator);
            let separator = separator.clone();
            self.leaves.remove(&separator);
        }
    }

    /// Copies keys in ascending order from `start` on, below `end`, until `keys` is full. Returns whether that were all.
    pub(super) fn copy_up(&self, start: Bound<&[u8]>, end: &[u8], keys: &mut Keys) -> bool {
        let (Bound::Included(from) | Bound::Excluded(from)) = start else { return true };
        let covering = self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(from))).next_back();
        let Some((separator, _)) = covering else { return true };
        for (separator, leaf) in self.leaves.range::<[u8], _>((Bound::Included(&separator[..]), Bound::Unbounded)) {
            if separator[..] >= *end {
                return true;
            }
            let first = match start {
                Bound::Excluded(from) => leaf.rank(from, true),
                _ => leaf.rank(from, false),
            };
            let last = leaf.rank(end, false);
            for index in first..last {
                if keys.is_full() {
                    return false;
                }
                keys.push(leaf.prefix(), leaf.rest(index));
            }
            if last < leaf.ends.len() {
                return true;
            }
        }
        true
    }

    /// Copies keys in descending order from below `end` down to `start`, until `keys` is full. Returns whether that were
    /// all.
    pub(super) fn copy_down(&self, start: &[u8], end: &[u8], keys: &mut Keys) -> bool {
        for (_, leaf) in self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(end))).rev() {
            let first = leaf.rank(start, false);
            for index in (first..leaf.rank(end, false)).rev() {
                if keys.is_full() {
                    return false;
                }
                keys.push(leaf.prefix(), leaf.rest(index));
            }
            if first > 0 {
                return true;
            }
        }
        true
    }
}

fn leaf_of<'a>(leaves: &'a mut BTreeMap<Box<[u8]>, Leaf>, key: &[u8]) -> (&'a [u8], &'a mut Leaf) {
    let covering = leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
    let (separator, leaf) = covering.expect("the first leaf's separator is empty");
    (separator, leaf)
}

impl Leaf {
    fn prefix(&self) -> &[u8] {
        &self.bytes[..usize::from(self.prefix)]
    }

    fn start(&self, index: usize) -> usize {
        usize::from(if index == 0 { self.prefix } else { self.ends[index - 1] })
    }

    fn rest(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..usize::from(self.ends[index])]
    }

    fn key(&self, index: usize, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.prefix());
        key.extend_from_slice(self.rest(index));
    }

    /// How many keys are below `key`, or not above it.
    fn rank(&self, key: &[u8], or_equal: bool) -> usize {
        let Some(rest) = key.strip_prefix(self.prefix()) else {
            // No key of the leaf begins as `key` does: all are on one side.
            return if key < self.prefix() { 0 } else { self.ends.len() };
        };
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = (low + high) / 2;
            let other = self.rest(middle);
            if other < rest || (or_equal && other == rest) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn insert(&mut self, key: &[u8]) {
        if self.ends.is_empty() {
            self.bytes.clear();
            self.bytes.extend_from_slice(key);
            self.prefix = u16::try_from(key.len()).expect("the engine checks the length of keys");
            self.ends.push(self.prefix);
            return;
        }
        let shared = self.prefix().iter().zip(key).take_while(|(a, b)| a == b).count();
        if shared < usize::from(self.prefix) {
            self.rebuild(0, self.ends.len(), shared);
        }
        let index = self.rank(key, false);
        let rest = &key[shared..];
        let at = self.start(index);
        reserve(&mut self.bytes, rest.len());
        reserve(&mut self.ends, 1);
        let tail = self.bytes.len();
        self.bytes.resize(tail + rest.len(), 0);
        self.bytes.copy_within(at..tail, at + rest.len());
        self.bytes[at..at + rest.len()].copy_from_slice(rest);
        for end in &mut self.ends[index..] {
            *end += rest.len() as u16;
        }
        self.ends.insert(index, (at + rest.len()) as u16);
    }

    fn remove(&mut self, key: &[u8]) {
        let index = self.rank(key, false);
        debug_assert!(index < self.ends.len() && key.strip_prefix(self.prefix()) == Some(self.rest(index)));
        let (start, end) = (self.start(index), usize::from(self.ends[index]));
        self.bytes.drain(start..end);
        self.ends.remove(index);
        for other in &mut self.ends[index..] {
            *other -= (end - start) as u16;
        }
    }

    /// Keeps the keys from `first` to before `last`, sharing `prefix` bytes.
    fn rebuild(&mut self, first: usize, last: usize, prefix: usize) {
        *self = self.part(first, last, prefix);
    }

    /// A leaf of the keys from `first` to before `last`, which share `prefix` bytes.
    fn part(&self, first: usize, last: usize, prefix: usize) -> Leaf {
        let own = usize::from(self.prefix);
        let bytes_len = prefix + (first..last).map(|i| own + self.rest(i).len() - prefix).sum::<usize>();
        let mut leaf = Leaf {
            bytes: Vec::with_capacity(bytes_len + bytes_len / 16),
            ends: Vec::with_capacity(last - first + 2),
            prefix: prefix as u16,
        };
        let mut key = Vec::new();
        for index in first..last {
            self.key(index, &mut key);
            if index == first {
                leaf.bytes.extend_from_slice(&key[..prefix]);
            }
            leaf.bytes.extend_from_slice(&key[prefix..]);
            leaf.ends.push(leaf.bytes.len() as u16);
        }
        leaf
    }

    /// How many bytes the keys from `first` to before `last` share. There is at least one.
    fn shared(&self, first: usize, last: usize) -> usize {
        let (low, high) = (self.rest(first), self.rest(last - 1));
        usize::from(self.prefix) + low.iter().zip(high).take_while(|(a, b)| a == b).count()
    }

    fn is_too_large(&self) -> bool {
        self.ends.len() > LEAF_KEYS_MAX || (self.full_bytes() > LEAF_BYTES_MAX && self.ends.len() > 1)
    }

    /// What the leaf's bytes grow to when its prefix shrinks to nothing.
    fn full_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len().saturating_sub(1) * usize::from(self.prefix)
    }

    /// Gives away the upper half, under the shortest separator that keeps it apart.
    fn split(&mut self) -> (Box<[u8]>, Leaf) {
        let count = self.ends.len();
        let middle = count / 2;
        let right = self.part(middle, count, self.shared(middle, count));
        let shared = self.shared(middle - 1, middle + 1);
        let mut separator = Vec::new();
        self.key(middle, &mut separator);
        separator.truncate(shared + 1);
        self.rebuild(0, middle, self.shared(0, middle));
        (separator.into_boxed_slice(), right)
    }

    fn cost(&self, separator: &[u8]) -> u64 {
        let ends = self.ends.capacity() * size_of::<u16>();
        LEAF_OVERHEAD + allocated(self.bytes.capacity()) + allocated(ends) + allocated(separator.len())
    }
}

/// Makes room in small steps: a leaf's vectors are many and long-lived.
fn reserve<T>(vector: &mut Vec<T>, more: usize) {
    if vector.capacity() - vector.len() < more {
        vector.reserve_exact(more + vector.len() / 8);
    }
}

/// Keys copied out of the index.
#[derive(Default)]
pub(in crate::storage) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    max: usize,
}

/// A batch of keys ends with the one that passes this many bytes.
const KEYS_BYTES_MAX: usize = 64 * 1024;

impl Keys {
    /// Forgets all keys and has room for `max`.
    pub(in crate::storage) fn reset(&mut self, max: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.max = max;
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= self.max || self.bytes.len() >= KEYS_BYTES_MAX
    }

    fn push(&mut self, prefix: &[u8], rest: &[u8]) {
        self.bytes.extend_from_slice(prefix);
        self.bytes.extend_from_slice(rest);
        self.ends.push(self.bytes.len());
    }

    pub(in crate::storage) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(in crate::storage) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}
