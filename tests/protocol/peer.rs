//! A client that speaks in JSON: what it says is built by the tables, what it hears is described by them.

use quantadb::testing::connection::{Arrived, Connection};
use quantadb::testing::hosted::HostedServer;
use quantadb::testing::server::TestOptions;
use quantadb::testing::wire::{build, describe, to_hex};
use quantadb::wire::registry::{ERRORS, FLAG_AFTER};
use serde_json::{Value, json};

/// A connection past its handshake.
pub struct Peer {
    pub connection: Connection,
    next_request: u64,
}

/// A server whose options were changed.
pub fn server_with(change: impl FnOnce(&mut TestOptions)) -> HostedServer {
    let mut options = TestOptions::default();
    change(&mut options);
    HostedServer::start_with(options)
}

/// Bytes as the tables write them.
pub fn hex(text: impl AsRef<[u8]>) -> String {
    to_hex(text.as_ref())
}

/// A key of the default keyspace.
pub fn key(name: &str) -> Value {
    json!({"keyspace": 1, "key": hex(name)})
}

/// A range of the default keyspace.
pub fn range(start: &str, end: Option<&str>) -> Value {
    json!({"keyspace": 1, "start": hex(start), "end": end.map(hex)})
}

/// The tag that names a transaction.
pub fn within(transaction: u64) -> Value {
    json!({"TRANSACTION": transaction.to_string()})
}

/// A number that stands as text.
pub fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// The version that a reply begins with.
pub fn version(reply: &Value) -> u64 {
    number(&fields(reply)["version"])
}

/// The fields of a reply that is no error.
pub fn fields(reply: &Value) -> &Value {
    assert_ne!(reply["kind"], "ERROR", "{reply}");
    &reply["fields"]
}

/// The code of an ERROR or GOAWAY by name.
pub fn code(reply: &Value) -> &'static str {
    assert!(reply["kind"] == "ERROR" || reply["kind"] == "GOAWAY", "not an error: {reply}");
    let number = reply["fields"]["code"].as_u64();
    let row = ERRORS.iter().find(|row| Some(u64::from(row.code.0)) == number);
    row.map_or("UNKNOWN", |row| row.name)
}

/// What an ERROR says: code, retry, outcome.
pub fn verdict(reply: &Value) -> (&'static str, &str, &str) {
    let text = |name: &str| reply["fields"][name].as_str().unwrap_or_default();
    (code(reply), text("retry"), text("outcome"))
}

pub fn described(arrived: &Arrived) -> Value {
    let header = arrived.header;
    let mut bytes = bytes::BytesMut::new();
    let (kind, flags, opcode, id) = (header.kind, header.flags, header.opcode, header.request_id);
    quantadb::wire::put_frame(&mut bytes, kind, flags, opcode, id, |out| out.extend_from_slice(&arrived.payload));
    let mut frame = describe(&bytes).unwrap_or_else(|error| panic!("{error}: {arrived:?}"));
    // What the server adds at random to keep us honest means nothing.
    if let Some(tags) = frame["tags"].as_object_mut() {
        tags.retain(|name, _| !name.starts_with("0x"));
    }
    frame
}

impl Peer {
    pub fn open(server: &HostedServer) -> Peer {
        Peer { connection: Connection::open(server.address()), next_request: 1 }
    }

    pub fn open_with_credit(server: &HostedServer, credit: u32) -> Peer {
        Peer { connection: Connection::open_with_credit(server.address(), credit), next_request: 1 }
    }

    /// Queues a frame.
    pub fn queue(&mut self, frame: &Value) {
        let bytes = build(frame).unwrap_or_else(|error| panic!("{error}: {frame}"));
        self.connection.queue_bytes(&bytes);
    }

    /// Queues a request, returns its id.
    pub fn queue_request(&mut self, flags: u8, opcode: &str, fields: Value, tags: Value) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.queue(&json!({"kind": "REQUEST", "flags": flags, "opcode": opcode, "request_id": id.to_string(),
                           "fields": fields, "tags": tags}));
        id
    }

    /// Sends a request, returns its id.
    pub fn send(&mut self, opcode: &str, fields: Value, tags: Value) -> u64 {
        let id = self.queue_request(0, opcode, fields, tags);
        self.connection.flush();
        id
    }

    /// Sends a frame that is no request.
    pub fn control(&mut self, kind: &str, id: u64, fields: Value) {
        self.queue(&json!({"kind": kind, "flags": 0, "request_id": id.to_string(), "fields": fields, "tags": {}}));
        self.connection.flush();
    }

    /// The next frame.
    pub fn hear(&mut self) -> Value {
        described(&self.connection.receive())
    }

    /// The next frame, which belongs to this request.
    pub fn hear_of(&mut self, id: u64) -> Value {
        let heard = self.hear();
        assert_eq!(heard["request_id"], id.to_string(), "{heard}");
        heard
    }

    /// Whether the connection ends now.
    pub fn ends(&mut self) -> bool {
        self.connection.try_receive().is_none()
    }

    /// Sends a request and hears its answer, which must come next.
    pub fn ask(&mut self, opcode: &str, fields: Value, tags: Value) -> Value {
        let id = self.send(opcode, fields, tags);
        self.hear_of(id)
    }

    /// The same when everything before it has been answered.
    pub fn ask_after(&mut self, opcode: &str, fields: Value, tags: Value) -> u64 {
        let id = self.queue_request(FLAG_AFTER, opcode, fields, tags);
        self.connection.flush();
        id
    }

    pub fn put(&mut self, name: &str, value: &str) -> u64 {
        version(&self.ask("PUT", json!({"key": key(name), "value": hex(value)}), json!({})))
    }

    pub fn put_all(&mut self, names: &[&str], value: &str) {
        for name in names {
            self.put(name, value);
        }
    }

    /// The value of a key as text.
    pub fn get(&mut self, name: &str) -> Option<String> {
        let reply = self.ask("GET", json!({"key": key(name)}), json!({}));
        value(&reply)
    }

    /// Begins a transaction, returns its id.
    pub fn begin(&mut self, isolation: &str) -> u64 {
        let reply = self.ask("BEGIN", json!({"isolation": isolation}), json!({}));
        let _ = fields(&reply);
        number(&reply["request_id"])
    }

    /// Asks within a transaction.
    pub fn ask_in(&mut self, transaction: u64, opcode: &str, fields: Value) -> Value {
        self.ask(opcode, fields, within(transaction))
    }

    pub fn put_in(&mut self, transaction: u64, name: &str, value: &str) -> Value {
        self.ask_in(transaction, "PUT", json!({"key": key(name), "value": hex(value)}))
    }

    pub fn get_in(&mut self, transaction: u64, name: &str) -> Value {
        self.ask_in(transaction, "GET", json!({"key": key(name)}))
    }

    pub fn commit(&mut self, transaction: u64) -> Value {
        self.ask_in(transaction, "COMMIT", json!({}))
    }

    /// Sends a SCAN and hears its frames up to the last.
    pub fn scan(&mut self, fields: Value, tags: Value) -> Vec<Value> {
        let id = self.send("SCAN", fields, tags);
        let mut heard = vec![self.hear_of(id)];
        while heard.last().is_some_and(|frame| frame["kind"] == "CHUNK") {
            heard.push(self.hear_of(id));
        }
        heard
    }
}

/// The fields of a SCAN of everything from `start` on, without a limit and with much credit.
pub fn scan_from(start: &str) -> Value {
    json!({"range": range(start, None), "flags": [], "limit": "0", "credit": 1 << 30})
}

/// The value in the reply of a GET as text.
pub fn value(reply: &Value) -> Option<String> {
    let found = fields(reply);
    let text = quantadb::testing::wire::from_hex(found["value"].as_str().unwrap_or_default());
    (found["found"] == "yes").then(|| String::from_utf8_lossy(&text.expect("values are hexadecimal")).into_owned())
}

/// The keys of the rows that were heard, as text.
pub fn keys(heard: &[Value]) -> Vec<String> {
    let rows = heard.iter().filter_map(|frame| frame["fields"]["rows"].as_array()).flatten();
    let text = |row: &Value| quantadb::testing::wire::from_hex(row["key"].as_str().unwrap_or_default());
    rows.map(|row| String::from_utf8_lossy(&text(row).expect("keys are hexadecimal")).into_owned()).collect()
}
