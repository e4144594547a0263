//! Checked reading and writing of bytes: big-endian integers and length-prefixed strings.
//!
//! [`Reader`] never panics, never allocates and never reads past its slice: bytes from a socket, a disk or a file are
//! decoded to a typed error. [`Writer`] is its mirror over a growing buffer.

use bytes::BufMut;

/// Why bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes end inside a field.
    #[error("truncated at byte {at}: {wanted} bytes wanted, {left} left")]
    Truncated {
        /// Offset of the field.
        at: usize,
        /// How long it is.
        wanted: usize,
        /// How many bytes are there.
        left: usize,
    },
    /// Bytes stand after the last field.
    #[error("{left} bytes left over at byte {at}")]
    Trailing {
        /// Offset of the first of them.
        at: usize,
        /// How many.
        left: usize,
    },
}

/// Reads fields from a slice, front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Offset of the next byte.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], ReadError> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(ReadError::Truncated { at: self.at, wanted: length, left });
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, ReadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, ReadError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Sixteen bytes.
    #[inline]
    pub fn array16(&mut self) -> Result<[u8; 16], ReadError> {
        self.array()
    }

    /// A string with a two-byte length before it.
    #[inline]
    pub fn bytes16(&mut self) -> Result<&'a [u8], ReadError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A string with a four-byte length before it.
    #[inline]
    pub fn bytes32(&mut self) -> Result<&'a [u8], ReadError> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A full key: `length u16` of the user's key, then the keyspace's four bytes and the key, contiguous.
    #[inline]
    pub fn full_key(&mut self) -> Result<&'a [u8], ReadError> {
        let length = self.u16()?;
        self.take(4 + usize::from(length))
    }

    /// Errors unless everything has been read.
    pub fn finish(&self) -> Result<(), ReadError> {
        let left = self.bytes.len() - self.at;
        if left > 0 { Err(ReadError::Trailing { at: self.at, left }) } else { Ok(()) }
    }
}

/// Writes what [`Reader`] reads. The caller has checked the lengths; a length that does not fit its field panics.
pub trait Writer: BufMut {
    /// A string with a two-byte length before it.
    fn put_bytes16(&mut self, bytes: &[u8]) {
        self.put_u16(u16::try_from(bytes.len()).expect("the caller checked that it fits a u16 length"));
        self.put_slice(bytes);
    }

    /// A string with a four-byte length before it.
    fn put_bytes32(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).expect("the caller checked that it fits a u32 length"));
        self.put_slice(bytes);
    }

    /// A full key, as [`Reader::full_key`] reads it. `full` holds at least the keyspace's four bytes.
    fn put_full_key(&mut self, full: &[u8]) {
        let length = full.len().checked_sub(4).expect("a full key begins with its keyspace");
        self.put_u16(u16::try_from(length).expect("the caller checked the key's length"));
        self.put_slice(full);
    }
}

impl<B: BufMut + ?Sized> Writer for B {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut buffer = Vec::new();
        buffer.put_u8(1);
        buffer.put_u16(2);
        buffer.put_u32(3);
        buffer.put_u64(4);
        buffer.put_bytes16(b"five");
        buffer.put_bytes32(b"six");
        buffer.put_full_key(b"\0\0\0\x01seven");
        buffer.put_slice(&[8; 16]);
        let mut reader = Reader::new(&buffer);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.bytes16(), Ok(&b"five"[..]));
        assert_eq!(reader.bytes32(), Ok(&b"six"[..]));
        assert_eq!(reader.full_key(), Ok(&b"\0\0\0\x01seven"[..]));
        assert_eq!(reader.array16(), Ok([8; 16]));
        assert!(reader.is_empty());
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_field_cut_short_is_an_error_that_says_where() {
        let mut reader = Reader::new(&[0, 9, b'a']);
        assert_eq!(reader.bytes16(), Err(ReadError::Truncated { at: 2, wanted: 9, left: 1 }));
        let reader = Reader::new(&[1, 2]);
        assert_eq!(reader.finish(), Err(ReadError::Trailing { at: 0, left: 2 }));
        assert_eq!(reader.rest(), &[1, 2]);
        assert_eq!(reader.position(), 0);
    }
}
