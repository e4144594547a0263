//! The tagged section: `{tag u16, length u32, bytes}` to the end of the payload, tags strictly ascending.

use super::error::DecodeError;
use super::registry::{ErrorCode, Opcode, Tag, TagSet, is_critical};
use crate::encoding::{Reader, Writer};
use crate::types::limits::TRACE_PARENT_BYTES_MAX;
use crate::types::{IdempotencyPair, Version};
use bytes::{BufMut, BytesMut};

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It shows everything that was acknowledged before the request was sent.
    #[default]
    Linearizable,
    /// It may miss what was acknowledged within so many milliseconds.
    BoundedStaleness {
        /// The greatest staleness, in milliseconds.
        staleness_ms_max: u32,
    },
    /// It shows what the node has.
    Local,
}

/// What a resumed scan does when its token's version cannot be read any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfGone {
    /// It fails with SNAPSHOT_GONE.
    #[default]
    Error,
    /// It goes on at a newer version.
    Newer,
}

/// The tags of a REQUEST. What its opcode does not take is not here: critical, it was refused; else ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTags<'a> {
    /// How long the client waits, in milliseconds from receipt.
    pub deadline_ms: Option<u32>,
    /// W3C traceparent.
    pub trace_parent: Option<&'a [u8]>,
    /// Answer at this version or a later one.
    pub min_version: Option<Version>,
    /// Where a scan goes on.
    pub resume_token: Option<&'a [u8]>,
    /// The transaction, by the id of its BEGIN request.
    pub transaction: Option<u64>,
    /// The pair that names the commit.
    pub idempotency: Option<IdempotencyPair>,
    /// Whether the pair may have been sent before.
    pub retry_mark: bool,
    /// How fresh the answer must be.
    pub consistency: Option<Consistency>,
    /// What to do when the token's version is gone.
    pub if_gone: Option<IfGone>,
}

/// A tag that means nothing, sent so that receivers stay used to tags that they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grease {
    tag: u16,
    bytes: [u8; 16],
    length: u8,
}

impl Grease {
    /// A grease tag from random bits: about one in sixteen values gives one, with up to 15 bytes.
    // spec: QP-EVO-004
    #[must_use]
    pub fn from_random(random: u64) -> Option<Grease> {
        let [chance, tag, length, rest @ ..] = random.to_be_bytes();
        if chance >= 16 {
            return None;
        }
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(rest.iter().cycle()).for_each(|(to, from)| *to = *from);
        Some(Grease { tag: 0x7a0a | u16::from(tag & 0x0f) << 4, bytes, length: length & 0x0f })
    }

    /// Appends the tag. It goes after the tags that may be ignored and before the critical ones.
    pub fn encode(&self, out: &mut BytesMut) {
        put_tag(out, Tag(self.tag), &self.bytes[..usize::from(self.length)]);
    }
}

/// Appends one tag.
pub(super) fn put_tag(out: &mut BytesMut, tag: Tag, value: &[u8]) {
    out.put_u16(tag.0);
    out.put_bytes32(value);
}

/// Appends a tag of one byte, if there is a value.
pub(super) fn put_tag_u8(out: &mut BytesMut, tag: Tag, value: Option<u8>) {
    if let Some(value) = value {
        put_tag(out, tag, &[value]);
    }
}

/// Appends a tag of two bytes, if there is a value.
pub(super) fn put_tag_u16(out: &mut BytesMut, tag: Tag, value: Option<u16>) {
    if let Some(value) = value {
        put_tag(out, tag, &value.to_be_bytes());
    }
}

/// Appends a tag of eight bytes, if there is a value.
pub(super) fn put_tag_u64(out: &mut BytesMut, tag: Tag, value: Option<u64>) {
    if let Some(value) = value {
        put_tag(out, tag, &value.to_be_bytes());
    }
}

fn array_of<const N: usize>(tag: Tag, value: &[u8]) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::tag(ErrorCode::MALFORMED, tag, "a tag's value has the wrong length"))
}

/// The value of a tag of one byte.
pub(super) fn u8_of(tag: Tag, value: &[u8]) -> Result<u8, DecodeError> {
    array_of(tag, value).map(u8::from_be_bytes)
}

/// The value of a tag of two bytes.
pub(super) fn u16_of(tag: Tag, value: &[u8]) -> Result<u16, DecodeError> {
    array_of(tag, value).map(u16::from_be_bytes)
}

/// The value of a tag of four bytes.
fn u32_of(tag: Tag, value: &[u8]) -> Result<u32, DecodeError> {
    array_of(tag, value).map(u32::from_be_bytes)
}

/// The value of a tag of eight bytes.
pub(super) fn u64_of(tag: Tag, value: &[u8]) -> Result<u64, DecodeError> {
    array_of(tag, value).map(u64::from_be_bytes)
}

/// The value of a tag that is UTF-8.
pub(super) fn text_of(tag: Tag, value: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(value).map_err(|_| DecodeError::tag(ErrorCode::MALFORMED, tag, "a tag's value is not UTF-8"))
}

/// Goes over the tagged section. `take` says whether it took the tag; of those that it did not, a critical one is an error.
// spec: QP-MSG-003
// spec: QP-MSG-004
// spec: QP-MSG-005
#[inline]
pub(super) fn read_tags<'a>(
    reader: &mut Reader<'a>,
    mut take: impl FnMut(Tag, &'a [u8]) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    let mut last = None;
    while !reader.is_empty() {
        let tag = reader.u16()?;
        let value = reader.bytes32()?;
        if last.is_some_and(|last| last >= tag) {
            return Err(DecodeError::tag(ErrorCode::MALFORMED, Tag(tag), "tags do not ascend"));
        }
        last = Some(tag);
        if !take(Tag(tag), value)? && is_critical(tag) {
            return Err(not_taken(Tag(tag)));
        }
    }
    Ok(())
}

/// Goes over a tagged section in which nothing is expected.
pub(super) fn skip_tags(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    read_tags(reader, |_, _| Ok(false))
}

/// Why a critical tag that was not taken is an error.
fn not_taken(tag: Tag) -> DecodeError {
    if tag.is_reserved() {
        DecodeError::tag(ErrorCode::UNSUPPORTED, tag, "the tag is reserved for what is not built yet")
    } else if tag.row().is_some() {
        DecodeError::tag(ErrorCode::MALFORMED, tag, "the tag makes no sense here")
    } else {
        DecodeError::tag(ErrorCode::UNKNOWN_CRITICAL_TAG, tag, "the tag is critical and not known")
    }
}

impl<'a> RequestTags<'a> {
    /// Reads the tagged section of a request with this opcode.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>, opcode: Opcode) -> Result<RequestTags<'a>, DecodeError> {
        RequestTags::read_allowed(reader, opcode.tags())
    }

    /// Reads the tagged section of a request that may carry these.
    #[inline]
    pub(super) fn read_allowed(reader: &mut Reader<'a>, allowed: TagSet) -> Result<RequestTags<'a>, DecodeError> {
        let mut tags = RequestTags::default();
        if reader.is_empty() {
            return Ok(tags);
        }
        read_tags(reader, |tag, value| tags.take(allowed, tag, value))?;
        Ok(tags)
    }

    fn take(&mut self, allowed: TagSet, tag: Tag, value: &'a [u8]) -> Result<bool, DecodeError> {
        if !allowed.has(tag) {
            return Ok(false);
        }
        match tag {
            Tag::DEADLINE => self.deadline_ms = Some(u32_of(tag, value)?),
            Tag::TRACE_PARENT if value.len() > TRACE_PARENT_BYTES_MAX => {
                return Err(DecodeError::tag(ErrorCode::MALFORMED, tag, "a tag's value is too long"));
            }
            Tag::TRACE_PARENT => self.trace_parent = Some(value),
            Tag::MIN_VERSION => self.min_version = Some(Version(u64_of(tag, value)?)),
            Tag::RESUME_TOKEN => self.resume_token = Some(value),
            Tag::TRANSACTION => self.transaction = Some(u64_of(tag, value)?),
            Tag::IDEMPOTENCY => self.idempotency = Some(pair_of(tag, value)?),
            Tag::RETRY_MARK => {
                array_of::<0>(tag, value)?;
                self.retry_mark = true;
            }
            Tag::CONSISTENCY => self.consistency = Some(consistency_of(tag, value)?),
            Tag::IF_GONE => self.if_gone = Some(if_gone_of(tag, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Appends the tagged section, with a grease tag where it belongs.
    pub(super) fn write(&self, out: &mut BytesMut, grease: Option<Grease>) {
        if let Some(ms) = self.deadline_ms {
            put_tag(out, Tag::DEADLINE, &ms.to_be_bytes());
        }
        if let Some(trace) = self.trace_parent {
            put_tag(out, Tag::TRACE_PARENT, trace);
        }
        put_tag_u64(out, Tag::MIN_VERSION, self.min_version.map(|version| version.0));
        if let Some(token) = self.resume_token {
            put_tag(out, Tag::RESUME_TOKEN, token);
        }
        if let Some(grease) = grease {
            grease.encode(out);
        }
        put_tag_u64(out, Tag::TRANSACTION, self.transaction);
        if let Some(pair) = self.idempotency {
            out.put_u16(Tag::IDEMPOTENCY.0);
            out.put_u32(24);
            out.put_slice(&pair.key);
            out.put_u64(pair.seen.0);
        }
        if self.retry_mark {
            put_tag(out, Tag::RETRY_MARK, &[]);
        }
        match self.consistency {
            None => {}
            Some(Consistency::Linearizable) => put_tag(out, Tag::CONSISTENCY, &[0]),
            Some(Consistency::BoundedStaleness { staleness_ms_max }) => {
                out.put_u16(Tag::CONSISTENCY.0);
                out.put_u32(5);
                out.put_u8(1);
                out.put_u32(staleness_ms_max);
            }
            Some(Consistency::Local) => put_tag(out, Tag::CONSISTENCY, &[2]),
        }
        put_tag_u8(out, Tag::IF_GONE, self.if_gone.map(|if_gone| if_gone as u8));
    }
}

fn pair_of(tag: Tag, value: &[u8]) -> Result<IdempotencyPair, DecodeError> {
    array_of::<24>(tag, value)?;
    let mut reader = Reader::new(value);
    Ok(IdempotencyPair { key: reader.array16()?, seen: Version(reader.u64()?) })
}

fn consistency_of(tag: Tag, value: &[u8]) -> Result<Consistency, DecodeError> {
    match value {
        [0] => Ok(Consistency::Linearizable),
        [1, staleness @ ..] => Ok(Consistency::BoundedStaleness { staleness_ms_max: u32_of(tag, staleness)? }),
        [2] => Ok(Consistency::Local),
        _ => Err(DecodeError::tag(ErrorCode::MALFORMED, tag, "no such consistency")),
    }
}

fn if_gone_of(tag: Tag, value: &[u8]) -> Result<IfGone, DecodeError> {
    match u8_of(tag, value)? {
        0 => Ok(IfGone::Error),
        1 => Ok(IfGone::Newer),
        _ => Err(DecodeError::tag(ErrorCode::MALFORMED, tag, "no such value")),
    }
}
