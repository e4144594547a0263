//! What decoding allocates: a request nothing, a stream of frames no more than what has arrived.
//!
//! The allocator counts for the whole program, so this file holds one test.

use bytes::{BufMut, Bytes, BytesMut};
use quantadb::testing::wire::{AnyFrames, AnyPeerMessage, AnyReply, AnyRequest, Message, PeerMessage};
use quantadb::types::limits::FRAME_PAYLOAD_BYTES_MAX;
use quantadb::wire::peer::{Append, SnapshotPart};
use quantadb::wire::{Codec, Kind, Request, peek};
use quickcheck::{Arbitrary, Gen};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::codec::Decoder;

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many bytes `work` allocates.
fn allocated<T>(work: impl FnOnce() -> T) -> usize {
    let before = ALLOCATED.load(Ordering::Relaxed);
    black_box(work());
    ALLOCATED.load(Ordering::Relaxed) - before
}

// spec: QP-LIM-003
#[test]
fn decoding_allocates_no_more_than_has_arrived() {
    let mut g = Gen::new(20);
    assert!(allocated(|| vec![0_u8; 4096]) >= 4096, "the counter counts");
    for _ in 0..3_000 {
        let any = AnyRequest::arbitrary(&mut g);
        let (opcode, payload) = (any.opcode().number(), any.payload());
        assert_eq!(allocated(|| Request::decode(opcode, &payload).is_ok()), 0, "{any:?}");
        let any = AnyReply::arbitrary(&mut g);
        let (kind, opcode, payload) = (any.kind(), any.opcode(), any.payload());
        let taken = allocated(|| Message::decode(kind, opcode, &payload).is_some());
        if kind == Kind::Error {
            assert!(taken <= payload.len(), "an error owns its texts");
        } else {
            assert_eq!(taken, 0, "{any:?}");
        }
    }
    for _ in 0..3_000 {
        let any = AnyPeerMessage::arbitrary(&mut g);
        let (kind, opcode, payload) = (any.kind(), any.opcode(), any.payload().freeze());
        let taken = allocated(|| PeerMessage::decode(kind, opcode, &payload).is_some());
        // A list of entries or rows that share the payload's bytes, and texts.
        assert!(taken <= 4 * payload.len() + 64, "{taken} bytes for {} that arrived: {any:?}", payload.len());
    }
    for _ in 0..500 {
        let any = AnyFrames::arbitrary(&mut g);
        let bytes = any.bytes();
        assert_eq!(allocated(|| peek(&bytes, FRAME_PAYLOAD_BYTES_MAX).is_ok()), 0);
        let mut codec = Codec::new(FRAME_PAYLOAD_BYTES_MAX);
        let mut arrived = BytesMut::from(&bytes[..]);
        let taken = allocated(|| while let Ok(Some(_)) = codec.decode(&mut arrived) {});
        assert!(taken <= 4 * bytes.len() + 4096, "{taken} bytes for {} that arrived", bytes.len());
    }
    // A list whose count lies: no allocation follows the count.
    for opcode in [0x0011, 0x0024] {
        assert_eq!(allocated(|| Request::decode(opcode, &[0x0f, 0xff]).is_err()), 0);
    }
    let lying = |head: usize| {
        let mut payload = BytesMut::zeroed(head);
        payload.put_u32(1 << 20);
        payload.put_bytes(0, 200);
        payload.freeze()
    };
    let (append, part): (Bytes, Bytes) = (lying(17 + 3), lying(8));
    assert!(allocated(|| Append::decode(&append).is_err()) <= 4 * append.len() + 64);
    assert!(allocated(|| SnapshotPart::decode(&part).is_err()) <= 4 * part.len() + 64);
}
