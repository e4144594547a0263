//! Mutations: what a transaction does to one key, and the one encoding that they have everywhere.
//!
//! The bytes that a client sends are those of the write buffer, the commit message, the log, the peers and the change
//! feed. Integers are big-endian; a full key stands as `length u16, keyspace u32, key bytes`:
//!
//! ```text
//!   PUT      01  full key  value: length u32, bytes
//!   DELETE   02  full key
//!   ATOMIC   03  op u8     full key  operand: length u32, bytes
//! ```
//!
//! For example, putting `v` at `k` in keyspace 1 is `01 0001 00000001 6b 00000001 76`.
//!
//! An atomic operation is **total**: [`evaluate`] gives a new value and a result for every old value and every operand,
//! so it never fails a transaction, and it depends on nothing else, so every replica computes the same.

use crate::{
    encoding::{ReadError, Reader, Writer},
    types::{
        AtomicOp,
        limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    },
};
use bytes::{BufMut, Bytes};

/// Length of the keyspace id that every full key begins with.
const KEYSPACE_BYTES: usize = 4;

/// What is done to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// The key has this value afterwards.
    Put {
        /// The full key.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
    },
    /// The key is absent afterwards.
    Delete {
        /// The full key.
        key: &'a [u8],
    },
    /// The key's value afterwards follows from the one before, by [`evaluate`].
    Atomic {
        /// What is computed.
        op: AtomicOp,
        /// The full key.
        key: &'a [u8],
        /// The operation's second input.
        operand: &'a [u8],
    },
}

/// Why bytes are not a mutation that may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MutationError {
    /// The bytes end inside a field.
    #[error("malformed mutation: {0}")]
    Malformed(#[from] ReadError),
    /// The first byte names no kind of mutation.
    #[error("unknown kind of mutation {0}")]
    UnknownKind(u8),
    /// The byte names no atomic operation.
    #[error("unknown atomic operation {0}")]
    UnknownOp(u8),
    /// The key, without its keyspace, is longer than [`KEY_BYTES_MAX`].
    #[error("key of {actual} bytes, at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLarge {
        /// Its length.
        actual: usize,
    },
    /// The value or operand is longer than [`VALUE_BYTES_MAX`].
    #[error("value of {actual} bytes, at most {VALUE_BYTES_MAX} are allowed")]
    ValueTooLarge {
        /// Its length.
        actual: usize,
    },
}

const PUT: u8 = Mutation::KIND_PUT;
const DELETE: u8 = Mutation::KIND_DELETE;
const ATOMIC: u8 = Mutation::KIND_ATOMIC;

impl Mutation<'_> {
    /// The kind byte of a put.
    pub const KIND_PUT: u8 = 1;
    /// The kind byte of a delete.
    pub const KIND_DELETE: u8 = 2;
    /// The kind byte of an atomic operation.
    pub const KIND_ATOMIC: u8 = 3;
}

impl<'a> Mutation<'a> {
    /// Reads one mutation and checks its limits. Allocates nothing.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Mutation<'a>, MutationError> {
        let kind = reader.u8()?;
        let mutation = match kind {
            PUT => Mutation::Put { key: reader.full_key()?, value: reader.bytes32()? },
            DELETE => Mutation::Delete { key: reader.full_key()? },
            ATOMIC => {
                let op = reader.u8()?;
                let op = AtomicOp::from_u8(op).ok_or(MutationError::UnknownOp(op))?;
                Mutation::Atomic { op, key: reader.full_key()?, operand: reader.bytes32()? }
            }
            unknown => return Err(MutationError::UnknownKind(unknown)),
        };
        mutation.check()?;
        Ok(mutation)
    }

    /// Whether key and value are within the limits.
    pub fn check(&self) -> Result<(), MutationError> {
        let key = self.key().len().saturating_sub(KEYSPACE_BYTES);
        if key > KEY_BYTES_MAX {
            return Err(MutationError::KeyTooLarge { actual: key });
        }
        let value = self.payload().map_or(0, <[u8]>::len);
        if value > VALUE_BYTES_MAX {
            return Err(MutationError::ValueTooLarge { actual: value });
        }
        Ok(())
    }

    /// Writes it as [`Mutation::decode`] reads it. The caller has [checked](Mutation::check) it, and its key holds at
    /// least a keyspace id.
    pub fn encode(&self, to: &mut impl BufMut) {
        match *self {
            Mutation::Put { key, value } => {
                to.put_u8(PUT);
                to.put_full_key(key);
                to.put_bytes32(value);
            }
            Mutation::Delete { key } => {
                to.put_u8(DELETE);
                to.put_full_key(key);
            }
            Mutation::Atomic { op, key, operand } => {
                to.put_u8(ATOMIC);
                to.put_u8(op as u8);
                to.put_full_key(key);
                to.put_bytes32(operand);
            }
        }
    }

    /// How many bytes [`Mutation::encode`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let op = usize::from(matches!(self, Mutation::Atomic { .. }));
        1 + op + 2 + self.key().len() + self.payload().map_or(0, |payload| 4 + payload.len())
    }

    /// The full key.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Mutation::Put { key, .. } | Mutation::Delete { key } | Mutation::Atomic { key, .. } => key,
        }
    }

    /// Its value or operand.
    fn payload(&self) -> Option<&'a [u8]> {
        match *self {
            Mutation::Put { value, .. } => Some(value),
            Mutation::Delete { .. } => None,
            Mutation::Atomic { operand, .. } => Some(operand),
        }
    }
}

/// The mutations of a body, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Mutations<'a> {
    reader: Reader<'a>,
    failed: bool,
}

impl<'a> Mutations<'a> {
    /// The mutations in `body`, which holds nothing else.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Mutations<'a> {
        Mutations { reader: Reader::new(body), failed: false }
    }
}

impl<'a> Iterator for Mutations<'a> {
    type Item = Result<Mutation<'a>, MutationError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_empty() {
            return None;
        }
        let mutation = Mutation::decode(&mut self.reader);
        self.failed = mutation.is_err();
        Some(mutation)
    }
}

/// What an atomic operation does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key stays as it is, present or absent.
    Unchanged,
    /// The key has this value.
    Set(Bytes),
    /// The key is absent.
    Delete,
}

/// What came of an atomic operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What it does to its key.
    pub change: Change,
    /// What is told to whoever asked for it.
    pub result: Bytes,
}

impl Effect {
    fn set(value: Bytes) -> Effect {
        Effect { change: Change::Set(value.clone()), result: value }
    }
}

/// What `op` does where the value was `old`, `None` being absent. See [`AtomicOp`] for what each computes.
///
/// Total, and a function of its arguments alone. Old values and operands within [`VALUE_BYTES_MAX`] give new values
/// within it. Allocates the new value, and nothing more.
#[must_use]
pub fn evaluate(op: AtomicOp, old: Option<&[u8]>, operand: &[u8]) -> Effect {
    match op {
        AtomicOp::Add => {
            let sum = integer(old.unwrap_or_default()).wrapping_add(integer(operand));
            Effect::set(Bytes::copy_from_slice(&sum.to_be_bytes()))
        }
        AtomicOp::Min => extreme(old, operand, i64::min),
        AtomicOp::Max => extreme(old, operand, i64::max),
        AtomicOp::And => bitwise(old, operand, |a, b| a & b),
        AtomicOp::Or => bitwise(old, operand, |a, b| a | b),
        AtomicOp::Xor => bitwise(old, operand, |a, b| a ^ b),
        AtomicOp::ByteMin => Effect::set(Bytes::copy_from_slice(old.map_or(operand, |old| old.min(operand)))),
        AtomicOp::ByteMax => Effect::set(Bytes::copy_from_slice(old.map_or(operand, |old| old.max(operand)))),
        AtomicOp::Append => append(old, operand),
        AtomicOp::CompareAndDelete => match old == Some(operand) {
            true => Effect { change: Change::Delete, result: Bytes::from_static(&[1]) },
            false => Effect { change: Change::Unchanged, result: Bytes::from_static(&[0]) },
        },
    }
}

/// The last eight bytes, filled with zero bytes on the left.
fn integer(bytes: &[u8]) -> i64 {
    bytes.iter().rev().take(8).rev().fold(0, |high, byte| (high << 8) | i64::from(*byte))
}

fn extreme(old: Option<&[u8]>, operand: &[u8], choose: fn(i64, i64) -> i64) -> Effect {
    let operand = integer(operand);
    let chosen = old.map_or(operand, |old| choose(integer(old), operand));
    Effect::set(Bytes::copy_from_slice(&chosen.to_be_bytes()))
}

fn bitwise(old: Option<&[u8]>, operand: &[u8], combine: fn(u8, u8) -> u8) -> Effect {
    let Some(old) = old else { return Effect::set(Bytes::copy_from_slice(operand)) };
    let byte = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or(0);
    let length = old.len().max(operand.len());
    Effect::set((0..length).map(|i| combine(byte(old, i), byte(operand, i))).collect())
}

fn append(old: Option<&[u8]>, operand: &[u8]) -> Effect {
    let before = old.unwrap_or_default();
    let after = before.len() + operand.len();
    let length = |bytes: usize| Bytes::copy_from_slice(&(bytes as u64).to_be_bytes());
    if after > VALUE_BYTES_MAX {
        return Effect { change: Change::Unchanged, result: length(before.len()) };
    }
    Effect { change: Change::Set([before, operand].concat().into()), result: length(after) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyspaceId;
    use quickcheck::{Arbitrary, Gen};

    fn new_value(op: AtomicOp, old: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
        match evaluate(op, old, operand).change {
            Change::Unchanged => old.map(<[u8]>::to_vec),
            Change::Set(value) => Some(value.to_vec()),
            Change::Delete => None,
        }
    }

    #[test]
    fn a_put_has_the_bytes_that_the_module_states() {
        let key = KeyspaceId(1).full_key(b"k");
        let mut bytes = Vec::new();
        Mutation::Put { key: &key, value: b"v" }.encode(&mut bytes);
        assert_eq!(bytes, [1, 0, 1, 0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v']);
        bytes.clear();
        Mutation::Delete { key: &key }.encode(&mut bytes);
        assert_eq!(bytes, [2, 0, 1, 0, 0, 0, 1, b'k']);
        bytes.clear();
        Mutation::Atomic { op: AtomicOp::Append, key: &key, operand: b"v" }.encode(&mut bytes);
        assert_eq!(bytes, [3, 9, 0, 1, 0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v']);
    }

    quickcheck::quickcheck! {
        fn what_was_encoded_is_decoded(kind: u8, key: Vec<u8>, value: Vec<u8>) -> bool {
            let key = KeyspaceId(7).full_key(&key);
            let mutation = match kind % 12 {
                0 => Mutation::Put { key: &key, value: &value },
                1 => Mutation::Delete { key: &key },
                op => Mutation::Atomic { op: AtomicOp::ALL[usize::from(op) - 2], key: &key, operand: &value },
            };
            let mut bytes = Vec::new();
            mutation.encode(&mut bytes);
            let cut = (0..bytes.len()).all(|end| {
                matches!(Mutation::decode(&mut Reader::new(&bytes[..end])), Err(MutationError::Malformed(_)))
            });
            let mut reader = Reader::new(&bytes);
            cut && mutation.encoded_len() == bytes.len()
                && Mutation::decode(&mut reader) == Ok(mutation)
                && reader.is_empty()
        }

        fn decoding_is_total(bytes: Vec<u8>) -> bool {
            let mutations = Mutations::new(&bytes);
            mutations.take(bytes.len() + 1).count() <= bytes.len()
        }

        fn integers_of_eight_bytes_add_and_compare_as_signed(old: i64, operand: i64) -> bool {
            let is = |op, expected: i64| {
                let effect = evaluate(op, Some(&old.to_be_bytes()), &operand.to_be_bytes());
                let expected = Bytes::copy_from_slice(&expected.to_be_bytes());
                effect == Effect { change: Change::Set(expected.clone()), result: expected }
            };
            is(AtomicOp::Add, old.wrapping_add(operand))
                && is(AtomicOp::Min, old.min(operand))
                && is(AtomicOp::Max, old.max(operand))
        }

        fn every_operation_is_total_and_keeps_to_the_limit(input: Input) -> bool {
            let Input { old, operand } = input;
            let old = old.as_deref();
            AtomicOp::ALL.into_iter().all(|op| {
                let effect = evaluate(op, old, &operand);
                let new = new_value(op, old, &operand);
                let told = match op {
                    AtomicOp::CompareAndDelete => [u8::from(old == Some(&operand[..]))].to_vec(),
                    AtomicOp::Append => (new.as_ref().map_or(0, Vec::len) as u64).to_be_bytes().to_vec(),
                    _ => new.clone().expect("every other operation leaves a value"),
                };
                effect.result == told
                    && new.as_ref().is_none_or(|new| new.len() <= VALUE_BYTES_MAX)
                    && effect == evaluate(op, old, &operand)
            })
        }
    }

    #[derive(Clone, Debug)]
    struct Input {
        old: Option<Vec<u8>>,
        operand: Vec<u8>,
    }

    impl Arbitrary for Input {
        fn arbitrary(g: &mut Gen) -> Input {
            let operand = Vec::arbitrary(g);
            let old = match u8::arbitrary(g) % 4 {
                0 => None,
                1 => Some(operand.clone()),
                _ => Some(Vec::arbitrary(g)),
            };
            Input { old, operand }
        }
    }

    #[test]
    fn limits_are_named_and_at_the_limit_is_fine() {
        let decode = |key: usize, value: usize| {
            let key = KeyspaceId(1).full_key(&vec![0; key]);
            let mut bytes = Vec::new();
            Mutation::Put { key: &key, value: &vec![0; value] }.encode(&mut bytes);
            Mutation::decode(&mut Reader::new(&bytes)).map(|_| ())
        };
        assert_eq!(decode(KEY_BYTES_MAX, VALUE_BYTES_MAX), Ok(()));
        assert_eq!(decode(KEY_BYTES_MAX + 1, 0), Err(MutationError::KeyTooLarge { actual: KEY_BYTES_MAX + 1 }));
        assert_eq!(decode(0, VALUE_BYTES_MAX + 1), Err(MutationError::ValueTooLarge { actual: VALUE_BYTES_MAX + 1 }));
        assert_eq!(Mutation::decode(&mut Reader::new(&[4])), Err(MutationError::UnknownKind(4)));
        assert_eq!(Mutation::decode(&mut Reader::new(&[3, 11])), Err(MutationError::UnknownOp(11)));
        assert_eq!(Mutation::decode(&mut Reader::new(&[3, 0])), Err(MutationError::UnknownOp(0)));
    }

    #[test]
    fn a_body_ends_at_its_first_bad_mutation() {
        let mut body = Vec::new();
        Mutation::Delete { key: b"\0\0\0\x01a" }.encode(&mut body);
        body.push(9);
        let mut mutations = Mutations::new(&body);
        assert_eq!(mutations.next(), Some(Ok(Mutation::Delete { key: b"\0\0\0\x01a" })));
        assert_eq!(mutations.next(), Some(Err(MutationError::UnknownKind(9))));
        assert_eq!(mutations.next(), None);
    }

    #[test]
    fn the_number_of_an_operation_names_it() {
        for op in AtomicOp::ALL {
            assert_eq!(AtomicOp::from_u8(op as u8), Some(op));
        }
    }

    #[test]
    fn each_operation_does_what_its_table_says() {
        let eight = |value: i64| Some(value.to_be_bytes().to_vec());
        let bytes = |value: &[u8]| Some(value.to_vec());
        use AtomicOp::*;
        assert_eq!(new_value(Add, None, &[5]), eight(5));
        assert_eq!(new_value(Add, Some(&[1, 0]), &[2]), eight(0x102));
        assert_eq!(new_value(Add, Some(b""), b""), eight(0));
        assert_eq!(
            new_value(Add, Some(&[9, 0, 0, 0, 0, 0, 0, 0, 1]), &[1]),
            eight(2),
            "only the last eight bytes count"
        );
        assert_eq!(new_value(Add, Some(&[0xff; 8]), &[1]), eight(0), "it wraps");
        assert_eq!(new_value(Min, None, &[7]), eight(7));
        assert_eq!(new_value(Min, Some(&[0xff; 8]), &[7]), eight(-1), "compared as signed");
        assert_eq!(new_value(Min, Some(&[0xff]), &[7]), eight(7), "filled with zero bytes, not with the sign");
        assert_eq!(new_value(Max, None, &[0xff; 8]), eight(-1));
        assert_eq!(new_value(Max, Some(&[0xff; 8]), &[7]), eight(7));
        assert_eq!(new_value(And, None, b"\xff\x01"), bytes(b"\xff\x01"));
        assert_eq!(new_value(And, Some(b"\xff"), b"\x0f\x01"), bytes(b"\x0f\0"));
        assert_eq!(new_value(Or, Some(b"\xf0\x01\x02"), b"\x0f"), bytes(b"\xff\x01\x02"));
        assert_eq!(new_value(Xor, Some(b"\xff"), b"\x0f\x01"), bytes(b"\xf0\x01"));
        assert_eq!(new_value(ByteMin, None, b"b"), bytes(b"b"));
        assert_eq!(new_value(ByteMin, Some(b"a"), b"aa"), bytes(b"a"));
        assert_eq!(new_value(ByteMax, Some(b"a"), b"aa"), bytes(b"aa"));
        assert_eq!(new_value(ByteMax, Some(b"b"), b"aa"), bytes(b"b"));
        assert_eq!(new_value(Append, None, b""), bytes(b""), "the key comes to be");
        assert_eq!(new_value(Append, Some(b"a"), b"b"), bytes(b"ab"));
        assert_eq!(new_value(CompareAndDelete, Some(b"a"), b"a"), None);
        assert_eq!(new_value(CompareAndDelete, Some(b"a"), b"b"), bytes(b"a"));
        assert_eq!(new_value(CompareAndDelete, None, b""), None);
        assert_eq!(evaluate(CompareAndDelete, None, b"").result, [0][..], "absent is not empty");
    }

    #[test]
    fn appending_past_the_limit_leaves_the_value_as_it_is() {
        let old = vec![1; VALUE_BYTES_MAX];
        let effect = evaluate(AtomicOp::Append, Some(&old), b"x");
        assert_eq!(effect.change, Change::Unchanged);
        assert_eq!(effect.result, (VALUE_BYTES_MAX as u64).to_be_bytes()[..]);
        assert!(matches!(evaluate(AtomicOp::Append, Some(&old), b"").change, Change::Set(_)));
    }
}
