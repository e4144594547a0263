//! What an open transaction writes: its mutations in request order, and an index by which its reads see them.
//!
//! The mutations stand in their one encoding, so what is here is the body of the commit message as it is. Beside it are
//! a list with one fixed-size element for each mutation and an ordered map with one for each key, so the memory held is
//! at most a fixed multiple of the body's length.
//!
//! ```text
//!   body    PUT a 1 | ADD b 5 | ADD a 2 | DELETE c
//!   ops        0    |    1    |   2: previous op of its key is 0   |   3
//!   index   a -> 2   b -> 1   c -> 3
//! ```
//!
//! Here `a` is *determined*: 3, whatever is stored. `b` *needs its base*: stored value + 5. `c` is determined: absent.
//!
//! A savepoint is a [`Mark`]; [`WriteBuffer::truncate`] takes back exactly what came after it. A scan keeps a
//! [`FrozenOverlay`] of its range, and the transaction goes on; keys and values are shared with it, not copied.

use super::{
    AtomicOp,
    mutation::{Change, Mutation, evaluate},
};
use crate::{encoding::Reader, types::KeyRange};
use bytes::{Bytes, BytesMut};
use std::{borrow::Cow, collections::BTreeMap, ops::Bound, sync::Arc};

/// The mutations of an open transaction.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    body: Body,
    ops: Vec<Op>,
    /// The last op of each key.
    index: BTreeMap<Arc<[u8]>, u32>,
    atomics: u32,
}

/// One mutation: where it stands in the body, and the op before it on the same key.
#[derive(Clone, Copy, Debug)]
struct Op {
    offset: u32,
    previous: u32,
}

/// `Op::previous` of the first op of a key.
const NO_OP: u32 = u32::MAX;

/// A place in a write buffer to which it can be cut back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    ops: usize,
    bytes: usize,
    atomics: u32,
}

/// What the write buffer says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay<'a> {
    /// Nothing: the stored value is the value.
    Untouched,
    /// This is the value, `None` being absent, whatever is stored.
    Determined(Option<Cow<'a, [u8]>>),
    /// Atomic operations stand over the stored value: ask [`WriteBuffer::read`] with it.
    NeedsBase,
}

impl WriteBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> WriteBuffer {
        WriteBuffer::default()
    }

    /// Appends a mutation, which the caller has checked. O(log n). Panics past 4 GiB, far above a transaction's limit.
    pub fn push(&mut self, mutation: Mutation<'_>) {
        let offset = u32::try_from(self.body.len()).expect("the caller keeps to the transaction's limit");
        let op = u32::try_from(self.ops.len()).expect("a mutation is longer than a byte");
        mutation.encode(&mut self.body.tail);
        let previous = match self.index.get_mut(mutation.key()) {
            Some(last) => std::mem::replace(last, op),
            None => {
                self.index.insert(mutation.key().into(), op);
                NO_OP
            }
        };
        self.ops.push(Op { offset, previous });
        self.atomics += u32::from(matches!(mutation, Mutation::Atomic { .. }));
    }

    /// What the buffer says of `key`. O(log n + mutations of the key).
    #[must_use]
    pub fn overlay(&self, key: &[u8]) -> Overlay<'_> {
        let Some(last) = self.index.get(key) else { return Overlay::Untouched };
        match self.fold(*last) {
            Fold::Determined(value) => Overlay::Determined(value),
            Fold::NeedsBase(_) => Overlay::NeedsBase,
        }
    }

    /// The value of `key` where `base` is stored, `None` being absent.
    #[must_use]
    pub fn read<'a>(&'a self, key: &[u8], base: Option<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        let Some(last) = self.index.get(key) else { return base.map(Cow::Borrowed) };
        match self.fold(*last) {
            Fold::Determined(value) => value,
            Fold::NeedsBase(atomics) => apply_atomics(base.map(Cow::Borrowed), atomics.into_iter().rev()),
        }
    }

    /// Where the buffer ends now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { ops: self.ops.len(), bytes: self.body.len(), atomics: self.atomics }
    }

    /// Takes back everything after `mark`, which came from this buffer and was not itself taken back.
    pub fn truncate(&mut self, mark: Mark) {
        assert!(mark.ops <= self.ops.len() && mark.bytes <= self.body.len(), "the mark has been taken back");
        for op in self.ops[mark.ops..].iter().rev() {
            let key = self.body.mutation(op.offset).key();
            if op.previous == NO_OP {
                self.index.remove(key);
            } else if let Some(last) = self.index.get_mut(key) {
                *last = op.previous;
            }
        }
        self.ops.truncate(mark.ops);
        self.body.truncate(mark.bytes);
        self.atomics = mark.atomics;
    }

    /// Length of the body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// How many mutations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many of the mutations are atomic: as many results come with the outcome, in their order.
    #[must_use]
    pub fn atomics(&self) -> u32 {
        self.atomics
    }

    /// Every key that is written, once, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.index.keys().map(|key| &key[..])
    }

    /// What the buffer says of the keys of `range`, to keep while the buffer goes on.
    ///
    /// O(mutations of these keys), and memory for each key, not for its value.
    pub fn snapshot_range(&mut self, range: &KeyRange) -> FrozenOverlay {
        if range.is_empty() || self.index.is_empty() {
            return FrozenOverlay::default();
        }
        let bounds = (Bound::Included(&range.start[..]), Bound::Excluded(&range.end[..]));
        if self.index.range::<[u8], _>(bounds).next().is_none() {
            return FrozenOverlay::default();
        }
        self.body.seal();
        let entries = self.index.range::<[u8], _>(bounds).map(|(key, last)| {
            let state = match self.fold(*last) {
                Fold::Determined(value) => FrozenState::Determined(value.map(|value| self.body.share(value))),
                Fold::NeedsBase(atomics) => FrozenState::Atomics(
                    atomics
                        .into_iter()
                        .rev()
                        .map(|(op, operand)| (op, self.body.share(Cow::Borrowed(operand))))
                        .collect(),
                ),
            };
            FrozenEntry { key: Arc::clone(key), state }
        });
        FrozenOverlay { entries: entries.collect() }
    }

    /// The body of the commit message. Copies nothing unless a scan shared part of it.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body.into_bytes()
    }

    /// Goes back along the ops of a key until one fixes its value.
    fn fold(&self, last: u32) -> Fold<'_> {
        let mut atomics = Vec::new();
        let mut at = last;
        while at != NO_OP {
            let op = self.ops[at as usize];
            match self.body.mutation(op.offset) {
                Mutation::Put { value, .. } => {
                    let value = Some(Cow::Borrowed(value));
                    return Fold::Determined(apply_atomics(value, atomics.into_iter().rev()));
                }
                Mutation::Delete { .. } => return Fold::Determined(apply_atomics(None, atomics.into_iter().rev())),
                Mutation::Atomic { op, operand, .. } => atomics.push((op, operand)),
            }
            at = op.previous;
        }
        Fold::NeedsBase(atomics)
    }
}

/// What the ops of a key come to.
enum Fold<'a> {
    Determined(Option<Cow<'a, [u8]>>),
    /// The atomic operations, newest first.
    NeedsBase(Vec<(AtomicOp, &'a [u8])>),
}

/// Applies atomic operations, oldest first.
fn apply_atomics<'a, 'b>(
    base: Option<Cow<'a, [u8]>>,
    atomics: impl Iterator<Item = (AtomicOp, &'b [u8])>,
) -> Option<Cow<'a, [u8]>> {
    atomics.fold(base, |value, (op, operand)| match evaluate(op, value.as_deref(), operand).change {
        Change::Unchanged => value,
        Change::Set(new) => Some(Cow::Owned(new.into())),
        Change::Delete => None,
    })
}

/// The encoded mutations: parts shared with frozen overlays, then the part that grows.
#[derive(Debug, Default)]
struct Body {
    /// Offset and bytes of each, in order, without gaps.
    sealed: Vec<(usize, Bytes)>,
    tail_offset: usize,
    tail: BytesMut,
}

impl Body {
    fn len(&self) -> usize {
        self.tail_offset + self.tail.len()
    }

    /// The mutation that begins at `offset`. A mutation never crosses two parts.
    fn mutation(&self, offset: u32) -> Mutation<'_> {
        let offset = offset as usize;
        let bytes = match offset.checked_sub(self.tail_offset) {
            Some(at) => &self.tail[at..],
            None => {
                let part = self.sealed.partition_point(|(start, _)| *start <= offset) - 1;
                let (start, bytes) = &self.sealed[part];
                &bytes[offset - start..]
            }
        };
        Mutation::decode(&mut Reader::new(bytes)).expect("what was encoded here decodes")
    }

    /// Makes everything so far shareable. A part is joined with the one before unless that is twice as long, so there
    /// are O(log n) parts, and a byte is copied O(log n) times however often this is called.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let (mut start, mut part) = (self.tail_offset, self.tail.split().freeze());
        self.tail_offset += part.len();
        while let Some((before_start, before)) = self.sealed.pop_if(|(_, before)| before.len() < 2 * part.len()) {
            part = [before, part].concat().into();
            start = before_start;
        }
        self.sealed.push((start, part));
    }

    /// `value` as bytes of their own; what is borrowed from a sealed part is shared with it.
    fn share(&self, value: Cow<'_, [u8]>) -> Bytes {
        match value {
            Cow::Owned(value) => value.into(),
            Cow::Borrowed(value) => {
                let within = |part: &&(usize, Bytes)| part.1.as_ptr_range().contains(&value.as_ptr());
                match self.sealed.iter().rev().find(within) {
                    Some((_, part)) => part.slice_ref(value),
                    None => Bytes::copy_from_slice(value),
                }
            }
        }
    }

    fn truncate(&mut self, length: usize) {
        if let Some(tail) = length.checked_sub(self.tail_offset) {
            self.tail.truncate(tail);
            return;
        }
        self.tail.clear();
        self.sealed.retain(|(start, _)| *start < length);
        if let Some((start, part)) = self.sealed.last_mut() {
            part.truncate(length - *start);
        }
        self.tail_offset = length;
    }

    fn into_bytes(mut self) -> Bytes {
        if self.sealed.is_empty() {
            return self.tail.freeze();
        }
        self.seal();
        if let [(_, whole)] = &self.sealed[..] {
            return whole.clone();
        }
        let mut body = BytesMut::with_capacity(self.len());
        self.sealed.iter().for_each(|(_, part)| body.extend_from_slice(part));
        body.freeze()
    }
}

/// What a write buffer said of the keys of a range when it was taken, in order.
#[derive(Clone, Debug, Default)]
pub struct FrozenOverlay {
    entries: Vec<FrozenEntry>,
}

/// One key of a frozen overlay.
#[derive(Clone, Debug)]
pub(super) struct FrozenEntry {
    pub(super) key: Arc<[u8]>,
    state: FrozenState,
}

#[derive(Clone, Debug)]
enum FrozenState {
    Determined(Option<Bytes>),
    /// Oldest first.
    Atomics(Box<[(AtomicOp, Bytes)]>),
}

impl FrozenEntry {
    /// The key's value where `base` is stored.
    pub(super) fn value<'a>(&'a self, base: Option<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        match &self.state {
            FrozenState::Determined(value) => value.as_deref().map(Cow::Borrowed),
            FrozenState::Atomics(atomics) => {
                apply_atomics(base.map(Cow::Borrowed), atomics.iter().map(|(op, operand)| (*op, &operand[..])))
            }
        }
    }
}

impl FrozenOverlay {
    /// Its keys, in order.
    pub(super) fn entries(&self) -> &[FrozenEntry] {
        &self.entries
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory held beyond the keys and values, which it shares with the buffer it came from.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let atomics = |entry: &FrozenEntry| match &entry.state {
            FrozenState::Determined(_) => 0,
            FrozenState::Atomics(atomics) => size_of_val(&atomics[..]),
        };
        self.entries.iter().map(|entry| size_of::<FrozenEntry>() + atomics(entry)).sum()
    }
}

#[cfg(test)]
mod tests;
