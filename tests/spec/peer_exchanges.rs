//! The exchanges between nodes that the text shows, as scripts.

use super::Side::{self, Acceptor, Initiator};
use super::exchanges::Said::{self, Frame, Preface};
use super::vectors::{control, key, reply, request};
use bytes::{BufMut, BytesMut};
use quantadb::encoding::Writer;
use quantadb::testing::wire::{Dialect, build_in, to_hex};
use quantadb::wire::peer::SnapshotPart;
use serde_json::{Value, json};

pub fn script(name: &str) -> Vec<Said> {
    match name {
        "peer-handshake" => handshake(),
        "peer-refused" => refused(),
        "peer-wrong-port" => wrong_port(),
        "peer-append" => append(),
        "peer-snapshot" => snapshot(),
        "peer-requests" => requests(),
        "peer-join" => join(),
        other => panic!("there is no exchange {other}"),
    }
}

const CLUSTER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn asks(id: u64, opcode: &str, fields: Value) -> Said {
    Frame(Initiator, request(id, opcode, fields, json!({})))
}

fn answers(id: u64, opcode: &str, fields: Value) -> Said {
    Frame(Acceptor, reply(id, "RESPONSE", opcode, fields, json!({})))
}

fn hello(lane: &str, from: &str, to: &str) -> Said {
    let cluster = if from == "0" { "00000000000000000000000000000000" } else { CLUSTER };
    let fields = json!({"version_min": 1, "version_max": 1, "level": 1, "lane": lane, "cluster_id": cluster,
                        "from": from, "to": to});
    Frame(Initiator, control("HELLO", 0, fields, json!({})))
}

fn welcome() -> Said {
    let fields = json!({"version": 1, "level": 1, "cluster_id": CLUSTER, "node_id": "2"});
    Frame(Acceptor, control("WELCOME", 0, fields, json!({})))
}

fn vote(term: &str, node: &str, committed: &str) -> Value {
    json!({"term": term, "node": node, "committed": committed})
}

fn log_id(term: &str, index: &str) -> Value {
    json!({"term": term, "leader": "1", "index": index})
}

fn handshake() -> Vec<Said> {
    let ask = json!({"vote": vote("3", "1", "no"), "last": log_id("2", "41")});
    let answer = json!({"vote": vote("3", "1", "no"), "granted": "yes", "last": log_id("2", "40")});
    vec![
        Preface(Initiator),
        hello("consensus", "1", "2"),
        asks(1, "VOTE", ask),
        Preface(Acceptor),
        welcome(),
        answers(1, "VOTE", answer),
    ]
}

fn refused() -> Vec<Said> {
    let away = json!({"code": 0x0b, "highest_request_id": "0", "message": "this is node 2"});
    vec![
        Preface(Initiator),
        hello("consensus", "1", "5"),
        Preface(Acceptor),
        Frame(Acceptor, control("GOAWAY", 0, away, json!({}))),
    ]
}

fn wrong_port() -> Vec<Said> {
    let away = json!({"code": 0x0c, "highest_request_id": "0", "message": "this listener is for nodes"});
    vec![Preface(Side::Client), Preface(Side::Server), Frame(Side::Server, control("GOAWAY", 0, away, json!({})))]
}

fn append() -> Vec<Said> {
    let leader = vote("3", "1", "yes");
    let blank = json!({"id": log_id("3", "42"), "kind": 0, "payload": ""});
    let first = json!({"vote": leader, "previous": log_id("2", "41"), "committed": log_id("2", "40"),
                       "chain": {"entry": log_id("2", "40"), "hash": "11400714819323198485"}, "entries": [blank]});
    let beat = json!({"vote": leader, "previous": log_id("3", "42"), "committed": log_id("3", "42"), "chain": null,
                      "entries": []});
    let report = json!({"applied": log_id("2", "40"), "version": "77", "chain": "11400714819323198485"});
    vec![
        asks(1, "APPEND", first),
        asks(2, "APPEND", beat),
        answers(1, "APPEND", json!({"result": {"kind": "matched", "last": log_id("3", "42")}, "report": report})),
        answers(2, "APPEND", json!({"result": {"kind": "higher_vote", "vote": vote("4", "3", "yes")}, "report": null})),
    ]
}

fn rows() -> Value {
    json!([{"key": key("a"), "row_version": "7", "value": to_hex(b"one")},
           {"key": key("b"), "row_version": "9", "value": to_hex(b"two")}])
}

fn snapshot() -> Vec<Said> {
    let begin = json!({
        "vote": vote("3", "1", "yes"), "snapshot": "00112233445566778899aabbccddeeff", "log_id": log_id("3", "42"),
        "version": "9", "chain": "11400714819323198485", "clock_ms": "1700000000000", "idempotency_floor": "2",
        "membership": membership(),
    });
    let part = request(2, "SNAPSHOT_PART", json!({"part": "0", "rows": rows()}), json!({}));
    let hash = hash_of(&[&part]).to_string();
    vec![
        asks(1, "SNAPSHOT_BEGIN", begin),
        answers(1, "SNAPSHOT_BEGIN", json!({"result": {"kind": "go_on", "part": "0"}})),
        Frame(Initiator, part),
        asks(3, "SNAPSHOT_END", json!({"parts": "1", "rows": "2", "hash": hash})),
        answers(2, "SNAPSHOT_PART", json!({})),
        answers(3, "SNAPSHOT_END", json!({"vote": vote("3", "1", "yes")})),
    ]
}

/// A stored membership: of the first entry; one configuration of both nodes.
fn membership() -> String {
    let mut out = BytesMut::new();
    out.put_u8(1);
    [1, 1, 0].into_iter().for_each(|part| out.put_u64(part));
    out.put_slice(&[2, 1, 0, 2]);
    [1, 2].into_iter().for_each(|voter| out.put_u64(voter));
    out.put_u16(2);
    for node in [1, 2] {
        out.put_u64(node);
        out.put_bytes16(format!("n{node}:7421").as_bytes());
        out.put_bytes16(format!("n{node}:7420").as_bytes());
    }
    to_hex(&out)
}

/// What SNAPSHOT_END says of these parts: XXH3-64 of every payload, each seeded with the hash before it.
// spec: QP-PEER-023
fn hash_of(parts: &[&Value]) -> u64 {
    parts.iter().fold(0, |seed, part| {
        let frame = build_in(Dialect::Peer, part).expect("the part is a frame").freeze();
        let payload = frame.slice(quantadb::wire::Header::BYTES..);
        assert!(SnapshotPart::decode(&payload).is_ok());
        xxhash_rust::xxh3::xxh3_64_with_seed(&payload, seed)
    })
}

fn requests() -> Vec<Said> {
    let full = |name: &str| to_hex(&[&[0, 0, 0, 1][..], name.as_bytes()].concat());
    let put = json!({"kind": "PUT", "key": key("b"), "value": to_hex(b"two")});
    let add = json!({"kind": "ATOMIC", "op": "ADD", "key": key("n"), "operand": "01"});
    let whole = json!({
        "read_version": "30", "points": [full("a")], "ranges": [{"start": full("b"), "end": "00000002"}],
        "mutations": 2, "body": [put, add],
    });
    let get = json!({"key": key("b"), "value": to_hex(b"three")});
    vec![
        hello("requests", "1", "2"),
        welcome(),
        Frame(Initiator, request(1, "COMMIT_WHOLE", whole, json!({"DEADLINE": 2000}))),
        Frame(Initiator, request(2, "PUT", get, json!({"DEADLINE": 2000}))),
        answers(1, "COMMIT_WHOLE", json!({"version": "31", "results": ["0000000000000001"]})),
        answers(2, "PUT", json!({"version": "32"})),
    ]
}

fn join() -> Vec<Said> {
    let ask = json!({"node": "0", "peer_address": "10.0.0.4:7421", "client_address": "10.0.0.4:7420"});
    let elsewhere = json!({"code": 0x56, "retry": "redirect", "outcome": "not_applied", "retry_after_ms": 0,
                           "message": "another node leads"});
    vec![
        hello("join", "0", "0"),
        welcome(),
        asks(1, "JOIN", ask.clone()),
        Frame(Acceptor, reply(1, "ERROR", "JOIN", elsewhere, json!({"LEADER": "10.0.0.1:7421"}))),
        hello("join", "0", "0"),
        Frame(
            Acceptor,
            control("WELCOME", 0, json!({"version": 1, "level": 1, "cluster_id": CLUSTER, "node_id": "1"}), json!({})),
        ),
        asks(1, "JOIN", ask),
        answers(1, "JOIN", json!({"cluster_id": CLUSTER, "node": "4"})),
    ]
}
