//! The frames that keep a connection going and end it: CREDIT, CANCEL, PING, PONG, NOTICE, GOAWAY.

use super::error::{DecodeError, cut};
use super::fields::read_text;
use super::registry::{ErrorCode, Tag};
use super::tags::{put_tag, put_tag_u8, put_tag_u16, put_tag_u64, read_tags, skip_tags};
use super::tags::{text_of, u8_of, u16_of, u64_of};
use crate::encoding::{Reader, Writer};
use bytes::{BufMut, BytesMut};

/// Allows so many more bytes of CHUNK payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// How many.
    pub bytes: u32,
}

impl Credit {
    /// Decodes the payload of a CREDIT.
    pub fn decode(payload: &[u8]) -> Result<Credit, DecodeError> {
        let mut reader = Reader::new(payload);
        let bytes = reader.u32()?;
        skip_tags(&mut reader)?;
        Ok(Credit { bytes })
    }

    /// Appends the payload of a CREDIT.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.bytes);
    }
}

/// Says that a request's answer is not wanted any more; the header names the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel;

impl Cancel {
    /// Decodes the payload of a CANCEL.
    pub fn decode(payload: &[u8]) -> Result<Cancel, DecodeError> {
        skip_tags(&mut Reader::new(payload))?;
        Ok(Cancel)
    }

    /// Appends the payload of a CANCEL, which is empty.
    pub fn encode(&self, _: &mut BytesMut) {}
}

/// The payload of a PING, and of the PONG that echoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Whatever the sender chose.
    pub opaque: [u8; 8],
}

impl Ping {
    /// Decodes the payload of a PING or PONG.
    pub fn decode(payload: &[u8]) -> Result<Ping, DecodeError> {
        let mut reader = Reader::new(payload);
        let opaque = reader.u64()?.to_be_bytes();
        skip_tags(&mut reader)?;
        Ok(Ping { opaque })
    }

    /// Appends the payload of a PING or PONG.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.opaque);
    }
}

/// Something the client may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    /// What; an unknown code is ignored.
    pub code: u16,
    /// The address of the node that leads, if it is known.
    pub leader: Option<&'a str>,
}

impl<'a> Notice<'a> {
    /// The server will close this connection soon.
    pub const SHUTTING_DOWN: u16 = 1;
    /// Another node leads now.
    pub const LEADER_CHANGED: u16 = 2;

    /// Decodes the payload of a NOTICE.
    pub fn decode(payload: &'a [u8]) -> Result<Notice<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let mut notice = Notice { code: reader.u16()?, leader: None };
        read_tags(&mut reader, |tag, value| {
            if tag == Tag::LEADER {
                notice.leader = Some(text_of(tag, value)?);
            }
            Ok(tag == Tag::LEADER)
        })?;
        Ok(notice)
    }

    /// Appends the payload of a NOTICE.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.code);
        if let Some(leader) = self.leader {
            put_tag(out, Tag::LEADER, leader.as_bytes());
        }
    }
}

/// The connection ends, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goaway<'a> {
    /// Why.
    pub code: ErrorCode,
    /// The highest request id that was accepted: what is above it was not begun. 0 if none was.
    pub highest_request_id: u64,
    /// For people, never for parsing.
    pub message: &'a str,
    /// The limit that was met.
    pub limit: Option<u64>,
    /// The value that met it.
    pub actual: Option<u64>,
    /// The tag that was not understood.
    pub tag: Option<Tag>,
    /// The least version that the sender speaks.
    pub version_min: Option<u8>,
    /// The greatest version that the sender speaks.
    pub version_max: Option<u8>,
}

impl<'a> Goaway<'a> {
    /// A GOAWAY without numbers.
    #[must_use]
    pub const fn new(code: ErrorCode, highest_request_id: u64, message: &'a str) -> Goaway<'a> {
        Goaway {
            code,
            highest_request_id,
            message,
            limit: None,
            actual: None,
            tag: None,
            version_min: None,
            version_max: None,
        }
    }

    /// Decodes the payload of a GOAWAY.
    pub fn decode(payload: &'a [u8]) -> Result<Goaway<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let (code, id) = (ErrorCode(reader.u16()?), reader.u64()?);
        let mut goaway = Goaway::new(code, id, read_text(&mut reader, usize::from(u16::MAX))?);
        read_tags(&mut reader, |tag, value| {
            match tag {
                Tag::LIMIT => goaway.limit = Some(u64_of(tag, value)?),
                Tag::ACTUAL => goaway.actual = Some(u64_of(tag, value)?),
                Tag::TAG => goaway.tag = Some(Tag(u16_of(tag, value)?)),
                Tag::VERSION_MIN => goaway.version_min = Some(u8_of(tag, value)?),
                Tag::VERSION_MAX => goaway.version_max = Some(u8_of(tag, value)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(goaway)
    }

    /// Appends the payload of a GOAWAY. A message longer than 1 KiB is cut.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.code.0);
        out.put_u64(self.highest_request_id);
        out.put_bytes16(cut(self.message).as_bytes());
        put_tag_u64(out, Tag::LIMIT, self.limit);
        put_tag_u64(out, Tag::ACTUAL, self.actual);
        put_tag_u16(out, Tag::TAG, self.tag.map(|tag| tag.0));
        put_tag_u8(out, Tag::VERSION_MIN, self.version_min);
        put_tag_u8(out, Tag::VERSION_MAX, self.version_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        out
    }

    // spec: QP-HSK-015
    #[test]
    fn small_frames_come_back() {
        let credit = Credit { bytes: u32::MAX };
        assert_eq!(Credit::decode(&written(|out| credit.encode(out))), Ok(credit));
        let ping = Ping { opaque: *b"01234567" };
        assert_eq!(Ping::decode(&written(|out| ping.encode(out))), Ok(ping));
        assert_eq!(Cancel::decode(&written(|out| Cancel.encode(out))), Ok(Cancel));
        for leader in [None, Some("127.0.0.1:7420")] {
            // The last is a code that nobody knows.
            for code in [Notice::SHUTTING_DOWN, Notice::LEADER_CHANGED, 0x7777] {
                let notice = Notice { code, leader };
                assert_eq!(Notice::decode(&written(|out| notice.encode(out))), Ok(notice));
            }
        }
    }

    #[test]
    fn a_goaway_comes_back_with_its_numbers() {
        let plain = Goaway::new(ErrorCode::SHUTTING_DOWN, 9, "bye");
        assert_eq!(Goaway::decode(&written(|out| plain.encode(out))), Ok(plain));
        let full = Goaway {
            limit: Some(1),
            actual: Some(2),
            tag: Some(Tag(0x8777)),
            version_min: Some(1),
            version_max: Some(2),
            ..plain
        };
        assert_eq!(Goaway::decode(&written(|out| full.encode(out))), Ok(full));
    }

    #[test]
    fn small_frames_cut_short_or_with_a_critical_tag_are_refused() {
        assert!(Credit::decode(&[0; 3]).is_err());
        assert!(Ping::decode(&[0; 7]).is_err());
        assert!(Notice::decode(&[0]).is_err());
        assert!(Goaway::decode(&[0; 9]).is_err());
        let critical = [0x87, 0x77, 0, 0, 0, 0];
        assert_eq!(Cancel::decode(&critical).expect_err("critical").code, ErrorCode::UNKNOWN_CRITICAL_TAG);
        let ignored = [0x77, 0x77, 0, 0, 0, 0];
        assert_eq!(Cancel::decode(&ignored), Ok(Cancel));
    }
}
