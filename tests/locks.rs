//! Many clients on one key, and one client that has read many: what contention costs, and that nobody starves.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::BufMut;
use quantadb::{
    testing::{
        connection::{Arrived, Connection},
        generators::Random,
        hosted::HostedServer,
    },
    types::{Isolation, KeyspaceId, Version},
    wire::{
        Condition, Execute, Kind, List, ListBuf, Op, OpResult, RangeRef, Request, RequestBody, Response, Scan, ScanEnd,
        Test,
    },
};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

const CLIENTS: u64 = 64;
/// At least so long,
const LOCK_TIME_MIN: Duration = Duration::from_secs(3);
/// and until the lock was taken so often that shares can be compared,
const ACQUIRED_MIN: u64 = CLIENTS * 40;
/// but no longer.
const LOCK_TIME_MAX: Duration = Duration::from_secs(40);
/// How long a client that was refused waits at most before it tries again.
const BACKOFF_MICROS_MAX: u64 = 8_000;
/// The luckiest client gets at most so many times what the unluckiest gets.
const UNFAIRNESS_MAX: u64 = 20;

fn key(name: &str) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(name.as_bytes()).to_vec()
}

fn execute(connection: &mut Connection, conditions: &[Condition<'_>], ops: &[Op<'_>]) -> Arrived {
    let (mut condition_list, mut op_list) = (ListBuf::new(), ListBuf::new());
    conditions.iter().for_each(|condition| condition_list.push(condition));
    ops.iter().for_each(|op| op_list.push(op));
    connection.call_body(RequestBody::Execute(Execute {
        conditions: condition_list.as_list(),
        then_ops: op_list.as_list(),
        else_ops: List::EMPTY,
    }))
}

/// Takes the lock if it is free, in one message: the version that it is held at, and the number that it guards.
fn acquire(connection: &mut Connection, lock: &[u8], guarded: &[u8], owner: &[u8]) -> Option<(Version, u64)> {
    let free = Condition { key: lock, test: Test::Absent };
    let arrived = execute(connection, &[free], &[Op::Put { key: lock, value: owner }, Op::Get { key: guarded }]);
    let Response::Execute(reply) = arrived.response() else { panic!("a one-shot's reply") };
    if !reply.then {
        return None;
    }
    let Some(OpResult::Get(found)) = reply.results.iter().nth(1) else { panic!("what the lock guards") };
    let number = found.map_or(0, |found| u64::from_be_bytes(found.value.try_into().unwrap()));
    Some((reply.version, number))
}

/// Writes what the lock guards and gives the lock back, if it is still held at that version.
fn release(connection: &mut Connection, lock: &[u8], guarded: &[u8], held: Version, number: u64) {
    let mine = Condition { key: lock, test: Test::VersionEquals(held) };
    let ops = [Op::Put { key: guarded, value: &number.to_be_bytes() }, Op::Delete { key: lock }];
    let arrived = execute(connection, &[mine], &ops);
    let Response::Execute(reply) = arrived.response() else { panic!("a one-shot's reply") };
    assert!(reply.then, "nobody takes a lock that is held");
}

#[test]
fn sixty_four_clients_on_one_lock_all_get_it() {
    let server = HostedServer::start();
    let address = server.address();
    let begun = Instant::now();
    let taken = AtomicU64::new(0);
    let client = |number: u64| {
        let mut random = Random::new(number);
        let mut connection = Connection::open(address);
        let (lock, guarded, owner) = (key("lock"), key("guarded"), number.to_be_bytes());
        let (mut acquired, mut refused) = (0_u64, 0_u64);
        let is_over = || {
            let (elapsed, enough) = (begun.elapsed(), taken.load(Ordering::Relaxed) >= ACQUIRED_MIN);
            elapsed >= LOCK_TIME_MAX || enough && elapsed >= LOCK_TIME_MIN
        };
        while !is_over() {
            match acquire(&mut connection, &lock, &guarded, &owner) {
                Some((held, number)) => {
                    release(&mut connection, &lock, &guarded, held, number + 1);
                    acquired += 1;
                    taken.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    refused += 1;
                    std::thread::sleep(Duration::from_micros(random.below(BACKOFF_MICROS_MAX)));
                }
            }
        }
        (acquired, refused)
    };
    let client = &client;
    let told: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (acquired, refused) = told.iter().fold((0, 0), |sum, told| (sum.0 + told.0, sum.1 + told.1));
    let least = told.iter().map(|told| told.0).min().unwrap();
    let most = told.iter().map(|told| told.0).max().unwrap();
    println!(
        "{CLIENTS} clients on one lock for {seconds:.1} s: {:.0} acquired and released a second, {:.0} one-shots a second; \
         a client got it {least} to {most} times",
        acquired as f64 / seconds,
        (2 * acquired + refused) as f64 / seconds,
    );
    let mut connection = Connection::open(address);
    let arrived = connection.call_body(RequestBody::Get { key: &key("guarded") });
    let Response::Get(reply) = arrived.response() else { panic!("a value") };
    let guarded = u64::from_be_bytes(reply.found.unwrap().value.try_into().unwrap());
    assert_eq!(guarded, acquired, "two held the lock at once");
    assert!(least > 0, "a client starved");
    assert!(most <= UNFAIRNESS_MAX * least, "from {least} to {most}: a client nearly starved");
}

/// Puts `count` rows, many under way at once.
fn load(connection: &mut Connection, prefix: &str, count: u64) {
    const WINDOW: u64 = 512;
    for first in (0..count).step_by(WINDOW as usize) {
        let numbers = first..count.min(first + WINDOW);
        for number in numbers.clone() {
            let full = key(&format!("{prefix}{number:09}"));
            connection.queue_request(0, &Request::new(RequestBody::Put { key: &full, value: b"sixteen bytes ok" }));
        }
        connection.flush();
        for _ in numbers {
            let _ = connection.receive().response();
        }
    }
}

/// Scans all rows under `scanned/` in a transaction; returns how many there were.
fn scan_all(connection: &mut Connection, transaction: u64) -> u64 {
    let range = RangeRef { keyspace: KeyspaceId::DEFAULT, start: b"scanned/", end: Some(b"scanned0") };
    let scan = Scan { range, reverse: false, keys_only: false, count_only: false, limit: 0, credit: 1 << 20 };
    let stream = connection.queue_in(transaction, RequestBody::Scan(scan));
    connection.flush();
    loop {
        let arrived = connection.receive();
        match arrived.header.kind {
            Kind::Chunk => {
                let bytes = arrived.payload.len() as u32;
                for account in [0, stream] {
                    connection.queue(Kind::Credit, 0, 0, account, |out| out.put_u32(bytes));
                }
                connection.flush();
            }
            Kind::End => return ScanEnd::decode(&arrived.payload).unwrap().rows,
            _ => panic!("{:?}", arrived.error()),
        }
    }
}

fn write_steadily(address: SocketAddr, writer: u64, over: &AtomicBool) -> u64 {
    let mut connection = Connection::open(address);
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        load(&mut connection, &format!("other/{writer}/"), 512);
        rounds += 1;
    }
    rounds * 512
}

/// What committing costs after a scan of `rows` rows, while others write elsewhere.
fn commit_after_scan(rows: u64, rounds: usize) {
    let server = HostedServer::start();
    let mut connection = Connection::open(server.address());
    load(&mut connection, "scanned/", rows);
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let (address, over) = (server.address(), &over);
        let writers: Vec<_> = (0..2).map(|writer| scope.spawn(move || write_steadily(address, writer, over))).collect();
        let (mut scans, mut commits, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let mine = key(&format!("mine/{round}"));
            for scans_first in [false, true] {
                let transaction = connection.begin(Isolation::Serializable);
                let before = Instant::now();
                if scans_first {
                    assert_eq!(scan_all(&mut connection, transaction), rows);
                    scans.push(before.elapsed());
                }
                let _ = connection.call_in(transaction, RequestBody::Put { key: &mine, value: b"v" }).response();
                let before = Instant::now();
                let _ = connection.call_in(transaction, RequestBody::Commit).response();
                if scans_first { &mut commits } else { &mut alone }.push(before.elapsed());
            }
        }
        over.store(true, Ordering::Relaxed);
        let written: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        println!(
            "a transaction that scans {rows} rows, {rounds} times, beside {:.0} puts a second:",
            written as f64 / begun.elapsed().as_secs_f64()
        );
        for (name, mut times) in [("scan", scans), ("commit after it", commits), ("commit without a scan", alone)] {
            times.sort();
            let at = |share: usize| times[(times.len() - 1) * share / 100];
            println!("  {name:22} median {:>10.1?}  p90 {:>10.1?}  max {:>10.1?}", at(50), at(90), at(100));
        }
    });
}

/// `QUANTADB_SCAN_ROWS=10000,1000000` gives the figures that matter, in a release build.
#[test]
fn a_commit_after_a_long_scan_succeeds_beside_writers_elsewhere() {
    let rows = std::env::var("QUANTADB_SCAN_ROWS").unwrap_or_else(|_| "2000".into());
    for rows in rows.split(',') {
        let rows: u64 = rows.parse().expect("QUANTADB_SCAN_ROWS is numbers with commas");
        let rounds = if rows > 100_000 { 20 } else { 100 };
        commit_after_scan(rows, rounds);
    }
}
