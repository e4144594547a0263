//! The life of a connection.

use super::peer::{Peer, code, described, fields, hex, key, number, server_with, version};
use quantadb::testing::connection::Connection;
use quantadb::testing::hosted::HostedServer;
use quantadb::testing::wire::build;
use quantadb::wire::peer;
use quantadb::wire::preface::PREFACE;
use quantadb::wire::registry::LIMITS;
use serde_json::{Value, json};
use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;

fn hello(version_min: u8, version_max: u8, features: Value) -> Value {
    let fields = json!({"version_min": version_min, "version_max": version_max, "credit": 1000,
                        "client_name": "test", "features": features});
    json!({"kind": "HELLO", "flags": 0, "request_id": "0", "fields": fields, "tags": {}})
}

fn request(id: u64, opcode: &str, fields: Value) -> Value {
    json!({"kind": "REQUEST", "flags": 0, "opcode": opcode, "request_id": id.to_string(), "fields": fields, "tags": {}})
}

/// Sends frames behind the preface in one write; the server's preface is read.
fn opened_with(server: &HostedServer, frames: &[Value]) -> Connection {
    let mut connection = Connection::silent(server.address());
    connection.queue_bytes(&PREFACE);
    for frame in frames {
        connection.queue_bytes(&build(frame).expect("the frame can be built"));
    }
    connection.flush();
    let mut preface = [0; 8];
    connection.socket().read_exact(&mut preface).expect("the server sends its preface before a frame");
    assert_eq!(preface, PREFACE);
    connection
}

// spec: QP-FRM-005
// spec: QP-PEER-003
#[test]
fn a_node_that_comes_to_the_clients_listener_is_told_in_its_own_protocol() {
    let server = HostedServer::start();
    for split in [8, 3, 7] {
        let mut connection = Connection::silent(server.address());
        for part in [&peer::PREFACE[..split], &peer::PREFACE[split..]] {
            connection.queue_bytes(part);
            connection.flush();
        }
        let mut preface = [0; 8];
        connection.socket().read_exact(&mut preface).expect("the server answers");
        assert_eq!(preface, peer::PREFACE);
        assert_eq!(code(&described(&connection.receive())), "WRONG_PORT");
        assert!(connection.try_receive().is_none());
    }
}

// spec: QP-FRM-004
// spec: QP-HSK-005
#[test]
fn requests_may_follow_hello_at_once_and_are_answered_after_welcome() {
    let server = HostedServer::start();
    let put = request(1, "PUT", json!({"key": key("k"), "value": hex("v")}));
    let mut connection = opened_with(&server, &[hello(1, 1, json!([])), put, request(2, "STATUS", json!({}))]);
    let heard: Vec<Value> = (0..3).map(|_| described(&connection.receive())).collect();
    assert_eq!(heard[0]["kind"], "WELCOME");
    let mut ids: Vec<u64> = heard[1..].iter().map(|frame| number(&frame["request_id"])).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

// spec: QP-HSK-001
#[test]
fn the_first_frame_is_hello() {
    let server = HostedServer::start();
    let mut connection = opened_with(&server, &[request(1, "STATUS", json!({}))]);
    assert_eq!(code(&described(&connection.receive())), "PROTOCOL_ERROR");
    assert!(connection.try_receive().is_none());
    let ignored = json!({"kind": "0x9a", "flags": 0, "opcode": "0x0000", "request_id": "0", "payload": "00"});
    let mut connection = opened_with(&server, &[ignored, hello(1, 1, json!([]))]);
    assert_eq!(described(&connection.receive())["kind"], "WELCOME");
}

// spec: QP-HSK-003
#[test]
fn versions_that_do_not_meet_are_told() {
    let server = HostedServer::start();
    let mut connection = opened_with(&server, &[hello(2, 9, json!([]))]);
    let goaway = described(&connection.receive());
    assert_eq!(code(&goaway), "VERSION_UNSUPPORTED");
    assert_eq!((&goaway["tags"]["VERSION_MIN"], &goaway["tags"]["VERSION_MAX"]), (&json!(1), &json!(1)));
    assert!(connection.try_receive().is_none());
    let mut connection = opened_with(&server, &[hello(0, 9, json!([]))]);
    assert_eq!(fields(&described(&connection.receive()))["version"], 1);
}

// spec: QP-HSK-004
#[test]
fn welcome_names_the_features_that_both_know() {
    let server = HostedServer::start();
    let features = json!(["x-grease-1", "execute", "flying"]);
    let mut connection = opened_with(&server, &[hello(1, 1, features)]);
    assert_eq!(fields(&described(&connection.receive()))["features"], json!(["execute"]));
}

// spec: QP-HSK-009
// spec: QP-LIM-001
#[test]
fn welcome_announces_every_limit() {
    let server = HostedServer::start();
    let mut connection = opened_with(&server, &[hello(1, 1, json!([]))]);
    let welcome = described(&connection.receive());
    let announced = fields(&welcome)["limits"].as_array().expect("limits are a list");
    for row in LIMITS {
        let found = announced.iter().find(|limit| limit["id"] == row.id.0).unwrap_or_else(|| panic!("{}", row.name));
        if let Some(value) = row.value {
            assert_eq!(number(&found["value"]), value, "{}", row.name);
        }
    }
}

// spec: QP-HSK-007
// spec: QP-HSK-008
#[test]
fn what_a_client_may_not_send_ends_the_connection() {
    let server = HostedServer::start();
    let auth = json!({"kind": "AUTH", "flags": 0, "request_id": "0", "fields": {}, "tags": {}});
    let notice = json!({"kind": "NOTICE", "flags": 0, "request_id": "0", "fields": {"code": 1}, "tags": {}});
    for frame in [hello(1, 1, json!([])), auth, notice] {
        let mut peer = Peer::open(&server);
        peer.queue(&frame);
        peer.connection.flush();
        assert_eq!(code(&peer.hear()), "PROTOCOL_ERROR", "{frame}");
        assert!(peer.ends());
    }
}

// spec: QP-HSK-010
#[test]
fn pings_are_echoed_in_order() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let opaque = |n: u8| json!({"opaque": hex([n; 8])});
    (0..9).for_each(|n| peer.control("PING", 0, opaque(n)));
    for n in 0..9 {
        let pong = peer.hear();
        assert_eq!((&pong["kind"], &pong["fields"]), (&json!("PONG"), &opaque(n)));
    }
}

// spec: QP-HSK-013
#[test]
fn a_silent_connection_is_ended_and_a_ping_keeps_it() {
    let server = server_with(|options| options.server.idle_max = Duration::from_millis(300));
    let mut silent = Peer::open(&server);
    let mut lively = Peer::open(&server);
    let (ended, told) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let heard = silent.hear();
        ended.send(()).expect("the test waits");
        (code(&heard), silent.ends())
    });
    // As long as the silent one takes to be ended, the lively one is kept.
    while told.try_recv().is_err() {
        lively.control("PING", 0, json!({"opaque": "0000000000000000"}));
        assert_eq!(lively.hear()["kind"], "PONG");
    }
    assert_eq!(waiting.join().expect("it does not panic"), ("IDLE_TIMEOUT", true));
}

// spec: QP-HSK-014
#[test]
fn one_connection_too_many_is_told_so() {
    let server = server_with(|options| options.server.connections_max = 1);
    let mut first = Peer::open(&server);
    let mut second = Connection::silent(server.address());
    let mut preface = [0; 8];
    second.socket().read_exact(&mut preface).expect("the server sends its preface");
    assert_eq!(preface, PREFACE);
    assert_eq!(code(&described(&second.receive())), "TOO_MANY_CONNECTIONS");
    assert!(second.try_receive().is_none());
    assert_eq!(first.get("k"), None);
}

// spec: QP-HSK-016
#[test]
fn who_stops_sending_still_hears_the_answers() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let puts: Vec<u64> =
        (0..50).map(|_| peer.queue_request(0, "PUT", json!({"key": key("k"), "value": ""}), json!({}))).collect();
    let scan = json!({"range": {"keyspace": 1, "start": "", "end": null}, "flags": [], "limit": "0", "credit": 0});
    peer.queue_request(0, "SCAN", scan, json!({}));
    peer.connection.flush();
    peer.connection.socket().shutdown(Shutdown::Write).expect("the socket is open");
    let mut answered = Vec::new();
    while let Some(arrived) = peer.connection.try_receive() {
        answered.push(arrived.header.request_id);
    }
    assert!(puts.iter().all(|id| answered.contains(id)), "{answered:?}");
}

// spec: QP-MSG-002
#[test]
fn request_ids_increase() {
    let server = HostedServer::start();
    for second in [7, 6] {
        let mut peer = Peer::open(&server);
        peer.queue(&request(7, "STATUS", json!({})));
        peer.queue(&request(second, "STATUS", json!({})));
        peer.connection.flush();
        let _ = fields(&peer.hear());
        let goaway = peer.hear();
        assert_eq!((code(&goaway), number(&goaway["fields"]["highest_request_id"])), ("PROTOCOL_ERROR", 7));
    }
    let mut peer = Peer::open(&server);
    for id in [3, 1 << 40, u64::MAX] {
        peer.queue(&request(id, "STATUS", json!({})));
        peer.connection.flush();
        assert_eq!(number(&peer.hear()["request_id"]), id);
    }
}

// spec: QP-EVO-004
#[test]
fn what_means_nothing_is_ignored() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.queue(&json!({"kind": "0xfa", "flags": 0xf0, "opcode": "0x1234", "request_id": "77", "payload": "00ff"}));
    let fields = json!({"key": key("k"), "value": hex("v")});
    let id = peer.queue_request(0xf0, "PUT", fields, json!({"0x7a0a": "00", "0x7afa": "", "DEADLINE": 9000}));
    peer.connection.flush();
    assert!(version(&peer.hear_of(id)) > 0);
}
