//! SCAN, its CHUNKs and its END.

use super::error::DecodeError;
use super::fields::{Field, List, ListWriter, RangeRef, Row};
use super::registry::Tag;
use super::tags::{put_tag, read_tags};
use crate::encoding::Reader;
use crate::types::Version;
use bytes::{BufMut, BytesMut};

const REVERSE: u8 = 1;
const KEYS_ONLY: u8 = 2;
const COUNT_ONLY: u8 = 4;

/// Asks for the rows of a range, as a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The range.
    pub range: RangeRef<'a>,
    /// From the end of the range to its start.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
    /// Without rows: END tells how many.
    pub count_only: bool,
    /// Most rows; 0: no limit.
    pub limit: u64,
    /// Bytes of CHUNK payload that the server may send on this stream.
    pub credit: u32,
}

impl<'a> Field<'a> for Scan<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Scan<'a>, DecodeError> {
        let range = RangeRef::read(reader)?;
        let flags = reader.u8()?;
        if flags & !(REVERSE | KEYS_ONLY | COUNT_ONLY) != 0 {
            return Err(DecodeError::malformed("a flag of the scan is not known"));
        }
        Ok(Scan {
            range,
            reverse: flags & REVERSE != 0,
            keys_only: flags & KEYS_ONLY != 0,
            count_only: flags & COUNT_ONLY != 0,
            limit: reader.u64()?,
            credit: reader.u32()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        self.range.write(out);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u8(flag(self.reverse, REVERSE) | flag(self.keys_only, KEYS_ONLY) | flag(self.count_only, COUNT_ONLY));
        out.put_u64(self.limit);
        out.put_u32(self.credit);
    }
}

/// A part of a scan's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The rows, in the order of the scan.
    pub rows: List<'a, Row<'a>>,
    /// Where the scan goes on after these rows.
    pub resume_token: Option<&'a [u8]>,
}

impl<'a> Chunk<'a> {
    /// Decodes the payload of a CHUNK.
    pub fn decode(payload: &'a [u8]) -> Result<Chunk<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let rows = List::read32(&mut reader)?;
        let resume_token = read_token(&mut reader)?;
        Ok(Chunk { rows, resume_token })
    }

    /// Appends the payload of a CHUNK.
    pub fn encode(&self, out: &mut BytesMut) {
        self.rows.write32(out);
        write_token(out, self.resume_token);
    }

    /// Begins a CHUNK's payload whose rows are written where they are sent from: push [`Row`]s, then [`Chunk::finish`].
    pub fn begin(out: &mut BytesMut) -> ListWriter {
        ListWriter::begin32(out)
    }

    /// Ends a payload that [`Chunk::begin`] began.
    pub fn finish(rows: ListWriter, out: &mut BytesMut, resume_token: Option<&[u8]>) {
        rows.finish(out);
        write_token(out, resume_token);
    }
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEndReason {
    /// Everything in the range was told.
    Exhausted = 0,
    /// The limit was reached.
    Limit = 1,
}

/// The end of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd<'a> {
    /// The last version that rows were read at.
    pub version: Version,
    /// How many rows were told, or counted.
    pub rows: u64,
    /// Why it ended.
    pub reason: ScanEndReason,
    /// The first version that rows were read at: another only if the token's version was gone and a newer one allowed.
    pub first_version: Version,
    /// Where it can go on, if the limit ended it.
    pub resume_token: Option<&'a [u8]>,
}

impl<'a> ScanEnd<'a> {
    /// Decodes the payload of an END.
    pub fn decode(payload: &'a [u8]) -> Result<ScanEnd<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let version = Version(reader.u64()?);
        let rows = reader.u64()?;
        let reason = match reader.u8()? {
            0 => ScanEndReason::Exhausted,
            1 => ScanEndReason::Limit,
            _ => return Err(DecodeError::malformed("no such end of a scan")),
        };
        let first_version = Version(reader.u64()?);
        let resume_token = read_token(&mut reader)?;
        Ok(ScanEnd { version, rows, reason, first_version, resume_token })
    }

    /// Appends the payload of an END.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u64(self.rows);
        out.put_u8(self.reason as u8);
        out.put_u64(self.first_version.0);
        write_token(out, self.resume_token);
    }
}

pub(super) fn read_token<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    let mut token = None;
    read_tags(reader, |tag, value| {
        if tag == Tag::RESUME_TOKEN {
            token = Some(value);
        }
        Ok(tag == Tag::RESUME_TOKEN)
    })?;
    Ok(token)
}

pub(super) fn write_token(out: &mut BytesMut, token: Option<&[u8]>) {
    if let Some(token) = token {
        put_tag(out, Tag::RESUME_TOKEN, token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyspaceId;

    #[test]
    fn a_scan_comes_back_whatever_its_flags() {
        for flags in 0..8 {
            let scan = Scan {
                range: RangeRef { keyspace: KeyspaceId(1), start: b"a", end: Some(b"b") },
                reverse: flags & 1 != 0,
                keys_only: flags & 2 != 0,
                count_only: flags & 4 != 0,
                limit: 10,
                credit: 65536,
            };
            let mut out = BytesMut::new();
            scan.write(&mut out);
            assert_eq!(Scan::read(&mut Reader::new(&out)), Ok(scan));
            out[11] |= 8;
            assert!(Scan::read(&mut Reader::new(&out)).is_err());
        }
    }

    #[test]
    fn a_chunk_written_in_place_is_the_chunk_that_is_read() {
        let row = Row { key: b"a", version: Version(3), value: b"one" };
        for token in [None, Some(&b"token"[..])] {
            let mut out = BytesMut::new();
            let mut rows = Chunk::begin(&mut out);
            rows.push(&mut out, &row);
            Chunk::finish(rows, &mut out, token);
            let chunk = Chunk::decode(&out).expect("valid");
            assert_eq!(chunk.resume_token, token);
            assert_eq!(chunk.rows.iter().collect::<Vec<_>>(), [row]);
            let mut again = BytesMut::new();
            chunk.encode(&mut again);
            assert_eq!(again, out);
        }
    }

    #[test]
    fn an_end_comes_back_and_a_strange_one_is_refused() {
        for (reason, resume_token) in [(ScanEndReason::Exhausted, None), (ScanEndReason::Limit, Some(&b"t"[..]))] {
            let end = ScanEnd { version: Version(9), rows: 3, reason, first_version: Version(8), resume_token };
            let mut out = BytesMut::new();
            end.encode(&mut out);
            assert_eq!(ScanEnd::decode(&out), Ok(end));
            out[16] = 2;
            assert!(ScanEnd::decode(&out).is_err());
        }
    }
}
