//! Entries that were handed over and not yet answered, and what they will leave at each key.
//!
//! What looks before it writes must see commits that are decided and not yet applied. Most traffic never looks, so the
//! index by key is built when a first evaluation asks for it and forgotten once nothing asked for a while; without it
//! an entry costs one queue slot.

use crate::{
    encoding::Reader,
    txn::{AtomicOp, Change, Item, Mutation, entry, evaluate},
    types::{FullKey, KeyRange, Version},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// How many entries may pass without an evaluation before the index is forgotten.
const IDLE_ENTRIES_MAX: u32 = 64;

/// An entry that was handed over.
#[derive(Debug)]
struct Entry {
    sequence: u64,
    bytes: Bytes,
}

/// A mutation that is decided and not yet applied.
#[derive(Clone, Debug)]
struct Pending {
    version: Version,
    op: PendingOp,
}

#[derive(Clone, Debug)]
enum PendingOp {
    Put(Bytes),
    Delete,
    Atomic(AtomicOp, Bytes),
}

/// The entries under way, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    entries: VecDeque<Entry>,
    bytes: usize,
    index: Option<BTreeMap<FullKey, Vec<Pending>>>,
    idle_entries: u32,
}

/// A value and its version, or absent.
pub(super) type Found = Option<(Version, Bytes)>;

impl InFlight {
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, sequence: u64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.entries.push_back(Entry { sequence, bytes });
        self.idle_entries += 1;
        if self.idle_entries > IDLE_ENTRIES_MAX {
            self.index = None;
        }
    }

    /// An entry was answered; applied up to `applied` now.
    pub(super) fn remove(&mut self, sequence: u64, applied: Version) {
        if let Some(place) = self.entries.iter().position(|entry| entry.sequence == sequence) {
            self.bytes -= self.entries.remove(place).map_or(0, |entry| entry.bytes.len());
        }
        let Some(index) = &mut self.index else { return };
        index.retain(|_, pending| {
            pending.retain(|pending| pending.version > applied);
            !pending.is_empty()
        });
    }

    /// Forgets everything: the order that it stood in is gone.
    pub(super) fn clear(&mut self) {
        *self = InFlight::default();
    }

    /// Builds the index if it is not there. `building` is the entry not yet handed over, as far as it has come.
    pub(super) fn want_index(&mut self, building: Option<(&[u8], u32)>) {
        self.idle_entries = 0;
        if self.index.is_some() {
            return;
        }
        self.index = Some(BTreeMap::new());
        let entries: Vec<Bytes> = self.entries.iter().map(|entry| entry.bytes.clone()).collect();
        for entry in entries {
            let mut reader = Reader::new(&entry);
            let header = entry::read_header(&mut reader).expect("this node wrote the entry");
            self.note_items(reader.rest(), header.first_version, header.count);
        }
        if let Some((bytes, count)) = building {
            let mut reader = Reader::new(bytes);
            let header = entry::read_header(&mut reader).expect("this node writes the entry");
            self.note_items(reader.rest(), header.first_version, count);
        }
    }

    fn note_items(&mut self, items: &[u8], first: Version, count: u32) {
        let mut reader = Reader::new(items);
        for place in 0..count {
            let version = Version(first.0 + u64::from(place));
            if let Item::Commit { body, .. } = entry::read_item(&mut reader).expect("this node wrote the item") {
                self.note(version, body);
            }
        }
    }

    /// Adds a commit's mutations to the index, if there is one.
    pub(super) fn note(&mut self, version: Version, body: &[u8]) {
        let Some(index) = &mut self.index else { return };
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            let mutation = Mutation::decode(&mut reader).expect("the mutations were checked when they came");
            let op = match mutation {
                Mutation::Put { value, .. } => PendingOp::Put(Bytes::copy_from_slice(value)),
                Mutation::Delete { .. } => PendingOp::Delete,
                Mutation::Atomic { op, operand, .. } => PendingOp::Atomic(op, Bytes::copy_from_slice(operand)),
            };
            // What says all of a value makes what was said before it idle: nothing is folded twice.
            let says_all = !matches!(op, PendingOp::Atomic(..));
            let pending = Pending { version, op };
            match index.get_mut(mutation.key()) {
                Some(list) if says_all => *list = vec![pending],
                Some(list) => list.push(pending),
                None => drop(index.insert(Bytes::copy_from_slice(mutation.key()), vec![pending])),
            }
        }
    }

    /// Whether the index says anything of `key` past version `base`.
    pub(super) fn touches(&self, key: &[u8], base: Version) -> bool {
        let pending = self.index.as_ref().and_then(|index| index.get(key));
        pending.is_some_and(|pending| pending.iter().any(|pending| pending.version > base))
    }

    /// What `key` holds once everything under way is applied, where `stored` is there at `base`.
    pub(super) fn fold(&self, key: &[u8], base: Version, stored: Found) -> Found {
        let Some(pending) = self.index.as_ref().and_then(|index| index.get(key)) else { return stored };
        pending.iter().filter(|pending| pending.version > base).fold(stored, |found, pending| match &pending.op {
            PendingOp::Put(value) => Some((pending.version, value.clone())),
            PendingOp::Delete => None,
            PendingOp::Atomic(op, operand) => {
                let old = found.as_ref().map(|(_, value)| &value[..]);
                match evaluate(*op, old, operand).change {
                    Change::Unchanged => found,
                    Change::Set(value) => Some((pending.version, value)),
                    Change::Delete => None,
                }
            }
        })
    }

    /// The keys of a range that something under way writes, in order.
    pub(super) fn keys_in<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a FullKey> {
        let bounds = (Bound::Included(&range.start[..]), Bound::Excluded(&range.end[..]));
        let range_of = |index: &'a BTreeMap<FullKey, Vec<Pending>>| index.range::<[u8], _>(bounds);
        let index = self.index.as_ref().filter(|_| !range.is_empty());
        index.map(range_of).into_iter().flatten().map(|(key, _)| key)
    }

    /// Whether commits must be noted.
    pub(super) fn is_indexed(&self) -> bool {
        self.index.is_some()
    }
}
