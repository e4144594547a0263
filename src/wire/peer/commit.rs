//! COMMIT_WHOLE: a transaction, whole, as the session of another node collected it.
//!
//! ```text
//! read version u64 · points bytes32 · ranges bytes32 · mutations u32 · body bytes32 · tags
//! points  full key bytes16 *
//! ranges  (start bytes16 · end bytes16) *      full keys; the end may be the upper bound of a keyspace
//! body    so many mutations, as in the log
//! ```

use crate::{
    encoding::{Reader, Writer},
    types::{
        KeyspaceId, Version,
        limits::{KEY_BYTES_MAX, RANGE_BOUND_BYTES_MAX, TRANSACTION_BYTES_MAX},
        split_full_key,
    },
    wire::{
        error::DecodeError,
        execute::Op,
        fields::{Field, check},
        registry::{ErrorCode, Tag, TagSet},
        tags::RequestTags,
    },
};
use bytes::{BufMut, BytesMut};

/// The tags of COMMIT_WHOLE besides DEADLINE and TRACE_PARENT: those of COMMIT, but that it names no transaction.
pub(super) const TAGS: &[Tag] = &[Tag::IDEMPOTENCY, Tag::RETRY_MARK];
const TAGS_ALLOWED: TagSet = TagSet::of(TAGS).with(Tag::DEADLINE).with(Tag::TRACE_PARENT);

/// COMMIT_WHOLE: a transaction that a session of another node holds. It is answered as COMMIT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitWhole<'a> {
    /// What it reads at.
    pub read_version: Version,
    /// The full keys that it read: `bytes16` each. At most [`TRANSACTION_BYTES_MAX`].
    pub points: &'a [u8],
    /// The ranges that it read: start and end `bytes16` each. With the body at most [`TRANSACTION_BYTES_MAX`].
    pub ranges: &'a [u8],
    /// How many mutations it has.
    pub mutations: u32,
    /// The mutations, encoded as in the log.
    pub body: &'a [u8],
}

impl<'a> CommitWhole<'a> {
    /// Decodes the payload. Everything in it is checked, mutations included. Allocates nothing.
    // spec: QP-PEER-031
    pub fn decode(payload: &'a [u8]) -> Result<(CommitWhole<'a>, RequestTags<'a>), DecodeError> {
        let mut reader = Reader::new(payload);
        let commit = CommitWhole::read(&mut reader)?;
        let tags = RequestTags::read_allowed(&mut reader, TAGS_ALLOWED)?;
        if tags.retry_mark && tags.idempotency.is_none() {
            return Err(DecodeError::tag(ErrorCode::MALFORMED, Tag::RETRY_MARK, "the retry has no pair"));
        }
        Ok((commit, tags))
    }

    /// Appends the payload. Of the tags it carries those of COMMIT, but for TRANSACTION.
    pub fn encode(&self, tags: &RequestTags<'_>, out: &mut BytesMut) {
        self.put(out);
        let RequestTags { deadline_ms, trace_parent, idempotency, retry_mark, .. } = *tags;
        RequestTags { deadline_ms, trace_parent, idempotency, retry_mark, ..RequestTags::default() }.write(out, None);
    }

    /// Decodes and checks the fields; what is left in the reader are the tags.
    pub fn read(reader: &mut Reader<'a>) -> Result<CommitWhole<'a>, DecodeError> {
        let commit = CommitWhole {
            read_version: Version(reader.u64()?),
            points: reader.bytes32()?,
            ranges: reader.bytes32()?,
            mutations: reader.u32()?,
            body: reader.bytes32()?,
        };
        commit.check()?;
        Ok(commit)
    }

    /// Appends the fields; tags may follow.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u64(self.read_version.0);
        out.put_bytes32(self.points);
        out.put_bytes32(self.ranges);
        out.put_u32(self.mutations);
        out.put_bytes32(self.body);
    }

    /// Appends a full key to what becomes `points`.
    pub fn put_point(points: &mut BytesMut, key: &[u8]) {
        points.put_bytes16(key);
    }

    /// Appends a range of full keys to what becomes `ranges`.
    pub fn put_range(ranges: &mut BytesMut, start: &[u8], end: &[u8]) {
        ranges.put_bytes16(start);
        ranges.put_bytes16(end);
    }

    /// The full keys that were read. None is an error once the message was decoded.
    pub fn points(&self) -> impl Iterator<Item = Result<&'a [u8], DecodeError>> + use<'a> {
        items(self.points, |reader| Ok(reader.bytes16()?))
    }

    /// The ranges that were read: start and end. None is an error once the message was decoded.
    pub fn ranges(&self) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), DecodeError>> + use<'a> {
        items(self.ranges, |reader| Ok((reader.bytes16()?, reader.bytes16()?)))
    }

    /// Reads and mutations together fit a transaction; but under snapshot isolation every key that is written is a point
    /// besides, which takes less than its mutation. So points have a limit of their own.
    fn check(&self) -> Result<(), DecodeError> {
        check(ErrorCode::TRANSACTION_TOO_LARGE, TRANSACTION_BYTES_MAX, self.points.len())?;
        check(ErrorCode::TRANSACTION_TOO_LARGE, TRANSACTION_BYTES_MAX, self.ranges.len() + self.body.len())?;
        self.points().try_for_each(|point| {
            let (keyspace, key) = split(point?)?;
            check(ErrorCode::KEY_TOO_LARGE, KEY_BYTES_MAX, key.len())?;
            exists(keyspace)
        })?;
        self.ranges().try_for_each(|range| {
            let (start, end) = range?;
            let ((keyspace, least), (_, bound)) = (split(start)?, split(end)?);
            check(ErrorCode::KEY_TOO_LARGE, RANGE_BOUND_BYTES_MAX, least.len().max(bound.len()))?;
            if start > end {
                return Err(DecodeError::new(ErrorCode::BAD_RANGE, "the range starts after its end"));
            }
            exists(keyspace)
        })?;
        let mut body = Reader::new(self.body);
        for _ in 0..self.mutations {
            if !matches!(Op::read(&mut body)?, Op::Put { .. } | Op::Delete { .. } | Op::Atomic { .. }) {
                return Err(DecodeError::malformed("an operation that is no mutation"));
            }
        }
        Ok(body.finish()?)
    }
}

/// Reads items until the bytes are used up, or one is an error.
fn items<'a, T>(
    bytes: &'a [u8],
    read: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> impl Iterator<Item = Result<T, DecodeError>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let item = read(&mut reader);
        if item.is_err() {
            reader = Reader::new(&[]);
        }
        Some(item)
    })
}

fn split(full: &[u8]) -> Result<(KeyspaceId, &[u8]), DecodeError> {
    split_full_key(full).ok_or(DecodeError::malformed("a full key is shorter than its keyspace"))
}

fn exists(keyspace: KeyspaceId) -> Result<(), DecodeError> {
    if keyspace > KeyspaceId::LAST {
        return Err(DecodeError::new(ErrorCode::UNKNOWN_KEYSPACE, "no keyspace has this id"));
    }
    Ok(())
}
