//! The database as a sorted map: one transaction after the other, no versions kept, nothing clever.
//!
//! What the model says is right by being too simple to be wrong. It shares no code with the machine that it judges; the
//! atomic operations are written a second time here, from their description, so that each checks the other.
//!
//! ```
//! use quantadb::{testing::model::Model, types::{KeyspaceId, Version}};
//!
//! let key = KeyspaceId::DEFAULT.full_key(b"k");
//! let mut model = Model::default();
//! model.put(Version(1), &key, b"v");
//! assert_eq!(model.get(&key).map(|row| row.version), Some(Version(1)));
//! ```

use crate::{
    txn::AtomicOp,
    types::{FullKey, KeyRange, Version, limits::VALUE_BYTES_MAX},
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A value and who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version of the write.
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// The state of the database at one moment. A snapshot of it is a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    rows: BTreeMap<FullKey, Stored>,
    undo: Option<Vec<(FullKey, Option<Stored>)>>,
}

impl Model {
    /// What is at `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Stored> {
        self.rows.get(key)
    }

    /// The rows of a range in key order; call `rev()` for the other direction.
    pub fn range<'a>(
        &'a self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&'a FullKey, &'a Stored)> + use<'a> {
        let end = if range.is_empty() { range.start.clone() } else { range.end.clone() };
        self.rows.range(range.start.clone()..end)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sets a value.
    pub fn put(&mut self, version: Version, key: &[u8], value: &[u8]) {
        self.set(key, Some(Stored { version, value: Bytes::copy_from_slice(value) }));
    }

    /// Makes a key absent. Returns whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.set(key, None).is_some()
    }

    /// Makes every key of a range absent. Returns those that were there.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<FullKey> {
        let keys: Vec<_> = self.range(range).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.set(key, None);
        }
        keys
    }

    /// Runs an atomic operation and returns its result.
    pub fn atomic(&mut self, version: Version, op: AtomicOp, key: &[u8], operand: &[u8]) -> Bytes {
        let old = self.get(key).map(|row| row.value.to_vec());
        let (new, result) = atomic(op, old.as_deref(), operand);
        match new {
            After::Same => {}
            After::Absent => drop(self.set(key, None)),
            After::Value(value) => drop(self.set(key, Some(Stored { version, value: value.into() }))),
        }
        result.into()
    }

    /// From now on what is written can be taken back, until [`Model::keep`] or [`Model::take_back`].
    pub fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// A mark for [`Model::take_back_to`]. Zero outside of [`Model::begin`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.undo.as_ref().map_or(0, Vec::len)
    }

    /// Takes back what was written since the mark.
    pub fn take_back_to(&mut self, mark: usize) {
        let Some(mut undo) = self.undo.take() else { return };
        while undo.len() > mark {
            let Some((key, before)) = undo.pop() else { break };
            match before {
                Some(row) => drop(self.rows.insert(key, row)),
                None => drop(self.rows.remove(&key)),
            }
        }
        self.undo = Some(undo);
    }

    /// Takes back what was written since [`Model::begin`].
    pub fn take_back(&mut self) {
        self.take_back_to(0);
        self.undo = None;
    }

    /// Makes what was written since [`Model::begin`] final, and returns the keys written, in order, repeats included.
    pub fn keep(&mut self) -> Vec<FullKey> {
        self.undo.take().unwrap_or_default().into_iter().map(|(key, _)| key).collect()
    }

    fn set(&mut self, key: &[u8], row: Option<Stored>) -> Option<Stored> {
        let key = Bytes::copy_from_slice(key);
        let before = match row {
            Some(row) => self.rows.insert(key.clone(), row),
            None => self.rows.remove(&key),
        };
        if let Some(undo) = &mut self.undo {
            undo.push((key, before.clone()));
        }
        before
    }
}

/// What an atomic operation leaves at its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// What was there, a value or nothing.
    Same,
    /// Nothing.
    Absent,
    /// This value.
    Value(Vec<u8>),
}

/// An atomic operation, written from its description: what it leaves and what it tells.
#[must_use]
pub fn atomic(op: AtomicOp, old: Option<&[u8]>, operand: &[u8]) -> (After, Vec<u8>) {
    let number = |bytes: &[u8]| {
        let mut eight = [0; 8];
        for (to, from) in eight.iter_mut().rev().zip(bytes.iter().rev()) {
            *to = *from;
        }
        u64::from_be_bytes(eight)
    };
    let signed = |bytes: &[u8]| i128::from(i64::from_be_bytes(number(bytes).to_be_bytes()));
    let both = |value: Vec<u8>| (After::Value(value.clone()), value);
    let right = number(operand);
    match (op, old) {
        (AtomicOp::Add, old) => {
            let sum = u128::from(old.map_or(0, number)) + u128::from(right);
            both(sum.to_be_bytes()[8..].to_vec())
        }
        (AtomicOp::Min | AtomicOp::Max, None) => both(right.to_be_bytes().to_vec()),
        (AtomicOp::Min, Some(old)) => {
            let least = if signed(old) <= signed(operand) { number(old) } else { right };
            both(least.to_be_bytes().to_vec())
        }
        (AtomicOp::Max, Some(old)) => {
            let greatest = if signed(old) >= signed(operand) { number(old) } else { right };
            both(greatest.to_be_bytes().to_vec())
        }
        (AtomicOp::And | AtomicOp::Or | AtomicOp::Xor | AtomicOp::ByteMin | AtomicOp::ByteMax, None) => {
            both(operand.to_vec())
        }
        (AtomicOp::And | AtomicOp::Or | AtomicOp::Xor, Some(old)) => {
            let (mut left, mut right) = (old.to_vec(), operand.to_vec());
            let length = left.len().max(right.len());
            left.resize(length, 0);
            right.resize(length, 0);
            for (left, right) in left.iter_mut().zip(right) {
                match op {
                    AtomicOp::And => *left &= right,
                    AtomicOp::Or => *left |= right,
                    _ => *left ^= right,
                }
            }
            both(left)
        }
        (AtomicOp::ByteMin, Some(old)) => both(if old < operand { old.to_vec() } else { operand.to_vec() }),
        (AtomicOp::ByteMax, Some(old)) => both(if old > operand { old.to_vec() } else { operand.to_vec() }),
        (AtomicOp::Append, old) => {
            let before = old.unwrap_or(b"").len();
            let length = |bytes: usize| u64::try_from(bytes).expect("a length fits 64 bits").to_be_bytes().to_vec();
            if before + operand.len() > VALUE_BYTES_MAX {
                return (After::Same, length(before));
            }
            let mut whole = old.unwrap_or(b"").to_vec();
            whole.extend_from_slice(operand);
            let told = length(whole.len());
            (After::Value(whole), told)
        }
        (AtomicOp::CompareAndDelete, Some(old)) if old == operand => (After::Absent, vec![1]),
        (AtomicOp::CompareAndDelete, _) => (After::Same, vec![0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::generators::Value,
        txn::{Change, evaluate},
        types::KeyspaceId,
    };

    quickcheck::quickcheck! {
        fn the_model_and_the_machine_agree_on_atomic_operations(old: Option<Value>, operand: Value) -> bool {
            let old = old.as_ref().map(|old| &old.0[..]);
            AtomicOp::ALL.into_iter().all(|op| {
                let (after, result) = atomic(op, old, &operand.0);
                let effect = evaluate(op, old, &operand.0);
                let same = match (&after, &effect.change) {
                    (After::Same, Change::Unchanged) | (After::Absent, Change::Delete) => true,
                    (After::Value(model), Change::Set(machine)) => model == machine,
                    _ => false,
                };
                same && effect.result == result
            })
        }
    }

    #[test]
    fn what_was_written_is_taken_back_to_a_mark() {
        let key = |name: &[u8]| KeyspaceId::DEFAULT.full_key(name);
        let mut model = Model::default();
        model.put(Version(1), &key(b"a"), b"1");
        model.put(Version(1), &key(b"b"), b"1");
        let before = model.clone();
        model.begin();
        assert!(model.delete(&key(b"a")));
        let mark = model.mark();
        model.atomic(Version(2), AtomicOp::Append, &key(b"b"), b"2");
        assert_eq!(model.delete_range(&KeyspaceId::DEFAULT.range()), [key(b"b")]);
        assert!(model.is_empty());
        model.take_back_to(mark);
        assert_eq!(model.get(&key(b"b")).map(|row| row.version), Some(Version(1)));
        assert_eq!(model.len(), 1);
        model.take_back();
        assert_eq!(model, before);
        model.begin();
        model.put(Version(3), &key(b"c"), b"");
        assert_eq!(model.keep(), [key(b"c")]);
        assert_eq!(model.range(&KeyspaceId::DEFAULT.range()).count(), 3);
    }
}
