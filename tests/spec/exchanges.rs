//! The exchanges that the text shows, as scripts: who says what, in words of the registry's tables.

use super::vectors::{control, key, reply, request};
use super::{Side, peer_exchanges};
use quantadb::testing::wire::{Dialect, annotate_in, build_in, to_hex};
use quantadb::wire::preface::PREFACE;
use serde_json::{Value, json};
use std::fmt::Write;

/// One message of an exchange.
pub enum Said {
    /// A preface.
    Preface(Side),
    /// A frame.
    Frame(Side, Value),
}

use Said::{Frame, Preface};

fn client(frame: Value) -> Said {
    Frame(Side::Client, frame)
}

fn server(frame: Value) -> Said {
    Frame(Side::Server, frame)
}

/// An exchange as the text shows it: a block for each message.
pub fn text(name: &str) -> String {
    let mut text = String::new();
    for said in script(name) {
        let (side, body) = match said {
            Preface(side) => (side, preface(side.dialect())),
            Frame(side, frame) => {
                let bytes = build_in(side.dialect(), &frame).unwrap_or_else(|error| panic!("{error}: {frame}"));
                (side, annotate_in(side.dialect(), &bytes).expect("the script is a frame"))
            }
        };
        write!(text, "\n```hex {}\n{body}```\n", side.name()).expect("a string can be written");
    }
    text + "\n"
}

fn preface(dialect: Dialect) -> String {
    let (bytes, name) = match dialect {
        Dialect::Client => (PREFACE, "QDB"),
        Dialect::Peer => (quantadb::wire::peer::PREFACE, "QDP"),
    };
    let hex = to_hex(&bytes);
    let pairs: Vec<&str> = (0..8).map(|at| &hex[2 * at..2 * at + 2]).collect();
    format!("{:<47} ; preface: \"{name}\", CR LF, 1A, LF, framing version 1\n", pairs.join(" "))
}

fn script(name: &str) -> Vec<Said> {
    match name {
        "handshake" => handshake(),
        "versions" => versions(),
        "put-get" => put_get(),
        "execute" => execute(),
        "scan" => scan(),
        "resume" => resume(),
        "backup" => backup(),
        "transaction" => transaction(),
        "savepoint" => savepoint(),
        "exactly-once" => exactly_once(),
        "errors" => errors(),
        "goaway" => goaway(),
        "cluster" => cluster(),
        other => peer_exchanges::script(other),
    }
}

fn hello() -> Value {
    control(
        "HELLO",
        0,
        json!({"version_min": 1, "version_max": 1, "credit": 1_048_576, "client_name": "example",
               "features": ["execute", "scan-count", "x-grease-7"]}),
        json!({}),
    )
}

fn handshake() -> Vec<Said> {
    let welcome = json!({
        "version": 1, "cluster_id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "node_id": "1", "session_id": "42",
        "server_name": "quantadb 0.1.0", "features": ["scan-count", "execute"], "mechanisms": [],
        "limits": [{"id": 1, "value": "8192"}, {"id": 2, "value": "8388608"}, {"id": 4, "value": "16842752"}],
    });
    vec![
        Preface(Side::Client),
        client(hello()),
        client(request(1, "READ_VERSION", json!({}), json!({}))),
        Preface(Side::Server),
        server(control("WELCOME", 0, welcome, json!({"0x7a3a": "c0ffee"}))),
        server(reply(1, "RESPONSE", "READ_VERSION", json!({"version": "7"}), json!({}))),
    ]
}

fn versions() -> Vec<Said> {
    let hello = control(
        "HELLO",
        0,
        json!({"version_min": 2, "version_max": 3, "credit": 0, "client_name": "", "features": []}),
        json!({}),
    );
    let away = json!({"code": 2, "highest_request_id": "0", "message": "no protocol version in common"});
    vec![
        Preface(Side::Client),
        client(hello),
        Preface(Side::Server),
        server(control("GOAWAY", 0, away, json!({"VERSION_MIN": 1, "VERSION_MAX": 1}))),
    ]
}

fn put_get() -> Vec<Said> {
    let put = json!({"key": key("user:7"), "value": to_hex(b"Ada")});
    let found = json!({"version": "8", "found": "yes", "row_version": "8", "value": to_hex(b"Ada")});
    let none = json!({"version": "8", "found": "no", "row_version": "0", "value": ""});
    let mut get = request(3, "GET", json!({"key": key("user:7")}), json!({}));
    get["flags"] = json!(1);
    vec![
        client(request(2, "PUT", put, json!({"DEADLINE": 2000}))),
        client(get),
        client(request(4, "GET", json!({"key": key("user:8")}), json!({}))),
        server(reply(4, "RESPONSE", "GET", none, json!({}))),
        server(reply(2, "RESPONSE", "PUT", json!({"version": "8"}), json!({}))),
        server(reply(3, "RESPONSE", "GET", found, json!({}))),
    ]
}

fn execute() -> Vec<Said> {
    let ask = json!({
        "conditions": [{"kind": "ABSENT", "key": key("lock"), "operand": ""}],
        "then": [{"kind": "PUT", "key": key("lock"), "value": to_hex(b"me")},
                 {"kind": "ATOMIC", "op": "ADD", "key": key("taken"), "operand": "01"}],
        "else": [{"kind": "GET", "key": key("lock")}],
    });
    let then = json!({"version": "9", "branch": "then",
                      "results": [{"kind": "PUT"}, {"kind": "ATOMIC", "result": "0000000000000001"}]});
    let otherwise = json!({"version": "9", "branch": "else", "results": [
        {"kind": "GET", "found": "yes", "row_version": "9", "value": to_hex(b"me")}]});
    vec![
        client(request(5, "EXECUTE", ask.clone(), json!({}))),
        server(reply(5, "RESPONSE", "EXECUTE", then, json!({}))),
        client(request(6, "EXECUTE", ask, json!({}))),
        server(reply(6, "RESPONSE", "EXECUTE", otherwise, json!({}))),
    ]
}

fn row(name: &str, version: &str, value: &str) -> Value {
    json!({"key": to_hex(name.as_bytes()), "row_version": version, "value": to_hex(value.as_bytes())})
}

fn range() -> Value {
    json!({"keyspace": 1, "start": to_hex(b"user:"), "end": to_hex(b"user;")})
}

fn scan() -> Vec<Said> {
    let ask = json!({"range": range(), "flags": [], "limit": "0", "credit": 40});
    let end = json!({"version": "12", "rows": "3", "end": "exhausted", "first_version": "12"});
    let token = "01000000000000000c000f1e2d3c000a00000001757365723a37";
    vec![
        client(request(7, "SCAN", ask, json!({}))),
        server(reply(
            7,
            "CHUNK",
            "SCAN",
            json!({"rows": [row("user:1", "10", "Bob"), row("user:7", "8", "Ada")]}),
            json!({"RESUME_TOKEN": token}),
        )),
        client(control("CREDIT", 7, json!({"bytes": 100}), json!({}))),
        server(reply(
            7,
            "CHUNK",
            "SCAN",
            json!({"rows": [row("user:9", "11", "Eve")]}),
            json!({"RESUME_TOKEN": "01000000000000000c000f1e2d3c000a00000001757365723a39"}),
        )),
        server(reply(7, "END", "SCAN", end, json!({}))),
    ]
}

fn resume() -> Vec<Said> {
    let ask = json!({"range": range(), "flags": [], "limit": "1", "credit": 65_536});
    let token = "01000000000000000c000f1e2d3c000a00000001757365723a37";
    let next = "01000000000000000c000f1e2d3c000a00000001757365723a39";
    let end = json!({"version": "12", "rows": "1", "end": "limit", "first_version": "12"});
    vec![
        client(request(8, "SCAN", ask, json!({"RESUME_TOKEN": token, "IF_GONE": 1}))),
        server(reply(8, "CHUNK", "SCAN", json!({"rows": [row("user:9", "11", "Eve")]}), json!({"RESUME_TOKEN": next}))),
        server(reply(8, "END", "SCAN", end, json!({"RESUME_TOKEN": next}))),
    ]
}

fn backup() -> Vec<Said> {
    let row = |keyspace: u32, name: &str, version: &str, value: &[u8]| json!({"key": {"keyspace": keyspace, "key": to_hex(name.as_bytes())}, "row_version": version, "value": to_hex(value)});
    let catalog = [row(0, "N", "3", &[0, 0, 0, 17]), row(0, "korders", "3", &[0, 0, 0, 16])];
    let orders = [row(0, "n\0\0\0\x10", "3", b"orders"), row(1, "user:1", "10", b"Bob")];
    let end = json!({"version": "12", "rows": "4", "bytes": "52", "clock_ms": "1700000000000"});
    vec![
        client(request(9, "BACKUP", json!({"credit": 64}), json!({}))),
        server(reply(
            9,
            "CHUNK",
            "BACKUP",
            json!({"version": "12", "rows": catalog}),
            json!({"RESUME_TOKEN": "01000000000000000c020f1e2d3c000b000000006b6f7264657273"}),
        )),
        client(control("CREDIT", 9, json!({"bytes": 200}), json!({}))),
        server(reply(
            9,
            "CHUNK",
            "BACKUP",
            json!({"version": "12", "rows": orders}),
            json!({"RESUME_TOKEN": "01000000000000000c020f1e2d3c000a00000001757365723a31"}),
        )),
        server(reply(9, "END", "BACKUP", end, json!({}))),
    ]
}

fn transaction() -> Vec<Said> {
    let in_it = json!({"TRANSACTION": "20"});
    let found = json!({"version": "30", "found": "yes", "row_version": "21", "value": "0000000000000064"});
    vec![
        client(request(20, "BEGIN", json!({"isolation": "serializable"}), json!({}))),
        client(request(21, "GET", json!({"key": key("a")}), in_it.clone())),
        client(request(22, "ATOMIC", json!({"op": "ADD", "key": key("b"), "operand": "0a"}), in_it.clone())),
        client(request(23, "COMMIT", json!({}), in_it)),
        server(reply(20, "RESPONSE", "BEGIN", json!({"version": "30"}), json!({}))),
        server(reply(21, "RESPONSE", "GET", found, json!({}))),
        server(reply(22, "RESPONSE", "ATOMIC", json!({"version": "30", "has_result": "no", "result": ""}), json!({}))),
        server(reply(23, "RESPONSE", "COMMIT", json!({"version": "31", "results": ["000000000000006e"]}), json!({}))),
    ]
}

fn savepoint() -> Vec<Said> {
    let in_it = json!({"TRANSACTION": "40"});
    let large = json!({"code": 0x22, "retry": "never", "outcome": "not_applied", "retry_after_ms": 0,
                       "message": "the transaction is larger than the limit"});
    let prior = json!({"code": 0x43, "retry": "never", "outcome": "not_applied", "retry_after_ms": 0,
                       "message": "an earlier request of the transaction failed"});
    let ok = |id, opcode| server(reply(id, "RESPONSE", opcode, json!({"version": "31"}), json!({})));
    let name = json!({"name": to_hex(b"s")});
    vec![
        client(request(40, "BEGIN", json!({"isolation": "snapshot"}), json!({}))),
        client(request(41, "SAVEPOINT", name.clone(), in_it.clone())),
        client(request(42, "DELETE_RANGE", json!({"range": {"keyspace": 1, "start": "", "end": null}}), in_it.clone())),
        client(request(43, "DELETE", json!({"key": key("x")}), in_it.clone())),
        client(request(44, "ROLLBACK_TO", name, in_it.clone())),
        client(request(45, "ROLLBACK", json!({}), in_it)),
        ok(40, "BEGIN"),
        ok(41, "SAVEPOINT"),
        server(reply(42, "ERROR", "DELETE_RANGE", large, json!({"LIMIT": "16777216", "ACTUAL": "16777230"}))),
        server(reply(43, "ERROR", "DELETE", prior, json!({"CAUSE": 0x22}))),
        ok(44, "ROLLBACK_TO"),
        ok(45, "ROLLBACK"),
    ]
}

fn exactly_once() -> Vec<Said> {
    let pair = json!({"key": "00112233445566778899aabbccddeeff", "seen": "31"});
    let put = json!({"key": key("order:1"), "value": to_hex(b"paid")});
    let unknown = json!({"code": 0x51, "retry": "same", "outcome": "unknown", "retry_after_ms": 0,
                         "message": "nothing was heard of the commit"});
    let outcome = json!({"state": "committed", "version": "32", "code": 0, "has_results": "yes", "results": []});
    let ask = json!({"key": "00112233445566778899aabbccddeeff", "seen": "31"});
    vec![
        client(request(50, "PUT", put.clone(), json!({"DEADLINE": 100, "IDEMPOTENCY": pair.clone()}))),
        server(reply(50, "ERROR", "PUT", unknown, json!({}))),
        client(request(51, "PUT", put, json!({"DEADLINE": 5000, "IDEMPOTENCY": pair, "RETRY_MARK": true}))),
        server(reply(51, "RESPONSE", "PUT", json!({"version": "32"}), json!({}))),
        client(request(52, "OUTCOME", ask, json!({}))),
        server(reply(52, "RESPONSE", "OUTCOME", outcome, json!({}))),
    ]
}

fn errors() -> Vec<Said> {
    let unknown = json!({"code": 0x11, "retry": "never", "outcome": "not_applied", "retry_after_ms": 0,
                         "message": "no operation has this opcode"});
    let mut error = reply(60, "ERROR", "GET", unknown, json!({}));
    error["opcode"] = json!("0x7777");
    let conflict = json!({"code": 0x40, "retry": "restart_txn", "outcome": "not_applied", "retry_after_ms": 0,
                          "message": "something that the transaction read was changed by another"});
    vec![server(error), server(reply(61, "ERROR", "COMMIT", conflict, json!({"CONFLICT_KEY": key("a")})))]
}

fn goaway() -> Vec<Said> {
    let away = json!({"code": 8, "highest_request_id": "61", "message": "the server is shutting down"});
    let refused = json!({"code": 8, "retry": "backoff", "outcome": "not_applied", "retry_after_ms": 0,
                         "message": "the server is shutting down"});
    vec![
        server(control("NOTICE", 0, json!({"code": 1}), json!({}))),
        server(control("GOAWAY", 0, away, json!({}))),
        client(request(62, "STATUS", json!({}), json!({}))),
        server(reply(62, "ERROR", "STATUS", refused, json!({}))),
    ]
}

fn cluster() -> Vec<Said> {
    let member = |node: &str, voter: &str, matched: &str, lag: &str, contact: &str| {
        json!({"node": node, "voter": voter, "peer_address": format!("n{node}:7421"),
               "client_address": format!("n{node}:7420"), "known": "yes", "matched": matched, "lag": lag,
               "contact_ms": contact, "version": "77", "chain": "11400714819323198485", "level": 1})
    };
    let members = [member("1", "yes", "42", "0", "0"), member("2", "yes", "41", "1", "13")];
    let refused = json!({"code": 0x5a, "retry": "never", "outcome": "not_applied", "retry_after_ms": 0,
                         "message": "too few members would be heard"});
    vec![
        client(request(70, "CLUSTER_STATUS", json!({}), json!({}))),
        server(reply(
            70,
            "RESPONSE",
            "CLUSTER_STATUS",
            json!({"version": "77", "leader": "1", "term": "3", "members": members}),
            json!({}),
        )),
        client(request(71, "CLUSTER_REMOVE", json!({"node": "2"}), json!({}))),
        server(reply(71, "ERROR", "CLUSTER_REMOVE", refused, json!({"LIMIT": "2", "ACTUAL": "1"}))),
    ]
}
