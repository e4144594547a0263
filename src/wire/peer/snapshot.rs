//! A snapshot on its way: begun, sent in parts that each say where they stand, and ended with a hash of all of it.
//!
//! Whoever receives it says how many parts it has of this very snapshot, so that an interrupted one goes on there.

use super::consensus::{PeerVote, put_optional, read_optional};
use crate::{
    encoding::{Reader, Writer},
    types::{LogId, Version},
    wire::{
        error::DecodeError,
        fields::{Field, check, read_key, read_value},
        registry::ErrorCode,
        response::reply,
        tags::skip_tags,
    },
};
use bytes::{BufMut, Bytes, BytesMut};

/// Longest membership, in bytes: a thousand members with the longest addresses take half of it.
pub const MEMBERSHIP_BYTES_MAX: usize = 1 << 20;
/// What a row takes besides its key and its value: keyspace, two lengths, the version.
const ROW_BYTES_MIN: usize = 2 + 4 + 8 + 4;

/// SNAPSHOT_BEGIN: what the snapshot is of. Everything here is of one moment, that of the pin it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBegin {
    /// The leader's vote.
    pub vote: PeerVote,
    /// Names this snapshot of this sender, at random: parts of another one do not go with it.
    pub snapshot: [u8; 16],
    /// The last entry that it holds.
    pub log_id: Option<LogId>,
    /// The version after it.
    pub version: Version,
    /// The chain hash after it.
    pub chain: u64,
    /// The replicated clock after it, in milliseconds.
    pub clock_ms: u64,
    /// Idempotency records below this version have expired.
    pub idempotency_floor: Version,
    /// The membership as of it, in the encoding of the marker: at most [`MEMBERSHIP_BYTES_MAX`].
    pub membership: Bytes,
}

/// The answer to [`SnapshotBegin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotBegun {
    /// So many parts of it are here.
    GoOn {
        /// The number of the next part.
        part: u64,
    },
    /// This vote is higher: who sends it leads no more.
    HigherVote(PeerVote),
}

/// SNAPSHOT_PART: rows in key order, after those of the part before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Its number, from 0 on.
    pub part: u64,
    /// Its rows.
    pub rows: Vec<SnapshotRow>,
}

/// The answer to [`SnapshotPart`]: it is held, and need not be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotTaken;

/// A row of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The full key.
    pub key: Bytes,
    /// The version that wrote it.
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// SNAPSHOT_END.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// How many parts there were.
    pub parts: u64,
    /// How many rows were in them.
    pub rows: u64,
    /// XXH3-64 of every part's payload, each seeded with the hash before it, 0 before the first.
    pub hash: u64,
}

/// The answer to [`SnapshotEnd`]: the vote of whoever has installed it, which is higher if it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnded {
    /// Its vote.
    pub vote: PeerVote,
}

impl SnapshotBegin {
    /// Decodes the payload; the membership shares its bytes.
    pub fn decode(payload: &Bytes) -> Result<SnapshotBegin, DecodeError> {
        let mut reader = Reader::new(payload);
        let begin = SnapshotBegin {
            vote: Field::read(&mut reader)?,
            snapshot: reader.array16()?,
            log_id: read_optional(&mut reader)?,
            version: Version(reader.u64()?),
            chain: reader.u64()?,
            clock_ms: reader.u64()?,
            idempotency_floor: Version(reader.u64()?),
            membership: payload.slice_ref(reader.bytes32()?),
        };
        check(ErrorCode::MALFORMED, MEMBERSHIP_BYTES_MAX, begin.membership.len())?;
        skip_tags(&mut reader)?;
        Ok(begin)
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.write(out);
        out.put_slice(&self.snapshot);
        put_optional(out, self.log_id.as_ref());
        out.put_u64(self.version.0);
        out.put_u64(self.chain);
        out.put_u64(self.clock_ms);
        out.put_u64(self.idempotency_floor.0);
        out.put_bytes32(&self.membership);
    }
}

reply!(SnapshotBegun);

impl<'a> Field<'a> for SnapshotBegun {
    fn read(reader: &mut Reader<'a>) -> Result<SnapshotBegun, DecodeError> {
        match reader.u8()? {
            0 => Ok(SnapshotBegun::GoOn { part: reader.u64()? }),
            1 => Field::read(reader).map(SnapshotBegun::HigherVote),
            _ => Err(DecodeError::malformed("no such answer to a snapshot")),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            SnapshotBegun::GoOn { part } => {
                out.put_u8(0);
                out.put_u64(*part);
            }
            SnapshotBegun::HigherVote(vote) => {
                out.put_u8(1);
                vote.write(out);
            }
        }
    }
}

impl SnapshotPart {
    /// Decodes the payload; the rows share its bytes.
    // spec: QP-PEER-022
    pub fn decode(payload: &Bytes) -> Result<SnapshotPart, DecodeError> {
        let mut reader = Reader::new(payload);
        let (part, count) = (reader.u64()?, reader.u32()? as usize);
        // Room for what has arrived, whatever the count promises.
        let mut rows: Vec<SnapshotRow> = Vec::with_capacity(count.min(reader.rest().len() / ROW_BYTES_MIN));
        for _ in 0..count {
            let key = payload.slice_ref(read_key(&mut reader)?);
            if rows.last().is_some_and(|before| before.key >= key) {
                return Err(DecodeError::malformed("the rows of a part do not ascend"));
            }
            let version = Version(reader.u64()?);
            rows.push(SnapshotRow { key, version, value: payload.slice_ref(read_value(&mut reader)?) });
        }
        skip_tags(&mut reader)?;
        Ok(SnapshotPart { part, rows })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.part);
        out.put_u32(u32::try_from(self.rows.len()).expect("a part has few rows"));
        for row in &self.rows {
            out.put_full_key(&row.key);
            out.put_u64(row.version.0);
            out.put_bytes32(&row.value);
        }
    }
}

reply!(SnapshotTaken);

impl<'a> Field<'a> for SnapshotTaken {
    fn read(_: &mut Reader<'a>) -> Result<SnapshotTaken, DecodeError> {
        Ok(SnapshotTaken)
    }

    fn write(&self, _: &mut BytesMut) {}
}

reply!(SnapshotEnd);

impl<'a> Field<'a> for SnapshotEnd {
    fn read(reader: &mut Reader<'a>) -> Result<SnapshotEnd, DecodeError> {
        Ok(SnapshotEnd { parts: reader.u64()?, rows: reader.u64()?, hash: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.parts);
        out.put_u64(self.rows);
        out.put_u64(self.hash);
    }
}

reply!(SnapshotEnded);

impl<'a> Field<'a> for SnapshotEnded {
    fn read(reader: &mut Reader<'a>) -> Result<SnapshotEnded, DecodeError> {
        Ok(SnapshotEnded { vote: Field::read(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
    }
}
