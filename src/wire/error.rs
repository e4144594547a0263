//! Errors on the wire, and why bytes are not a message.

use super::fields::read_text;
use super::registry::{ErrorCode, Outcome, Retry, Tag};
use super::tags::{put_tag, put_tag_u16, put_tag_u64, read_tags, u16_of, u64_of};
use crate::encoding::{ReadError, Reader, Writer};
use crate::types::Version;
use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

/// Why a payload is not the message that it should be. On a REQUEST it becomes an ERROR on that request; elsewhere it
/// ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {what}")]
pub struct DecodeError {
    /// The code that answers it.
    pub code: ErrorCode,
    /// What is wrong, in words.
    pub what: &'static str,
    /// The limit that was met, and the value that met it.
    pub bound: Option<(u64, u64)>,
    /// The tag that is wrong or unknown.
    pub tag: Option<Tag>,
}

impl DecodeError {
    /// An error without numbers.
    #[must_use]
    pub const fn new(code: ErrorCode, what: &'static str) -> DecodeError {
        DecodeError { code, what, bound: None, tag: None }
    }

    /// A payload that does not follow its layout.
    #[must_use]
    pub const fn malformed(what: &'static str) -> DecodeError {
        DecodeError::new(ErrorCode::MALFORMED, what)
    }

    /// Something longer than its limit.
    #[must_use]
    pub const fn over(code: ErrorCode, limit: usize, actual: usize) -> DecodeError {
        DecodeError { code, what: "over the limit", bound: Some((limit as u64, actual as u64)), tag: None }
    }

    /// Something wrong with a tag.
    #[must_use]
    pub const fn tag(code: ErrorCode, tag: Tag, what: &'static str) -> DecodeError {
        DecodeError { code, what, bound: None, tag: Some(tag) }
    }
}

impl From<ReadError> for DecodeError {
    fn from(error: ReadError) -> DecodeError {
        match error {
            ReadError::Truncated { .. } => DecodeError::malformed("a field is cut short"),
            ReadError::Trailing { .. } => DecodeError::malformed("bytes are left over"),
        }
    }
}

/// The payload of an ERROR: why a request failed, whether to send it again, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// What went wrong.
    pub code: ErrorCode,
    /// Whether to send again.
    pub retry: Retry,
    /// What became of the request.
    pub outcome: Outcome,
    /// Wait at least this long before sending again; 0 when the server cannot say.
    pub retry_after_ms: u32,
    /// For people, never for parsing.
    pub message: Cow<'static, str>,
    /// The limit that was met.
    pub limit: Option<u64>,
    /// The value that met it.
    pub actual: Option<u64>,
    /// The oldest version that can be read.
    pub horizon: Option<Version>,
    /// A full key that conflicts.
    pub conflict_key: Option<Box<[u8]>>,
    /// The address of the node that leads.
    pub leader: Option<Box<str>>,
    /// The code of the transaction's first error.
    pub cause: Option<ErrorCode>,
    /// The tag that was not understood.
    pub tag: Option<Tag>,
}

impl WireError {
    /// The error with this code, with the registry's retry and outcome, and its meaning as the message.
    #[must_use]
    pub fn new(code: ErrorCode) -> WireError {
        let (retry, outcome, message) = match code.row() {
            Some(row) => (row.retry, row.outcome, row.doc.trim().trim_end_matches('.')),
            None => (Retry::Never, Outcome::Unknown, "an error without a name"),
        };
        WireError {
            code,
            retry,
            outcome,
            retry_after_ms: 0,
            message: Cow::Borrowed(message),
            limit: None,
            actual: None,
            horizon: None,
            conflict_key: None,
            leader: None,
            cause: None,
            tag: None,
        }
    }

    /// The same with another message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> WireError {
        self.message = message.into();
        self
    }

    /// The same with another retry.
    #[must_use]
    pub const fn with_retry(mut self, retry: Retry) -> WireError {
        self.retry = retry;
        self
    }

    /// The same with another outcome.
    #[must_use]
    pub const fn with_outcome(mut self, outcome: Outcome) -> WireError {
        self.outcome = outcome;
        self
    }

    /// The same with the limit that was met, and the value that met it.
    #[must_use]
    pub const fn with_bound(mut self, limit: u64, actual: u64) -> WireError {
        self.limit = Some(limit);
        self.actual = Some(actual);
        self
    }

    /// The same with the code of the transaction's first error.
    #[must_use]
    pub const fn with_cause(mut self, cause: ErrorCode) -> WireError {
        self.cause = Some(cause);
        self
    }

    /// The same with the oldest version that can be read.
    #[must_use]
    pub const fn with_horizon(mut self, horizon: Version) -> WireError {
        self.horizon = Some(horizon);
        self
    }

    /// The same with a full key that conflicts. Copies it.
    #[must_use]
    pub fn with_conflict_key(mut self, key: &[u8]) -> WireError {
        self.conflict_key = Some(key.into());
        self
    }

    /// Decodes the payload of an ERROR.
    pub fn decode(payload: &[u8]) -> Result<WireError, DecodeError> {
        let mut reader = Reader::new(payload);
        let code = ErrorCode(reader.u16()?);
        let retry = Retry::from_number(reader.u8()?).ok_or(DecodeError::malformed("no such retry"))?;
        let outcome = Outcome::from_number(reader.u8()?).ok_or(DecodeError::malformed("no such outcome"))?;
        let retry_after_ms = reader.u32()?;
        let message = read_text(&mut reader, usize::from(u16::MAX))?.to_owned();
        let mut error = WireError::new(code).with_message(message).with_retry(retry).with_outcome(outcome);
        error.retry_after_ms = retry_after_ms;
        read_tags(&mut reader, |tag, value| {
            match tag {
                Tag::LIMIT => error.limit = Some(u64_of(tag, value)?),
                Tag::ACTUAL => error.actual = Some(u64_of(tag, value)?),
                Tag::CONFLICT_KEY if value.len() < 4 => {
                    return Err(DecodeError::tag(ErrorCode::MALFORMED, tag, "a full key is cut short"));
                }
                Tag::CONFLICT_KEY => error.conflict_key = Some(value.into()),
                Tag::CAUSE => error.cause = Some(ErrorCode(u16_of(tag, value)?)),
                Tag::LEADER => error.leader = Some(super::tags::text_of(tag, value)?.into()),
                Tag::TAG => error.tag = Some(Tag(u16_of(tag, value)?)),
                Tag::HORIZON => error.horizon = Some(Version(u64_of(tag, value)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(error)
    }

    /// Appends the payload of an ERROR.
    // spec: QP-ERR-001
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.code.0);
        out.put_u8(self.retry as u8);
        out.put_u8(self.outcome as u8);
        out.put_u32(self.retry_after_ms);
        out.put_bytes16(cut(&self.message).as_bytes());
        put_tag_u64(out, Tag::LIMIT, self.limit);
        put_tag_u64(out, Tag::ACTUAL, self.actual);
        if let Some(key) = &self.conflict_key {
            put_tag(out, Tag::CONFLICT_KEY, key);
        }
        put_tag_u16(out, Tag::CAUSE, self.cause.map(|code| code.0));
        if let Some(leader) = &self.leader {
            put_tag(out, Tag::LEADER, leader.as_bytes());
        }
        put_tag_u16(out, Tag::TAG, self.tag.map(|tag| tag.0));
        put_tag_u64(out, Tag::HORIZON, self.horizon.map(|version| version.0));
    }
}

/// As much of a message as fits its field, cut between characters.
pub(super) fn cut(message: &str) -> &str {
    const MESSAGE_BYTES_MAX: usize = 1024;
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

impl From<DecodeError> for WireError {
    fn from(error: DecodeError) -> WireError {
        let mut wire = WireError::new(error.code).with_message(error.what);
        wire.limit = error.bound.map(|bound| bound.0);
        wire.actual = error.bound.map(|bound| bound.1);
        wire.tag = error.tag;
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::ERRORS;
    use super::*;

    fn round_trip(error: &WireError) {
        let mut out = BytesMut::new();
        error.encode(&mut out);
        assert_eq!(WireError::decode(&out).as_ref(), Ok(error));
    }

    // spec: QP-ERR-001
    // spec: QP-ERR-003
    #[test]
    fn every_error_carries_its_defaults_and_comes_back() {
        for row in ERRORS {
            let error = WireError::new(row.code);
            assert_eq!((error.retry, error.outcome), (row.retry, row.outcome));
            assert!(!error.message.is_empty() && !error.message.ends_with('.'), "{}", row.name);
            round_trip(&error);
        }
        round_trip(&WireError::new(ErrorCode(0x7777)));
    }

    #[test]
    fn an_error_carries_its_numbers() {
        let mut error = WireError::new(ErrorCode::CONFLICT)
            .with_bound(1, 2)
            .with_cause(ErrorCode::TOO_OLD)
            .with_horizon(Version(9))
            .with_conflict_key(b"\0\0\0\x01key");
        error.leader = Some("10.0.0.1:7420".into());
        error.tag = Some(Tag::DEADLINE);
        error.retry_after_ms = 50;
        round_trip(&error);
    }

    #[test]
    fn an_error_that_makes_no_sense_is_refused() {
        let mut out = BytesMut::new();
        WireError::new(ErrorCode::CONFLICT).encode(&mut out);
        for (at, byte) in [(2, 5), (3, 3)] {
            let mut bytes = out.clone();
            bytes[at] = byte;
            assert_eq!(WireError::decode(&bytes).expect_err("no sense").code, ErrorCode::MALFORMED);
        }
        put_tag(&mut out, Tag::CONFLICT_KEY, b"abc");
        assert_eq!(WireError::decode(&out).expect_err("no sense").tag, Some(Tag::CONFLICT_KEY));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = WireError::new(ErrorCode::INTERNAL).with_message("é".repeat(1000));
        let mut out = BytesMut::new();
        error.encode(&mut out);
        assert_eq!(WireError::decode(&out).expect("valid").message, "é".repeat(512));
    }

    #[test]
    fn a_decode_error_becomes_the_error_of_its_request() {
        let error = WireError::from(DecodeError::over(ErrorCode::KEY_TOO_LARGE, 8192, 9000));
        assert_eq!((error.code, error.limit, error.actual), (ErrorCode::KEY_TOO_LARGE, Some(8192), Some(9000)));
        let error = WireError::from(DecodeError::tag(ErrorCode::UNKNOWN_CRITICAL_TAG, Tag(0x8123), "unknown"));
        assert_eq!((error.tag, error.retry), (Some(Tag(0x8123)), Retry::Never));
        assert_eq!(DecodeError::malformed("cut").to_string(), "MALFORMED: cut");
        assert_eq!(DecodeError::from(ReadError::Trailing { at: 0, left: 1 }).code, ErrorCode::MALFORMED);
    }
}
