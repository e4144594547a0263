//! A stream of frames: any split gives the same, and every frame encodes to its bytes.

#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use quantadb::{
    types::limits::FRAME_PAYLOAD_BYTES_MAX,
    wire::{Codec, Frame, FrameError, Header, Kind, peek, put_frame},
};
use quantadb_fuzz::{Counting, bounded, input::Input};
use tokio_util::codec::Decoder;

#[global_allocator]
static COUNTING: Counting = Counting;

/// The frames of a stream, those to be ignored left out, and why it ended.
type Decoded = (Vec<Frame>, Option<String>);

/// All at once, by what a read loop uses.
fn at_once(stream: &[u8]) -> Decoded {
    let (mut frames, mut rest) = (Vec::new(), stream);
    loop {
        match peek(rest, FRAME_PAYLOAD_BYTES_MAX) {
            Ok(Some((header, total))) => {
                let (frame, after) = rest.split_at(total);
                check_bytes(&header, frame);
                if !matches!(header.kind, Kind::Other(_)) {
                    let Header { kind, flags, opcode, request_id, .. } = header;
                    let payload = frame[Header::BYTES..].to_vec().into();
                    frames.push(Frame { kind, flags, opcode, request_id, payload });
                }
                rest = after;
            }
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

/// A frame that was decoded, encoded again.
fn check_bytes(header: &Header, frame: &[u8]) {
    let mut out = BytesMut::with_capacity(frame.len());
    let payload = &frame[Header::BYTES..];
    put_frame(&mut out, header.kind, header.flags, header.opcode, header.request_id, |out| out.put_slice(payload));
    assert_eq!(&out[..], frame, "a frame has one encoding");
}

/// Piece by piece, by the codec.
fn in_pieces(pieces: &[&[u8]]) -> Decoded {
    let mut codec = Codec::new(FRAME_PAYLOAD_BYTES_MAX);
    let (mut frames, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buffer.put_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data, 0) else { return };
    let pieces = input.pieces();
    let whole = at_once(&input.stream);
    let split = in_pieces(&pieces);
    assert_eq!(whole, split);
    // Decoding alone: the buffer and the frames that are handed out, dropped at once.
    bounded(input.stream.len(), || {
        let mut codec = Codec::new(FRAME_PAYLOAD_BYTES_MAX);
        let mut buffer = BytesMut::from(&input.stream[..]);
        while let Ok(Some(frame)) = codec.decode(&mut buffer) {
            drop(frame);
        }
    });
    let _: Result<Option<(Header, usize)>, FrameError> = bounded(0, || peek(&input.stream, FRAME_PAYLOAD_BYTES_MAX));
});
