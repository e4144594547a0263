//! What a session does with clients that break the rules, flood, do not read, or leave.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::{BufMut, BytesMut};
use quantadb::{
    testing::{
        connection::{Arrived, Connection},
        hosted::HostedServer,
        server::TestOptions,
    },
    types::{IdempotencyPair, Isolation, KeyspaceId, Version, limits},
    wire::{
        self, ErrorCode, Execute, Goaway, Kind, List, ListBuf, Op, Opcode, Outcome, RangeRef, Request, RequestBody,
        Response, Scan, Tag, registry::FLAG_AFTER,
    },
};
use std::{
    io::{BufRead, BufReader},
    net::{Shutdown, SocketAddr},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn key(name: &str) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(name.as_bytes()).to_vec()
}

fn put(connection: &mut Connection, name: &str, value: &[u8]) {
    let _ = connection.call_body(RequestBody::Put { key: &key(name), value }).response();
}

fn scan(credit: u32) -> Scan<'static> {
    Scan {
        range: RangeRef { keyspace: KeyspaceId::DEFAULT, start: b"", end: None },
        reverse: false,
        keys_only: false,
        count_only: false,
        limit: 0,
        credit,
    }
}

fn begin_body() -> RequestBody<'static> {
    RequestBody::Begin { isolation: Isolation::Serializable }
}

fn goaway(connection: &mut Connection) -> ErrorCode {
    loop {
        let arrived = connection.receive();
        if arrived.header.kind == Kind::Goaway {
            return Goaway::decode(&arrived.payload).unwrap().code;
        }
    }
}

fn is_served(connection: &mut Connection) {
    put(connection, "served", b"1");
}

fn counter(connection: &mut Connection, name: &str) -> u64 {
    let arrived = connection.call_body(RequestBody::Status);
    let Response::Status(status) = arrived.response() else { panic!("not a status: {arrived:?}") };
    status.counters.iter().find(|counter| counter.name == name).unwrap().value
}

fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never comes to that");
        std::thread::yield_now();
    }
}

// ---- frames that break the rules ----

/// What is said, how it ends, and how to say it.
type Breach = (&'static str, ErrorCode, Box<dyn Fn(&mut Connection)>);

#[test]
fn what_breaks_the_framing_ends_the_connection_with_a_reason() {
    let put_fields = |out: &mut BytesMut| Request::new(RequestBody::Get { key: &key("a") }).encode(out);
    let cases: [Breach; 8] = [
        (
            "a payload over the limit",
            ErrorCode::FRAME_TOO_LARGE,
            Box::new(|connection| {
                let mut frame = BytesMut::new();
                wire::put_frame(&mut frame, Kind::Request, 0, Opcode::Get.number(), 9, |out| {
                    out.put_bytes(0, limits::FRAME_PAYLOAD_BYTES_MAX + 1);
                });
                connection.queue_bytes(&frame[..wire::Header::BYTES]);
            }),
        ),
        (
            "a payload that is not its checksum's",
            ErrorCode::BAD_CHECKSUM,
            Box::new(move |connection| {
                let mut frame = BytesMut::new();
                wire::put_frame(&mut frame, Kind::Request, 0, Opcode::Get.number(), 9, put_fields);
                let last = frame.len() - 1;
                frame[last] ^= 1;
                connection.queue_bytes(&frame);
            }),
        ),
        (
            "a kind below 0x80 that does not exist",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(|connection| {
                let mut frame = BytesMut::new();
                wire::put_frame(&mut frame, Kind::Ping, 0, 0, 0, |out| out.put_u64(1));
                frame[4] = 0x7f;
                let checksum = crc32(&frame[..20]);
                frame[20..24].copy_from_slice(&checksum.to_be_bytes());
                connection.queue_bytes(&frame);
            }),
        ),
        (
            "a second HELLO",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(|connection| {
                let hello =
                    wire::Hello { version_min: 1, version_max: 1, credit: 0, client_name: "", features: List::EMPTY };
                connection.queue(Kind::Hello, 0, 0, 0, |out| hello.encode(out));
            }),
        ),
        (
            "an id that does not increase",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(move |connection| {
                connection.queue(Kind::Request, 0, Opcode::Get.number(), 9, put_fields);
                connection.queue(Kind::Request, 0, Opcode::Get.number(), 9, put_fields);
            }),
        ),
        (
            "an id of nought",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(move |connection| {
                connection.queue(Kind::Request, 0, Opcode::Get.number(), 0, put_fields);
            }),
        ),
        (
            "credit past 2^32 - 1",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(|connection| {
                for _ in 0..2 {
                    connection.queue(Kind::Credit, 0, 0, 0, |out| wire::Credit { bytes: u32::MAX }.encode(out));
                }
            }),
        ),
        (
            "a frame that only a server sends",
            ErrorCode::PROTOCOL_ERROR,
            Box::new(|connection| {
                connection.queue(Kind::Response, 0, Opcode::Get.number(), 9, |_| ());
            }),
        ),
    ];
    let server = HostedServer::start();
    for (what, code, breaks) in cases {
        let mut connection = Connection::open(server.address());
        breaks(&mut connection);
        connection.flush();
        assert_eq!(goaway(&mut connection), code, "{what}");
        // What was accepted before may still be answered; then it ends.
        while connection.try_receive().is_some() {}
    }
    is_served(&mut Connection::open(server.address()));
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn a_hello_longer_than_a_handshake_may_be_is_refused_from_its_header() {
    let server = HostedServer::start();
    let mut connection = Connection::silent(server.address());
    let mut frame = BytesMut::from(&wire::preface::PREFACE[..]);
    wire::put_frame(&mut frame, Kind::Hello, 0, 0, 0, |out| out.put_bytes(0, limits::HANDSHAKE_PAYLOAD_BYTES_MAX + 1));
    connection.queue_bytes(&frame[..8 + wire::Header::BYTES]);
    connection.flush();
    let mut preface = [0; 8];
    std::io::Read::read_exact(connection.socket(), &mut preface).unwrap();
    assert_eq!(goaway(&mut connection), ErrorCode::FRAME_TOO_LARGE);
    assert!(connection.try_receive().is_none());
}

#[test]
fn what_breaks_one_request_is_that_request_s_error_and_nothing_more() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let whole = {
        let mut whole = BytesMut::new();
        Request::new(RequestBody::Put { key: &key("a"), value: b"value" }).encode(&mut whole);
        whole
    };
    let mut id = 1_000;
    let mut send = |connection: &mut Connection, opcode: u16, payload: &[u8]| -> Arrived {
        id += 1;
        connection.queue(Kind::Request, 0, opcode, id, |out| out.put_slice(payload));
        connection.flush();
        let arrived = connection.receive();
        assert_eq!(arrived.header.request_id, id);
        arrived
    };
    for length in 0..whole.len() {
        assert_eq!(send(&mut connection, Opcode::Put.number(), &whole[..length]).error().code, ErrorCode::MALFORMED);
    }
    assert_eq!(send(&mut connection, 0x7777, &whole).error().code, ErrorCode::UNKNOWN_OPCODE);
    let mut tagged = whole.clone();
    tagged.put_slice(&[0x80, 0x7f, 0, 0, 0, 1, 9]);
    let error = send(&mut connection, Opcode::Put.number(), &tagged).error();
    assert_eq!((error.code, error.tag), (ErrorCode::UNKNOWN_CRITICAL_TAG, Some(Tag(0x807f))));
    let mut promised = BytesMut::new();
    promised.put_u16(u16::MAX);
    assert_eq!(send(&mut connection, Opcode::GetMany.number(), &promised).error().code, ErrorCode::TOO_MANY_ITEMS);
    promised.clear();
    promised.put_u16(4_000);
    assert_eq!(send(&mut connection, Opcode::GetMany.number(), &promised).error().code, ErrorCode::MALFORMED);
    connection.queue(Kind::Cancel, 0, 0, 77, |out| wire::Cancel.encode(out));
    connection.queue(Kind::Credit, 0, 0, 77, |out| wire::Credit { bytes: 1 }.encode(out));
    let mut ignored = BytesMut::new();
    wire::put_frame(&mut ignored, Kind::Ping, 0, 0, 0, |out| out.put_u64(1));
    ignored[4] = 0x9a;
    let checksum = crc32(&ignored[..20]);
    ignored[20..24].copy_from_slice(&checksum.to_be_bytes());
    connection.queue_bytes(&ignored);
    connection.flush();
    let _ = send(&mut connection, Opcode::Put.number(), &whole).response();
}

// spec: QP-FRM-004
#[test]
fn whoever_says_nothing_still_gets_the_preface_before_the_reason() {
    let mut server = HostedServer::start();
    let mut connection = Connection::silent(server.address());
    is_served(&mut Connection::open(server.address()));
    server.begin_shutdown();
    let mut preface = [0; 8];
    std::io::Read::read_exact(connection.socket(), &mut preface).unwrap();
    assert_eq!(preface, wire::preface::PREFACE);
    assert_eq!(goaway(&mut connection), ErrorCode::SHUTTING_DOWN);
}

// ---- clients that leave, or do not read ----

// spec: QP-HSK-016
#[test]
fn a_client_that_closes_its_side_gets_what_it_asked_for() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let transaction = connection.queue_request(0, &Request::new(begin_body()));
    connection.queue_in(transaction, RequestBody::Put { key: &key("a"), value: b"1" });
    connection.flush();
    let _ = (connection.receive().response(), connection.receive().response());
    server.faults().hold();
    connection.queue_request(0, &Request::new(RequestBody::Put { key: &key("b"), value: b"2" }));
    let mut commit = Request::new(RequestBody::Commit);
    commit.tags.transaction = Some(transaction);
    connection.queue_request(FLAG_AFTER, &commit);
    connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::Get { key: &key("a") }));
    connection.flush();
    connection.socket().shutdown(Shutdown::Write).unwrap();
    let mut other = Connection::open(server.address());
    // A round trip later the session has read the end.
    let _ = other.call_body(RequestBody::ReadVersion).response();
    until(|| counter(&mut other, "deciding_requests") == 1);
    server.faults().release();
    let _ = (connection.receive().response(), connection.receive().response());
    let arrived = connection.receive();
    let Response::Get(reply) = arrived.response() else { panic!("{arrived:?}") };
    assert_eq!(reply.found.unwrap().value, b"1");
    assert!(connection.try_receive().is_none());
}

// spec: QP-HSK-016
#[test]
fn a_scan_that_runs_out_of_credit_after_its_client_left_ends() {
    let server = HostedServer::start();
    let mut writer = Connection::open(server.address());
    for row in 0..64 {
        put(&mut writer, &format!("row{row}"), &[7; 16 * 1024]);
    }
    for credit in [1, 100_000, 200_000, 400_000] {
        let mut connection = Connection::open(server.address());
        connection.queue_request(0, &Request::new(RequestBody::Scan(scan(credit))));
        connection.flush();
        connection.socket().shutdown(Shutdown::Write).unwrap();
        while connection.try_receive().is_some() {}
    }
    until(|| counter(&mut writer, "connections") == 1);
    until(|| counter(&mut writer, "pins") == 0);
}

#[test]
fn a_client_that_stops_reading_is_let_go() {
    let mut options = TestOptions::default();
    options.server.idle_max = Duration::from_millis(300);
    options.server.handshake_max = Duration::from_millis(500);
    let server = HostedServer::start_with(options);
    let mut connection = Connection::open(server.address());
    put(&mut connection, "big", &vec![7; 1024 * 1024]);
    for _ in 0..32 {
        connection.queue_request(0, &Request::new(RequestBody::Get { key: &key("big") }));
    }
    connection.flush();
    until(|| counter(&mut Connection::open(server.address()), "connections") == 1);
}

#[test]
fn a_scan_that_nobody_grants_credit_does_not_pin_its_version_for_ever() {
    let mut options = TestOptions::default();
    options.server.transaction_idle_max = Duration::from_millis(100);
    let server = HostedServer::start_with(options);
    let mut connection = Connection::open(server.address());
    put(&mut connection, "a", b"1");
    let arrived = connection.call_body(RequestBody::Scan(scan(0)));
    assert_eq!(arrived.error().code, ErrorCode::DEADLINE_EXCEEDED);
    is_served(&mut connection);
}

#[test]
fn too_many_connections_are_told_so_and_room_is_found_again() {
    let mut options = TestOptions::default();
    options.server.connections_max = 8;
    let server = HostedServer::start_with(options);
    let mut open: Vec<Connection> = (0..8).map(|_| Connection::open(server.address())).collect();
    for _ in 0..200 {
        let mut refused = Connection::silent(server.address());
        let mut preface = [0; 8];
        std::io::Read::read_exact(refused.socket(), &mut preface).unwrap();
        assert_eq!(goaway(&mut refused), ErrorCode::TOO_MANY_CONNECTIONS);
        assert!(refused.try_receive().is_none());
    }
    open.iter_mut().for_each(is_served);
    open.truncate(7);
    let mut status = open.pop().unwrap();
    until(|| counter(&mut status, "connections") == 7);
    is_served(&mut Connection::open(server.address()));
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn out_of_descriptors_it_recovers_once_some_are_free() {
    let command = format!(
        "ulimit -n 48; exec {} serve --memory --listen 127.0.0.1:0 --peer-listen none --admin-listen 127.0.0.1:0",
        env!("CARGO_BIN_EXE_quantadb")
    );
    let spawned = Command::new("sh").args(["-c", &command]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut process = Process(spawned.unwrap());
    let mut ready = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address: SocketAddr = ready
        .split(|of: char| of.is_whitespace() || of == ',' || of == '=')
        .find_map(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no address in {ready:?}"));
    let mut first = Connection::open(address);
    let flood: Vec<_> = (0..100).map(|_| Connection::silent(address)).collect();
    until(|| counter(&mut first, "accept_errors_total") > 0);
    is_served(&mut first);
    drop(flood);
    is_served(&mut Connection::open(address));
}

// ---- requests that wait ----

#[test]
fn credit_for_a_scan_that_has_not_begun_counts() {
    let server = HostedServer::start_with(TestOptions { remote_reads: true, ..TestOptions::default() });
    let mut connection = Connection::open(server.address());
    put(&mut connection, "a", b"1");
    server.faults().hold();
    let id = connection.queue_request(0, &Request::new(RequestBody::Scan(scan(0))));
    connection.queue(Kind::Credit, 0, 0, id, |out| wire::Credit { bytes: 1_000 }.encode(out));
    connection.queue(Kind::Ping, 0, 0, 0, |out| out.put_u64(1));
    connection.flush();
    assert_eq!(connection.receive().header.kind, Kind::Pong);
    server.faults().release();
    assert_eq!(connection.receive().header.kind, Kind::Chunk);
    assert_eq!(connection.receive().header.kind, Kind::End);
}

// spec: QP-TXN-001
#[test]
fn what_waits_twice_keeps_its_place() {
    let server = HostedServer::start_with(TestOptions { remote_reads: true, ..TestOptions::default() });
    let mut connection = Connection::open(server.address());
    for _ in 0..20 {
        connection.queue_request(0, &Request::new(RequestBody::Put { key: &key("a"), value: b"1" }));
        let begin = connection.queue_request(FLAG_AFTER, &Request::new(begin_body()));
        connection.queue_in(begin, RequestBody::Put { key: &key("b"), value: b"2" });
        connection.queue_in(begin, RequestBody::Commit);
        let get = connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::Get { key: &key("c") }));
        let delete =
            connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::Put { key: &key("c"), value: b"" }));
        let clean = connection.queue_request(FLAG_AFTER, &Request::new(RequestBody::Delete { key: &key("c") }));
        connection.flush();
        let ids: Vec<u64> = (0..7)
            .map(|_| {
                let arrived = connection.receive();
                let response = arrived.response();
                if let Response::Get(reply) = response {
                    assert!(reply.found.is_none(), "it sees what comes after it");
                }
                arrived.header.request_id
            })
            .collect();
        assert_eq!(&ids[4..], [get, delete, clean]);
    }
}

// ---- exactly once ----

// spec: QP-TXN-031
#[test]
fn a_marked_retry_that_is_not_even_looked_up_leaves_the_outcome_unknown() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    let name = key("a");
    let mut request = Request::new(RequestBody::Put { key: &name, value: b"1" });
    request.tags.idempotency = Some(IdempotencyPair { key: [1; 16], seen: Version(0) });
    request.tags.deadline_ms = Some(0);
    let error = connection.call(&request).error();
    assert_eq!((error.code, error.outcome), (ErrorCode::DEADLINE_EXCEEDED, Outcome::NotApplied));
    request.tags.retry_mark = true;
    let error = connection.call(&request).error();
    assert_eq!((error.code, error.outcome), (ErrorCode::DEADLINE_EXCEEDED, Outcome::Unknown));
}

// spec: QP-TXN-031
#[test]
fn a_one_shot_whose_results_were_too_long_to_record_says_that_it_was_applied() {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    put(&mut connection, "long", &vec![7; 2 * limits::RECORDED_RESULT_BYTES_MAX]);
    let (long, count) = (key("long"), key("count"));
    let mut ops = ListBuf::new();
    ops.push(&Op::Get { key: &long });
    ops.push(&Op::Put { key: &count, value: b"1" });
    let execute = Execute { conditions: List::EMPTY, then_ops: ops.as_list(), else_ops: List::EMPTY };
    let mut request = Request::new(RequestBody::Execute(execute));
    request.tags.idempotency = Some(IdempotencyPair { key: [2; 16], seen: Version(0) });
    let _ = connection.call(&request).response();
    request.tags.retry_mark = true;
    let error = connection.call(&request).error();
    assert_eq!((error.code, error.outcome), (ErrorCode::RESULT_TOO_LARGE, Outcome::Applied));
}
