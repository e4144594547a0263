//! A reader that begins a scan and then grants nothing, while others write as fast as they can.

use super::{
    disk::Place,
    from_environment,
    process::{Launch, Server, Start, check},
};
use bytes::BufMut;
use quantadb::{
    testing::connection::Connection,
    types::KeyspaceId,
    wire::{Chunk, Kind, RangeRef, Request, RequestBody, Scan, ScanEnd, ScanEndReason},
};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Everything that has a bound has a small one, and nothing ends a reader for being slow.
const CONFIGURATION: &str = "(
    memory_bytes_max: 67108864,
    storage: (slice_bytes: 4194304, block_cache_bytes: 16777216, log_segment_bytes: 16777216, log_cache_bytes: 4194304),
    history: (bytes_max: 16777216),
    committer: (resolver_bytes_max: 16777216),
    sessions: (transaction_idle_ms_max: 600000, transaction_age_ms_max: 600000),
)";
/// The bounds above are 116 MiB; the rest is the program, buffers of connections, and tables being written.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;
const ROWS: u64 = 20_000;
const VALUE_BYTES: usize = 400;
const WRITERS: u64 = 4;
const WINDOW: u64 = 64;
/// In so many parts of its life the server must have committed.
const PARTS: usize = 10;

fn key(row: u64) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(format!("row-{row:06}").as_bytes()).to_vec()
}

/// What a row holds after so many rounds: no two are alike.
fn value(row: u64, round: u64) -> Vec<u8> {
    let mut value = format!("{row} in round {round} ").into_bytes();
    value.resize(VALUE_BYTES - (round % 50) as usize, b'.');
    value
}

/// Puts all rows again and again, in windows, until told to stop.
fn write(address: SocketAddr, writer: u64, rounds: std::ops::Range<u64>, stop: &AtomicBool, commits: &AtomicU64) {
    let mut connection = Connection::open(address);
    for round in rounds {
        for first in (writer * WINDOW..ROWS).step_by((WRITERS * WINDOW) as usize) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let rows = first..(first + WINDOW).min(ROWS);
            for row in rows.clone() {
                let (key, value) = (key(row), value(row, round));
                connection.queue_request(0, &Request::new(RequestBody::Put { key: &key, value: &value }));
            }
            connection.flush();
            // A refusal for want of memory is an answer too; the next round puts the row again.
            let done = rows.map(|_| u64::from(connection.receive().header.kind == Kind::Response)).sum();
            commits.fetch_add(done, Ordering::Relaxed);
        }
    }
}

/// A scan of everything, begun with this much credit, and how far it was read.
struct Reader {
    connection: Connection,
    stream: u64,
    rows: u64,
}

impl Reader {
    fn begin(address: SocketAddr, credit: u32) -> Reader {
        let mut connection = Connection::open(address);
        let range = RangeRef { keyspace: KeyspaceId::DEFAULT, start: b"", end: None };
        let scan = Scan { range, reverse: false, keys_only: false, count_only: false, limit: 0, credit };
        let stream = connection.queue_request(0, &Request::new(RequestBody::Scan(scan)));
        // Answered behind it: by then its version stands.
        let get = connection.queue_request(0, &Request::new(RequestBody::Get { key: &key(0) }));
        connection.flush();
        let mut reader = Reader { connection, stream, rows: 0 };
        while reader.receive() != get {}
        reader
    }

    /// Takes a frame, checks what is in it, and returns what request it belongs to.
    fn receive(&mut self) -> u64 {
        let arrived = self.connection.receive();
        match arrived.header.kind {
            Kind::Chunk => {
                for row in &Chunk::decode(&arrived.payload).unwrap().rows {
                    let full = KeyspaceId::DEFAULT.full_key(row.key).to_vec();
                    assert_eq!((full, row.value), (key(self.rows), &value(self.rows, 0)[..]), "a row of its snapshot");
                    self.rows += 1;
                }
            }
            Kind::End => {
                let end = ScanEnd::decode(&arrived.payload).unwrap();
                assert_eq!((end.rows, end.reason), (ROWS, ScanEndReason::Exhausted));
            }
            Kind::Response => {}
            kind => panic!("{kind:?}: {:?}", arrived.error()),
        }
        arrived.header.request_id
    }

    fn read_on(mut self) {
        self.connection.queue(Kind::Credit, 0, 0, self.stream, |out| out.put_u32(1 << 30));
        self.connection.flush();
        while self.rows < ROWS {
            self.receive();
        }
        // Its end.
        self.receive();
    }
}

/// Bytes under a directory, about: files come and go.
fn disk_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        true => disk_bytes(&entry.path()),
        false => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.map(of).sum()
}

#[test]
fn a_reader_that_grants_nothing_holds_up_nobody_and_reads_its_snapshot() {
    let seconds = from_environment("QUANTADB_READER_SECONDS").unwrap_or(3);
    let place = Place::directory();
    let launch = Launch { configuration: Some(CONFIGURATION.into()), ..Launch::default() };
    let server: Server = match launch.spawn(&place.data(), &place.log()).ready().unwrap() {
        Start::Ready(server) => server,
        Start::Refused(ended) => panic!("it does not start\n{}", ended.tail()),
    };
    let (address, stop, commits) = (server.address, AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            threads.spawn(move || write(address, writer, 0..1, &AtomicBool::new(false), &AtomicU64::new(0)));
        }
    });
    let readers = [Reader::begin(address, 0), Reader::begin(address, 100_000)];
    let (mut parts, mut resident, mut disk) = (Vec::new(), server.resident_bytes(), 0);
    let before = resident;
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            let (stop, commits) = (&stop, &commits);
            threads.spawn(move || write(address, writer, 1..u64::MAX, stop, commits));
        }
        let part = Duration::from_secs(seconds) / PARTS as u32;
        for _ in 0..PARTS {
            let (until, at_first) = (Instant::now() + part, commits.load(Ordering::Relaxed));
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
                resident = resident.max(server.resident_bytes());
            }
            parts.push(commits.load(Ordering::Relaxed) - at_first);
            disk = disk.max(disk_bytes(&place.data()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!(
        "{seconds} s without credit: commits by tenths {parts:?}; resident {} MiB before and at most {}; on disk at most {}",
        before >> 20,
        resident >> 20,
        disk >> 20
    );
    assert!(
        readers.iter().all(|reader| reader.rows < ROWS),
        "they were read to their ends before they were granted it"
    );
    readers.into_iter().for_each(Reader::read_on);
    assert!(parts.iter().all(|commits| *commits > 0), "nothing was committed for a while: {parts:?}");
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes");
    let ended = server.stop().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.tail());
    check(&place.data()).unwrap();
}
