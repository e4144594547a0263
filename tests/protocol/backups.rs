//! Backups: what they tell, that they are of one version, and how they go on.

use super::peer::{Peer, code, described, hex, key, number, range, server_with, version};
use quantadb::testing::hosted::HostedServer;
use quantadb::types::limits::CHUNK_BYTES_MAX;
use serde_json::{Value, json};
use std::time::Duration;

impl Peer {
    /// Sends a BACKUP and hears its frames up to the last.
    fn backup(&mut self, tags: Value) -> Vec<Value> {
        let id = self.send("BACKUP", json!({"credit": 1 << 30}), tags);
        let mut heard = vec![self.hear_of(id)];
        while heard.last().is_some_and(|frame| frame["kind"] == "CHUNK") {
            heard.push(self.hear_of(id));
        }
        heard
    }

    fn open_keyspace(&mut self, name: &str) -> u64 {
        let reply = self.ask("OPEN_KEYSPACE", json!({"flags": ["create"], "name": name}), json!({}));
        reply["fields"]["keyspace"].as_u64().unwrap_or_else(|| panic!("no keyspace: {reply}"))
    }
}

/// The rows that were heard: keyspace, key in hexadecimal, row version, value in hexadecimal.
fn rows(heard: &[Value]) -> Vec<(u64, String, u64, String)> {
    let rows = heard.iter().filter_map(|frame| frame["fields"]["rows"].as_array()).flatten();
    let text = |value: &Value| value.as_str().expect("it is text").to_owned();
    rows.map(|row| {
        let keyspace = row["key"]["keyspace"].as_u64().expect("a row has a keyspace");
        (keyspace, text(&row["key"]["key"]), number(&row["row_version"]), text(&row["value"]))
    })
    .collect()
}

fn end(heard: &[Value]) -> &Value {
    let last = heard.last().expect("something was heard");
    assert_eq!(last["kind"], "END", "{last}");
    last
}

// spec: QP-STR-030
// spec: QP-STR-033
#[test]
fn a_backup_tells_every_keyspace_and_the_catalog() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put("b", "two");
    let orders = peer.open_keyspace("orders");
    let put = json!({"key": {"keyspace": orders, "key": hex("a")}, "value": hex("one")});
    let _ = peer.ask("PUT", put, json!({}));
    peer.put("gone", "v");
    let last = version(&peer.ask("DELETE", json!({"key": key("gone")}), json!({})));
    let heard = peer.backup(json!({}));
    let id = format!("{orders:08x}");
    assert_eq!(
        rows(&heard),
        [
            (0, hex("N"), 2, format!("{:08x}", orders + 1)),
            (0, hex("korders"), 2, id.clone()),
            (0, hex("n") + &id, 2, hex("orders")),
            (1, hex("b"), 1, hex("two")),
            (orders, hex("a"), 3, hex("one")),
        ]
    );
    let fields = &end(&heard)["fields"];
    assert_eq!((number(&fields["version"]), number(&fields["rows"])), (last, 5));
    // Five keyspaces of four bytes; keys of 1, 7, 5, 1, 1; values of 4, 4, 6, 3, 3.
    assert_eq!(number(&fields["bytes"]), 5 * 4 + 15 + 20);
    assert!(number(&fields["clock_ms"]) > 1_600_000_000_000, "{fields}");
    assert!(heard.iter().all(|frame| number(&frame["fields"]["version"]) == last));
}

// spec: QP-STR-031
#[test]
fn what_is_recorded_of_keyed_commits_is_not_in_a_backup() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    peer.put("a", "v");
    let pair = json!({"key": "00112233445566778899aabbccddeeff", "seen": "1"});
    let keyed = peer.ask("PUT", json!({"key": key("b"), "value": hex("v")}), json!({"IDEMPOTENCY": pair}));
    assert_eq!(version(&keyed), 2);
    let heard = peer.backup(json!({}));
    assert_eq!(rows(&heard).iter().map(|row| row.0).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(number(&end(&heard)["fields"]["rows"]), 2);
}

#[test]
fn a_backup_of_nothing_has_an_end() {
    let server = HostedServer::start();
    let heard = Peer::open(&server).backup(json!({}));
    assert_eq!((heard.len(), number(&end(&heard)["fields"]["rows"])), (1, 0));
}

// spec: QP-STR-003
// spec: QP-STR-030
#[test]
fn chunks_are_bounded_and_what_is_written_meanwhile_is_not_in_them() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for row in 0..200 {
        peer.put(&format!("k{row:03}"), &"x".repeat(1_000));
    }
    peer.put("long", &"x".repeat(200_000));
    let id = peer.send("BACKUP", json!({"credit": 1}), json!({}));
    let first = peer.hear_of(id);
    let began = number(&first["fields"]["version"]);
    assert_eq!(began, 201);
    // Small replies overtake what has no credit, and none of this was there when it began.
    peer.put("k100", "changed");
    peer.put("zz", "new");
    let _ = peer.ask("DELETE", json!({"key": key("long")}), json!({}));
    let mut heard = vec![first];
    while heard.last().is_some_and(|frame| frame["kind"] == "CHUNK") {
        peer.control("CREDIT", id, json!({"bytes": 1 << 20}));
        let arrived = peer.connection.receive();
        let frame = described(&arrived);
        assert_eq!(number(&frame["fields"]["version"]), began);
        if frame["kind"] == "CHUNK" {
            let told = frame["fields"]["rows"].as_array().expect("rows").len();
            assert!(told > 0 && (arrived.payload.len() <= CHUNK_BYTES_MAX || told == 1), "{}", arrived.payload.len());
        }
        heard.push(frame);
    }
    let rows = rows(&heard);
    assert_eq!(rows.len(), 201);
    assert!(rows.iter().all(|row| row.2 <= began && row.3.len() >= 2_000));
}

// spec: QP-STR-032
#[test]
fn a_backup_goes_on_behind_its_token_at_the_same_version() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    for row in 0..30 {
        peer.put(&format!("k{row:02}"), &"x".repeat(10_000));
    }
    let id = peer.send("BACKUP", json!({"credit": 1}), json!({}));
    let first = peer.hear_of(id);
    peer.control("CANCEL", id, json!({}));
    assert_eq!(code(&peer.hear_of(id)), "CANCELLED");
    peer.put("k29", "changed");
    let token = json!({"RESUME_TOKEN": first["tags"]["RESUME_TOKEN"].clone()});
    let mut other = Peer::open(&server);
    let mut heard = other.backup(token.clone());
    assert_eq!(number(&end(&heard)["fields"]["version"]), 30);
    assert_eq!(number(&end(&heard)["fields"]["rows"]) as usize, 30 - rows(std::slice::from_ref(&first)).len());
    heard.insert(0, first);
    let all = rows(&heard);
    assert_eq!(all.iter().map(|row| row.2).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
    let scan = json!({"range": range("", None), "flags": [], "limit": "1", "credit": 1 << 20});
    assert_eq!(code(&peer.ask("SCAN", scan.clone(), token)), "BAD_TOKEN");
    let of_scan = peer.scan(scan, json!({}))[0]["tags"]["RESUME_TOKEN"].clone();
    assert_eq!(code(&peer.ask("BACKUP", json!({"credit": 9}), json!({"RESUME_TOKEN": of_scan}))), "BAD_TOKEN");
    assert_eq!(code(&peer.ask("BACKUP", json!({"credit": 9}), json!({"RESUME_TOKEN": "00"}))), "BAD_TOKEN");
}

// spec: QP-STR-032
#[test]
fn a_backup_whose_version_is_gone_is_refused() {
    let server = server_with(|options| {
        options.node.history.keep = Duration::ZERO;
        options.node.history.bytes_max = 0;
    });
    let mut peer = Peer::open(&server);
    for name in ["a", "b"] {
        peer.put(name, &"x".repeat(40_000));
    }
    let id = peer.send("BACKUP", json!({"credit": 1}), json!({}));
    let token = json!({"RESUME_TOKEN": peer.hear_of(id)["tags"]["RESUME_TOKEN"].clone()});
    peer.control("CANCEL", id, json!({}));
    let _ = peer.hear_of(id);
    // History is trimmed now and then: writing goes on until the version is gone.
    let gone = (0..100_000).find_map(|_| {
        peer.put("b", "newer");
        peer.backup(token.clone()).pop().filter(|frame| frame["kind"] == "ERROR")
    });
    let gone = gone.expect("its version is gone some time");
    assert_eq!(code(&gone), "SNAPSHOT_GONE");
    assert!(number(&gone["tags"]["HORIZON"]) > 2);
}

// spec: QP-LIM-006
// spec: QP-STR-012
#[test]
fn a_backup_counts_as_a_scan_and_ends_at_the_deadline_that_it_names() {
    let server = server_with(|options| options.server.scans_max = 1);
    let mut peer = Peer::open(&server);
    peer.put("a", "v");
    let hasty = peer.send("BACKUP", json!({"credit": 0}), json!({"DEADLINE": 30}));
    assert_eq!(code(&peer.ask("BACKUP", json!({"credit": 0}), json!({}))), "TOO_MANY_SCANS");
    let ended = peer.hear_of(hasty);
    assert_eq!((code(&ended), &ended["opcode"]), ("DEADLINE_EXCEEDED", &json!("BACKUP")));
}
