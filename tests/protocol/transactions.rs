//! Interactive transactions, their conflicts, and writes that happen exactly once.

use super::peer::{
    Peer, code, fields, hex, key, keys, number, range, scan_from, server_with, value, verdict, version, within,
};
use quantadb::testing::hosted::HostedServer;
use quantadb::wire::Opcode;
use serde_json::{Value, json};
use std::time::Duration;

// spec: QP-TXN-002
#[test]
fn every_commit_has_a_greater_version() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let mut last = 0;
    for round in 0..50 {
        let peer = if round % 2 == 0 { &mut one } else { &mut two };
        let next = peer.put("k", "v");
        assert!(next > last);
        last = next;
    }
}

// spec: QP-TXN-003
// spec: QP-TXN-019
// spec: QP-TXN-021
#[test]
fn a_whole_transaction_in_one_write_is_begun_in_order() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let id = peer.queue_request(0, "BEGIN", json!({"isolation": "serializable"}), json!({}));
    let add = |name: &str| json!({"op": "ADD", "key": key(name), "operand": "01"});
    peer.queue_request(0, "ATOMIC", add("a"), within(id));
    peer.queue_request(0, "SAVEPOINT", json!({"name": hex("s")}), within(id));
    peer.queue_request(0, "ATOMIC", add("b"), within(id));
    peer.queue_request(0, "ROLLBACK_TO", json!({"name": hex("s")}), within(id));
    peer.queue_request(0, "ATOMIC", add("a"), within(id));
    peer.queue_request(0, "GET", json!({"key": key("a")}), within(id));
    peer.queue_request(0, "COMMIT", json!({}), within(id));
    peer.connection.flush();
    let heard: Vec<Value> = (0..8).map(|at| peer.hear_of(id + at)).collect();
    assert_eq!(fields(&heard[1])["has_result"], "no");
    assert_eq!(fields(&heard[6])["value"], hex(2_u64.to_be_bytes()));
    let results = json!([hex(1_u64.to_be_bytes()), hex(2_u64.to_be_bytes())]);
    assert_eq!(fields(&heard[7])["results"], results, "one for each that was still there");
}

// spec: QP-TXN-003
#[test]
fn what_follows_a_begin_that_failed_fails_too() {
    let server = server_with(|options| options.server.transactions_max = 1);
    let mut peer = Peer::open(&server);
    peer.begin("serializable");
    let id = peer.queue_request(0, "BEGIN", json!({"isolation": "snapshot"}), json!({}));
    peer.queue_request(0, "PUT", json!({"key": key("k"), "value": ""}), within(id));
    peer.queue_request(0, "COMMIT", json!({}), within(id));
    peer.connection.flush();
    let heard: Vec<Value> = (0..3).map(|at| peer.hear_of(id + at)).collect();
    assert_eq!(code(&heard[0]), "TOO_MANY_TRANSACTIONS");
    assert_eq!((code(&heard[1]), code(&heard[2])), ("PRIOR_FAILED", "PRIOR_FAILED"));
    assert_eq!(heard[2]["tags"]["CAUSE"], heard[0]["fields"]["code"]);
    assert_eq!(peer.get("k"), None);
}

// spec: QP-TXN-004
#[test]
fn a_transaction_ends_with_its_connection() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let id = one.begin("serializable");
    let _ = fields(&one.put_in(id, "k", "v"));
    assert_eq!(code(&two.commit(id)), "UNKNOWN_TRANSACTION");
    drop(one);
    assert_eq!(two.get("k"), None);
    let ended = two.begin("serializable");
    let _ = fields(&two.commit(ended));
    assert_eq!(code(&two.get_in(ended, "k")), "UNKNOWN_TRANSACTION");
}

// spec: QP-TXN-005
#[test]
fn a_transaction_reads_at_its_read_version() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let written = two.put("k", "old");
    let begun = one.ask("BEGIN", json!({"isolation": "serializable"}), json!({}));
    assert!(version(&begun) >= written, "what was acknowledged is visible");
    let id = number(&begun["request_id"]);
    two.put("k", "new");
    let read = one.get_in(id, "k");
    assert_eq!((value(&read).as_deref(), version(&read)), (Some("old"), version(&begun)));
}

// spec: QP-TXN-006
#[test]
fn a_transaction_reads_its_own_writes() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put_all(&["a", "b"], "v");
    let id = peer.begin("serializable");
    let _ = fields(&peer.put_in(id, "c", "own"));
    let _ = fields(&peer.ask_in(id, "DELETE", json!({"key": key("a")})));
    let own = peer.get_in(id, "c");
    assert_eq!((fields(&own)["row_version"].as_str(), value(&own).as_deref()), (Some("0"), Some("own")));
    assert_eq!(value(&peer.get_in(id, "a")), None);
    assert_eq!(keys(&peer.scan(scan_from(""), within(id))), ["b", "c"]);
    let count = json!({"range": range("", None), "flags": ["count_only"], "limit": "0", "credit": 0});
    assert_eq!(peer.scan(count, within(id))[0]["fields"]["rows"], "2");
    let deleted = peer.ask_in(id, "DELETE_RANGE", json!({"range": range("", None)}));
    assert_eq!(fields(&deleted)["deleted"], "2");
}

// spec: QP-TXN-007
#[test]
fn a_read_that_changed_is_a_conflict_even_if_it_was_changed_back() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    two.put("k", "v");
    let id = one.begin("serializable");
    let _ = fields(&one.get_in(id, "k"));
    let _ = fields(&one.put_in(id, "other", ""));
    two.put("k", "w");
    two.put("k", "v");
    let refused = one.commit(id);
    assert_eq!(verdict(&refused), ("CONFLICT", "restart_txn", "not_applied"));
    assert_eq!(refused["tags"]["CONFLICT_KEY"], key("k"));
    assert_eq!(one.get("other"), None);
    assert_eq!(code(&one.commit(id)), "UNKNOWN_TRANSACTION", "it is gone");
}

// spec: QP-TXN-007
#[test]
fn what_is_read_of_own_writes_alone_is_no_read() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let id = one.begin("serializable");
    let _ = fields(&one.put_in(id, "k", "own"));
    let _ = fields(&one.get_in(id, "k"));
    two.put("k", "theirs");
    assert!(version(&one.commit(id)) > 0);
    assert_eq!(one.get("k").as_deref(), Some("own"));
}

// spec: QP-TXN-008
#[test]
fn snapshot_isolation_checks_what_is_written_and_nothing_else() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    for (changed, outcome) in [("read", None), ("written", Some("CONFLICT"))] {
        let id = one.begin("snapshot");
        let _ = fields(&one.get_in(id, "read"));
        let _ = fields(&one.put_in(id, "written", "own"));
        two.put(changed, "theirs");
        let reply = one.commit(id);
        assert_eq!((reply["kind"] == "ERROR").then(|| code(&reply)), outcome, "{changed}");
    }
}

// spec: QP-TXN-009
#[test]
fn a_scan_has_read_all_that_its_answer_speaks_for() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    two.put_all(&["b", "d", "f"], "v");
    let limited = json!({"range": range("a", Some("z")), "flags": [], "limit": "2", "credit": 9000});
    let whole = json!({"range": range("a", Some("z")), "flags": [], "limit": "0", "credit": 9000});
    let count = json!({"range": range("a", Some("z")), "flags": ["count_only"], "limit": "0", "credit": 0});
    // What another puts, and whether the scan had spoken for it.
    let cases = [
        (&limited, "c", true),
        (&limited, "a", true),
        (&limited, "e", false),
        (&whole, "y", true),
        (&whole, "z", false),
        (&count, "y", true),
    ];
    for (scan, name, conflicts) in cases {
        let id = one.begin("serializable");
        one.scan(scan.clone(), within(id));
        let _ = fields(&one.put_in(id, "mine", ""));
        two.put(name, "v");
        let reply = one.commit(id);
        assert_eq!(reply["kind"] == "ERROR", conflicts, "{name} after {scan}");
        let _ = fields(&two.ask("DELETE", json!({"key": key(name)}), json!({})));
        let _ = fields(&two.ask("DELETE", json!({"key": key("mine")}), json!({})));
    }
}

// spec: QP-TXN-010
#[test]
fn a_read_version_older_than_what_is_remembered_is_too_old() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let mut other = Peer::open(&server);
    let id = peer.begin("serializable");
    let _ = fields(&peer.get_in(id, "k"));
    let _ = fields(&peer.put_in(id, "k", "v"));
    other.put("else", "v");
    // A new term remembers nothing of what was before it.
    server.faults().new_term(0);
    let settled = (0..10_000).any(|_| {
        let reply = other.ask("PUT", json!({"key": key("else"), "value": ""}), json!({}));
        reply["kind"] == "RESPONSE"
    });
    assert!(settled, "the new term begins");
    let refused = peer.commit(id);
    assert_eq!(verdict(&refused), ("TOO_OLD", "restart_txn", "not_applied"));
    assert!(number(&refused["tags"]["HORIZON"]) > 0);
}

fn name(text: &str) -> Value {
    json!({"name": hex(text)})
}

// spec: QP-TXN-011
// spec: QP-TXN-012
#[test]
fn savepoints_restore_writes_and_never_reads() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let id = one.begin("serializable");
    let step = |one: &mut Peer, opcode: &str, what: Value| fields(&one.ask_in(id, opcode, what)).clone();
    step(&mut one, "SAVEPOINT", name("s"));
    let _ = fields(&one.put_in(id, "k", "1"));
    step(&mut one, "SAVEPOINT", name("s"));
    step(&mut one, "SAVEPOINT", name("t"));
    let _ = fields(&one.put_in(id, "k", "2"));
    step(&mut one, "ROLLBACK_TO", name("s"));
    assert_eq!(value(&one.get_in(id, "k")).as_deref(), Some("1"), "the later one of the name");
    assert_eq!(code(&one.ask_in(id, "ROLLBACK_TO", name("t"))), "UNKNOWN_SAVEPOINT", "later ones are gone");
    step(&mut one, "ROLLBACK_TO", name("s"));
    let _ = fields(&one.get_in(id, "read"));
    step(&mut one, "ROLLBACK_TO", name("s"));
    two.put("read", "changed");
    assert_eq!(code(&one.commit(id)), "CONFLICT", "what was read stays read");
}

// spec: QP-TXN-011
#[test]
fn so_many_savepoints_and_no_more() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let id = peer.begin("serializable");
    for number in 0..1_024 {
        let _ = fields(&peer.ask_in(id, "SAVEPOINT", name(&format!("s{number}"))));
    }
    assert_eq!(code(&peer.ask_in(id, "SAVEPOINT", name("more"))), "TOO_MANY_SAVEPOINTS");
}

// spec: QP-TXN-012
// spec: QP-TXN-013
// spec: QP-TXN-020
#[test]
fn after_an_error_only_rolling_back_is_accepted() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let id = peer.begin("serializable");
    let _ = fields(&peer.ask_in(id, "SAVEPOINT", name("s")));
    let bad = json!({"range": range("b", Some("a"))});
    assert_eq!(code(&peer.ask_in(id, "DELETE_RANGE", bad)), "BAD_RANGE");
    for opcode in ["COMMIT", "SAVEPOINT", "GET", "SCAN"] {
        let what = match opcode {
            "COMMIT" => json!({}),
            "SAVEPOINT" => name("t"),
            "GET" => json!({"key": key("k")}),
            _ => scan_from(""),
        };
        let refused = peer.ask_in(id, opcode, what);
        assert_eq!((code(&refused), &refused["tags"]["CAUSE"]), ("PRIOR_FAILED", &json!(0x24)), "{opcode}");
    }
    let _ = fields(&peer.ask_in(id, "ROLLBACK_TO", name("s")));
    assert_eq!(code(&peer.ask_in(id, "ROLLBACK_TO", name("none"))), "UNKNOWN_SAVEPOINT");
    assert_eq!(code(&peer.commit(id)), "PRIOR_FAILED", "a savepoint that is not there is a failure");
    let _ = fields(&peer.ask_in(id, "ROLLBACK_TO", name("s")));
    let _ = fields(&peer.put_in(id, "k", "v"));
    assert!(version(&peer.commit(id)) > 0);
}

// spec: QP-TXN-020
#[test]
fn a_request_that_cannot_be_read_fails_every_transaction_that_it_may_have_been_of() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let (one, two) = (peer.begin("serializable"), peer.begin("snapshot"));
    peer.connection.queue(quantadb::wire::Kind::Request, 0, Opcode::Put.number(), 1_000, |out| {
        out.extend_from_slice(&[0, 9]);
    });
    peer.connection.flush();
    assert_eq!(code(&peer.hear_of(1_000)), "MALFORMED");
    for (id, transaction) in [(1_001, one), (1_002, two)] {
        let commit = json!({"kind": "REQUEST", "flags": 0, "opcode": "COMMIT", "request_id": id.to_string(),
                            "fields": {}, "tags": within(transaction)});
        peer.queue(&commit);
        peer.connection.flush();
        assert_eq!(code(&peer.hear_of(id)), "PRIOR_FAILED");
    }
}

// spec: QP-TXN-014
#[test]
fn a_commit_without_writes_succeeds_at_its_read_version() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let begun = one.ask("BEGIN", json!({"isolation": "serializable"}), json!({}));
    let id = number(&begun["request_id"]);
    let _ = fields(&one.get_in(id, "k"));
    two.put("k", "v");
    assert_eq!(version(&one.commit(id)), version(&begun));
}

// spec: QP-TXN-015
#[test]
fn commit_and_rollback_end_open_scans() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put("k", "v");
    for ending in ["COMMIT", "ROLLBACK"] {
        let id = peer.begin("serializable");
        let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 0});
        let scan = peer.send("SCAN", ask, within(id));
        let end = peer.send(ending, json!({}), within(id));
        assert_eq!(code(&peer.hear_of(scan)), "TRANSACTION_CLOSED");
        let _ = fields(&peer.hear_of(end));
    }
}

// spec: QP-TXN-016
#[test]
fn rollback_forgets_a_transaction_in_every_state() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for fails in [false, true] {
        let id = peer.begin("serializable");
        let _ = fields(&peer.put_in(id, "k", "v"));
        if fails {
            assert_eq!(code(&peer.ask_in(id, "DELETE_RANGE", json!({"range": range("b", Some("a"))}))), "BAD_RANGE");
        }
        let _ = fields(&peer.ask_in(id, "ROLLBACK", json!({})));
        assert_eq!(code(&peer.ask_in(id, "ROLLBACK", json!({}))), "UNKNOWN_TRANSACTION");
        assert_eq!(peer.get("k"), None);
    }
}

// spec: QP-TXN-017
#[test]
fn a_transaction_that_is_idle_or_old_expires() {
    let idle = server_with(|options| options.server.transaction_idle_max = Duration::from_millis(40));
    let old = server_with(|options| options.server.transaction_age_max = Duration::from_millis(40));
    for server in [idle, old] {
        let mut peer = Peer::open(&server);
        let id = peer.begin("serializable");
        let ask = json!({"range": range("", None), "flags": [], "limit": "0", "credit": 0});
        peer.put("k", "v");
        let scan = peer.send("SCAN", ask, within(id));
        assert_eq!(code(&peer.hear_of(scan)), "TRANSACTION_EXPIRED", "its scans end with it");
        assert_eq!(verdict(&peer.commit(id)), ("TRANSACTION_EXPIRED", "restart_txn", "not_applied"));
    }
}

// spec: QP-TXN-018
#[test]
fn a_transaction_has_a_size() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let id = peer.begin("serializable");
    let large = "x".repeat(8 << 20);
    let _ = fields(&peer.put_in(id, "a", &large));
    let refused = peer.put_in(id, "b", &large);
    assert_eq!(code(&refused), "TRANSACTION_TOO_LARGE");
    assert_eq!(refused["tags"]["LIMIT"], (16 << 20).to_string());
    assert_eq!(code(&peer.commit(id)), "PRIOR_FAILED");
}

fn pair(byte: u8, seen: u64) -> Value {
    json!({"key": hex([byte; 16]), "seen": seen.to_string()})
}

fn add(name: &str) -> Value {
    json!({"op": "ADD", "key": key(name), "operand": "01"})
}

// spec: QP-TXN-030
// spec: QP-TXN-031
#[test]
fn every_attempt_under_one_pair_gets_the_first_answer() {
    let server = HostedServer::start();
    let (mut one, mut two) = (Peer::open(&server), Peer::open(&server));
    let seen = one.put("x", "0");
    server.faults().hold();
    let tags = json!({"IDEMPOTENCY": pair(1, seen)});
    let marked = json!({"IDEMPOTENCY": pair(1, seen), "RETRY_MARK": true});
    let first = one.send("ATOMIC", add("n"), tags);
    let second = two.send("ATOMIC", add("n"), marked.clone());
    server.faults().release();
    let (first, second) = (one.hear_of(first), two.hear_of(second));
    assert_eq!(fields(&first), fields(&second), "one waits for the other");
    assert_eq!(fields(&one.ask("ATOMIC", add("n"), marked)), fields(&first), "and later it is remembered");
}

// spec: QP-TXN-032
#[test]
fn the_answer_of_a_marked_retry_that_wrote_nothing_is_kept() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let seen = peer.put("k", "v");
    let ask = json!({"conditions": [{"kind": "ABSENT", "key": key("k"), "operand": ""}],
                     "then": [{"kind": "PUT", "key": key("k"), "value": hex("w")}], "else": []});
    let tags = json!({"IDEMPOTENCY": pair(2, seen), "RETRY_MARK": true});
    let first = peer.ask("EXECUTE", ask.clone(), tags.clone());
    assert_eq!(fields(&first)["branch"], "else");
    let _ = fields(&peer.ask("DELETE", json!({"key": key("k")}), json!({})));
    let again = peer.ask("EXECUTE", ask, tags);
    assert_eq!(fields(&again)["branch"], "else", "though it would go the other way now");
    assert_eq!(peer.get("k"), None);
}

fn outcome(peer: &mut Peer, pair: &Value) -> Value {
    peer.ask("OUTCOME", json!({"key": pair["key"], "seen": pair["seen"]}), json!({}))
}

// spec: QP-TXN-033
#[test]
fn outcome_tells_what_became_of_a_pair_or_fences_it() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let seen = peer.put("x", "0");
    let (done, never) = (pair(3, seen), pair(4, seen));
    let committed = peer.ask("ATOMIC", add("n"), json!({"IDEMPOTENCY": done}));
    let told = outcome(&mut peer, &done);
    assert_eq!((&fields(&told)["state"], version(&told)), (&json!("committed"), version(&committed)));
    assert_eq!(fields(&told)["results"], json!([fields(&committed)["result"]]));
    assert_eq!(fields(&outcome(&mut peer, &never))["state"], "never");
    let late = peer.ask("ATOMIC", add("n"), json!({"IDEMPOTENCY": never}));
    assert_eq!(verdict(&late), ("FENCED", "never", "not_applied"));
}

// spec: QP-TXN-034
#[test]
fn an_expired_pair_is_refused_and_its_outcome_is_not_known() {
    let server = server_with(|options| options.node.committer.idempotency_window = Duration::ZERO);
    let mut peer = Peer::open(&server);
    let seen = peer.put("x", "0");
    let marked = json!({"IDEMPOTENCY": pair(6, seen), "RETRY_MARK": true});
    let first = json!({"IDEMPOTENCY": pair(5, seen)});
    // The floor follows the clock by the second: commits go on until it has passed the pair.
    let refused = (0..1_000_000).find_map(|_| {
        peer.put("x", "1");
        let reply = peer.ask("PUT", json!({"key": key("k"), "value": ""}), first.clone());
        (reply["kind"] == "ERROR").then_some(reply)
    });
    let refused = refused.expect("the pair expires some time");
    assert_eq!(verdict(&refused), ("KEY_EXPIRED", "never", "not_applied"));
    let retried = peer.ask("PUT", json!({"key": key("k"), "value": ""}), marked);
    assert_eq!(verdict(&retried), ("KEY_EXPIRED", "never", "unknown"));
    assert_eq!(fields(&outcome(&mut peer, &pair(5, seen)))["state"], "expired");
}

// spec: QP-TXN-035
#[test]
fn a_pair_from_the_future_is_of_another_history() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let ahead = pair(7, u64::MAX);
    let refused = peer.ask("PUT", json!({"key": key("k"), "value": ""}), json!({"IDEMPOTENCY": ahead}));
    assert_eq!(verdict(&refused), ("OTHER_TIMELINE", "never", "not_applied"));
    assert_eq!(code(&outcome(&mut peer, &ahead)), "OTHER_TIMELINE");
}

// spec: QP-TXN-036
#[test]
fn a_pair_is_not_for_two_kinds_of_requests() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let seen = peer.put("x", "0");
    let tags = json!({"IDEMPOTENCY": pair(8, seen)});
    let _ = fields(&peer.ask("PUT", json!({"key": key("k"), "value": ""}), tags.clone()));
    let ask = json!({"conditions": [], "then": [{"kind": "PUT", "key": key("k"), "value": ""}], "else": []});
    assert_eq!(code(&peer.ask("EXECUTE", ask, tags)), "MALFORMED");
}
