//! Any stream of frames, and any way to split it.

use super::{AnyReply, AnyRequest};
use crate::wire::registry::FLAG_AFTER;
use crate::wire::{Frame, Kind, put_frame};
use bytes::{BufMut, BytesMut};
use quickcheck::{Arbitrary, Gen};

/// Up to eight frames as they stand in a stream, and where its bytes are split on their way.
#[derive(Clone, Debug)]
pub struct AnyFrames {
    /// The frames.
    pub frames: Vec<Frame>,
    /// The lengths of the pieces; the last of them is used again and again.
    pub splits: Vec<usize>,
}

impl AnyFrames {
    /// The stream.
    #[must_use]
    pub fn bytes(&self) -> BytesMut {
        let mut out = BytesMut::new();
        for frame in &self.frames {
            let Frame { kind, flags, opcode, request_id, payload } = frame;
            put_frame(&mut out, *kind, *flags, *opcode, *request_id, |out| out.put_slice(payload));
        }
        out
    }

    /// The stream in pieces.
    #[must_use]
    pub fn pieces(&self) -> Vec<BytesMut> {
        let mut bytes = self.bytes();
        let mut pieces = Vec::new();
        let mut splits = self.splits.iter().chain(std::iter::repeat(self.splits.last().unwrap_or(&1)));
        while !bytes.is_empty() {
            let length = *splits.next().expect("it never ends");
            pieces.push(bytes.split_to(length.clamp(1, bytes.len())));
        }
        pieces
    }
}

fn frame(g: &mut Gen) -> Frame {
    let ignored = u8::arbitrary(g) & 0xf0;
    let request_id = 1 + u64::arbitrary(g) / 2;
    if bool::arbitrary(g) {
        let request = AnyRequest::arbitrary(g);
        let after = if bool::arbitrary(g) { FLAG_AFTER } else { 0 };
        let opcode = request.opcode().number();
        return Frame {
            kind: Kind::Request,
            flags: ignored | after,
            opcode,
            request_id,
            payload: request.payload().freeze(),
        };
    }
    let reply = AnyReply::arbitrary(g);
    let kind = reply.kind();
    let opcode = if kind.has_opcode() { reply.opcode().number() } else { 0 };
    let has_id = kind.has_opcode() || kind == Kind::Cancel || kind == Kind::Credit && bool::arbitrary(g);
    Frame {
        kind,
        flags: ignored,
        opcode,
        request_id: if has_id { request_id } else { 0 },
        payload: reply.payload().freeze(),
    }
}

impl Arbitrary for AnyFrames {
    fn arbitrary(g: &mut Gen) -> AnyFrames {
        let frames = (0..u8::arbitrary(g) % 9).map(|_| frame(g)).collect();
        let splits = (0..1 + u8::arbitrary(g) % 8).map(|_| usize::from(u8::arbitrary(g)) + 1).collect();
        AnyFrames { frames, splits }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = AnyFrames>> {
        let whole = self.clone();
        let shorter = (0..self.frames.len()).map(move |at| {
            let mut fewer = whole.clone();
            fewer.frames.remove(at);
            fewer
        });
        Box::new(shorter)
    }
}
