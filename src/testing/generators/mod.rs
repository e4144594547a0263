//! Random inputs that are likely to meet: few letters, shared prefixes, the bytes 0x00 and 0xff.
//!
//! [`Key`], [`Value`] and [`AnyMutation`] are quickcheck's `Arbitrary`; a failing case shrinks, and [`property`] tells the
//! seed to run it again. [`history`] runs a small
//! database with many clients from a seed, correct or with one of its checks broken, and gives what they were told.
//!
//! ```
//! use quantadb::testing::generators::{Options, history};
//!
//! let history = history(7, &Options::default());
//! assert!(history.check().is_ok(), "seed 7");
//! ```

mod database;
mod property;
mod random;

pub use database::{Bug, Options, history};
pub use property::property;
pub use random::Random;

use crate::{
    txn::{AtomicOp, Mutation},
    types::{FullKey, KeyRange, KeyspaceId},
};
use quickcheck::{Arbitrary, Gen};

/// A key without its keyspace: short, of few letters, often one that came before with a byte more or less.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// Its full key in a keyspace.
    #[must_use]
    pub fn full(&self, keyspace: KeyspaceId) -> FullKey {
        keyspace.full_key(&self.0)
    }
}

impl Arbitrary for Key {
    fn arbitrary(g: &mut Gen) -> Key {
        const LETTERS: &[u8] = &[0x00, b'a', b'b', 0xff];
        const LENGTHS: &[usize] = &[0, 1, 1, 2, 2, 2, 3, 3, 4];
        let length = *g.choose(LENGTHS).expect("there are lengths");
        Key((0..length).map(|_| *g.choose(LETTERS).expect("there are letters")).collect())
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Key>> {
        Box::new(self.0.shrink().map(Key))
    }
}

/// A value: empty, short, eight bytes as numbers have, or some hundreds of bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub Vec<u8>);

impl Arbitrary for Value {
    fn arbitrary(g: &mut Gen) -> Value {
        match u8::arbitrary(g) % 8 {
            0 => Value(Vec::new()),
            1 => Value(u64::arbitrary(g).to_be_bytes().to_vec()),
            2 => Value(i64::from(i8::arbitrary(g)).to_be_bytes().to_vec()),
            3 => Value(vec![u8::arbitrary(g); 200 + usize::from(u8::arbitrary(g))]),
            _ => Value(Key::arbitrary(g).0),
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Value>> {
        Box::new(self.0.shrink().map(Value))
    }
}

/// A range of full keys in one keyspace; now and then an empty one, or the whole keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnyRange(pub KeyRange);

impl Arbitrary for AnyRange {
    fn arbitrary(g: &mut Gen) -> AnyRange {
        let (a, b) = (Key::arbitrary(g).full(KeyspaceId::DEFAULT), Key::arbitrary(g).full(KeyspaceId::DEFAULT));
        AnyRange(match u8::arbitrary(g) % 8 {
            0 => KeyspaceId::DEFAULT.range(),
            1 => KeyRange { start: a.clone(), end: a },
            2 => KeyRange { start: a, end: KeyspaceId::DEFAULT.upper_bound() },
            _ => KeyRange { start: a.clone().min(b.clone()), end: a.max(b) },
        })
    }
}

/// A mutation that owns its bytes, of a key in the default keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnyMutation {
    /// Sets a value.
    Put(Key, Value),
    /// Deletes a key.
    Delete(Key),
    /// Runs an atomic operation.
    Atomic(AtomicOp, Key, Value),
}

impl AnyMutation {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            AnyMutation::Put(key, _) | AnyMutation::Delete(key) | AnyMutation::Atomic(_, key, _) => key,
        }
    }

    /// Gives `then` the mutation as the machine has it, borrowed for the call.
    pub fn with<T>(&self, then: impl FnOnce(Mutation<'_>) -> T) -> T {
        let key = &self.key().full(KeyspaceId::DEFAULT);
        then(match self {
            AnyMutation::Put(_, value) => Mutation::Put { key, value: &value.0 },
            AnyMutation::Delete(_) => Mutation::Delete { key },
            AnyMutation::Atomic(op, _, operand) => Mutation::Atomic { op: *op, key, operand: &operand.0 },
        })
    }
}

impl Arbitrary for AnyMutation {
    fn arbitrary(g: &mut Gen) -> AnyMutation {
        let key = Key::arbitrary(g);
        match u8::arbitrary(g) % 6 {
            0..=2 => AnyMutation::Put(key, Value::arbitrary(g)),
            3 => AnyMutation::Delete(key),
            _ => AnyMutation::Atomic(*g.choose(&AtomicOp::ALL).expect("there are some"), key, Value::arbitrary(g)),
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = AnyMutation>> {
        match self.clone() {
            AnyMutation::Put(key, value) => {
                Box::new((key, value).shrink().map(|(key, value)| AnyMutation::Put(key, value)))
            }
            AnyMutation::Delete(key) => Box::new(key.shrink().map(AnyMutation::Delete)),
            AnyMutation::Atomic(op, key, value) => {
                Box::new((key, value).shrink().map(move |(key, value)| AnyMutation::Atomic(op, key, value)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_meet_and_mutations_are_encodable() {
        let mut g = Gen::from_size_and_seed(10, 1);
        let keys: HashSet<_> = (0..1000).map(|_| Key::arbitrary(&mut g)).collect();
        assert!(keys.len() < 250, "{} of 1000 keys differ", keys.len());
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            AnyMutation::arbitrary(&mut g).with(|mutation| mutation.encode(&mut bytes));
        }
        assert_eq!(crate::txn::Mutations::new(&bytes).filter(Result::is_ok).count(), 1000);
    }

    #[test]
    fn some_ranges_are_empty_and_some_hold_everything() {
        let mut g = Gen::from_size_and_seed(10, 1);
        let ranges: Vec<_> = (0..100).map(|_| AnyRange::arbitrary(&mut g).0).collect();
        assert!(ranges.iter().any(KeyRange::is_empty));
        assert!(ranges.iter().any(|range| *range == KeyspaceId::DEFAULT.range()));
        assert!(ranges.iter().all(|range| range.start <= range.end));
    }
}
