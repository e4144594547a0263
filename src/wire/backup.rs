//! BACKUP, its CHUNKs and its END: every row of every keyspace, as of one version.
//!
//! It is a scan of the one ordered space that holds all keyspaces, so its rows carry full keys, and each CHUNK says the
//! version that all of them are read at: who writes a file knows it before the first row.

use super::error::DecodeError;
use super::fields::{Field, List, ListWriter, read_key, read_value};
use super::scan::{read_token, write_token};
use super::tags::skip_tags;
use crate::encoding::{Reader, Writer};
use crate::types::Version;
use bytes::{BufMut, BytesMut};

/// A row of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupRow<'a> {
    /// The full key: the keyspace, then the user's key.
    pub key: &'a [u8],
    /// The version that wrote the value.
    pub version: Version,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Field<'a> for BackupRow<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<BackupRow<'a>, DecodeError> {
        Ok(BackupRow { key: read_key(reader)?, version: Version(reader.u64()?), value: read_value(reader)? })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        out.put_full_key(self.key);
        out.put_u64(self.version.0);
        out.put_bytes32(self.value);
    }
}

impl BackupRow<'_> {
    /// How long the row is in a CHUNK.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        2 + self.key.len() + 8 + 4 + self.value.len()
    }
}

/// A part of a backup's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupChunk<'a> {
    /// The version that every row is read at: the same in every chunk of a backup, resumed or not.
    pub version: Version,
    /// The rows, in the order of their full keys.
    pub rows: List<'a, BackupRow<'a>>,
    /// Where the backup goes on after these rows.
    pub resume_token: Option<&'a [u8]>,
}

impl<'a> BackupChunk<'a> {
    /// Bytes of a payload before its list of rows.
    pub const HEAD_BYTES: usize = 8;

    /// Decodes the payload of a CHUNK.
    pub fn decode(payload: &'a [u8]) -> Result<BackupChunk<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let version = Version(reader.u64()?);
        let rows = List::read32(&mut reader)?;
        let resume_token = read_token(&mut reader)?;
        Ok(BackupChunk { version, rows, resume_token })
    }

    /// Appends the payload of a CHUNK.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        self.rows.write32(out);
        write_token(out, self.resume_token);
    }

    /// Begins a CHUNK's payload whose rows are written where they are sent from: push [`BackupRow`]s, then
    /// [`Chunk::finish`](super::Chunk::finish), which is the same for both streams.
    pub fn begin(out: &mut BytesMut, version: Version) -> ListWriter {
        out.put_u64(version.0);
        ListWriter::begin32(out)
    }
}

/// The end of a backup: everything was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupEnd {
    /// The version that every row was read at.
    pub version: Version,
    /// How many rows this request told.
    pub rows: u64,
    /// How long their full keys and values are together, in bytes.
    pub bytes: u64,
    /// A reading of the cluster's clock no earlier than that version, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
}

impl BackupEnd {
    /// Decodes the payload of an END.
    pub fn decode(payload: &[u8]) -> Result<BackupEnd, DecodeError> {
        let mut reader = Reader::new(payload);
        let end = BackupEnd {
            version: Version(reader.u64()?),
            rows: reader.u64()?,
            bytes: reader.u64()?,
            clock_ms: reader.u64()?,
        };
        skip_tags(&mut reader)?;
        Ok(end)
    }

    /// Appends the payload of an END.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u64(self.rows);
        out.put_u64(self.bytes);
        out.put_u64(self.clock_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::Chunk;
    use super::*;
    use crate::types::limits::KEY_BYTES_MAX;
    use crate::wire::ErrorCode;

    #[test]
    fn a_chunk_written_in_place_is_the_chunk_that_is_read() {
        let row = BackupRow { key: b"\0\0\0\x01a", version: Version(3), value: b"one" };
        for token in [None, Some(&b"token"[..])] {
            let mut out = BytesMut::new();
            let mut rows = BackupChunk::begin(&mut out, Version(9));
            assert_eq!(out.len() - rows.encoded_bytes(&out), BackupChunk::HEAD_BYTES);
            rows.push(&mut out, &row);
            assert_eq!(rows.encoded_bytes(&out), 4 + row.encoded_bytes());
            Chunk::finish(rows, &mut out, token);
            let chunk = BackupChunk::decode(&out).expect("valid");
            assert_eq!((chunk.version, chunk.resume_token), (Version(9), token));
            assert_eq!(chunk.rows.iter().collect::<Vec<_>>(), [row]);
            let mut again = BytesMut::new();
            chunk.encode(&mut again);
            assert_eq!(again, out);
        }
    }

    #[test]
    fn a_row_whose_key_is_too_long_is_refused() {
        let long = [0; 4 + KEY_BYTES_MAX + 1];
        let mut out = BytesMut::new();
        let mut rows = BackupChunk::begin(&mut out, Version(9));
        rows.push(&mut out, &BackupRow { key: &long, version: Version(1), value: b"" });
        Chunk::finish(rows, &mut out, None);
        assert_eq!(BackupChunk::decode(&out).expect_err("too long").code, ErrorCode::KEY_TOO_LARGE);
    }

    #[test]
    fn an_end_comes_back_and_one_cut_short_is_refused() {
        let end = BackupEnd { version: Version(9), rows: 3, bytes: 40, clock_ms: 1_700_000_000_000 };
        let mut out = BytesMut::new();
        end.encode(&mut out);
        assert_eq!(BackupEnd::decode(&out), Ok(end));
        assert!(BackupEnd::decode(&out[..31]).is_err());
    }
}
