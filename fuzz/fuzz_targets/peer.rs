//! The payload of any message between nodes: a byte of kind, two of opcode, then the payload.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use quantadb::{
    testing::wire::PeerMessage,
    wire::{
        Kind,
        peer::{PeerOpcode, check_preface},
    },
};
use quantadb_fuzz::{Counting, bounded};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|data: &[u8]| {
    let _ = bounded(0, || check_preface(data));
    let Some((&[kind, high, low], payload)) = data.split_first_chunk::<3>() else { return };
    let Some(opcode) = PeerOpcode::from_number(u16::from_be_bytes([high, low])) else { return };
    let kind = Kind::from_number(kind);
    let payload = Bytes::copy_from_slice(payload);
    let Some(Ok(message)) = bounded(payload.len(), || PeerMessage::decode(kind, opcode, &payload)) else { return };
    if let PeerMessage::CommitWhole(commit, _) = &message {
        assert!(commit.points().all(|point| point.is_ok_and(|key| key.len() >= 4)));
        assert!(commit.ranges().all(|range| range.is_ok_and(|(start, end)| start.len() >= 4 && start <= end)));
    }
    let mut out = BytesMut::new();
    message.encode(&mut out);
    // Tags that are ignored are not written again: then it is shorter, and still the same message.
    if out.len() == payload.len() {
        assert_eq!(out, payload, "a message has one encoding");
    } else {
        assert!(out.len() < payload.len());
        let again = out.freeze();
        assert_eq!(PeerMessage::decode(kind, opcode, &again), Some(Ok(message)));
    }
});
