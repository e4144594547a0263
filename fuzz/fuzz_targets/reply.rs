//! The payload of any frame that is no REQUEST: a byte of kind, two of opcode, then the payload.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quantadb::{
    testing::wire::Message,
    wire::{Kind, Opcode},
};
use quantadb_fuzz::{Counting, bounded};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, high, low], payload)) = data.split_first_chunk::<3>() else { return };
    let Some(opcode) = Opcode::from_number(u16::from_be_bytes([high, low])) else { return };
    let kind = Kind::from_number(kind);
    let Some(Ok(message)) = bounded(payload.len(), || Message::decode(kind, opcode, payload)) else { return };
    let mut out = BytesMut::new();
    message.encode(&mut out);
    if out.len() == payload.len() {
        assert_eq!(&out[..], payload, "a message has one encoding");
    } else {
        assert!(out.len() < payload.len());
        assert_eq!(Message::decode(kind, opcode, &out), Some(Ok(message)));
    }
});
