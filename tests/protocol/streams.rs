//! Scans: what they tell, in which pieces, and how they end.

use super::peer::{Peer, code, fields, hex, key, keys, number, range, scan_from, server_with, version, within};
use quantadb::testing::hosted::HostedServer;
use quantadb::types::limits::CHUNK_BYTES_MAX;
use serde_json::{Value, json};
use std::time::Duration;

fn filled(server: &HostedServer, names: &[&str]) -> Peer {
    let mut peer = Peer::open(server);
    peer.put_all(names, "v");
    peer
}

fn end(heard: &[Value]) -> &Value {
    let last = heard.last().expect("something was heard");
    assert_eq!(last["kind"], "END", "{last}");
    last
}

// spec: QP-STR-002
#[test]
fn rows_come_in_order_and_backwards() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["b", "a", "", "ab", "c"]);
    assert_eq!(keys(&peer.scan(scan_from(""), json!({}))), ["", "a", "ab", "b", "c"]);
    let back = json!({"range": range("a", Some("c")), "flags": ["reverse"], "limit": "0", "credit": 9000});
    assert_eq!(keys(&peer.scan(back, json!({}))), ["b", "ab", "a"]);
}

// spec: QP-STR-009
// spec: QP-STR-012
#[test]
fn a_limit_ends_a_scan_with_a_token() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b", "c"]);
    for (limit, told, reason) in [(2, 2, "limit"), (3, 3, "exhausted"), (9, 3, "exhausted")] {
        let ask = json!({"range": range("", None), "flags": [], "limit": limit.to_string(), "credit": 9000});
        let heard = peer.scan(ask, json!({}));
        let end = end(&heard);
        assert_eq!(number(&end["fields"]["rows"]), told);
        // A scan that told the last row at its limit may not know yet that nothing follows.
        let reached = end["fields"]["end"] == "limit";
        assert_eq!(end["tags"].get("RESUME_TOKEN").is_some(), reached, "{end}");
        assert!(reached == (reason == "limit") || limit == 3, "{end}");
    }
}

// spec: QP-STR-010
#[test]
fn keys_alone_and_counts_alone() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b"]);
    let ask =
        |flags: Value, credit: u32| json!({"range": range("", None), "flags": flags, "limit": "0", "credit": credit});
    let heard = peer.scan(ask(json!(["keys_only"]), 9000), json!({}));
    assert_eq!(keys(&heard), ["a", "b"]);
    assert!(heard[0]["fields"]["rows"].as_array().expect("rows").iter().all(|row| row["value"] == ""));
    let heard = peer.scan(ask(json!(["count_only"]), 0), json!({}));
    assert_eq!((heard.len(), number(&end(&heard)["fields"]["rows"])), (1, 2));
}

// spec: QP-STR-003
#[test]
fn a_chunk_is_bounded_unless_one_row_is_longer() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for row in 0..300 {
        peer.put(&format!("k{row:03}"), &"x".repeat(1_000));
    }
    peer.put("long", &"x".repeat(200_000));
    let id = peer.send("SCAN", scan_from(""), json!({}));
    let mut rows = 0;
    loop {
        let arrived = peer.connection.receive();
        let frame = super::peer::described(&arrived);
        assert_eq!(number(&frame["request_id"]), id);
        if frame["kind"] == "END" {
            break;
        }
        let told = frame["fields"]["rows"].as_array().expect("rows").len();
        assert!(told > 0, "a chunk has a row");
        assert!(arrived.payload.len() <= CHUNK_BYTES_MAX || told == 1, "{} bytes", arrived.payload.len());
        rows += told;
    }
    assert_eq!(rows, 301);
}

// spec: QP-STR-004
#[test]
fn chunks_need_credit_of_the_stream_and_of_the_connection() {
    let server = HostedServer::start();
    let mut peer = Peer::open_with_credit(&server, 0);
    for row in 0..3 {
        peer.put(&format!("k{row}"), &"x".repeat(50_000));
    }
    let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 1});
    let scan = peer.send("SCAN", ask, json!({}));
    assert!(peer.get("k0").is_some(), "without the connection's credit nothing is streamed");
    peer.control("CREDIT", 0, json!({"bytes": 1_000_000}));
    assert_eq!(keys(&[peer.hear_of(scan)]), ["k0"], "one chunk overdraws the stream");
    assert!(peer.get("k1").is_some(), "without the stream's credit nothing is streamed");
    peer.control("CREDIT", scan, json!({"bytes": 50_000}));
    assert!(peer.get("k1").is_some(), "it still owes");
    peer.control("CREDIT", scan, json!({"bytes": 200}));
    assert_eq!(keys(&[peer.hear_of(scan)]), ["k1"]);
    peer.control("CREDIT", scan, json!({"bytes": 1_000_000}));
    assert_eq!(keys(&[peer.hear_of(scan)]), ["k2"]);
    assert_eq!(peer.hear_of(scan)["kind"], "END");
}

// spec: QP-STR-005
#[test]
fn more_credit_than_can_be_counted_ends_the_connection() {
    let server = HostedServer::start();
    let mut peer = Peer::open_with_credit(&server, u32::MAX);
    peer.control("CREDIT", 0, json!({"bytes": 1}));
    assert_eq!(code(&peer.hear()), "PROTOCOL_ERROR");
    assert!(peer.ends());
}

// spec: QP-STR-006
#[test]
fn credit_for_what_has_ended_is_ignored() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a"]);
    peer.scan(scan_from(""), json!({}));
    for id in [1, 2, 1_000] {
        peer.control("CREDIT", id, json!({"bytes": u32::MAX}));
        peer.control("CREDIT", id, json!({"bytes": u32::MAX}));
    }
    assert!(peer.get("a").is_some());
}

// spec: QP-STR-007
// spec: QP-STR-011
#[test]
fn small_replies_overtake_and_a_cancelled_scan_says_no_more() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for row in 0..40 {
        peer.put(&format!("k{row:02}"), &"x".repeat(60_000));
    }
    let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 100_000});
    let scan = peer.send("SCAN", ask, json!({}));
    let (first, second) = (peer.hear_of(scan), peer.hear_of(scan));
    assert_eq!((&first["kind"], &second["kind"]), (&json!("CHUNK"), &json!("CHUNK")));
    assert!(peer.get("k00").is_some());
    peer.control("CANCEL", scan, json!({}));
    assert_eq!(code(&peer.hear_of(scan)), "CANCELLED");
    peer.control("CREDIT", scan, json!({"bytes": 1_000_000}));
    assert!(peer.get("k00").is_some(), "nothing came after the terminal frame");
}

// spec: QP-STR-012
#[test]
fn a_scan_that_names_a_deadline_ends_at_it() {
    let server = server_with(|options| options.server.deadline_default = Duration::from_millis(1));
    let mut peer = Peer::open(&server);
    let _ = peer.ask("PUT", json!({"key": key("a"), "value": ""}), json!({"DEADLINE": 5000}));
    let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 0});
    let patient = peer.send("SCAN", ask.clone(), json!({}));
    let hasty = peer.send("SCAN", ask, json!({"DEADLINE": 30}));
    assert_eq!(code(&peer.hear_of(hasty)), "DEADLINE_EXCEEDED");
    peer.control("CREDIT", patient, json!({"bytes": 1000}));
    assert_eq!(peer.hear_of(patient)["kind"], "CHUNK", "one that names none has none");
}

// spec: QP-LIM-006
#[test]
fn so_many_scans_and_no_more() {
    let server = server_with(|options| options.server.scans_max = 1);
    let mut peer = filled(&server, &["a"]);
    let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 0});
    peer.send("SCAN", ask.clone(), json!({}));
    assert_eq!(code(&peer.ask("SCAN", ask, json!({}))), "TOO_MANY_SCANS");
}

// spec: QP-STR-001
#[test]
fn what_is_written_after_a_scan_began_is_not_in_it() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b"]);
    let transaction = peer.begin("serializable");
    let _ = fields(&peer.put_in(transaction, "aa", "own"));
    let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 0});
    let inside = peer.send("SCAN", ask.clone(), within(transaction));
    let outside = peer.send("SCAN", ask, json!({}));
    let _ = fields(&peer.put_in(transaction, "ab", "own"));
    peer.put("c", "v");
    for (scan, expected) in [(inside, vec!["a", "aa", "b"]), (outside, vec!["a", "b"])] {
        peer.control("CREDIT", scan, json!({"bytes": 100_000}));
        assert_eq!(keys(&[peer.hear_of(scan)]), expected);
        assert_eq!(peer.hear_of(scan)["kind"], "END");
    }
}

fn limited(count: u32, flags: Value) -> Value {
    json!({"range": range("", None), "flags": flags, "limit": count.to_string(), "credit": 1 << 20})
}

// spec: QP-STR-022
#[test]
fn a_resumed_scan_goes_on_where_it_was_at_the_same_version() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b", "c", "d"]);
    for (flags, whole) in [(json!([]), ["a", "b", "c", "d"]), (json!(["reverse"]), ["d", "c", "b", "a"])] {
        let heard = peer.scan(limited(1, flags.clone()), json!({}));
        let (mut told, mut token) = (keys(&heard), heard[0]["tags"]["RESUME_TOKEN"].clone());
        let began = version(end(&heard));
        peer.put("bb", "later");
        let _ = peer.ask("DELETE", json!({"key": key("bb")}), json!({}));
        while told.len() < whole.len() {
            let heard = peer.scan(limited(1, flags.clone()), json!({"RESUME_TOKEN": token}));
            told.extend(keys(&heard));
            token = heard[0]["tags"]["RESUME_TOKEN"].clone();
            assert_eq!(version(end(&heard)), began);
        }
        assert_eq!(told, whole);
    }
}

// spec: QP-STR-020
#[test]
fn a_token_of_another_scan_is_refused() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b"]);
    let token = peer.scan(limited(1, json!([])), json!({}))[0]["tags"]["RESUME_TOKEN"].clone();
    let mut refused = |fields: Value, token: &Value| code(&peer.ask("SCAN", fields, json!({"RESUME_TOKEN": token})));
    assert_eq!(refused(limited(1, json!(["reverse"])), &token), "BAD_TOKEN");
    let other = json!({"range": range("b", None), "flags": [], "limit": "0", "credit": 0});
    assert_eq!(refused(other, &token), "BAD_TOKEN");
    assert_eq!(refused(limited(1, json!([])), &json!("00")), "BAD_TOKEN");
    let mut foreign = token.as_str().expect("a token").to_owned();
    foreign.replace_range(20..22, "00");
    assert_eq!(refused(limited(1, json!([])), &json!(foreign)), "OTHER_TIMELINE");
}

// spec: QP-STR-021
#[test]
fn a_token_whose_version_is_gone_is_refused_or_goes_on_at_a_newer_one() {
    let server = server_with(|options| {
        options.node.history.keep = Duration::ZERO;
        options.node.history.bytes_max = 0;
    });
    let mut peer = filled(&server, &["a", "b"]);
    let heard = peer.scan(limited(1, json!([])), json!({}));
    let (token, began) = (heard[0]["tags"]["RESUME_TOKEN"].clone(), version(end(&heard)));
    // History is trimmed now and then: writing goes on until the version is gone.
    let gone = (0..100_000).find_map(|_| {
        peer.put("b", "newer");
        let first = peer.ask_scan(limited(0, json!([])), json!({"RESUME_TOKEN": token}));
        first.filter(|frame| frame["kind"] == "ERROR")
    });
    let gone = gone.expect("its version is gone some time");
    assert_eq!(code(&gone), "SNAPSHOT_GONE");
    assert!(number(&gone["tags"]["HORIZON"]) > began);
    let heard = peer.scan(limited(0, json!([])), json!({"RESUME_TOKEN": token, "IF_GONE": 1}));
    assert_eq!(keys(&heard), ["b"]);
    let end = end(&heard);
    assert_eq!(number(&end["fields"]["first_version"]), began);
    assert!(version(end) > began);
}

impl Peer {
    /// Sends a SCAN and hears all of it; returns an ERROR if it ended with one.
    fn ask_scan(&mut self, fields: Value, tags: Value) -> Option<Value> {
        self.scan(fields, tags).pop()
    }
}

// spec: QP-STR-021
#[test]
fn in_a_transaction_a_token_must_be_of_its_version() {
    let server = HostedServer::start();
    let mut peer = filled(&server, &["a", "b"]);
    let token = peer.scan(limited(1, json!([])), json!({}))[0]["tags"]["RESUME_TOKEN"].clone();
    let same = peer.begin("serializable");
    let tags = json!({"TRANSACTION": same.to_string(), "RESUME_TOKEN": token});
    assert_eq!(keys(&peer.scan(limited(0, json!([])), tags)), ["b"]);
    peer.put("c", hex("v").as_str());
    let later = peer.begin("serializable");
    let tags = json!({"TRANSACTION": later.to_string(), "RESUME_TOKEN": token});
    assert_eq!(code(&peer.ask("SCAN", limited(0, json!([])), tags)), "BAD_TOKEN");
}
