//! A session over a plain socket: what each frame gets, in which order, and what becomes of the connection.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::{BufMut, BytesMut};
use quantadb::{
    testing::{connection::Connection, hosted::HostedServer, server::TestOptions},
    types::{IdempotencyPair, Isolation, KeyspaceId, Version},
    wire::{
        Chunk, ErrorCode, Execute, Kind, List, ListBuf, Op, OutcomeState, RangeRef, Request, RequestBody, Response,
        Scan, ScanEnd, ScanEndReason, registry::FLAG_AFTER,
    },
};
use std::time::Duration;

fn key(name: &str) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(name.as_bytes()).to_vec()
}

fn put(connection: &mut Connection, name: &str, value: &str) -> Version {
    match connection.call_body(RequestBody::Put { key: &key(name), value: value.as_bytes() }).response() {
        Response::Version(reply) => reply.version,
        other => panic!("not a version: {other:?}"),
    }
}

fn get(connection: &mut Connection, name: &str) -> Option<String> {
    value_of(&connection.call_body(RequestBody::Get { key: &key(name) }).response())
}

fn value_of(response: &Response<'_>) -> Option<String> {
    let Response::Get(reply) = response else { panic!("not a value: {response:?}") };
    reply.found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
}

fn scan(start: &[u8], credit: u32) -> Scan<'_> {
    Scan {
        range: RangeRef { keyspace: KeyspaceId::DEFAULT, start, end: None },
        reverse: false,
        keys_only: false,
        count_only: false,
        limit: 0,
        credit,
    }
}

#[test]
fn what_is_put_is_got_and_what_is_deleted_is_gone() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let first = put(&mut connection, "a", "1");
    let second = put(&mut connection, "a", "2");
    assert!(second > first);
    assert_eq!(get(&mut connection, "a").as_deref(), Some("2"));
    let _ = connection.call_body(RequestBody::Delete { key: &key("a") }).response();
    assert_eq!(get(&mut connection, "a"), None);
}

#[test]
fn a_whole_transaction_goes_in_one_write() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    put(&mut connection, "a", "1");
    let begin = connection.queue_request(0, &Request::new(RequestBody::Begin { isolation: Isolation::Serializable }));
    let read = connection.queue_in(begin, RequestBody::Get { key: &key("a") });
    let write = connection.queue_in(begin, RequestBody::Put { key: &key("b"), value: b"2" });
    let own = connection.queue_in(begin, RequestBody::Get { key: &key("b") });
    let commit = connection.queue_in(begin, RequestBody::Commit);
    connection.flush();
    let replies: Vec<_> = (0..5).map(|_| connection.receive()).collect();
    let ids: Vec<u64> = replies.iter().map(|reply| reply.header.request_id).collect();
    assert_eq!(ids, [begin, read, write, own, commit]);
    assert_eq!(value_of(&replies[1].response()).as_deref(), Some("1"));
    assert_eq!(value_of(&replies[3].response()).as_deref(), Some("2"));
    assert_eq!(get(&mut connection, "b").as_deref(), Some("2"));
}

// spec: QP-TXN-001
// spec: QP-TXN-007
#[test]
fn commit_conflicts_when_a_read_key_changed() {
    let server = HostedServer::start();
    let mut one = Connection::open(server.address());
    let mut two = Connection::open(server.address());
    put(&mut one, "a", "1");
    let transaction = one.begin(Isolation::Serializable);
    let _ = one.call_in(transaction, RequestBody::Get { key: &key("a") }).response();
    put(&mut two, "a", "2");
    let _ = one.call_in(transaction, RequestBody::Put { key: &key("b"), value: b"" }).response();
    let error = one.call_in(transaction, RequestBody::Commit).error();
    assert_eq!(error.code, ErrorCode::CONFLICT);
    assert_eq!(error.conflict_key.as_deref(), Some(&key("a")[..]));
    assert_eq!(get(&mut one, "b"), None);
}

#[test]
fn a_scan_and_its_writes_in_one_transaction_end_though_the_stream_is_longer_than_its_credit() {
    const ROWS: usize = 4_000;
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let value = "v".repeat(200);
    for row in 0..ROWS {
        let name = format!("row-{row:06}");
        connection.queue_request(0, &Request::new(RequestBody::Put { key: &key(&name), value: value.as_bytes() }));
    }
    connection.flush();
    (0..ROWS).for_each(|_| drop(connection.receive()));
    let transaction = connection.begin(Isolation::Serializable);
    let stream = connection.queue_in(transaction, RequestBody::Scan(scan(b"", 32 * 1024)));
    connection.flush();
    let mut rows = 0;
    loop {
        let arrived = connection.receive();
        match arrived.header.kind {
            Kind::Chunk => {
                let chunk = Chunk::decode(&arrived.payload).unwrap();
                rows += chunk.rows.len();
                for row in &chunk.rows {
                    let full = KeyspaceId::DEFAULT.full_key(row.key);
                    connection.queue_in(transaction, RequestBody::Put { key: &full, value: b"changed" });
                }
                let bytes = arrived.payload.len() as u32;
                connection.queue(Kind::Credit, 0, 0, stream, |out| out.put_u32(bytes));
                connection.flush();
            }
            Kind::End => {
                let end = ScanEnd::decode(&arrived.payload).unwrap();
                assert_eq!((end.rows, end.reason), (ROWS as u64, ScanEndReason::Exhausted));
                break;
            }
            Kind::Response => {}
            kind => panic!("unexpected {kind:?}: {:?}", arrived.error()),
        }
    }
    assert_eq!(rows, ROWS);
    let commit = connection.queue_in(transaction, RequestBody::Commit);
    connection.flush();
    loop {
        let arrived = connection.receive();
        if arrived.header.request_id == commit {
            assert_eq!(arrived.header.kind, Kind::Response);
            break;
        }
    }
    assert_eq!(get(&mut connection, "row-003999").as_deref(), Some("changed"));
}

#[test]
fn without_credit_nothing_is_streamed_and_small_replies_go_past() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    for row in 0..100 {
        put(&mut connection, &format!("k{row:03}"), &"x".repeat(1_000));
    }
    let stream = connection.queue_request(0, &Request::new(RequestBody::Scan(scan(b"", 0))));
    assert_eq!(get(&mut connection, "k000").map(|value| value.len()), Some(1_000));
    connection.queue(Kind::Credit, 0, 0, stream, |out| out.put_u32(1));
    connection.flush();
    let chunk = connection.receive();
    assert_eq!((chunk.header.kind, chunk.header.request_id), (Kind::Chunk, stream));
    connection.queue(Kind::Cancel, 0, 0, stream, |_| {});
    connection.flush();
    assert_eq!(connection.receive().error().code, ErrorCode::CANCELLED);
    assert_eq!(get(&mut connection, "k001").map(|value| value.len()), Some(1_000));
}

#[test]
fn after_waits_for_everything_before_it() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    for round in 0..200 {
        let value = format!("{round}");
        connection.queue_request(0, &Request::new(RequestBody::Put { key: &key("a"), value: value.as_bytes() }));
        let read = connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::Get { key: &key("a") }));
        connection.flush();
        let _ = connection.receive();
        let arrived = connection.receive();
        assert_eq!(arrived.header.request_id, read);
        assert_eq!(value_of(&arrived.response()), Some(value));
    }
}

#[test]
fn an_error_fails_the_rest_of_the_pipeline_until_rolled_back_to_a_savepoint() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let transaction = connection.begin(Isolation::Serializable);
    let _ = connection.call_in(transaction, RequestBody::Savepoint { name: b"s" }).response();
    let _ = connection.call_in(transaction, RequestBody::Put { key: &key("a"), value: b"1" }).response();
    let too_long = KeyspaceId::DEFAULT.full_key(&[b'k'; 8 * 1024 + 1]);
    let error = connection.call_in(transaction, RequestBody::Put { key: &too_long, value: b"" }).error();
    assert_eq!((error.code, error.limit, error.actual), (ErrorCode::KEY_TOO_LARGE, Some(8192), Some(8193)));
    let error = connection.call_in(transaction, RequestBody::Commit).error();
    assert_eq!((error.code, error.cause), (ErrorCode::PRIOR_FAILED, Some(ErrorCode::KEY_TOO_LARGE)));
    let _ = connection.call_in(transaction, RequestBody::RollbackTo { name: b"s" }).response();
    let _ = connection.call_in(transaction, RequestBody::Put { key: &key("b"), value: b"2" }).response();
    let _ = connection.call_in(transaction, RequestBody::Commit).response();
    assert_eq!(get(&mut connection, "a"), None);
    assert_eq!(get(&mut connection, "b").as_deref(), Some("2"));
    let error = connection.call_in(transaction, RequestBody::Get { key: &key("a") }).error();
    assert_eq!(error.code, ErrorCode::UNKNOWN_TRANSACTION);
}

#[test]
fn a_keyed_put_commits_once_however_often_it_is_sent() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let seen = put(&mut connection, "x", "0");
    let pair = IdempotencyPair { key: [9; 16], seen };
    let (counter, one) = (key("n"), 1_u64.to_be_bytes());
    let mut request = Request::new(RequestBody::Atomic { op: 1, key: &counter, operand: &one });
    request.tags.idempotency = Some(pair);
    let first = connection.call(&request).payload;
    request.tags.retry_mark = true;
    assert_eq!(connection.call(&request).payload, first);
    let outcome = connection.call_body(RequestBody::Outcome { pair });
    let Response::Outcome(outcome) = outcome.response() else { panic!("an outcome") };
    assert!(matches!(outcome.state, OutcomeState::Committed { .. }), "{outcome:?}");
    let arrived = connection.call_body(RequestBody::Get { key: &counter });
    let Response::Get(reply) = arrived.response() else { panic!("a value") };
    assert_eq!(reply.found.unwrap().value, one);
}

#[test]
fn an_outcome_nobody_knows_is_fenced() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let seen = put(&mut connection, "x", "0");
    let pair = IdempotencyPair { key: [3; 16], seen };
    let arrived = connection.call_body(RequestBody::Outcome { pair });
    let Response::Outcome(outcome) = arrived.response() else { panic!("an outcome") };
    assert_eq!(outcome.state, OutcomeState::Never);
    let name = key("a");
    let mut request = Request::new(RequestBody::Put { key: &name, value: b"late" });
    request.tags.idempotency = Some(pair);
    assert_eq!(connection.error_of(&request), ErrorCode::FENCED);
    assert_eq!(get(&mut connection, "a"), None);
    request.tags.idempotency = Some(IdempotencyPair { key: [4; 16], seen: Version(u64::MAX) });
    assert_eq!(connection.error_of(&request), ErrorCode::OTHER_TIMELINE);
}

#[test]
fn a_thousand_transactions_live_on_one_connection() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let open: Vec<u64> = (0..1_000).map(|_| connection.begin(Isolation::Serializable)).collect();
    for (number, transaction) in open.iter().enumerate() {
        let name = key(&format!("t{number}"));
        connection.queue_in(*transaction, RequestBody::Put { key: &name, value: b"1" });
    }
    for transaction in &open {
        connection.queue_in(*transaction, RequestBody::Commit);
    }
    connection.flush();
    for _ in 0..2_000 {
        let _ = connection.receive().response();
    }
    assert_eq!(get(&mut connection, "t999").as_deref(), Some("1"));
}

#[test]
fn keyspaces_are_separate_and_must_exist() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let missing = RequestBody::OpenKeyspace { create: false, name: "other" };
    assert_eq!(connection.error_of(&Request::new(missing)), ErrorCode::UNKNOWN_KEYSPACE);
    let mut ids = Vec::new();
    for created in [true, false] {
        let arrived = connection.call_body(RequestBody::OpenKeyspace { create: true, name: "other" });
        let Response::OpenKeyspace(reply) = arrived.response() else { panic!("a keyspace") };
        assert_eq!(reply.created, created);
        ids.push(reply.keyspace);
    }
    assert_eq!(ids[0], ids[1]);
    put(&mut connection, "a", "default");
    let full = ids[0].full_key(b"a");
    let arrived = connection.call_body(RequestBody::Get { key: &full });
    assert_eq!(value_of(&arrived.response()), None);
    for unknown in [KeyspaceId(99_999), KeyspaceId::SYSTEM] {
        let full = unknown.full_key(b"a");
        assert_eq!(connection.error_of(&Request::new(RequestBody::Get { key: &full })), ErrorCode::UNKNOWN_KEYSPACE);
    }
}

#[test]
fn a_scan_resumes_from_its_token_at_its_version() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    for row in 0..10 {
        put(&mut connection, &format!("k{row}"), "old");
    }
    let first = Scan { limit: 4, ..scan(b"", u32::MAX) };
    let chunk = connection.call_body(RequestBody::Scan(first));
    assert_eq!(Chunk::decode(&chunk.payload).unwrap().rows.len(), 4);
    let end = connection.receive();
    let end = ScanEnd::decode(&end.payload).unwrap();
    assert_eq!(end.reason, ScanEndReason::Limit);
    put(&mut connection, "k7", "new");
    let mut request = Request::new(RequestBody::Scan(scan(b"", u32::MAX)));
    request.tags.resume_token = end.resume_token;
    let chunk = connection.call(&request);
    let rows = Chunk::decode(&chunk.payload).unwrap().rows;
    let rows: Vec<_> = rows.iter().map(|row| (row.key.to_vec(), row.value.to_vec())).collect();
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0], (b"k4".to_vec(), b"old".to_vec()));
    assert_eq!(rows[3], (b"k7".to_vec(), b"old".to_vec()), "the version is the token's");
    let again = connection.receive();
    assert_eq!(ScanEnd::decode(&again.payload).unwrap().version, end.version);
}

#[test]
fn bytes_one_at_a_time_say_the_same() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let mut bytes = BytesMut::new();
    let name = key("slow");
    for (id, body) in [(1, RequestBody::Put { key: &name, value: b"v" }), (2, RequestBody::Get { key: &name })] {
        let request = Request::new(body);
        quantadb::wire::put_frame(&mut bytes, Kind::Request, FLAG_AFTER, request.opcode().number(), id, |out| {
            request.encode(out);
        });
    }
    for byte in bytes {
        std::io::Write::write_all(connection.socket(), &[byte]).unwrap();
    }
    let _ = connection.receive().response();
    assert_eq!(value_of(&connection.receive().response()).as_deref(), Some("v"));
}

// spec: QP-FRM-011
#[test]
fn a_broken_checksum_ends_the_connection_with_a_reason() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    connection.queue_bytes(&[0xff; 24]);
    connection.flush();
    let goaway = connection.receive();
    assert_eq!(goaway.header.kind, Kind::Goaway);
    assert_eq!(quantadb::wire::Goaway::decode(&goaway.payload).unwrap().code, ErrorCode::BAD_CHECKSUM);
    assert!(connection.try_receive().is_none());
}

// spec: QP-HSK-006
#[test]
fn a_stalled_handshake_is_ended() {
    let mut options = TestOptions::default();
    options.server.handshake_max = Duration::from_millis(100);
    let server = HostedServer::start_with(options);
    let mut connection = Connection::silent(server.address());
    let mut preface = [0; 8];
    std::io::Read::read_exact(connection.socket(), &mut preface).unwrap();
    assert_eq!(preface, quantadb::wire::preface::PREFACE);
    let goaway = connection.receive();
    assert_eq!(quantadb::wire::Goaway::decode(&goaway.payload).unwrap().code, ErrorCode::HANDSHAKE_TIMEOUT);
    assert!(connection.try_receive().is_none());
}

// spec: QP-HSK-011
// spec: QP-HSK-012
#[test]
fn shutdown_answers_what_was_accepted() {
    let mut server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    put(&mut connection, "a", "1");
    for _ in 0..1_000 {
        connection.queue_request(0, &Request::new(RequestBody::Put { key: &key("a"), value: b"2" }));
    }
    connection.flush();
    server.begin_shutdown();
    let (mut answered, mut goaway) = (0, None);
    while let Some(arrived) = connection.try_receive() {
        match arrived.header.kind {
            Kind::Response => answered += 1,
            Kind::Error => assert_eq!(arrived.error().code, ErrorCode::SHUTTING_DOWN),
            Kind::Goaway => goaway = Some(quantadb::wire::Goaway::decode(&arrived.payload).unwrap().code),
            kind => panic!("unexpected {kind:?}"),
        }
    }
    assert_eq!(goaway, Some(ErrorCode::SHUTTING_DOWN));
    assert_eq!(server.node().engine().visible().0, 1 + answered);
}

// spec: QP-LIM-007
#[test]
fn a_one_shot_that_looks_at_too_many_rows_is_refused_and_changes_nothing() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    const ROWS: usize = 2_000;
    for row in 0..ROWS {
        connection.queue_request(0, &Request::new(RequestBody::Put { key: &key(&format!("k{row:05}")), value: b"v" }));
    }
    connection.flush();
    (0..ROWS).for_each(|_| drop(connection.receive()));
    let range = RangeRef { keyspace: KeyspaceId::DEFAULT, start: b"", end: None };
    // Each looks at every row; together they look at more than a million.
    let mut ops = ListBuf::new();
    (0..600).for_each(|_| ops.push(&Op::DeleteRange { range }));
    let execute = Execute { conditions: List::EMPTY, then_ops: ops.as_list(), else_ops: List::EMPTY };
    let error = connection.call_body(RequestBody::Execute(execute)).error();
    assert_eq!((error.code, error.limit), (ErrorCode::TOO_MANY_ITEMS, Some(1 << 20)));
    assert_eq!(get(&mut connection, "k00000").as_deref(), Some("v"));
}

// spec: QP-TXN-013
#[test]
fn a_commit_behind_a_mistyped_savepoint_commits_nothing() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let transaction = connection.begin(Isolation::Serializable);
    let _ = connection.call_in(transaction, RequestBody::Put { key: &key("a"), value: b"1" }).response();
    let error = connection.call_in(transaction, RequestBody::RollbackTo { name: b"typo" }).error();
    assert_eq!(error.code, ErrorCode::UNKNOWN_SAVEPOINT);
    let error = connection.call_in(transaction, RequestBody::Commit).error();
    assert_eq!((error.code, error.cause), (ErrorCode::PRIOR_FAILED, Some(ErrorCode::UNKNOWN_SAVEPOINT)));
    let _ = connection.call_in(transaction, RequestBody::Rollback).response();
    assert_eq!(get(&mut connection, "a"), None);
}

// Found by fuzzing whole sessions: what a round had still to answer, and answers that came while GOAWAY waited to be
// written, went out behind it.
// spec: QP-FRM-017
#[test]
fn goaway_for_a_broken_frame_is_the_last_frame() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let version = put(&mut connection, "a", "1");
    let got = connection.queue_request(0, &Request::new(RequestBody::Get { key: &key("a") }));
    // A kind that no client sends.
    connection.queue(Kind::Welcome, 0, 0, 0, |_| {});
    connection.flush();
    let frames: Vec<_> = std::iter::from_fn(|| connection.try_receive()).collect();
    let (last, before) = frames.split_last().unwrap();
    assert_eq!(last.header.kind, Kind::Goaway);
    assert!(before.iter().all(|frame| frame.header.kind == Kind::Response), "{before:?}");
    let answer = before.iter().find(|frame| frame.header.request_id == got).expect("what came before it is executed");
    assert!(matches!(answer.response(), Response::Get(reply) if reply.version >= version));
}

// spec: QP-TXN-020
#[test]
fn a_commit_behind_an_unknown_operation_commits_nothing() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let transaction = connection.begin(Isolation::Serializable);
    let _ = connection.call_in(transaction, RequestBody::Put { key: &key("a"), value: b"1" }).response();
    connection.queue(Kind::Request, 0, 0x7777, 1_000, |out| out.put_slice(b"whatever it means"));
    connection.flush();
    assert_eq!(connection.receive().error().code, ErrorCode::UNKNOWN_OPCODE);
    let mut commit = Request::new(RequestBody::Commit);
    commit.tags.transaction = Some(transaction);
    connection.queue(Kind::Request, 0, commit.opcode().number(), 1_001, |out| commit.encode(out));
    connection.flush();
    let error = connection.receive().error();
    assert_eq!((error.code, error.cause), (ErrorCode::PRIOR_FAILED, Some(ErrorCode::UNKNOWN_OPCODE)));
}

/// Found by the fuzzer: the count of a DELETE_RANGE was given to an EXECUTE under the same pair, as if it were results.
#[test]
fn a_pair_used_for_two_kinds_of_one_shot_is_refused_the_second_time() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let seen = put(&mut connection, "a", "1");
    let range = RangeRef { keyspace: KeyspaceId::DEFAULT, start: b"", end: None };
    let mut request = Request::new(RequestBody::DeleteRange { range });
    request.tags.idempotency = Some(IdempotencyPair { key: [1; 16], seen });
    assert_eq!(connection.call(&request).header.kind, Kind::Response);
    let execute = Execute { conditions: List::EMPTY, then_ops: List::EMPTY, else_ops: List::EMPTY };
    let mut other = Request::new(RequestBody::Execute(execute));
    other.tags = request.tags;
    assert_eq!(connection.error_of(&other), ErrorCode::MALFORMED);
    assert_eq!(connection.call(&request).header.kind, Kind::Response);
}
