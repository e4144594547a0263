//! The golden vectors of the protocol between nodes: every message and every alternative in it, and what is refused.

use super::vectors::{Vectors, come_back, control, key, reply, request, sample, sample_variant, to_json};
use super::{folder, golden, updating};
use bytes::{BufMut, Bytes, BytesMut};
use quantadb::testing::wire::{Dialect, PeerMessage, build_in, from_hex, to_hex};
use quantadb::types::limits::{HANDSHAKE_PAYLOAD_BYTES_MAX, TRANSACTION_BYTES_MAX};
use quantadb::wire::peer::{
    LANES, PEER_HELLO, PEER_OPCODES, PEER_PAYLOAD_BYTES_MAX, PEER_WELCOME, PREFACE, PeerOpcode, check_preface,
};
use quantadb::wire::preface::{self, PrefaceError};
use quantadb::wire::registry::{FieldRow, FieldType};
use quantadb::wire::{ErrorCode, Header, Kind, Request, peek, put_frame};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// The fields of a message: the least, everything, and one for each alternative of each choice in it.
fn samples(fields: &[FieldRow]) -> Vec<(String, Value)> {
    let mut samples = vec![("least".to_owned(), sample(fields, false))];
    if !fields.is_empty() {
        samples.push(("full".to_owned(), sample(fields, true)));
    }
    for field in fields {
        let FieldType::Choice(variants) = field.kind else { continue };
        for variant in variants {
            for (how, rich) in [("least", false), ("full", true)] {
                let mut value = sample(fields, rich);
                value[field.name] = sample_variant(variant, rich);
                let name = format!("{} {} {how}", field.name, variant.name);
                if samples.iter().all(|(_, other)| *other != value) {
                    samples.push((name, value));
                }
            }
        }
    }
    samples
}

fn full(name: &str) -> String {
    to_hex(&[&[0, 0, 0, 1][..], name.as_bytes()].concat())
}

/// A transaction whose parts go together, as a sample of each field alone would not.
fn whole() -> Value {
    let mutations = json!([{"kind": "PUT", "key": key("a"), "value": "00ff"}, {"kind": "DELETE", "key": key("")},
                           {"kind": "ATOMIC", "op": "APPEND", "key": key("b"), "operand": ""}]);
    json!({"read_version": "18446744073709551615", "points": [full(""), full("a\0b")],
           "ranges": [{"start": full("b"), "end": full("c")}, {"start": full("x"), "end": "00000002"}],
           "mutations": 3, "body": mutations})
}

fn vectors() -> Vectors {
    let mut vectors = Vectors::new();
    for (how, fields) in samples(PEER_HELLO) {
        vectors.push((format!("HELLO {how}"), control("HELLO", 0, fields, json!({}))));
    }
    for lane in LANES {
        let mut fields = sample(PEER_HELLO, true);
        fields["lane"] = json!(lane.name);
        vectors.push((format!("HELLO of the lane {}", lane.name), control("HELLO", 0, fields, json!({}))));
    }
    for (how, fields) in samples(PEER_WELCOME) {
        vectors.push((format!("WELCOME {how}"), control("WELCOME", 0, fields, json!({}))));
    }
    for row in PEER_OPCODES {
        let mut requests = samples(row.request);
        if row.opcode == PeerOpcode::CommitWhole {
            requests = vec![
                (
                    "least".to_owned(),
                    json!({"read_version": "0", "points": [], "ranges": [], "mutations": 0, "body": []}),
                ),
                ("full".to_owned(), whole()),
            ];
        }
        for (how, fields) in requests {
            vectors.push((format!("{} {how}", row.name), request(7, row.name, fields, json!({}))));
        }
        for (how, fields) in samples(row.response) {
            let name = format!("{} RESPONSE {how}", row.name);
            vectors.push((name, reply(7, "RESPONSE", row.name, fields, json!({}))));
        }
    }
    let pair = json!({"key": "00112233445566778899aabbccddeeff", "seen": "7"});
    let tags = json!({"DEADLINE": 5000, "TRACE_PARENT": "0102", "IDEMPOTENCY": pair, "RETRY_MARK": true});
    vectors.push(("COMMIT_WHOLE with every tag".into(), request(7, "COMMIT_WHOLE", whole(), tags)));
    let get = request(7, "GET", json!({"key": key("k")}), json!({"DEADLINE": 500}));
    vectors.push(("a client's GET on the lane of requests".into(), get));
    let not_leader = json!({"code": 0x56, "retry": "redirect", "outcome": "not_applied", "retry_after_ms": 0,
                            "message": "another node leads"});
    let tags = json!({"LEADER": "10.0.0.1:7421"});
    vectors.push(("JOIN at a node that does not lead".into(), reply(7, "ERROR", "JOIN", not_leader, tags)));
    for code in [ErrorCode::WRONG_CLUSTER, ErrorCode::WRONG_NODE, ErrorCode::WRONG_PORT] {
        let fields = json!({"code": code.0, "highest_request_id": "0", "message": ""});
        vectors.push((format!("GOAWAY {}", code.name()), control("GOAWAY", 0, fields, json!({}))));
    }
    vectors
}

// spec: QP-EVO-002
#[test]
fn the_vectors_between_nodes_are_what_the_tables_say() {
    let vectors = vectors();
    let names: BTreeSet<&String> = vectors.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), vectors.len(), "a name stands twice");
    golden(&folder().join("vectors/peer.json"), &to_json(Dialect::Peer, &vectors));
}

// spec: QP-EVO-002
// spec: QP-PEER-006
// spec: QP-PEER-010
// spec: QP-PEER-033
// spec: QP-PEER-041
#[test]
fn every_vector_between_nodes_decodes_and_encodes_to_itself() {
    if updating() {
        return;
    }
    let text = fs::read_to_string(folder().join("vectors/peer.json")).expect("the vectors can be read");
    let count = come_back(Dialect::Peer, &text);
    assert!(count > 50, "only {count} vectors");
}

/// Every opcode both ways, and every alternative of every answer.
#[test]
fn the_vectors_between_nodes_leave_nothing_out() {
    let all: Vec<Value> = vectors().into_iter().map(|(_, frame)| frame).collect();
    for row in PEER_OPCODES {
        for (kind, fields) in [("REQUEST", row.request), ("RESPONSE", row.response)] {
            let of_it = || all.iter().filter(|frame| frame["kind"] == kind && frame["opcode"] == row.name);
            assert!(of_it().count() > 0, "{kind} {}", row.name);
            for field in fields {
                let FieldType::Choice(variants) = field.kind else { continue };
                for variant in variants {
                    let has = of_it().any(|frame| frame["fields"][field.name]["kind"] == variant.name);
                    assert!(has, "{kind} {} {}", row.name, variant.name);
                }
            }
        }
    }
}

struct Negative {
    name: &'static str,
    bytes: BytesMut,
    code: Option<ErrorCode>,
    /// What becomes of the connection: "request" goes on, "goaway" ends with one, "close" ends without a word.
    fate: &'static str,
}

fn framed(kind: Kind, opcode: u16, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let id = u64::from(kind.has_opcode());
    put_frame(&mut out, kind, 0, opcode, id, |out| out.put_slice(payload));
    out
}

fn payload_of(frame: &Value) -> Vec<u8> {
    let bytes = build_in(Dialect::Peer, frame).unwrap_or_else(|error| panic!("{error}: {frame}"));
    bytes[Header::BYTES..].to_vec()
}

fn asked(opcode: PeerOpcode, payload: &[u8]) -> BytesMut {
    framed(Kind::Request, opcode.number(), payload)
}

/// The request with one byte changed.
fn changed(opcode: PeerOpcode, at: usize, byte: u8) -> BytesMut {
    let mut payload = payload_of(&request(1, opcode.name(), sample(opcode.row().request, true), json!({})));
    payload[at] = byte;
    asked(opcode, &payload)
}

fn commit(change: impl FnOnce(&mut Value)) -> BytesMut {
    let mut fields = whole();
    change(&mut fields);
    asked(PeerOpcode::CommitWhole, &payload_of(&request(1, "COMMIT_WHOLE", fields, json!({}))))
}

/// The header alone of a frame whose payload is over the limit.
fn over(kind: Kind, opcode: u16, length: usize) -> BytesMut {
    let mut header = framed(kind, opcode, b"");
    header[..4].copy_from_slice(&(length as u32).to_be_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_be_bytes());
    header
}

fn of_the_connection() -> Vec<Negative> {
    let goaway = |name, bytes: BytesMut, code| Negative { name, bytes, code: Some(code), fate: "goaway" };
    let protocol = ErrorCode::PROTOCOL_ERROR;
    let mut other_version = PREFACE;
    other_version[7] = 2;
    let hello = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut payload = payload_of(&control("HELLO", 0, sample(PEER_HELLO, true), json!({})));
        change(&mut payload);
        framed(Kind::Hello, 0, &payload)
    };
    vec![
        Negative {
            name: "an HTTP request instead of a preface",
            bytes: b"GET / HTTP/1.1\r\n"[..].into(),
            code: None,
            fate: "close",
        },
        goaway("a preface of another framing version", other_version[..].into(), ErrorCode::VERSION_UNSUPPORTED),
        goaway("the preface of a client", preface::PREFACE[..].into(), ErrorCode::WRONG_PORT),
        goaway("a HELLO whose versions are reversed", hello(&|payload| payload[0] = 2), protocol),
        goaway("a HELLO of a lane that does not exist", hello(&|payload| payload[4] = 9), protocol),
        goaway("a HELLO cut short", hello(&|payload| payload.truncate(36)), protocol),
        goaway(
            "a HELLO with an unknown critical tag",
            hello(&|payload| payload.extend([0x87, 0x77, 0, 0, 0, 0])),
            protocol,
        ),
        goaway(
            "a HELLO over the limit, told by its header",
            over(Kind::Hello, 0, HANDSHAKE_PAYLOAD_BYTES_MAX + 1),
            ErrorCode::FRAME_TOO_LARGE,
        ),
        goaway(
            "a payload over the limit, told by its header",
            over(Kind::Request, PeerOpcode::Append.number(), PEER_PAYLOAD_BYTES_MAX + 1),
            ErrorCode::FRAME_TOO_LARGE,
        ),
    ]
}

fn of_requests() -> Vec<Negative> {
    let bad = |name, bytes: BytesMut, code| Negative { name, bytes, code: Some(code), fate: "request" };
    let malformed = ErrorCode::MALFORMED;
    let tagged = |opcode: PeerOpcode, tag: &[u8]| {
        let frame = request(1, opcode.name(), sample(opcode.row().request, false), json!({}));
        asked(opcode, &[&payload_of(&frame), tag].concat())
    };
    let append = |count: u32| asked(PeerOpcode::Append, &[&[0; 17 + 3][..], &count.to_be_bytes()].concat());
    let long_key = [&[0, 0, 0, 1][..], &[b'k'; 8193]].concat();
    let part = |names: [&str; 2]| {
        let rows = names.map(|name| json!({"key": key(name), "row_version": "1", "value": ""}));
        let fields = json!({"part": "0", "rows": rows});
        asked(PeerOpcode::SnapshotPart, &payload_of(&request(1, "SNAPSHOT_PART", fields, json!({}))))
    };
    let too_large = [&[0; 8][..], &(TRANSACTION_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
    vec![
        bad("an unknown opcode", framed(Kind::Request, 0x8fff, b""), ErrorCode::UNKNOWN_OPCODE),
        bad(
            "an unknown critical tag",
            tagged(PeerOpcode::Vote, &[0x87, 0x77, 0, 0, 0, 0]),
            ErrorCode::UNKNOWN_CRITICAL_TAG,
        ),
        bad("a reserved critical tag", tagged(PeerOpcode::Join, &[0x80, 0xf0, 0, 0, 0, 0]), ErrorCode::UNSUPPORTED),
        bad("a VOTE cut short", asked(PeerOpcode::Vote, &[0; 17]), malformed),
        bad("a vote that is neither committed nor not", changed(PeerOpcode::Vote, 16, 2), malformed),
        bad("an entry that is neither there nor not", changed(PeerOpcode::Vote, 17, 2), malformed),
        bad("more entries than there are", append(1), malformed),
        bad("more entries than the limit", append((1 << 20) + 1), ErrorCode::TOO_MANY_ITEMS),
        bad("a TRANSFER cut short", asked(PeerOpcode::Transfer, &[0; 25]), malformed),
        bad("rows that descend", part(["b", "a"]), malformed),
        bad("a row twice", part(["a", "a"]), malformed),
        bad("a SNAPSHOT_END cut short", asked(PeerOpcode::SnapshotEnd, &[0; 23]), malformed),
        bad(
            "an address over the limit",
            asked(PeerOpcode::Join, &[&[0; 8][..], &[1, 0], &[b'a'; 258]].concat()),
            malformed,
        ),
        bad("an address that is not UTF-8", asked(PeerOpcode::Join, b"\0\0\0\0\0\0\0\0\0\x01\xff\0\0"), malformed),
        bad("a point without a keyspace", commit(|fields| fields["points"][0] = json!("000000")), malformed),
        bad(
            "a point over the limit of keys",
            commit(|fields| fields["points"][0] = json!(to_hex(&long_key))),
            ErrorCode::KEY_TOO_LARGE,
        ),
        bad("a range whose end has no keyspace", commit(|fields| fields["ranges"][0]["end"] = json!("ff")), malformed),
        bad(
            "a range that starts after its end",
            commit(|fields| fields["ranges"][0]["end"] = json!(full("a"))),
            ErrorCode::BAD_RANGE,
        ),
        bad(
            "a range without its end",
            asked(PeerOpcode::CommitWhole, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0\x04\0\0\0\x01\0\0\0\0\0\0\0\0"),
            malformed,
        ),
        bad("more mutations than there are", commit(|fields| fields["mutations"] = json!(4)), malformed),
        bad("fewer mutations than there are", commit(|fields| fields["mutations"] = json!(2)), malformed),
        bad(
            "a mutation that does not exist",
            asked(PeerOpcode::CommitWhole, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01\x04"),
            malformed,
        ),
        bad("points cut short", asked(PeerOpcode::CommitWhole, &too_large), malformed),
        bad(
            "a transaction's name on a whole commit",
            tagged(PeerOpcode::CommitWhole, &[0x80, 0x01, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]),
            malformed,
        ),
        bad(
            "a retry mark without a pair on a whole commit",
            tagged(PeerOpcode::CommitWhole, &[0x80, 0x03, 0, 0, 0, 0]),
            malformed,
        ),
    ]
}

// spec: QP-EVO-002
#[test]
fn the_negative_vectors_between_nodes_are_as_written() {
    let vectors: Vec<Value> = of_the_connection()
        .iter()
        .chain(&of_requests())
        .map(|vector| {
            let code = vector.code.map(|code| json!({"number": code.0, "name": code.name()}));
            json!({"name": vector.name, "hex": to_hex(&vector.bytes), "code": code, "connection": vector.fate})
        })
        .collect();
    let text = serde_json::to_string_pretty(&vectors).expect("vectors are JSON") + "\n";
    golden(&folder().join("vectors/peer-negative.json"), &text);
}

/// What the codec and the messages make of bytes that a node sent once its HELLO was accepted, or instead of it.
fn judge(bytes: &[u8]) -> (Option<ErrorCode>, &'static str) {
    if bytes.len() < Header::BYTES {
        return match check_preface(bytes) {
            Err(PrefaceError::Stranger(_)) => (None, "close"),
            Err(PrefaceError::Version(_)) => (Some(ErrorCode::VERSION_UNSUPPORTED), "goaway"),
            Err(PrefaceError::WrongPort) => (Some(ErrorCode::WRONG_PORT), "goaway"),
            Ok(_) => panic!("a good preface"),
        };
    }
    let is_hello = Kind::from_number(bytes[4]) == Kind::Hello;
    let header = match peek(bytes, if is_hello { HANDSHAKE_PAYLOAD_BYTES_MAX } else { PEER_PAYLOAD_BYTES_MAX }) {
        Err(error) => return (Some(error.code()), "goaway"),
        Ok(None) => panic!("more bytes are wanted"),
        Ok(Some((header, _))) => header,
    };
    let payload = Bytes::copy_from_slice(&bytes[Header::BYTES..]);
    if header.kind == Kind::Hello {
        let hello = PeerMessage::decode(Kind::Hello, PeerOpcode::Vote, &payload).expect("it is a message");
        assert!(hello.is_err(), "the HELLO is good");
        return (Some(ErrorCode::PROTOCOL_ERROR), "goaway");
    }
    let error = match PeerOpcode::from_number(header.opcode) {
        // What is no opcode of nodes is one of clients, on their lane, or nobody's.
        None => Request::decode(header.opcode, &payload).expect_err("the request is good"),
        Some(opcode) => {
            let message = PeerMessage::decode(header.kind, opcode, &payload).expect("it is a message");
            message.expect_err("the request is good")
        }
    };
    (Some(error.code), "request")
}

// spec: QP-PEER-002
// spec: QP-PEER-005
// spec: QP-PEER-008
// spec: QP-PEER-009
#[test]
fn every_negative_vector_between_nodes_is_refused_as_it_says() {
    if updating() {
        return;
    }
    let text = fs::read_to_string(folder().join("vectors/peer-negative.json")).expect("the vectors can be read");
    let vectors: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
    assert!(vectors.len() > 30);
    for vector in vectors {
        let name = &vector["name"];
        let bytes = from_hex(vector["hex"].as_str().expect("hex is text")).expect("it is hexadecimal");
        let (code, fate) = judge(&bytes);
        assert_eq!(vector["connection"], fate, "{name}");
        assert_eq!(vector["code"]["number"].as_u64(), code.map(|code| u64::from(code.0)), "{name}");
    }
}
