//! Frames for [`tokio_util::codec::Framed`], for whoever does not drive a read loop by hand.

use super::frame::{FrameError, Header, peek, put_frame};
use super::registry::Kind;
use crate::types::limits::{FRAME_PAYLOAD_BYTES_MAX, HANDSHAKE_PAYLOAD_BYTES_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use tokio_util::codec::{Decoder, Encoder};

/// A frame that owns its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is.
    pub kind: Kind,
    /// Its flags.
    pub flags: u8,
    /// Its opcode; zero on kinds that have none.
    pub opcode: u16,
    /// The request that it belongs to; zero if none.
    pub request_id: u64,
    /// Its payload.
    pub payload: Bytes,
}

/// Why a stream of frames ends.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not a frame, or a frame to be sent is too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket failed, or ended within a frame.
    #[error("reading or writing frames: {0}")]
    Io(#[from] io::Error),
}

/// Decodes and encodes frames. It begins with the limit that holds before the handshake.
///
/// Frames of a kind that must be ignored are skipped. The buffer grows with what arrives, never by what a header says.
#[derive(Clone, Debug)]
pub struct Codec {
    payload_max: usize,
}

impl Default for Codec {
    fn default() -> Codec {
        Codec::new(HANDSHAKE_PAYLOAD_BYTES_MAX)
    }
}

impl Codec {
    /// A codec that takes payloads of up to `payload_max` bytes, both ways.
    #[must_use]
    pub const fn new(payload_max: usize) -> Codec {
        Codec { payload_max }
    }

    /// From now on, take payloads as long as they may be once the handshake is done.
    // spec: QP-LIM-002
    pub fn handshake_done(&mut self) {
        self.payload_max = FRAME_PAYLOAD_BYTES_MAX;
    }

    /// The longest payload that is taken.
    #[must_use]
    pub const fn payload_max(&self) -> usize {
        self.payload_max
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        while let Some((header, total)) = peek(source, self.payload_max)? {
            if matches!(header.kind, Kind::Other(_)) {
                source.advance(total);
                continue;
            }
            let mut bytes = source.split_to(total);
            bytes.advance(Header::BYTES);
            let Header { kind, flags, opcode, request_id, .. } = header;
            return Ok(Some(Frame { kind, flags, opcode, request_id, payload: bytes.freeze() }));
        }
        Ok(None)
    }
}

impl Encoder<&Frame> for Codec {
    type Error = CodecError;

    fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), CodecError> {
        if frame.payload.len() > self.payload_max {
            let (limit, actual) = (self.payload_max as u64, frame.payload.len() as u64);
            return Err(FrameError::TooLarge { limit, actual }.into());
        }
        out.reserve(Header::BYTES + frame.payload.len());
        put_frame(out, frame.kind, frame.flags, frame.opcode, frame.request_id, |out| out.put_slice(&frame.payload));
        Ok(())
    }
}

impl Encoder<Frame> for Codec {
    type Error = CodecError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), CodecError> {
        Encoder::<&Frame>::encode(self, &frame, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(byte: u8) -> Frame {
        Frame { kind: Kind::Ping, flags: 0, opcode: 0, request_id: 0, payload: Bytes::copy_from_slice(&[byte; 8]) }
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_ignored_kinds_are_skipped() {
        let mut codec = Codec::default();
        let mut bytes = BytesMut::new();
        codec.encode(ping(1), &mut bytes).expect("fits");
        codec.encode(Frame { kind: Kind::Other(0x9a), ..ping(2) }, &mut bytes).expect("fits");
        codec.encode(&ping(3), &mut bytes).expect("fits");
        assert_eq!(codec.decode(&mut bytes).expect("valid"), Some(ping(1)));
        assert_eq!(codec.decode(&mut bytes).expect("valid"), Some(ping(3)));
        assert_eq!(codec.decode(&mut bytes).expect("valid"), None);
        assert!(codec.decode_eof(&mut bytes).expect("a clean end").is_none());
    }

    // spec: QP-LIM-002
    #[test]
    fn the_limit_before_the_handshake_is_the_smaller_one() {
        let mut codec = Codec::default();
        let long = Frame { payload: vec![0; HANDSHAKE_PAYLOAD_BYTES_MAX + 1].into(), ..ping(0) };
        let error = codec.encode(&long, &mut BytesMut::new()).expect_err("too long");
        assert!(matches!(error, CodecError::Frame(FrameError::TooLarge { .. })));
        let mut bytes = BytesMut::new();
        Codec::new(FRAME_PAYLOAD_BYTES_MAX).encode(&long, &mut bytes).expect("fits");
        assert!(codec.decode(&mut bytes.clone()).is_err());
        codec.handshake_done();
        assert_eq!(codec.payload_max(), FRAME_PAYLOAD_BYTES_MAX);
        assert_eq!(codec.decode(&mut bytes).expect("valid"), Some(long));
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_error() {
        let mut codec = Codec::default();
        let mut bytes = BytesMut::new();
        codec.encode(ping(1), &mut bytes).expect("fits");
        bytes.truncate(30);
        assert!(matches!(codec.decode_eof(&mut bytes), Err(CodecError::Io(_))));
    }

    #[test]
    fn a_header_that_tells_a_great_length_reserves_nothing() {
        let mut codec = Codec::new(FRAME_PAYLOAD_BYTES_MAX);
        let mut bytes = BytesMut::new();
        codec.encode(Frame { payload: vec![0; 1 << 20].into(), ..ping(0) }, &mut bytes).expect("fits");
        let mut arrived = BytesMut::from(&bytes[..100]);
        let capacity = arrived.capacity();
        assert_eq!(codec.decode(&mut arrived).expect("valid so far"), None);
        assert_eq!(arrived.capacity(), capacity);
    }
}
