//! What messages are made of: keys, values, ranges, rows, and lists that are read in place.
//!
//! A list is checked whole when its message is decoded, and is then a slice with a count: going over it decodes again,
//! without allocating and without failing.

use super::error::DecodeError;
use super::registry::{ATOMIC_OPS, ErrorCode};
use crate::encoding::{Reader, Writer};
use crate::types::limits::{KEY_BYTES_MAX, RANGE_BOUND_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::{KeyRange, KeyspaceId, Version};
use bytes::{BufMut, BytesMut};
use std::{fmt, marker::PhantomData};

/// Something with one encoding.
pub trait Field<'a>: Sized {
    /// Reads it, checking its limits.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
    /// Appends it. The caller keeps to the limits; a length that does not fit its field panics.
    fn write(&self, out: &mut BytesMut);
}

/// A full key (keyspace, then the user's key) as an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a>(pub &'a [u8]);

/// Bytes with a four-byte length as an item of a list: the result of an atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a>(pub &'a [u8]);

/// UTF-8 with a two-byte length as an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a str);

/// A range of keys of one keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeRef<'a> {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The least key of the range, without its keyspace.
    pub start: &'a [u8],
    /// The least key above the range; `None`: to the end of the keyspace.
    pub end: Option<&'a [u8]>,
}

/// A value that was found, and the version that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The version that wrote the value.
    pub version: Version,
    /// The value.
    pub value: &'a [u8],
}

/// A row of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The key, without its keyspace.
    pub key: &'a [u8],
    /// The version that wrote the value.
    pub version: Version,
    /// The value; empty if keys alone were asked for.
    pub value: &'a [u8],
}

/// A full key whose user's part is within the limit.
#[inline]
pub(super) fn read_key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let full = reader.full_key()?;
    check(ErrorCode::KEY_TOO_LARGE, KEY_BYTES_MAX, full.len() - 4)?;
    Ok(full)
}

/// A value or operand within the limit.
// spec: QP-LIM-004
#[inline]
pub(super) fn read_value<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let mut ahead = reader.clone();
    check(ErrorCode::VALUE_TOO_LARGE, VALUE_BYTES_MAX, ahead.u32()? as usize)?;
    Ok(reader.bytes32()?)
}

/// The number of an atomic operation that is known.
#[inline]
pub(super) fn read_atomic_op(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let op = reader.u8()?;
    if usize::from(op.wrapping_sub(1)) >= ATOMIC_OPS.len() {
        return Err(DecodeError::malformed("no such atomic operation"));
    }
    Ok(op)
}

/// UTF-8 of at most `max` bytes.
pub(super) fn read_text<'a>(reader: &mut Reader<'a>, max: usize) -> Result<&'a str, DecodeError> {
    let bytes = reader.bytes16()?;
    if bytes.len() > max {
        return Err(DecodeError::malformed("a text is too long"));
    }
    std::str::from_utf8(bytes).map_err(|_| DecodeError::malformed("a text is not UTF-8"))
}

/// A byte that is 0 or 1.
#[inline]
pub(super) fn read_bool(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::malformed("a byte is neither 0 nor 1")),
    }
}

/// Whether a length is within its limit.
#[inline]
pub(super) fn check(code: ErrorCode, limit: usize, actual: usize) -> Result<(), DecodeError> {
    if actual > limit { Err(DecodeError::over(code, limit, actual)) } else { Ok(()) }
}

impl<'a> Field<'a> for Key<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Key<'a>, DecodeError> {
        read_key(reader).map(Key)
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_full_key(self.0);
    }
}

impl<'a> Field<'a> for Blob<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Blob<'a>, DecodeError> {
        read_value(reader).map(Blob)
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_bytes32(self.0);
    }
}

impl<'a> Field<'a> for Text<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Text<'a>, DecodeError> {
        read_text(reader, usize::from(u16::MAX)).map(Text)
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_bytes16(self.0.as_bytes());
    }
}

impl RangeRef<'_> {
    /// The range as full keys. Copies its bounds.
    #[must_use]
    pub fn to_key_range(&self) -> KeyRange {
        let end = self.end.map_or_else(|| self.keyspace.upper_bound(), |end| self.keyspace.full_key(end));
        KeyRange { start: self.keyspace.full_key(self.start), end }
    }
}

impl<'a> Field<'a> for RangeRef<'a> {
    // spec: QP-MSG-011
    fn read(reader: &mut Reader<'a>) -> Result<RangeRef<'a>, DecodeError> {
        let keyspace = KeyspaceId(reader.u32()?);
        let start = reader.bytes16()?;
        let has_end = read_bool(reader)?;
        let end = reader.bytes16()?;
        check(ErrorCode::KEY_TOO_LARGE, RANGE_BOUND_BYTES_MAX, start.len().max(end.len()))?;
        if !has_end && !end.is_empty() {
            return Err(DecodeError::malformed("a range without an end has one"));
        }
        if has_end && start > end {
            return Err(DecodeError::new(ErrorCode::BAD_RANGE, "the range starts after its end"));
        }
        if keyspace > KeyspaceId::LAST {
            return Err(DecodeError::new(ErrorCode::UNKNOWN_KEYSPACE, "no keyspace has this id"));
        }
        Ok(RangeRef { keyspace, start, end: has_end.then_some(end) })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.keyspace.0);
        out.put_bytes16(self.start);
        out.put_u8(u8::from(self.end.is_some()));
        out.put_bytes16(self.end.unwrap_or_default());
    }
}

impl<'a> Field<'a> for Option<Found<'a>> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Option<Found<'a>>, DecodeError> {
        let found = read_bool(reader)?;
        let version = Version(reader.u64()?);
        let value = read_value(reader)?;
        if !found && (version != Version::ZERO || !value.is_empty()) {
            return Err(DecodeError::malformed("what was not found has a value"));
        }
        Ok(found.then_some(Found { version, value }))
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.is_some()));
        let Found { version, value } = self.unwrap_or(Found { version: Version::ZERO, value: b"" });
        out.put_u64(version.0);
        out.put_bytes32(value);
    }
}

impl<'a> Field<'a> for Row<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Row<'a>, DecodeError> {
        let key = reader.bytes16()?;
        check(ErrorCode::KEY_TOO_LARGE, KEY_BYTES_MAX, key.len())?;
        Ok(Row { key, version: Version(reader.u64()?), value: read_value(reader)? })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        out.put_bytes16(self.key);
        out.put_u64(self.version.0);
        out.put_bytes32(self.value);
    }
}

impl Row<'_> {
    /// How long the row is in a CHUNK.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        2 + self.key.len() + 8 + 4 + self.value.len()
    }
}

/// A list that was checked and is read in place.
pub struct List<'a, T> {
    count: u32,
    bytes: &'a [u8],
    items: PhantomData<fn() -> T>,
}

impl<'a, T: Field<'a>> List<'a, T> {
    /// The empty list.
    pub const EMPTY: List<'a, T> = List { count: 0, bytes: &[], items: PhantomData };

    /// Reads a list with a two-byte count of at most `max`.
    pub(super) fn read16(reader: &mut Reader<'a>, max: usize) -> Result<List<'a, T>, DecodeError> {
        let count = u32::from(reader.u16()?);
        check(ErrorCode::TOO_MANY_ITEMS, max, count as usize)?;
        List::read_items(reader, count)
    }

    /// Reads a list with a four-byte count.
    pub(super) fn read32(reader: &mut Reader<'a>) -> Result<List<'a, T>, DecodeError> {
        let count = reader.u32()?;
        List::read_items(reader, count)
    }

    /// Reads so many items, each of which takes at least a byte, so a count that lies ends where the bytes do.
    fn read_items(reader: &mut Reader<'a>, count: u32) -> Result<List<'a, T>, DecodeError> {
        let before = reader.rest();
        let from = reader.position();
        for _ in 0..count {
            T::read(reader)?;
        }
        let bytes = &before[..reader.position() - from];
        Ok(List { count, bytes, items: PhantomData })
    }

    /// Appends the list with a two-byte count.
    pub(super) fn write16(&self, out: &mut BytesMut) {
        out.put_u16(u16::try_from(self.count).expect("the caller keeps to the limit of items"));
        out.put_slice(self.bytes);
    }

    /// Appends the list with a four-byte count.
    pub(super) fn write32(&self, out: &mut BytesMut) {
        out.put_u32(self.count);
        out.put_slice(self.bytes);
    }

    /// How many items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items as encoded, without the count.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The items, in order. Never allocates.
    #[must_use]
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter { left: self.count, reader: Reader::new(self.bytes), items: PhantomData }
    }
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> PartialEq for List<'_, T> {
    /// By bytes: an item has one encoding.
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.bytes == other.bytes
    }
}

impl<T> Eq for List<'_, T> {}

impl<'a, T: Field<'a> + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Field<'a>> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Field<'a>> IntoIterator for &List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

/// The items of a [`List`].
#[derive(Clone, Debug)]
pub struct ListIter<'a, T> {
    left: u32,
    reader: Reader<'a>,
    items: PhantomData<fn() -> T>,
}

impl<'a, T: Field<'a>> ListIter<'a, T> {
    /// The next item, and the bytes that it was decoded from.
    pub fn next_with_bytes(&mut self) -> Option<(T, &'a [u8])> {
        let before = self.reader.rest();
        let from = self.reader.position();
        let item = self.next()?;
        Some((item, &before[..self.reader.position() - from]))
    }
}

impl<'a, T: Field<'a>> Iterator for ListIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let item = T::read(&mut self.reader);
        debug_assert!(item.is_ok(), "the list was checked when it was decoded");
        item.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl<'a, T: Field<'a>> ExactSizeIterator for ListIter<'a, T> {}

/// A list that is being made, for a message that borrows it.
#[derive(Clone, Debug, Default)]
pub struct ListBuf {
    count: u32,
    bytes: BytesMut,
}

impl ListBuf {
    /// An empty list.
    #[must_use]
    pub fn new() -> ListBuf {
        ListBuf::default()
    }

    /// Appends an item. All items of one list are of one type.
    pub fn push<'i>(&mut self, item: &impl Field<'i>) {
        self.count += 1;
        item.write(&mut self.bytes);
    }

    /// How many items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How long the items are, encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The list as a message holds it. `T` is what was pushed.
    #[must_use]
    pub fn as_list<'a, T: Field<'a>>(&'a self) -> List<'a, T> {
        List { count: self.count, bytes: &self.bytes, items: PhantomData }
    }
}

/// A list that is written where it will be sent from: the count is filled in at the end.
#[derive(Debug)]
#[must_use = "a list that was begun must be finished"]
pub struct ListWriter {
    at: usize,
    count: u32,
    wide: bool,
}

impl ListWriter {
    /// Begins a list with a two-byte count at the end of `out`.
    pub fn begin16(out: &mut BytesMut) -> ListWriter {
        let at = out.len();
        out.put_u16(0);
        ListWriter { at, count: 0, wide: false }
    }

    /// Begins a list with a four-byte count at the end of `out`.
    pub fn begin32(out: &mut BytesMut) -> ListWriter {
        let at = out.len();
        out.put_u32(0);
        ListWriter { at, count: 0, wide: true }
    }

    /// Appends an item to the same `out`.
    #[inline]
    pub fn push<'i>(&mut self, out: &mut BytesMut, item: &impl Field<'i>) {
        self.count += 1;
        item.write(out);
    }

    /// How many items so far.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// How long the list is so far, its count included.
    #[must_use]
    pub fn encoded_bytes(&self, out: &BytesMut) -> usize {
        out.len() - self.at
    }

    /// Fills in the count. Returns it.
    pub fn finish(self, out: &mut BytesMut) -> usize {
        if self.wide {
            out[self.at..self.at + 4].copy_from_slice(&self.count.to_be_bytes());
        } else {
            let count = u16::try_from(self.count).expect("the caller keeps to the limit of items");
            out[self.at..self.at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.count as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a, T: Field<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
        T::read(&mut Reader::new(bytes))
    }

    fn written<'a>(field: &impl Field<'a>) -> BytesMut {
        let mut out = BytesMut::new();
        field.write(&mut out);
        out
    }

    // spec: QP-MSG-011
    #[test]
    fn a_range_says_whether_it_has_an_end() {
        let all = RangeRef { keyspace: KeyspaceId(1), start: b"", end: None };
        assert_eq!(read::<RangeRef<'_>>(&written(&all)), Ok(all));
        assert_eq!(all.to_key_range(), KeyspaceId(1).range());
        let some = RangeRef { keyspace: KeyspaceId(1), start: b"a", end: Some(b"a") };
        assert_eq!(read::<RangeRef<'_>>(&written(&some)), Ok(some));
        assert!(some.to_key_range().is_empty());
    }

    // spec: QP-MSG-011
    #[test]
    fn a_range_that_makes_no_sense_is_refused() {
        let code = |bytes: &[u8]| read::<RangeRef<'_>>(bytes).expect_err("no sense").code;
        assert_eq!(code(b"\0\0\0\x01\0\x01b\x01\0\x01a"), ErrorCode::BAD_RANGE);
        assert_eq!(code(b"\0\0\0\x01\0\x01b\0\0\x01a"), ErrorCode::MALFORMED);
        assert_eq!(code(b"\0\0\0\x01\0\x01b\x02\0\x01c"), ErrorCode::MALFORMED);
        assert_eq!(code(b"\xff\xff\xff\xff\0\0\0\0\0"), ErrorCode::UNKNOWN_KEYSPACE);
        let long = RangeRef { keyspace: KeyspaceId(1), start: &[0; RANGE_BOUND_BYTES_MAX + 1], end: None };
        let bytes = written(&long);
        let error = read::<RangeRef<'_>>(&bytes).expect_err("too long");
        assert_eq!((error.code, error.bound), (ErrorCode::KEY_TOO_LARGE, Some((8193, 8194))));
    }

    #[test]
    fn what_was_not_found_has_no_value() {
        let none: Option<Found<'_>> = None;
        assert_eq!(read::<Option<Found<'_>>>(&written(&none)), Ok(none));
        let code = |bytes: &[u8]| read::<Option<Found<'_>>>(bytes).expect_err("no sense").code;
        assert_eq!(code(b"\0\0\0\0\0\0\0\0\x01\0\0\0\0"), ErrorCode::MALFORMED);
        assert_eq!(code(b"\0\0\0\0\0\0\0\0\0\0\0\0\x01a"), ErrorCode::MALFORMED);
    }

    #[test]
    fn a_list_is_read_in_place_and_in_order() {
        let mut buffer = ListBuf::new();
        assert!(buffer.is_empty());
        for text in ["one", "", "three"] {
            buffer.push(&Text(text));
        }
        let list: List<'_, Text<'_>> = buffer.as_list();
        assert_eq!((list.len(), buffer.len(), buffer.encoded_bytes()), (3, 3, 14));
        let mut out = BytesMut::new();
        list.write16(&mut out);
        let read = List::<Text<'_>>::read16(&mut Reader::new(&out), 3).expect("valid");
        assert_eq!(read, list);
        assert_eq!(read.iter().map(|text| text.0).collect::<Vec<_>>(), ["one", "", "three"]);
        assert_eq!(read.iter().len(), 3);
        assert_eq!(format!("{read:?}"), r#"[Text("one"), Text(""), Text("three")]"#);
        let mut items = read.into_iter();
        assert_eq!(items.next_with_bytes(), Some((Text("one"), &b"\0\x03one"[..])));
        assert_eq!(items.next_with_bytes(), Some((Text(""), &b"\0\0"[..])));
        let error = List::<Text<'_>>::read16(&mut Reader::new(&out), 2).expect_err("one too many");
        assert_eq!((error.code, error.bound), (ErrorCode::TOO_MANY_ITEMS, Some((2, 3))));
        assert!(List::<Text<'_>>::EMPTY.is_empty());
        assert_eq!((&read).into_iter().count(), 3);
    }

    #[test]
    fn a_list_written_in_place_is_the_same_list() {
        let rows =
            [Row { key: b"a", version: Version(1), value: b"x" }, Row { key: b"b", version: Version(2), value: b"" }];
        let mut buffer = ListBuf::new();
        let mut out = BytesMut::new();
        let mut writer = ListWriter::begin32(&mut out);
        for row in &rows {
            buffer.push(row);
            writer.push(&mut out, row);
        }
        assert_eq!(writer.count(), 2);
        assert_eq!(writer.encoded_bytes(&out), 4 + rows[0].encoded_bytes() + rows[1].encoded_bytes());
        assert_eq!(writer.finish(&mut out), 2);
        let read = List::<Row<'_>>::read32(&mut Reader::new(&out)).expect("valid");
        assert_eq!(read, buffer.as_list());
        let mut narrow = BytesMut::new();
        let mut writer = ListWriter::begin16(&mut narrow);
        writer.push(&mut narrow, &rows[0]);
        writer.finish(&mut narrow);
        assert_eq!(List::<Row<'_>>::read16(&mut Reader::new(&narrow), 1).expect("valid").len(), 1);
    }

    #[test]
    fn a_count_that_lies_ends_where_the_bytes_do() {
        let error = List::<Row<'_>>::read32(&mut Reader::new(&[0xff; 5])).expect_err("too short");
        assert_eq!(error.code, ErrorCode::MALFORMED);
    }

    // spec: QP-LIM-004
    #[test]
    fn keys_and_values_over_the_limit_say_both_numbers() {
        let mut bytes = BytesMut::new();
        bytes.put_full_key(&[0; 4 + KEY_BYTES_MAX + 1]);
        let error = read::<Key<'_>>(&bytes).expect_err("too long");
        assert_eq!((error.code, error.bound), (ErrorCode::KEY_TOO_LARGE, Some((8192, 8193))));
        let length = (VALUE_BYTES_MAX as u32 + 1).to_be_bytes();
        let error = read::<Blob<'_>>(&length).expect_err("too long, and told so before its bytes are there");
        assert_eq!((error.code, error.bound), (ErrorCode::VALUE_TOO_LARGE, Some((8 << 20, (8 << 20) + 1))));
    }

    #[test]
    fn a_text_is_utf8() {
        assert!(read::<Text<'_>>(b"\0\x01\xff").is_err());
        assert!(read_text(&mut Reader::new(b"\0\x02ab"), 1).is_err());
    }
}
