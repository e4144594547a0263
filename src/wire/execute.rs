//! EXECUTE: a whole transaction in one message.
//!
//! A condition is a key and a test. An operation is a number and its fields; those that change a key (PUT, DELETE, ATOMIC)
//! are encoded as mutations are in the log, so [`super::ListIter::next_with_bytes`] gives what the log wants.

use super::error::DecodeError;
use super::fields::{Field, Found, List, RangeRef, Row, read_atomic_op, read_bool, read_key, read_value};
use crate::encoding::{Reader, Writer};
use crate::types::Version;
use crate::types::limits::EXECUTE_ITEMS_MAX;
use bytes::{BufMut, BytesMut};

/// A one-shot transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// What must hold for `then` to be done.
    pub conditions: List<'a, Condition<'a>>,
    /// Done if every condition holds.
    pub then_ops: List<'a, Op<'a>>,
    /// Done otherwise.
    pub else_ops: List<'a, Op<'a>>,
}

impl<'a> Field<'a> for Execute<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Execute<'a>, DecodeError> {
        Ok(Execute {
            conditions: List::read16(reader, EXECUTE_ITEMS_MAX)?,
            then_ops: List::read16(reader, EXECUTE_ITEMS_MAX)?,
            else_ops: List::read16(reader, EXECUTE_ITEMS_MAX)?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        self.conditions.write16(out);
        self.then_ops.write16(out);
        self.else_ops.write16(out);
    }
}

/// What must hold of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition<'a> {
    /// The full key.
    pub key: &'a [u8],
    /// What must hold.
    pub test: Test<'a>,
}

/// What a condition tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test<'a> {
    /// The key has a value.
    Exists,
    /// The key has no value.
    Absent,
    /// The key has this value.
    ValueEquals(&'a [u8]),
    /// The key has another value, or none.
    ValueDiffers(&'a [u8]),
    /// The key was last written at this version; 0: it has no value.
    VersionEquals(Version),
    /// The key was not written after this version; one without a value holds.
    VersionAtMost(Version),
}

impl<'a> Field<'a> for Condition<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Condition<'a>, DecodeError> {
        let kind = reader.u8()?;
        let key = read_key(reader)?;
        let operand = read_value(reader)?;
        let version = || -> Result<Version, DecodeError> {
            let mut operand = Reader::new(operand);
            let version = operand.u64()?;
            operand.finish()?;
            Ok(Version(version))
        };
        let test = match kind {
            1 | 2 if !operand.is_empty() => return Err(DecodeError::malformed("the condition takes no operand")),
            1 => Test::Exists,
            2 => Test::Absent,
            3 => Test::ValueEquals(operand),
            4 => Test::ValueDiffers(operand),
            5 => Test::VersionEquals(version()?),
            6 => Test::VersionAtMost(version()?),
            _ => return Err(DecodeError::malformed("no such condition")),
        };
        Ok(Condition { key, test })
    }

    fn write(&self, out: &mut BytesMut) {
        let (kind, operand) = match &self.test {
            Test::Exists => (1, &b""[..]),
            Test::Absent => (2, &b""[..]),
            Test::ValueEquals(value) => (3, *value),
            Test::ValueDiffers(value) => (4, *value),
            Test::VersionEquals(version) => (5, &version.0.to_be_bytes()[..]),
            Test::VersionAtMost(version) => (6, &version.0.to_be_bytes()[..]),
        };
        out.put_u8(kind);
        out.put_full_key(self.key);
        out.put_bytes32(operand);
    }
}

/// One operation of a branch. Keys are full keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Writes a value.
    Put {
        /// The full key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The full key.
        key: &'a [u8],
    },
    /// Changes a value.
    Atomic {
        /// Which atomic operation: a number of the registry.
        op: u8,
        /// The full key.
        key: &'a [u8],
        /// Its operand.
        operand: &'a [u8],
    },
    /// Removes every key of a range.
    DeleteRange {
        /// The range.
        range: RangeRef<'a>,
    },
    /// The value of a key.
    Get {
        /// The full key.
        key: &'a [u8],
    },
    /// The first rows of a range.
    Range {
        /// The range.
        range: RangeRef<'a>,
        /// From the end of the range to its start.
        reverse: bool,
        /// Without values.
        keys_only: bool,
        /// Most rows, at least 1.
        limit: u32,
    },
}

impl<'a> Field<'a> for Op<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Op<'a>, DecodeError> {
        match reader.u8()? {
            1 => Ok(Op::Put { key: read_key(reader)?, value: read_value(reader)? }),
            2 => Ok(Op::Delete { key: read_key(reader)? }),
            3 => Ok(Op::Atomic { op: read_atomic_op(reader)?, key: read_key(reader)?, operand: read_value(reader)? }),
            4 => Ok(Op::DeleteRange { range: RangeRef::read(reader)? }),
            16 => Ok(Op::Get { key: read_key(reader)? }),
            17 => read_range(reader),
            _ => Err(DecodeError::malformed("no such operation")),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match *self {
            Op::Put { key, value } => {
                out.put_u8(1);
                out.put_full_key(key);
                out.put_bytes32(value);
            }
            Op::Delete { key } => {
                out.put_u8(2);
                out.put_full_key(key);
            }
            Op::Atomic { op, key, operand } => {
                out.put_u8(3);
                out.put_u8(op);
                out.put_full_key(key);
                out.put_bytes32(operand);
            }
            Op::DeleteRange { range } => {
                out.put_u8(4);
                range.write(out);
            }
            Op::Get { key } => {
                out.put_u8(16);
                out.put_full_key(key);
            }
            Op::Range { range, reverse, keys_only, limit } => {
                out.put_u8(17);
                range.write(out);
                out.put_u8(u8::from(reverse) | u8::from(keys_only) << 1);
                out.put_u32(limit);
            }
        }
    }
}

fn read_range<'a>(reader: &mut Reader<'a>) -> Result<Op<'a>, DecodeError> {
    let range = RangeRef::read(reader)?;
    let flags = reader.u8()?;
    let limit = reader.u32()?;
    if flags > 3 {
        return Err(DecodeError::malformed("a flag of the range is not known"));
    }
    if limit == 0 {
        return Err(DecodeError::malformed("the range asks for no row"));
    }
    Ok(Op::Range { range, reverse: flags & 1 != 0, keys_only: flags & 2 != 0, limit })
}

/// What one operation gave, in the operations' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpResult<'a> {
    /// A value was written.
    Put,
    /// A key was removed, or was not there.
    Delete,
    /// An atomic operation gave this.
    Atomic(&'a [u8]),
    /// So many keys were removed.
    DeleteRange(u64),
    /// What the key has.
    Get(Option<Found<'a>>),
    /// The rows of the range.
    Range {
        /// Whether the limit cut them short.
        more: bool,
        /// The rows.
        rows: List<'a, Row<'a>>,
    },
}

impl<'a> Field<'a> for OpResult<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<OpResult<'a>, DecodeError> {
        match reader.u8()? {
            1 => Ok(OpResult::Put),
            2 => Ok(OpResult::Delete),
            3 => Ok(OpResult::Atomic(read_value(reader)?)),
            4 => Ok(OpResult::DeleteRange(reader.u64()?)),
            16 => Ok(OpResult::Get(Field::read(reader)?)),
            17 => Ok(OpResult::Range { more: read_bool(reader)?, rows: List::read32(reader)? }),
            _ => Err(DecodeError::malformed("no such result")),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            OpResult::Put => out.put_u8(1),
            OpResult::Delete => out.put_u8(2),
            OpResult::Atomic(result) => {
                out.put_u8(3);
                out.put_bytes32(result);
            }
            OpResult::DeleteRange(deleted) => {
                out.put_u8(4);
                out.put_u64(*deleted);
            }
            OpResult::Get(found) => {
                out.put_u8(16);
                found.write(out);
            }
            OpResult::Range { more, rows } => {
                out.put_u8(17);
                out.put_u8(u8::from(*more));
                rows.write32(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::ListBuf;
    use super::super::registry::ErrorCode;
    use super::*;
    use crate::types::KeyspaceId;

    const KEY: &[u8] = b"\0\0\0\x01k";
    const RANGE: RangeRef<'_> = RangeRef { keyspace: KeyspaceId(1), start: b"a", end: None };

    fn round_trip<'a, T: Field<'a> + PartialEq + std::fmt::Debug>(item: &T, out: &'a mut BytesMut) {
        item.write(out);
        assert_eq!(T::read(&mut Reader::new(out)).as_ref(), Ok(item));
    }

    #[test]
    fn conditions_come_back() {
        let tests = [
            Test::Exists,
            Test::Absent,
            Test::ValueEquals(b""),
            Test::ValueDiffers(b"v"),
            Test::VersionEquals(Version(0)),
            Test::VersionAtMost(Version(9)),
        ];
        for test in tests {
            round_trip(&Condition { key: KEY, test }, &mut BytesMut::new());
        }
    }

    // spec: QP-MSG-030
    #[test]
    fn conditions_that_make_no_sense_are_refused() {
        let bad: [&[u8]; 4] = [
            b"\x01\0\x01\0\0\0\x01k\0\0\0\x01x",
            b"\x05\0\x01\0\0\0\x01k\0\0\0\x07\0\0\0\0\0\0\0",
            b"\x05\0\x01\0\0\0\x01k\0\0\0\x09\0\0\0\0\0\0\0\0\0",
            b"\x07\0\x01\0\0\0\x01k\0\0\0\0",
        ];
        for bytes in bad {
            let error = Condition::read(&mut Reader::new(bytes)).expect_err("no sense");
            assert_eq!(error.code, ErrorCode::MALFORMED);
        }
    }

    #[test]
    fn operations_and_their_results_come_back() {
        let ops = [
            Op::Put { key: KEY, value: b"v" },
            Op::Delete { key: KEY },
            Op::Atomic { op: 1, key: KEY, operand: b"o" },
            Op::DeleteRange { range: RANGE },
            Op::Get { key: KEY },
            Op::Range { range: RANGE, reverse: true, keys_only: false, limit: 1 },
            Op::Range { range: RANGE, reverse: false, keys_only: true, limit: u32::MAX },
        ];
        for op in &ops {
            round_trip(op, &mut BytesMut::new());
        }
        let mut rows = ListBuf::new();
        rows.push(&Row { key: b"k", version: Version(1), value: b"v" });
        let results = [
            OpResult::Put,
            OpResult::Delete,
            OpResult::Atomic(b"r"),
            OpResult::DeleteRange(3),
            OpResult::Get(None),
            OpResult::Get(Some(Found { version: Version(1), value: b"v" })),
            OpResult::Range { more: true, rows: rows.as_list() },
        ];
        for result in &results {
            round_trip(result, &mut BytesMut::new());
        }
    }

    // spec: QP-MSG-031
    #[test]
    fn operations_that_make_no_sense_are_refused() {
        for (at, byte) in [(10, 4), (14, 0)] {
            let mut out = BytesMut::new();
            Op::Range { range: RANGE, reverse: false, keys_only: false, limit: 1 }.write(&mut out);
            out[at + 1] = byte;
            assert!(Op::read(&mut Reader::new(&out)).is_err(), "byte {at}");
        }
        assert!(Op::read(&mut Reader::new(&[5])).is_err());
        assert!(OpResult::read(&mut Reader::new(&[5])).is_err());
    }

    #[test]
    fn an_operation_that_writes_is_encoded_as_the_log_has_it() {
        let mut ops = ListBuf::new();
        ops.push(&Op::Put { key: KEY, value: b"v" });
        let list: List<'_, Op<'_>> = ops.as_list();
        let (_, bytes) = list.iter().next_with_bytes().expect("one");
        assert_eq!(bytes, b"\x01\0\x01\0\0\0\x01k\0\0\0\x01v");
    }
}
