//! The marker: how far a base goes.
//!
//! ```text
//! format 2 · sequence 8 · flags 1 · term 8 · leader 8 · index 8 · version 8 · chain 8 · clock 8 · idempotency floor 8
//! · length 4 · membership · CRC-32 of all before 4
//! ```
//!
//! Flags: 1, there is a log id; 2, the marker is of an installed snapshot. The first format does not know the second flag,
//! and is still written where it does not stand, so that an older build opens what it can.
//!
//! It has a checksum of its own, although the base has them too: everything else is judged by it.

use crate::{
    encoding::{ReadError, Reader, Writer},
    storage::Applied,
    types::{LogId, NodeId, Term, Version},
};
use bytes::{BufMut, Bytes};

/// The latest format that this program writes and reads.
pub(super) const FORMAT: u16 = 2;
const HAS_LOG_ID: u8 = 1;
const INSTALLED: u8 = 2;
/// Longest membership that a marker carries.
pub(in crate::storage) const MEMBERSHIP_BYTES_MAX: usize = 1024 * 1024;

/// How far a base goes, and who took part then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    /// Counts the runs, so that of two markers at one version the later is told.
    pub sequence: u64,
    /// How far the store had come.
    pub applied: Applied,
    /// The membership applied last, in the encoding of whoever orders entries.
    pub membership: Bytes,
    /// Whether this is what another replica sent, and nothing was stored since. Then this node's own log may lie below, or
    /// hold other entries there, if a crash came before it was purged up to the snapshot: it is superseded.
    pub installed: bool,
}

/// Why bytes are no marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// They are cut short, or too long.
    #[error("the marker is {0}")]
    Shape(#[from] ReadError),
    /// Their checksum is another.
    #[error("the marker's checksum is {found:#010x}, not {expected:#010x}")]
    Checksum {
        /// As computed.
        found: u32,
        /// As stored.
        expected: u32,
    },
    /// A later program wrote them.
    #[error("the marker has format {0}")]
    Format(u16),
    /// A field holds what it cannot.
    #[error("the marker's {0} is out of range")]
    Field(&'static str),
}

impl Marker {
    /// The encoded form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.membership.len());
        out.put_u16(if self.installed { FORMAT } else { 1 });
        out.put_u64(self.sequence);
        let log_id_flag = if self.applied.log_id.is_some() { HAS_LOG_ID } else { 0 };
        out.put_u8(log_id_flag | if self.installed { INSTALLED } else { 0 });
        let log_id = self.applied.log_id.unwrap_or(LogId { term: Term(0), leader: NodeId(0), index: 0 });
        out.put_u64(log_id.term.0);
        out.put_u64(log_id.leader.0);
        out.put_u64(log_id.index);
        out.put_u64(self.applied.version.0);
        out.put_u64(self.applied.chain);
        out.put_u64(self.applied.clock_ms);
        out.put_u64(self.applied.idempotency_floor.0);
        out.put_bytes32(&self.membership);
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// The marker in `bytes`, which are nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Marker, MarkerError> {
        let body_len = bytes.len().saturating_sub(4);
        let expected = Reader::new(&bytes[body_len..]).u32()?;
        let found = crc32fast::hash(&bytes[..body_len]);
        if found != expected {
            return Err(MarkerError::Checksum { found, expected });
        }
        let mut reader = Reader::new(&bytes[..body_len]);
        let format = reader.u16()?;
        if format == 0 || format > FORMAT {
            return Err(MarkerError::Format(format));
        }
        let sequence = reader.u64()?;
        let flags = reader.u8()?;
        if flags & !(HAS_LOG_ID | INSTALLED) != 0 || (format == 1 && flags & INSTALLED != 0) {
            return Err(MarkerError::Field("flags"));
        }
        let log_id = LogId { term: Term(reader.u64()?), leader: NodeId(reader.u64()?), index: reader.u64()? };
        let log_id = (flags & HAS_LOG_ID != 0).then_some(log_id);
        let applied = Applied {
            log_id,
            version: Version(reader.u64()?),
            chain: reader.u64()?,
            clock_ms: reader.u64()?,
            idempotency_floor: Version(reader.u64()?),
        };
        let membership = reader.bytes32()?;
        if membership.len() > MEMBERSHIP_BYTES_MAX {
            return Err(MarkerError::Field("membership"));
        }
        let membership = Bytes::copy_from_slice(membership);
        reader.finish()?;
        Ok(Marker { sequence, applied, membership, installed: flags & INSTALLED != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            sequence: 3,
            applied: Applied {
                log_id: Some(LogId { term: Term(4), leader: NodeId(5), index: 6 }),
                version: Version(7),
                chain: 8,
                clock_ms: 9,
                idempotency_floor: Version(2),
            },
            membership: Bytes::from_static(b"1,2,3"),
            installed: false,
        }
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        for marker in [marker(), Marker { installed: true, ..marker() }, Marker::default()] {
            assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
        }
    }

    #[test]
    fn the_first_format_stays_as_it_is() {
        let golden = "00010000000000000003010000000000000004000000000000000500000000000000060000000000000007\
                      0000000000000008000000000000000900000000000000020000000531\
                      2c322c33";
        let golden = golden.replace(' ', "");
        let bytes = marker().encode();
        let hex: String = bytes[..bytes.len() - 4].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
    }

    #[test]
    fn the_second_format_is_written_for_what_the_first_cannot_say() {
        let first = marker().encode();
        let second = Marker { installed: true, ..marker() }.encode();
        assert_eq!((&first[..2], first[10]), (&[0, 1][..], 1));
        assert_eq!((&second[..2], second[10]), (&[0, 2][..], 3));
        assert_eq!(first[11..first.len() - 4], second[11..second.len() - 4]);
        for (format, flags) in [(1, 2), (1, 3), (2, 4), (2, 0xff)] {
            let mut bytes = first[..first.len() - 4].to_vec();
            (bytes[1], bytes[10]) = (format, flags);
            bytes.put_u32(crc32fast::hash(&bytes));
            assert_eq!(Marker::decode(&bytes), Err(MarkerError::Field("flags")), "format {format}, flags {flags}");
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let bytes = marker().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Marker::decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Marker::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut bytes = marker().encode();
        bytes.truncate(bytes.len() - 4);
        bytes[1] = 3;
        bytes.put_u32(crc32fast::hash(&bytes));
        assert_eq!(Marker::decode(&bytes), Err(MarkerError::Format(3)));
    }
}
