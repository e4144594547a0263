//! Records of keyed commits: what became of the attempt that a pair names.
//!
//! A record lives in the system keyspace, so it is part of the state that every replica agrees on:
//!
//! ```text
//! key     'i' · seen u64 · key 16 bytes          (ordered by what the client had seen, so expiry is one range)
//! value   state u8 · version u64 · form u8 · [count u16 · bytes32*]
//! ```
//!
//! A pair whose `seen` lies below the replicated floor has expired: its record is gone, and nothing may be concluded
//! from its absence.

use crate::{
    encoding::{ReadError, Reader, Writer},
    types::{FullKey, IdempotencyPair, KeyRange, KeyspaceId, Version, limits},
};
use bytes::{BufMut, Bytes, BytesMut};

/// The most that a record is longer than the results in it, when those are within their limit.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 64 + 4 * 65_535;

const TAG: u8 = b'i';

const STATE_COMMITTED: u8 = 1;
const STATE_NEVER: u8 = 2;
const STATE_ANSWERED: u8 = 4;

const FORM_NONE: u8 = 0;
const FORM_RESULTS: u8 = 1;
const FORM_REPLY: u8 = 2;

/// What a keyed commit answered beyond its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Too long to be kept.
    Dropped,
    /// The results of its atomic operations, in order.
    Results(Vec<Bytes>),
    /// The reply as its layer encoded it.
    Reply(Bytes),
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// It committed at this version.
    Committed(Version, Recorded),
    /// It never committed and never will.
    Never,
    /// A marked retry of it wrote nothing and was answered this, at this version.
    Answered(Version, Bytes),
}

/// The full key of a pair's record.
#[must_use]
pub fn record_key(pair: IdempotencyPair) -> FullKey {
    let mut key = prefix(pair.seen);
    key.put_slice(&pair.key);
    key.freeze()
}

/// Whether a full key is that of a record.
#[must_use]
pub fn is_record_key(key: &[u8]) -> bool {
    let system = KeyspaceId::SYSTEM.0.to_be_bytes();
    key.strip_prefix(&system).is_some_and(|key| key.first() == Some(&TAG))
}

/// The records of pairs with `from <= seen < to`.
#[must_use]
pub fn records_between(from: Version, to: Version) -> KeyRange {
    KeyRange { start: prefix(from).freeze(), end: prefix(to).freeze() }
}

fn prefix(seen: Version) -> BytesMut {
    let mut key = BytesMut::with_capacity(4 + 1 + 8 + 16);
    key.put_u32(KeyspaceId::SYSTEM.0);
    key.put_u8(TAG);
    key.put_u64(seen.0);
    key
}

impl Record {
    /// The record of a commit; results over their limit are dropped.
    #[must_use]
    pub fn committed(version: Version, recorded: Recorded) -> Record {
        let length = match &recorded {
            Recorded::Dropped => 0,
            Recorded::Results(results) => results.iter().map(Bytes::len).sum(),
            Recorded::Reply(reply) => reply.len(),
        };
        let kept = length <= limits::RECORDED_RESULT_BYTES_MAX;
        Record::Committed(version, if kept { recorded } else { Recorded::Dropped })
    }

    /// The value to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut value = BytesMut::new();
        match self {
            Record::Committed(version, recorded) => {
                value.put_u8(STATE_COMMITTED);
                value.put_u64(version.0);
                match recorded {
                    Recorded::Dropped => value.put_u8(FORM_NONE),
                    Recorded::Results(results) => {
                        value.put_u8(FORM_RESULTS);
                        value.put_u16(u16::try_from(results.len()).unwrap_or(u16::MAX));
                        results.iter().take(usize::from(u16::MAX)).for_each(|result| value.put_bytes32(result));
                    }
                    Recorded::Reply(reply) => {
                        value.put_u8(FORM_REPLY);
                        value.put_bytes32(reply);
                    }
                }
            }
            Record::Never => {
                value.put_u8(STATE_NEVER);
                value.put_u64(0);
                value.put_u8(FORM_NONE);
            }
            Record::Answered(version, answer) => {
                value.put_u8(STATE_ANSWERED);
                value.put_u64(version.0);
                value.put_u8(FORM_REPLY);
                value.put_bytes32(answer);
            }
        }
        value.freeze()
    }

    /// Reads a stored value.
    pub fn decode(value: &[u8]) -> Result<Record, ReadError> {
        let mut reader = Reader::new(value);
        let state = reader.u8()?;
        let version = Version(reader.u64()?);
        let recorded = match reader.u8()? {
            FORM_RESULTS => {
                let count = reader.u16()?;
                let results =
                    (0..count).map(|_| reader.bytes32().map(Bytes::copy_from_slice)).collect::<Result<_, _>>()?;
                Recorded::Results(results)
            }
            FORM_REPLY => Recorded::Reply(Bytes::copy_from_slice(reader.bytes32()?)),
            _ => Recorded::Dropped,
        };
        reader.finish()?;
        Ok(match (state, recorded) {
            (STATE_COMMITTED, recorded) => Record::Committed(version, recorded),
            (STATE_ANSWERED, Recorded::Reply(answer)) => Record::Answered(version, answer),
            _ => Record::Never,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        for record in [
            Record::Committed(Version(9), Recorded::Dropped),
            Record::Committed(Version(9), Recorded::Results(vec![Bytes::from_static(b"a"), Bytes::new()])),
            Record::Committed(Version(9), Recorded::Reply(Bytes::from_static(b"reply"))),
            Record::Never,
            Record::Answered(Version(4), Bytes::from_static(b"no")),
        ] {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        assert!(Record::decode(&[1]).is_err());
    }

    #[test]
    fn a_long_result_is_recorded_as_committed_alone() {
        let long = Bytes::from(vec![0; limits::RECORDED_RESULT_BYTES_MAX + 1]);
        let record = Record::committed(Version(2), Recorded::Reply(long.clone()));
        assert_eq!(record, Record::Committed(Version(2), Recorded::Dropped));
        let fits = long.slice(1..);
        assert_eq!(
            Record::committed(Version(2), Recorded::Results(vec![fits.clone()])),
            Record::Committed(Version(2), Recorded::Results(vec![fits]))
        );
    }

    #[test]
    fn expiry_takes_a_range_of_what_was_seen() {
        let pair = |seen| IdempotencyPair { key: [0xff; 16], seen: Version(seen) };
        let range = records_between(Version(5), Version(8));
        assert!(is_record_key(&record_key(pair(4))));
        for other in [&b"\0\0\0\0kname"[..], b"\0\0\0\x01i", b"\0\0\0\0", b"i"] {
            assert!(!is_record_key(other), "{other:?}");
        }
        assert!(!range.contains(&record_key(pair(4))));
        assert!(range.contains(&record_key(pair(5))));
        assert!(range.contains(&record_key(pair(7))));
        assert!(!range.contains(&record_key(pair(8))));
    }
}
