//! The header of 24 bytes, checked and written in place.
//!
//! ```text
//!  0       4     5      6        8            16             20            24
//!  | length | kind | flags | opcode | request id | payload CRC | header CRC | payload …
//! ```
//!
//! What reads a socket calls [`peek`] on what has arrived, again and again, until it answers `None`; what writes one calls
//! [`begin_frame`], appends the payload, and calls [`finish_frame`]. Neither allocates. The order of checks is header CRC,
//! kind, flags, id and opcode, length; then, when the payload is there, its CRC. A length is believed only after that.

use super::registry::{ErrorCode, FLAG_AFTER, FLAGS_CRITICAL, IdRule, Kind};
use bytes::{BufMut, BytesMut};

/// What stands before every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How long the payload is, in bytes.
    pub payload_bytes: u32,
    /// What the frame is.
    pub kind: Kind,
    /// The flags, those that are ignored included.
    pub flags: u8,
    /// The opcode, which may be one that we do not know; zero on kinds that have none.
    pub opcode: u16,
    /// The request that the frame belongs to; zero if none.
    pub request_id: u64,
    payload_crc: u32,
}

/// Why bytes are not a frame. All of them end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header's checksum does not match.
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    /// The payload's checksum does not match.
    #[error("the payload's checksum is wrong")]
    PayloadChecksum,
    /// A kind below 0x80 that is not assigned.
    #[error("kind {0:#04x} is not assigned")]
    UnknownKind(u8),
    /// A flag that must be understood, or AFTER where it makes no sense.
    #[error("flags {0:#04x} are not understood")]
    Flags(u8),
    /// A request id that must be zero and is not, or the reverse.
    #[error("the request id is zero and may not be, or the reverse")]
    RequestId,
    /// An opcode on a kind that has none.
    #[error("an opcode stands on a kind that has none")]
    Opcode,
    /// The payload is longer than the limit.
    #[error("a payload of {actual} bytes is over the limit of {limit}")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
        /// The length that the header tells.
        actual: u64,
    },
}

impl FrameError {
    /// The code of the GOAWAY that answers it.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            FrameError::HeaderChecksum | FrameError::PayloadChecksum => ErrorCode::BAD_CHECKSUM,
            FrameError::TooLarge { .. } => ErrorCode::FRAME_TOO_LARGE,
            FrameError::UnknownKind(_) | FrameError::Flags(_) | FrameError::RequestId | FrameError::Opcode => {
                ErrorCode::PROTOCOL_ERROR
            }
        }
    }
}

impl Header {
    /// How long a header is.
    pub const BYTES: usize = 24;

    /// Reads and checks a header; `payload_max` is the longest payload that is acceptable now.
    // spec: QP-FRM-010
    // spec: QP-FRM-011
    #[inline]
    pub fn decode(bytes: &[u8; Header::BYTES], payload_max: usize) -> Result<Header, FrameError> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if crc32fast::hash(&bytes[..20]) != word(20) {
            return Err(FrameError::HeaderChecksum);
        }
        let header = Header {
            payload_bytes: word(0),
            kind: Kind::from_number(bytes[4]),
            flags: bytes[5],
            opcode: u16::from_be_bytes([bytes[6], bytes[7]]),
            request_id: u64::from(word(8)) << 32 | u64::from(word(12)),
            payload_crc: word(16),
        };
        header.check()?;
        if header.payload_bytes as usize > payload_max {
            return Err(FrameError::TooLarge { limit: payload_max as u64, actual: u64::from(header.payload_bytes) });
        }
        Ok(header)
    }

    /// What must hold of kind, flags, id and opcode.
    // spec: QP-FRM-012
    // spec: QP-FRM-013
    // spec: QP-FRM-014
    #[inline]
    fn check(&self) -> Result<(), FrameError> {
        if let Kind::Invalid(number) = self.kind {
            return Err(FrameError::UnknownKind(number));
        }
        let known = !matches!(self.kind, Kind::Other(_));
        let misplaced = known && self.kind != Kind::Request && self.flags & FLAG_AFTER != 0;
        if self.flags & FLAGS_CRITICAL != 0 || misplaced {
            return Err(FrameError::Flags(self.flags));
        }
        let id_is_right = match self.kind.id_rule() {
            IdRule::Zero => self.request_id == 0,
            IdRule::Request => self.request_id != 0,
            IdRule::Either => true,
        };
        if !id_is_right {
            return Err(FrameError::RequestId);
        }
        if self.opcode != 0 && !self.kind.has_opcode() {
            return Err(FrameError::Opcode);
        }
        Ok(())
    }

    /// Whether the payload is the one that the header was made for.
    #[inline]
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        if crc32fast::hash(payload) == self.payload_crc { Ok(()) } else { Err(FrameError::PayloadChecksum) }
    }

    /// Whether the request waits for every earlier one of its connection.
    #[must_use]
    pub const fn is_after(&self) -> bool {
        self.flags & FLAG_AFTER != 0
    }

    /// How long header and payload are.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        Header::BYTES + self.payload_bytes as usize
    }
}

/// The frame at the front of `bytes`: its header, and how long header and payload are; `None` while more must arrive.
///
/// Errors as early as the bytes allow: a bad header is told before its payload has arrived. Frames of kind
/// [`Kind::Other`] are returned too: the caller skips them. Never allocates.
// spec: QP-FRM-011
#[inline]
pub fn peek(bytes: &[u8], payload_max: usize) -> Result<Option<(Header, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<{ Header::BYTES }>() else { return Ok(None) };
    let header = Header::decode(head, payload_max)?;
    let Some(payload) = rest.get(..header.payload_bytes as usize) else { return Ok(None) };
    header.check_payload(payload)?;
    Ok(Some((header, header.frame_bytes())))
}

/// Where a frame that is being written begins.
#[derive(Debug)]
#[must_use = "a frame that was begun must be finished"]
pub struct FrameMark(usize);

/// Writes the header of a frame whose payload the caller appends next; [`finish_frame`] fills in what is known then.
#[inline]
pub fn begin_frame(out: &mut BytesMut, kind: Kind, flags: u8, opcode: u16, request_id: u64) -> FrameMark {
    let mark = FrameMark(out.len());
    let mut header = [0; Header::BYTES];
    header[4] = kind.number();
    header[5] = flags;
    header[6..8].copy_from_slice(&opcode.to_be_bytes());
    header[8..16].copy_from_slice(&request_id.to_be_bytes());
    out.put_slice(&header);
    mark
}

/// Fills in length and checksums of the frame that was begun at `mark` and ends where `out` ends.
///
/// Panics if the payload is longer than 4 GiB: the limits keep every payload far below.
#[inline]
pub fn finish_frame(out: &mut BytesMut, mark: FrameMark) {
    let (header, payload) = out[mark.0..].split_at_mut(Header::BYTES);
    let length = u32::try_from(payload.len()).expect("limits keep a payload below 4 GiB");
    header[..4].copy_from_slice(&length.to_be_bytes());
    header[16..20].copy_from_slice(&crc32fast::hash(payload).to_be_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_be_bytes());
}

/// Writes a frame whose payload `write` appends.
#[inline]
pub fn put_frame(
    out: &mut BytesMut,
    kind: Kind,
    flags: u8,
    opcode: u16,
    request_id: u64,
    write: impl FnOnce(&mut BytesMut),
) {
    let mark = begin_frame(out, kind, flags, opcode, request_id);
    write(out);
    finish_frame(out, mark);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1024;

    fn frame(kind: Kind, flags: u8, opcode: u16, request_id: u64, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, flags, opcode, request_id, |out| out.put_slice(payload));
        out
    }

    fn error_of(bytes: &[u8]) -> FrameError {
        peek(bytes, MAX).expect_err("not a frame")
    }

    // spec: QP-FRM-010
    #[test]
    fn a_frame_is_laid_out_as_the_document_says() {
        let bytes = frame(Kind::Request, FLAG_AFTER, 0x0010, 7, b"abc");
        assert_eq!(&bytes[..16], &[0, 0, 0, 3, 4, 1, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(&bytes[16..20], &0x352441c2_u32.to_be_bytes(), "CRC-32 of \"abc\", as zlib has it");
        let (header, total) = peek(&bytes, MAX).expect("valid").expect("whole");
        assert_eq!(total, 27);
        assert_eq!((header.kind, header.opcode, header.request_id), (Kind::Request, 0x0010, 7));
        assert!(header.is_after());
        assert_eq!(header.frame_bytes(), 27);
    }

    #[test]
    fn a_frame_cut_short_wants_more() {
        let bytes = frame(Kind::Response, 0, 0x0010, 7, b"abc");
        for length in 0..bytes.len() {
            assert_eq!(peek(&bytes[..length], MAX), Ok(None));
        }
    }

    // spec: QP-FRM-011
    #[test]
    fn any_flipped_bit_is_found() {
        let bytes = frame(Kind::Request, 0, 0x0010, 7, b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = error_of(&flipped);
            assert_eq!(error.code(), ErrorCode::BAD_CHECKSUM, "bit {bit}");
            let expected =
                if bit / 8 < Header::BYTES { FrameError::HeaderChecksum } else { FrameError::PayloadChecksum };
            assert_eq!(error, expected, "bit {bit}");
        }
    }

    // spec: QP-FRM-011
    #[test]
    fn a_length_over_the_limit_is_told_from_the_header_alone() {
        let bytes = frame(Kind::Request, 0, 0x0010, 7, &[0; MAX + 1]);
        let error = error_of(&bytes[..Header::BYTES]);
        assert_eq!(error, FrameError::TooLarge { limit: 1024, actual: 1025 });
        assert_eq!(error.code(), ErrorCode::FRAME_TOO_LARGE);
        assert!(peek(&frame(Kind::Request, 0, 0x0010, 7, &[0; MAX]), MAX).is_ok());
    }

    // spec: QP-FRM-012
    #[test]
    fn an_unknown_kind_is_an_error_below_0x80_and_skipped_above() {
        assert_eq!(error_of(&frame(Kind::Invalid(0x7f), 0, 0, 0, b"")), FrameError::UnknownKind(0x7f));
        assert_eq!(error_of(&frame(Kind::Invalid(0), 0, 0, 0, b"")), FrameError::UnknownKind(0));
        let (header, total) = peek(&frame(Kind::Other(0x8a), 0, 9, 9, b"x"), MAX).expect("valid").expect("whole");
        assert_eq!((header.kind, total), (Kind::Other(0x8a), 25));
    }

    // spec: QP-FRM-013
    #[test]
    fn flags_that_are_not_understood_are_an_error_unless_they_may_be_ignored() {
        for flags in [0x02, 0x04, 0x08] {
            assert_eq!(error_of(&frame(Kind::Request, flags, 1, 1, b"")), FrameError::Flags(flags));
            assert_eq!(error_of(&frame(Kind::Other(0x8a), flags, 1, 1, b"")), FrameError::Flags(flags));
        }
        assert_eq!(error_of(&frame(Kind::Response, FLAG_AFTER, 1, 1, b"")), FrameError::Flags(FLAG_AFTER));
        assert!(peek(&frame(Kind::Request, 0xf1, 1, 1, b""), MAX).is_ok());
    }

    // spec: QP-FRM-014
    #[test]
    fn ids_and_opcodes_stand_where_they_belong() {
        assert_eq!(error_of(&frame(Kind::Request, 0, 1, 0, b"")), FrameError::RequestId);
        assert_eq!(error_of(&frame(Kind::Hello, 0, 0, 1, b"")), FrameError::RequestId);
        assert_eq!(error_of(&frame(Kind::Cancel, 0, 1, 1, b"")), FrameError::Opcode);
        assert_eq!(error_of(&frame(Kind::Cancel, 0, 1, 1, b"")).code(), ErrorCode::PROTOCOL_ERROR);
        assert!(peek(&frame(Kind::Credit, 0, 0, 0, b""), MAX).is_ok());
        assert!(peek(&frame(Kind::Credit, 0, 0, 9, b""), MAX).is_ok());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let texts = [
            FrameError::HeaderChecksum.to_string(),
            FrameError::PayloadChecksum.to_string(),
            FrameError::UnknownKind(0x7f).to_string(),
            FrameError::Flags(2).to_string(),
            FrameError::RequestId.to_string(),
            FrameError::Opcode.to_string(),
            FrameError::TooLarge { limit: 1, actual: 2 }.to_string(),
        ];
        assert!(texts.iter().all(|text| text.starts_with(char::is_lowercase) && !text.ends_with('.')));
    }
}
