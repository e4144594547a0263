//! The negative vectors: bytes that are refused, with which code, and what becomes of the connection.
//!
//! Their bytes are made from good frames with one thing wrong, then judged by the codec and the typed messages.

use super::vectors::{control, key, reply, request, to_bytes};
use super::{folder, golden, updating};
use bytes::{BufMut, BytesMut};
use quantadb::testing::wire::{from_hex, to_hex};
use quantadb::types::limits;
use quantadb::wire::preface::{PREFACE, PrefaceError, check_preface};
use quantadb::wire::{
    Cancel, Credit, DecodeError, ErrorCode, Header, Hello, Kind, Opcode, Ping, Request, peek, put_frame,
};
use serde_json::{Value, json};
use std::fs;

struct Negative {
    name: &'static str,
    hex: String,
    code: Option<ErrorCode>,
    /// What becomes of the connection: "request" goes on, "goaway" ends with one, "close" ends without a word.
    fate: &'static str,
}

/// A frame with this payload and right checksums.
fn framed(kind: Kind, flags: u8, opcode: u16, id: u64, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, flags, opcode, id, |out| out.put_slice(payload));
    out
}

fn asked(opcode: Opcode, payload: &[u8]) -> BytesMut {
    framed(Kind::Request, 0, opcode.number(), 1, payload)
}

fn payload_of(frame: &Value) -> Vec<u8> {
    to_bytes(frame)[Header::BYTES..].to_vec()
}

fn tagged(frame: &Value, tag: u16, value: &[u8]) -> Vec<u8> {
    let mut payload = payload_of(frame);
    payload.put_u16(tag);
    payload.put_u32(value.len() as u32);
    payload.put_slice(value);
    payload
}

fn flipped(frame: &Value, at: usize) -> BytesMut {
    let mut bytes = to_bytes(frame);
    bytes[at] ^= 1;
    bytes
}

fn get() -> Value {
    request(1, "GET", json!({"key": key("k")}), json!({}))
}

/// The header alone of a frame whose payload is over the limit.
fn over(kind: Kind, opcode: u16, id: u64, length: usize) -> BytesMut {
    let mut header = framed(kind, 0, opcode, id, &[]);
    header[..4].copy_from_slice(&(length as u32).to_be_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_be_bytes());
    header
}

fn framing() -> Vec<Negative> {
    let goaway = |name, bytes: BytesMut, code| Negative { name, hex: to_hex(&bytes), code: Some(code), fate: "goaway" };
    let close = |name, bytes: &[u8]| Negative { name, hex: to_hex(bytes), code: None, fate: "close" };
    let mut other_version = PREFACE;
    other_version[7] = 2;
    let protocol = ErrorCode::PROTOCOL_ERROR;
    vec![
        close("an HTTP request instead of a preface", b"GET / HTTP/1.1\r\n"),
        close("a TLS hello instead of a preface", b"\x16\x03\x01\x02\x00\x01\x00\x01"),
        close("text instead of a preface", b"PING\r\n"),
        close("a preface whose line ends were changed", b"QDB\n\x1a\n\x01"),
        Negative {
            name: "a preface of another framing version",
            hex: to_hex(&other_version),
            code: Some(ErrorCode::VERSION_UNSUPPORTED),
            fate: "goaway",
        },
        goaway("a bit of the header flipped", flipped(&get(), 15), ErrorCode::BAD_CHECKSUM),
        goaway("a bit of the payload flipped", flipped(&get(), 30), ErrorCode::BAD_CHECKSUM),
        goaway("an unknown kind below 0x80", framed(Kind::Invalid(0x0f), 0, 0, 0, b""), protocol),
        goaway("kind zero", framed(Kind::Invalid(0), 0, 0, 0, b""), protocol),
        goaway("a critical flag", framed(Kind::Request, 0x02, 1, 1, b""), protocol),
        goaway("a critical flag on a kind to be ignored", framed(Kind::Other(0x8a), 0x08, 0, 0, b""), protocol),
        goaway("AFTER on a kind that is no request", framed(Kind::Ping, 0x01, 0, 0, &[0; 8]), protocol),
        goaway("a request without an id", framed(Kind::Request, 0, 1, 0, b""), protocol),
        goaway("an id on a PING", framed(Kind::Ping, 0, 0, 1, &[0; 8]), protocol),
        goaway("an opcode on a PING", framed(Kind::Ping, 0, 1, 0, &[0; 8]), protocol),
        goaway(
            "a payload over the limit, told by its header",
            over(Kind::Request, 0x20, 1, limits::FRAME_PAYLOAD_BYTES_MAX + 1),
            ErrorCode::FRAME_TOO_LARGE,
        ),
        goaway("a PING cut short", framed(Kind::Ping, 0, 0, 0, &[0; 7]), protocol),
        goaway("a CREDIT cut short", framed(Kind::Credit, 0, 0, 0, &[0; 3]), protocol),
        goaway(
            "a CANCEL with an unknown critical tag",
            framed(Kind::Cancel, 0, 0, 1, &[0x87, 0x77, 0, 0, 0, 0]),
            protocol,
        ),
        goaway(
            "a HELLO whose versions are reversed",
            framed(Kind::Hello, 0, 0, 0, &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            protocol,
        ),
        goaway("a HELLO cut short", framed(Kind::Hello, 0, 0, 0, &[1, 1, 0]), protocol),
        goaway("a HELLO with an unknown critical tag", hello_with_critical_tag(), protocol),
        goaway(
            "a kind that only servers send",
            to_bytes(&reply(1, "RESPONSE", "PUT", json!({"version": "1"}), json!({}))),
            protocol,
        ),
        goaway("AUTH, which is reserved", framed(Kind::Auth, 0, 0, 0, b""), protocol),
    ]
}

fn hello_with_critical_tag() -> BytesMut {
    let hello = json!({"version_min": 1, "version_max": 1, "credit": 0, "client_name": "", "features": []});
    to_bytes(&control("HELLO", 0, hello, json!({"0x8777": ""})))
}

fn requests() -> Vec<Negative> {
    let bad = |name, bytes: BytesMut, code| Negative { name, hex: to_hex(&bytes), code: Some(code), fate: "request" };
    let malformed = ErrorCode::MALFORMED;
    let put = request(1, "PUT", json!({"key": key("k"), "value": "76"}), json!({}));
    let scan = json!({"range": {"keyspace": 1, "start": "", "end": null}, "flags": [], "limit": "0", "credit": 0});
    let backup = request(1, "BACKUP", json!({"credit": 0}), json!({}));
    let resumed = request(1, "BACKUP", json!({"credit": 0}), json!({"RESUME_TOKEN": "0102"}));
    let newer_backup = tagged(&resumed, 0x8005, &[1]);
    let long_key = [&[0x20, 0x01, 0, 0, 0, 1][..], &[b'k'; 8193]].concat();
    let long_value = [&[0, 0, 0, 0, 0, 1][..], &(limits::VALUE_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
    vec![
        bad("an unknown opcode", framed(Kind::Request, 0, 0x7777, 1, b""), ErrorCode::UNKNOWN_OPCODE),
        bad("opcode zero", framed(Kind::Request, 0, 0, 1, b""), ErrorCode::UNKNOWN_OPCODE),
        bad("a reserved opcode", framed(Kind::Request, 0, 0x0040, 1, b""), ErrorCode::UNSUPPORTED),
        bad("a GET without its key", asked(Opcode::Get, b""), malformed),
        bad("a key cut short", asked(Opcode::Get, b"\0\x02\0\0\0\x01k"), malformed),
        bad("a key over the limit", asked(Opcode::Get, &long_key), ErrorCode::KEY_TOO_LARGE),
        bad("a value over the limit, told by its length", asked(Opcode::Put, &long_value), ErrorCode::VALUE_TOO_LARGE),
        bad("bytes behind the fields that are no tag", asked(Opcode::Status, b"\0"), malformed),
        bad("a tag cut short", asked(Opcode::Status, b"\0\x01\0\0\0\x04\0\0"), malformed),
        bad("a tag of the wrong length", asked(Opcode::Get, &tagged(&get(), 0x0001, &[0; 3])), malformed),
        bad("a tag twice", asked(Opcode::Status, &[[0, 1, 0, 0, 0, 4, 0, 0, 0, 1]; 2].concat()), malformed),
        bad("tags that descend", asked(Opcode::Status, b"\x77\x77\0\0\0\0\0\x01\0\0\0\x04\0\0\0\x01"), malformed),
        bad(
            "an unknown critical tag",
            asked(Opcode::Get, &tagged(&get(), 0x8777, b"")),
            ErrorCode::UNKNOWN_CRITICAL_TAG,
        ),
        bad("a reserved critical tag", asked(Opcode::Get, &tagged(&get(), 0x80f3, b"")), ErrorCode::UNSUPPORTED),
        bad(
            "a known critical tag where it makes no sense",
            asked(Opcode::Get, &tagged(&get(), 0x8003, b"")),
            malformed,
        ),
        bad("a retry mark without a pair", asked(Opcode::Put, &tagged(&put, 0x8003, b"")), malformed),
        bad("a pair of the wrong length", asked(Opcode::Put, &tagged(&put, 0x8002, &[0; 16])), malformed),
        bad("a consistency that does not exist", asked(Opcode::Get, &tagged(&get(), 0x8004, &[3])), malformed),
        bad(
            "IF_GONE without a token",
            asked(Opcode::Scan, &tagged(&request(1, "SCAN", scan.clone(), json!({})), 0x8005, &[0])),
            malformed,
        ),
        bad("a COMMIT without a transaction", asked(Opcode::Commit, b""), malformed),
        bad(
            "a range that starts after its end",
            asked(Opcode::DeleteRange, b"\0\0\0\x01\0\x01b\x01\0\x01a"),
            ErrorCode::BAD_RANGE,
        ),
        bad("a range without an end that has one", asked(Opcode::DeleteRange, b"\0\0\0\x01\0\0\0\0\x01a"), malformed),
        bad("a range whose has_end is 2", asked(Opcode::DeleteRange, b"\0\0\0\x01\0\0\x02\0\0"), malformed),
        bad(
            "an unknown flag of SCAN",
            asked(Opcode::Scan, &with_byte(&request(1, "SCAN", scan, json!({})), 9, 8)),
            malformed,
        ),
        bad("a keyspace name that is empty", asked(Opcode::OpenKeyspace, b"\x01\0\0"), ErrorCode::BAD_NAME),
        bad("a keyspace name that is not UTF-8", asked(Opcode::OpenKeyspace, b"\x01\0\x01\xff"), ErrorCode::BAD_NAME),
        bad(
            "a savepoint without a name",
            asked(Opcode::Savepoint, b"\0\0\x80\x01\0\0\0\x08\0\0\0\0\0\0\0\x01"),
            ErrorCode::BAD_NAME,
        ),
        bad("an isolation that does not exist", asked(Opcode::Begin, &[2]), malformed),
        bad("an atomic operation that does not exist", asked(Opcode::Atomic, b"\x0b\0\0\0\0\0\x01\0\0\0\0"), malformed),
        bad("more keys than the limit", asked(Opcode::GetMany, &[0x10, 0x01]), ErrorCode::TOO_MANY_ITEMS),
        bad("more conditions than the limit", asked(Opcode::Execute, &[0x40, 0x01]), ErrorCode::TOO_MANY_ITEMS),
        bad("a count that lies", asked(Opcode::GetMany, &[0, 2, 0, 0, 0, 0, 0, 1]), malformed),
        bad(
            "a condition that does not exist",
            asked(Opcode::Execute, b"\0\x01\x07\0\0\0\0\0\x01\0\0\0\0\0\0\0\0"),
            malformed,
        ),
        bad(
            "a version operand of seven bytes",
            asked(Opcode::Execute, b"\0\x01\x05\0\0\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0"),
            malformed,
        ),
        bad(
            "EXISTS with an operand",
            asked(Opcode::Execute, b"\0\x01\x01\0\0\0\0\0\x01\0\0\0\x01x\0\0\0\0"),
            malformed,
        ),
        bad("an operation that does not exist", asked(Opcode::Execute, b"\0\0\0\x01\x05\0\0"), malformed),
        bad(
            "a RANGE that asks for no row",
            asked(Opcode::Execute, b"\0\0\0\x01\x11\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0"),
            malformed,
        ),
        bad("a BACKUP cut short", asked(Opcode::Backup, &[0; 3]), malformed),
        bad("a BACKUP in a transaction", asked(Opcode::Backup, &tagged(&backup, 0x8001, &[0; 8])), malformed),
        bad("a BACKUP that would go on at a newer version", asked(Opcode::Backup, &newer_backup), malformed),
        bad("a CLUSTER_REMOVE without its node", asked(Opcode::ClusterRemove, b""), malformed),
        bad("a CLUSTER_ADD of no address", asked(Opcode::ClusterAdd, b"\0\0"), malformed),
        bad("a CLUSTER_ADD of an address that is not UTF-8", asked(Opcode::ClusterAdd, b"\0\x01\xff"), malformed),
    ]
}

/// What is meant for the other listener.
fn strays() -> Vec<Negative> {
    vec![Negative {
        name: "the preface of a node that wants another node",
        hex: to_hex(&quantadb::wire::peer::PREFACE),
        code: Some(ErrorCode::WRONG_PORT),
        fate: "goaway",
    }]
}

/// A request's payload with one byte changed.
fn with_byte(frame: &Value, at: usize, byte: u8) -> Vec<u8> {
    let mut payload = payload_of(frame);
    payload[at] = byte;
    payload
}

// spec: QP-EVO-002
#[test]
fn the_negative_vectors_are_as_written() {
    let vectors: Vec<Value> = framing()
        .iter()
        .chain(&requests())
        .chain(&strays())
        .map(|vector| {
            let code = vector.code.map(|code| json!({"number": code.0, "name": code.name()}));
            json!({"name": vector.name, "hex": vector.hex, "code": code, "connection": vector.fate})
        })
        .collect();
    let text = serde_json::to_string_pretty(&vectors).expect("vectors are JSON") + "\n";
    golden(&folder().join("vectors/negative.json"), &text);
}

/// What the codec and the messages make of bytes that a client sent once its HELLO was accepted, or instead of it.
fn judge(bytes: &[u8]) -> (Option<ErrorCode>, &'static str) {
    if bytes.len() < Header::BYTES {
        return match check_preface(bytes) {
            Err(PrefaceError::Stranger(_)) => (None, "close"),
            Err(PrefaceError::Version(_)) => (Some(ErrorCode::VERSION_UNSUPPORTED), "goaway"),
            Err(PrefaceError::WrongPort) => (Some(ErrorCode::WRONG_PORT), "goaway"),
            Ok(_) => panic!("a good preface"),
        };
    }
    let header = match peek(bytes, limits::FRAME_PAYLOAD_BYTES_MAX) {
        Err(error) => return (Some(error.code()), "goaway"),
        Ok(None) => panic!("more bytes are wanted"),
        Ok(Some((header, _))) => header,
    };
    let payload = &bytes[Header::BYTES..];
    let ends = |decoded: Result<(), DecodeError>| {
        assert!(decoded.is_err(), "the frame is good");
        (Some(ErrorCode::PROTOCOL_ERROR), "goaway")
    };
    match header.kind {
        Kind::Request => {
            let error = Request::decode(header.opcode, payload).expect_err("the request is good");
            (Some(error.code), "request")
        }
        Kind::Hello => ends(Hello::decode(payload).map(|_| ())),
        Kind::Ping => ends(Ping::decode(payload).map(|_| ())),
        Kind::Credit => ends(Credit::decode(payload).map(|_| ())),
        Kind::Cancel => ends(Cancel::decode(payload).map(|_| ())),
        _ => (Some(ErrorCode::PROTOCOL_ERROR), "goaway"),
    }
}

// spec: QP-FRM-011
// spec: QP-ERR-002
#[test]
fn every_negative_vector_is_refused_as_it_says() {
    if updating() {
        return;
    }
    let text = fs::read_to_string(folder().join("vectors/negative.json")).expect("the vectors can be read");
    let vectors: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
    assert!(vectors.len() > 50);
    for vector in vectors {
        let name = &vector["name"];
        let bytes = from_hex(vector["hex"].as_str().expect("hex is text")).expect("it is hexadecimal");
        let (code, fate) = judge(&bytes);
        assert_eq!(vector["connection"], fate, "{name}");
        assert_eq!(vector["code"]["number"].as_u64(), code.map(|code| u64::from(code.0)), "{name}");
    }
}
