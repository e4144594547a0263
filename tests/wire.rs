//! What holds of every message, every stream of frames and every wrong byte.

#[path = "wire/peer.rs"]
mod peer;

use bytes::{BufMut, Bytes, BytesMut};
use quantadb::storage::{CaptureTotals, CapturedRow};
use quantadb::testing::wire::{AnyFrames, AnyReply, AnyRequest, Message, build, describe};
use quantadb::types::{KeyspaceId, Version, limits::FRAME_PAYLOAD_BYTES_MAX};
use quantadb::wire::peer::{SnapshotPart, SnapshotRow};
use quantadb::wire::registry::{OPCODES, RESERVED_TAGS};
use quantadb::wire::{Codec, ErrorCode, Frame, Header, Kind, Opcode, Request, peek, put_frame};
use quickcheck::{Gen, QuickCheck, TestResult};
use tokio_util::codec::Decoder;

/// Runs a property often enough that each opcode has its turn many times.
fn always<F: quickcheck::Testable>(property: F) {
    QuickCheck::new().tests(2_000).quickcheck(property);
}

fn codec() -> Codec {
    Codec::new(FRAME_PAYLOAD_BYTES_MAX)
}

/// All frames that a codec finds in the pieces, as they arrive.
fn decode_all(codec: &mut Codec, pieces: impl IntoIterator<Item = BytesMut>) -> Vec<Frame> {
    let mut arrived = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        arrived.extend_from_slice(&piece);
        while let Some(frame) = codec.decode(&mut arrived).expect("a valid stream never errors") {
            frames.push(frame);
        }
    }
    assert!(arrived.is_empty(), "bytes are left over");
    frames
}

#[test]
fn any_request_comes_back() {
    fn property(any: AnyRequest) {
        let request = any.request();
        let payload = any.payload();
        let opcode = any.opcode().number();
        let decoded = Request::decode(opcode, &payload).expect("valid");
        assert_eq!(decoded, request);
        let mut again = BytesMut::new();
        decoded.encode(&mut again);
        assert_eq!(again, payload, "one encoding");
        let mut greased = BytesMut::new();
        request.encode_greased(&mut greased, any.grease);
        assert_eq!(Request::decode(opcode, &greased), Ok(request), "grease changes nothing");
    }
    always(property as fn(AnyRequest));
}

#[test]
fn any_reply_comes_back() {
    fn property(any: AnyReply) {
        let (message, payload) = (any.message(), any.payload());
        let decode = |payload| Message::decode(any.kind(), any.opcode(), payload).expect("a kind with a message");
        let decoded = decode(&payload).expect("valid");
        assert_eq!(decoded, message);
        let mut again = BytesMut::new();
        decoded.encode(&mut again);
        assert_eq!(again, payload, "one encoding");
        if let Some(grease) = any.grease {
            grease.encode(&mut again);
            assert_eq!(decode(&again), Ok(message.clone()), "grease changes nothing");
        }
    }
    always(property as fn(AnyReply));
}

/// The tables of the registry say of every message what the typed code says.
#[test]
fn any_frame_is_what_the_tables_say() {
    fn property(any: AnyFrames) {
        for frame in &any.frames {
            let bytes = AnyFrames { frames: vec![frame.clone()], splits: vec![1] }.bytes();
            let described = describe(&bytes).expect("the tables know it");
            assert_eq!(build(&described).expect("the tables write it"), bytes, "{described}");
        }
    }
    always(property as fn(AnyFrames));
}

// spec: QP-FRM-015
#[test]
fn any_split_gives_the_same_frames() {
    fn property(any: AnyFrames) {
        assert_eq!(decode_all(&mut codec(), [any.bytes()]), any.frames, "at once");
        assert_eq!(decode_all(&mut codec(), any.pieces()), any.frames, "in pieces");
        let ones = any.bytes().iter().map(|byte| BytesMut::from(&[*byte][..])).collect::<Vec<_>>();
        assert_eq!(decode_all(&mut codec(), ones), any.frames, "one byte at a time");
    }
    QuickCheck::new().tests(300).quickcheck(property as fn(AnyFrames));
}

#[test]
fn any_prefix_of_a_valid_stream_is_valid() {
    fn property(any: AnyFrames) {
        let bytes = any.bytes();
        for length in 0..bytes.len() {
            let mut rest = &bytes[..length];
            while let Some((_, total)) = peek(rest, FRAME_PAYLOAD_BYTES_MAX).expect("valid so far") {
                rest = &rest[total..];
            }
        }
    }
    QuickCheck::new().tests(200).quickcheck(property as fn(AnyFrames));
}

// spec: QP-FRM-011
#[test]
fn any_flipped_bit_is_told() {
    fn property(any: AnyFrames, at: usize) -> TestResult {
        let mut bytes = any.bytes();
        if bytes.is_empty() {
            return TestResult::discard();
        }
        let bit = at % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut arrived = bytes;
        let mut codec = codec();
        loop {
            match codec.decode(&mut arrived) {
                Ok(Some(_)) => {}
                Ok(None) => return TestResult::error(format!("bit {bit} went by unseen")),
                Err(_) => return TestResult::passed(),
            }
        }
    }
    always(property as fn(AnyFrames, usize) -> TestResult);
}

/// Bytes that are almost a message, or not at all, are an error or another message: never a panic, and what is accepted has
/// one meaning, which comes back.
#[test]
fn any_changed_payload_is_refused_or_has_a_meaning() {
    fn property(any: AnyRequest, at: usize, byte: u8, how: u8) {
        let mut payload = any.payload().to_vec();
        let at = at % (payload.len() + 1);
        match how % 4 {
            0 => payload.insert(at, byte),
            1 => payload.truncate(at),
            2 if at < payload.len() => payload[at] = byte,
            _ => payload.extend([byte; 7]),
        }
        let opcodes = OPCODES.iter().map(|row| row.opcode);
        for opcode in opcodes {
            if let Ok(request) = Request::decode(opcode.number(), &payload) {
                let mut again = BytesMut::new();
                request.encode(&mut again);
                assert_eq!(Request::decode(opcode.number(), &again), Ok(request));
            }
            for kind in [Kind::Response, Kind::Chunk, Kind::End, Kind::Error, Kind::Hello, Kind::Welcome, Kind::Goaway]
            {
                if let Some(Ok(message)) = Message::decode(kind, opcode, &payload) {
                    let mut again = BytesMut::new();
                    message.encode(&mut again);
                    assert!(Message::decode(kind, opcode, &again).expect("a kind with a message").is_ok());
                }
            }
        }
    }
    QuickCheck::new().tests(1_000).quickcheck(property as fn(AnyRequest, usize, u8, u8));
}

/// Every opcode: its request cut anywhere within its fixed fields is MALFORMED, nothing else.
#[test]
fn a_request_cut_short_is_malformed() {
    let mut g = Gen::new(20);
    for row in OPCODES {
        let any = AnyRequest::of(&mut g, row.opcode);
        let payload = any.payload();
        let (_, fields) = Request::decode_with_fields(row.opcode.number(), &payload).expect("valid");
        for length in 0..fields.len() {
            let error = Request::decode(row.opcode.number(), &payload[..length]).expect_err("cut short");
            assert_eq!(error.code, ErrorCode::MALFORMED, "{} cut at {length}", row.name);
        }
    }
}

// spec: QP-MSG-005
#[test]
fn reserved_tags_are_unsupported_on_every_request() {
    let mut g = Gen::new(20);
    for row in OPCODES {
        for range in RESERVED_TAGS {
            let mut payload = AnyRequest::of(&mut g, row.opcode).payload();
            payload.put_u16(range.first);
            payload.put_u32(0);
            let error = Request::decode(row.opcode.number(), &payload).expect_err("reserved");
            assert_eq!(error.code, ErrorCode::UNSUPPORTED, "{} on {}", range.name, row.name);
        }
    }
}

#[test]
fn a_frame_made_in_place_is_the_frame_that_is_found_behind_others() {
    let mut out = BytesMut::from(&b"before"[..]);
    put_frame(&mut out, Kind::Response, 0, Opcode::Get.number(), 3, |out| out.put_slice(b"payload"));
    let (header, total) = peek(&out[6..], 7).expect("valid").expect("whole");
    assert_eq!((header.request_id, total), (3, Header::BYTES + 7));
}

/// Whoever takes a snapshot hashes rows, and whoever sends one may hash what it sends: the two are the same.
#[test]
fn the_totals_of_a_snapshot_are_those_of_its_payloads() {
    type AnyRow = (u32, Vec<u8>, u64, Vec<u8>);
    fn property(parts: Vec<Vec<AnyRow>>) {
        let (mut totals, mut hash, mut count) = (CaptureTotals::default(), 0, 0);
        for (number, rows) in (0..).zip(&parts) {
            let row = |(keyspace, key, version, value): &AnyRow| CapturedRow {
                key: KeyspaceId(*keyspace).full_key(key),
                version: Version(*version),
                value: Bytes::copy_from_slice(value),
            };
            let rows: Vec<_> = rows.iter().map(row).collect();
            totals.add(&rows);
            count += rows.len() as u64;
            let sent = |CapturedRow { key, version, value }| SnapshotRow { key, version, value };
            let part = SnapshotPart { part: number, rows: rows.into_iter().map(sent).collect() };
            let mut payload = BytesMut::new();
            part.encode(&mut payload);
            hash = xxhash_rust::xxh3::xxh3_64_with_seed(&payload, hash);
        }
        assert_eq!(totals, CaptureTotals { parts: parts.len() as u64, rows: count, hash });
    }
    QuickCheck::new().tests(200).quickcheck(property as fn(_));
}
