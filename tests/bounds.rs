//! How much memory clients can make the server hold. Alone in its process, because it measures the process.
#![allow(clippy::unwrap_used, reason = "a test")]

use quantadb::{
    testing::{connection::Connection, hosted::HostedServer, server::TestOptions},
    types::{Isolation, KeyspaceId},
    wire::{ErrorCode, Key, Kind, ListBuf, Request, RequestBody, registry::FLAG_AFTER},
};

const MIB: usize = 1024 * 1024;

fn key(name: &str) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(name.as_bytes()).to_vec()
}

/// Memory of this process that is in use now, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

fn server(bytes_in_flight: usize) -> (HostedServer, Connection) {
    let mut options = TestOptions::default();
    options.server.bytes_in_flight_max = bytes_in_flight;
    let server = HostedServer::start_with(options);
    let mut connection = Connection::open(server.address());
    let _ = connection.call_body(RequestBody::Put { key: &key("mib"), value: &vec![7; MIB] }).response();
    (server, connection)
}

#[test]
fn what_a_client_makes_the_server_hold_is_bounded() {
    a_reader_that_never_catches_up();
    requests_that_wait_and_are_answered_at_once();
    transactions_that_never_commit();
}

/// The replies that wait are never all written, and yet what was written is given back.
fn a_reader_that_never_catches_up() {
    const REPLIES: usize = 400;
    const BEHIND: usize = 24;
    let (_server, mut connection) = server(64 * MIB);
    let get = |connection: &mut Connection| {
        connection.queue_request(0, &Request::new(RequestBody::Get { key: &key("mib") }));
        connection.flush();
    };
    let mut grown = 0;
    (0..BEHIND).for_each(|_| get(&mut connection));
    let before = resident();
    for _ in 0..REPLIES {
        let _ = connection.receive().response();
        get(&mut connection);
        grown = grown.max(resident().saturating_sub(before));
    }
    assert!(grown < 160 * MIB, "{} MiB after {REPLIES} MiB of replies", grown / MIB);
}

fn requests_that_wait_and_are_answered_at_once() {
    const REQUESTS: usize = 300;
    let (server, mut connection) = server(8 * MIB);
    server.faults().hold();
    connection.queue_request(0, &Request::new(RequestBody::Put { key: &key("a"), value: b"1" }));
    let mib = key("mib");
    let mut keys = ListBuf::new();
    keys.push(&Key(&mib));
    for _ in 0..REQUESTS {
        connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::GetMany { keys: keys.as_list() }));
    }
    connection.queue(Kind::Ping, 0, 0, 0, |out| bytes::BufMut::put_u64(out, 1));
    connection.flush();
    assert_eq!(connection.receive().header.kind, Kind::Pong);
    let before = resident();
    let mut grown = 0;
    server.faults().release();
    let mut other = Connection::open(server.address());
    for _ in 0..200 {
        let _ = other.call_body(RequestBody::Get { key: &key("a") }).response();
        grown = grown.max(resident().saturating_sub(before));
    }
    for _ in 0..=REQUESTS {
        let _ = connection.receive().response();
        grown = grown.max(resident().saturating_sub(before));
    }
    assert!(grown < 100 * MIB, "{} MiB for one client that does not read", grown / MIB);
}

fn transactions_that_never_commit() {
    let (_server, mut connection) = server(32 * MIB);
    let value = vec![7; 7 * MIB];
    let mut refused = 0;
    let before = resident();
    for _ in 0..30 {
        let transaction = connection.begin(Isolation::Serializable);
        for name in ["a", "b"] {
            let arrived = connection.call_in(transaction, RequestBody::Put { key: &key(name), value: &value });
            if arrived.header.kind == Kind::Error {
                assert!(matches!(arrived.error().code, ErrorCode::OVERLOADED | ErrorCode::PRIOR_FAILED));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "30 transactions of 14 MiB each are held for one client");
    let grown = resident().saturating_sub(before);
    assert!(grown < 160 * MIB, "{} MiB", grown / MIB);
}
