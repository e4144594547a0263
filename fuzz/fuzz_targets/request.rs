//! The payload of a REQUEST: two bytes of opcode, then the payload.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quantadb::wire::Request;
use quantadb_fuzz::{Counting, bounded};

#[global_allocator]
static COUNTING: Counting = Counting;

fuzz_target!(|data: &[u8]| {
    let Some((opcode, payload)) = data.split_first_chunk::<2>() else { return };
    let opcode = u16::from_be_bytes(*opcode);
    let Ok(request) = bounded(payload.len(), || Request::decode(opcode, payload)) else { return };
    assert_eq!(request.opcode().number(), opcode);
    let mut out = BytesMut::new();
    request.encode(&mut out);
    // Tags that are ignored are not written again: then it is shorter, and still the same request.
    if out.len() == payload.len() {
        assert_eq!(&out[..], payload, "a request has one encoding");
    } else {
        assert!(out.len() < payload.len());
        assert_eq!(Request::decode(opcode, &out).as_ref(), Ok(&request));
    }
    // Lists are read in place, whenever they are read.
    let text = format!("{request:?}");
    drop(text);
});
