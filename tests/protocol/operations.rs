//! What each operation does outside of transactions.

use super::peer::{Peer, code, fields, hex, key, range, server_with, value, verdict, version};
use quantadb::testing::hosted::HostedServer;
use quantadb::txn::AtomicOp;
use quantadb::wire::registry::ATOMIC_OPS;
use serde_json::{Value, json};

// spec: QP-MSG-014
// spec: QP-MSG-020
#[test]
fn what_is_put_is_found_with_its_version_and_what_is_deleted_is_not() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let (first, second) = (peer.put("k", "1"), peer.put("k", ""));
    assert!(second > first);
    let found = peer.ask("GET", json!({"key": key("k")}), json!({}));
    assert_eq!(fields(&found)["row_version"], second.to_string());
    assert!(version(&found) >= second);
    assert_eq!(value(&found).as_deref(), Some(""), "a value may be empty");
    assert_eq!(peer.put("", "empty") > second, peer.get("").is_some(), "a key may be empty");
    for _ in 0..2 {
        let _ = fields(&peer.ask("DELETE", json!({"key": key("k")}), json!({})));
        assert_eq!(peer.get("k"), None);
    }
}

// spec: QP-MSG-009
#[test]
fn a_deadline_that_has_passed_does_nothing() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let late = peer.ask("PUT", json!({"key": key("k"), "value": ""}), json!({"DEADLINE": 0}));
    assert_eq!(verdict(&late), ("DEADLINE_EXCEEDED", "backoff", "not_applied"));
    assert_eq!(peer.get("k"), None);
}

// spec: QP-MSG-009
// spec: QP-ERR-004
// spec: QP-TXN-037
#[test]
fn silence_leaves_the_outcome_unknown_and_only_a_pair_may_be_sent_again() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let seen = peer.put("k", "0").to_string();
    server.faults().hold();
    let put = json!({"key": key("k"), "value": hex("1")});
    let keyless = peer.ask("PUT", put.clone(), json!({"DEADLINE": 200}));
    assert_eq!(verdict(&keyless), ("OUTCOME_UNKNOWN", "never", "unknown"));
    let pair = json!({"key": hex([5; 16]), "seen": seen});
    let keyed = peer.ask("PUT", put.clone(), json!({"DEADLINE": 200, "IDEMPOTENCY": pair}));
    assert_eq!(verdict(&keyed), ("OUTCOME_UNKNOWN", "same", "unknown"));
    server.faults().release();
    let again = peer.ask("PUT", put, json!({"IDEMPOTENCY": pair, "RETRY_MARK": true}));
    let found = peer.ask("GET", json!({"key": key("k")}), json!({}));
    assert_eq!(fields(&found)["row_version"], version(&again).to_string(), "it was done once");
}

// spec: QP-MSG-015
#[test]
fn a_minimum_version_is_waited_for_until_the_deadline() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let mut other = Peer::open(&server);
    let now = peer.put("k", "old");
    let get = json!({"key": key("k")});
    let at_once = peer.ask("GET", get.clone(), json!({"MIN_VERSION": now.to_string()}));
    assert_eq!(value(&at_once).as_deref(), Some("old"));
    let next = json!({"MIN_VERSION": (now + 1).to_string()});
    let late = peer.ask("GET", get.clone(), json!({"MIN_VERSION": next["MIN_VERSION"], "DEADLINE": 20}));
    assert_eq!(code(&late), "DEADLINE_EXCEEDED");
    let waiting = peer.send("GET", get, next);
    other.put("k", "new");
    assert_eq!(value(&peer.hear_of(waiting)).as_deref(), Some("new"));
}

// spec: QP-MSG-016
#[test]
fn every_consistency_is_answered() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put("k", "v");
    for mode in [json!({"mode": 0}), json!({"mode": 1, "staleness_ms_max": 100}), json!({"mode": 2})] {
        let found = peer.ask("GET", json!({"key": key("k")}), json!({"CONSISTENCY": mode}));
        assert_eq!(value(&found).as_deref(), Some("v"), "one node is never stale");
        let _ = fields(&peer.ask("BEGIN", json!({"isolation": "serializable"}), json!({"CONSISTENCY": mode})));
    }
}

// spec: QP-MSG-017
#[test]
fn cancel_ends_what_was_not_begun_and_harms_nothing_else() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let now = peer.put("k", "v");
    let waiting = peer.send("GET", json!({"key": key("k")}), json!({"MIN_VERSION": (now + 1).to_string()}));
    for id in [waiting, waiting, 1, 999] {
        peer.control("CANCEL", id, json!({}));
    }
    assert_eq!(verdict(&peer.hear_of(waiting)), ("CANCELLED", "never", "not_applied"));
    server.faults().hold();
    let submitted = peer.send("PUT", json!({"key": key("k"), "value": hex("w")}), json!({}));
    peer.control("CANCEL", submitted, json!({}));
    server.faults().release();
    assert!(version(&peer.hear_of(submitted)) > now, "a submitted commit is not cancelled");
}

// spec: QP-MSG-008
#[test]
fn after_waits_for_all_that_came_before_it() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    server.faults().hold();
    let put = peer.send("PUT", json!({"key": key("k"), "value": hex("v")}), json!({}));
    let after = peer.ask_after("GET", json!({"key": key("k")}), json!({}));
    let beside = peer.ask("GET", json!({"key": key("k")}), json!({}));
    assert_eq!(value(&beside), None, "what is not ordered is concurrent");
    server.faults().release();
    let _ = fields(&peer.hear_of(put));
    assert_eq!(value(&peer.hear_of(after)).as_deref(), Some("v"));
}

// spec: QP-MSG-018
#[test]
fn get_many_answers_as_much_as_fits_at_one_version() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let large = "x".repeat(600_000);
    peer.put_all(&["a", "b", "c"], &large);
    let many = |names: &[&str]| json!({"keys": names.iter().map(|name| key(name)).collect::<Vec<_>>()});
    let reply = peer.ask("GET_MANY", many(&["a", "b", "c", "none"]), json!({}));
    let answered = fields(&reply)["answered"].as_array().expect("a list").len();
    assert!((1..4).contains(&answered), "{answered} of 4");
    let rest = peer.ask("GET_MANY", many(&["none", "a"]), json!({}));
    let rest = fields(&rest)["answered"].as_array().expect("a list").clone();
    assert_eq!((&rest[0]["found"], &rest[1]["found"]), (&json!("no"), &json!("yes")));
    assert_eq!(fields(&peer.ask("GET_MANY", many(&[]), json!({})))["answered"], json!([]));
}

// spec: QP-MSG-019
#[test]
fn what_is_past_the_limits_in_flight_is_refused() {
    let server = server_with(|options| options.server.requests_in_flight_max = 2);
    let mut peer = Peer::open(&server);
    server.faults().hold();
    let put = |peer: &mut Peer| peer.send("PUT", json!({"key": key("k"), "value": ""}), json!({}));
    let (one, two, three) = (put(&mut peer), put(&mut peer), put(&mut peer));
    let refused = peer.hear_of(three);
    assert_eq!(verdict(&refused), ("OVERLOADED", "backoff", "not_applied"));
    assert_eq!(refused["tags"]["LIMIT"], "2");
    server.faults().release();
    let _ = (fields(&peer.hear_of(one)), fields(&peer.hear_of(two)));
    assert!(peer.put("k", "") > 0, "there is room again");
}

// spec: QP-LIM-005
#[test]
fn who_does_not_read_is_refused_before_it_is_left_unread() {
    let server = server_with(|options| options.server.bytes_in_flight_max = 1 << 20);
    let mut peer = Peer::open(&server);
    peer.put("k", &"x".repeat(500_000));
    for _ in 0..100 {
        peer.queue_request(0, "GET", json!({"key": key("k")}), json!({}));
    }
    peer.connection.flush();
    let heard: Vec<Value> = (0..100).map(|_| peer.hear()).collect();
    let refused: Vec<&Value> = heard.iter().filter(|frame| frame["kind"] == "ERROR").collect();
    assert!(refused.iter().all(|frame| code(frame) == "OVERLOADED"));
    assert!(!refused.is_empty() && refused.len() < 100, "{} refused", refused.len());
    assert!(peer.get("k").is_some(), "who has read is served again");
}

// spec: QP-MSG-021
#[test]
fn delete_range_deletes_what_is_there_and_counts_it() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put_all(&["a", "b1", "b2", "c"], "v");
    let reply = peer.ask("DELETE_RANGE", json!({"range": range("b", Some("c"))}), json!({}));
    assert_eq!(fields(&reply)["deleted"], "2");
    assert_eq!((peer.get("a").is_some(), peer.get("b1"), peer.get("c").is_some()), (true, None, true));
}

// spec: QP-MSG-034
#[test]
fn a_keyspace_is_made_once_and_keeps_its_id() {
    let server = HostedServer::start();
    let mut peers = [Peer::open(&server), Peer::open(&server)];
    let open =
        |create: bool, name: &str| json!({"flags": if create { json!(["create"]) } else { json!([]) }, "name": name});
    assert_eq!(code(&peers[0].ask("OPEN_KEYSPACE", open(false, "orders"), json!({}))), "UNKNOWN_KEYSPACE");
    let ids: Vec<u64> =
        peers.iter_mut().map(|peer| peer.send("OPEN_KEYSPACE", open(true, "orders"), json!({}))).collect();
    let replies: Vec<Value> = peers.iter_mut().zip(ids).map(|(peer, id)| peer.hear_of(id)).collect();
    assert_eq!(fields(&replies[0])["keyspace"], fields(&replies[1])["keyspace"]);
    let made = replies.iter().filter(|reply| reply["fields"]["created"] == "yes").count();
    assert_eq!(made, 1);
    assert_eq!(fields(&peers[0].ask("OPEN_KEYSPACE", open(false, "default"), json!({})))["keyspace"], 1);
}

// spec: QP-MSG-035
#[test]
fn a_read_version_covers_what_was_acknowledged() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    for _ in 0..20 {
        let written = one.put("k", "v");
        assert!(version(&two.ask("READ_VERSION", json!({}), json!({}))) >= written);
        assert!(version(&two.ask("STATUS", json!({}), json!({}))) >= written);
    }
}

fn integer(value: i64) -> String {
    hex(value.to_be_bytes())
}

/// One line of the table of atomic operations: old value, operand, new value, result.
type Case = (&'static str, Option<&'static str>, String, Option<String>, String);

fn atomic_cases() -> Vec<Case> {
    let some = |text: &str| Some(hex(text));
    let same = |op, old, operand: String, new: String| (op, old, operand, Some(new.clone()), new);
    vec![
        same("ADD", None, integer(5), integer(5)),
        same("ADD", Some("\x7f"), "02".into(), integer(0x81)),
        same("ADD", Some(""), integer(-1), integer(-1)),
        same("ADD", Some("xyz\0\0\0\0\0\0\0\x01"), integer(1), integer(2)),
        same("MIN", None, "05".into(), integer(5)),
        same("MIN", Some("\x07"), integer(-3), integer(-3)),
        same("MAX", Some("\x07"), integer(-3), integer(7)),
        same("AND", None, "0f".into(), "0f".into()),
        same("AND", Some("\x7f\x01"), "0f".into(), "0f00".into()),
        same("OR", Some("\x01"), "0203".into(), "0303".into()),
        same("XOR", Some("\x01"), "0101".into(), "0001".into()),
        same("BYTE_MIN", Some("ab"), hex("a"), hex("a")),
        same("BYTE_MAX", Some("ab"), hex("a"), hex("ab")),
        same("BYTE_MIN", None, hex("z"), hex("z")),
        ("APPEND", None, hex("one"), some("one"), integer(3)),
        ("APPEND", Some("one"), hex("two"), some("onetwo"), integer(6)),
        ("COMPARE_AND_DELETE", Some("v"), hex("v"), None, "01".into()),
        ("COMPARE_AND_DELETE", Some("v"), hex("w"), some("v"), "00".into()),
        ("COMPARE_AND_DELETE", None, "".into(), None, "00".into()),
    ]
}

// spec: QP-MSG-022
// spec: QP-MSG-023
#[test]
fn atomic_operations_do_what_their_table_says() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for (place, (op, old, operand, new, result)) in atomic_cases().into_iter().enumerate() {
        let name = format!("k{place}");
        if let Some(old) = old {
            peer.put(&name, old);
        }
        let reply = peer.ask("ATOMIC", json!({"op": op, "key": key(&name), "operand": operand}), json!({}));
        assert_eq!(fields(&reply)["result"], result, "{op} of {old:?} and {operand}");
        let found = peer.ask("GET", json!({"key": key(&name)}), json!({}));
        let now = (fields(&found)["found"] == "yes").then(|| fields(&found)["value"].clone());
        assert_eq!(now, new.map(|new| json!(new)), "{op} of {old:?} and {operand}");
    }
}

// spec: QP-MSG-022
#[test]
fn the_registry_knows_the_atomic_operations_of_the_machine() {
    assert_eq!(ATOMIC_OPS.len(), AtomicOp::ALL.len());
    for (row, op) in ATOMIC_OPS.iter().zip(AtomicOp::ALL) {
        assert_eq!(row.number, op as u8);
        assert_eq!(row.name.replace('_', "").to_lowercase(), format!("{op:?}").to_lowercase());
    }
}

fn condition(kind: &str, name: &str, operand: &str) -> Value {
    json!({"kind": kind, "key": key(name), "operand": operand})
}

// spec: QP-MSG-030
#[test]
fn conditions_hold_as_their_table_says() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let written = peer.put("k", "v");
    let at = |version: u64| hex(version.to_be_bytes());
    let cases = [
        (condition("EXISTS", "k", ""), true),
        (condition("EXISTS", "none", ""), false),
        (condition("ABSENT", "k", ""), false),
        (condition("ABSENT", "none", ""), true),
        (condition("VALUE_EQUALS", "k", &hex("v")), true),
        (condition("VALUE_EQUALS", "none", ""), false),
        (condition("VALUE_DIFFERS", "k", &hex("v")), false),
        (condition("VALUE_DIFFERS", "none", ""), true),
        (condition("VERSION_EQUALS", "k", &at(written)), true),
        (condition("VERSION_EQUALS", "k", &at(0)), false),
        (condition("VERSION_EQUALS", "none", &at(0)), true),
        (condition("VERSION_AT_MOST", "k", &at(written)), true),
        (condition("VERSION_AT_MOST", "k", &at(written - 1)), false),
        (condition("VERSION_AT_MOST", "none", &at(0)), true),
    ];
    for (condition, holds) in cases {
        let reply = peer.ask("EXECUTE", json!({"conditions": [condition], "then": [], "else": []}), json!({}));
        assert_eq!(fields(&reply)["branch"], if holds { "then" } else { "else" }, "{condition}");
    }
}

// spec: QP-MSG-032
#[test]
fn execute_does_one_branch_in_order_and_sees_its_own_effects() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put("a1", "x");
    let ask = json!({
        "conditions": [condition("EXISTS", "a1", ""), condition("ABSENT", "b", "")],
        "then": [
            {"kind": "ATOMIC", "op": "APPEND", "key": key("a1"), "operand": hex("y")},
            {"kind": "PUT", "key": key("a2"), "value": hex("z")},
            {"kind": "RANGE", "range": range("a", Some("b")), "flags": [], "limit": 1},
            {"kind": "DELETE_RANGE", "range": range("a", Some("a2"))},
            {"kind": "GET", "key": key("a1")},
            {"kind": "DELETE", "key": key("a2")},
        ],
        "else": [{"kind": "PUT", "key": key("b"), "value": ""}],
    });
    let reply = peer.ask("EXECUTE", ask.clone(), json!({}));
    let results = &fields(&reply)["results"];
    assert_eq!(results[0], json!({"kind": "ATOMIC", "result": integer(2)}));
    assert_eq!(results[2]["more"], "yes");
    assert_eq!(results[2]["rows"][0]["value"], hex("xy"));
    assert_eq!(results[3]["deleted"], "1");
    assert_eq!(results[4]["found"], "no");
    let again = peer.ask("EXECUTE", ask, json!({}));
    assert_eq!(fields(&again)["branch"], "else");
    assert_eq!((peer.get("a2"), peer.get("b").as_deref()), (None, Some("")));
}

// spec: QP-MSG-033
#[test]
fn an_execute_that_is_refused_has_done_nothing() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let large = "x".repeat(5 << 20);
    peer.put("large", &large);
    let get = json!({"kind": "GET", "key": key("large")});
    let ask = json!({"conditions": [], "else": [], "then": [
        {"kind": "PUT", "key": key("k"), "value": hex("v")}, get, get]});
    let refused = peer.ask("EXECUTE", ask, json!({}));
    assert_eq!(verdict(&refused), ("RESULT_TOO_LARGE", "never", "not_applied"));
    assert_eq!(peer.get("k"), None);
}
