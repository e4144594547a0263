//! The seeds of the fuzz targets, made here from the golden vectors and the generators so that they follow the protocol. `UPDATE_GOLDEN=1` writes them anew.

use bytes::{BufMut, Bytes, BytesMut};
use quantadb::{
    backup::{Header as BackupHeader, Row, Writer},
    log::{Log, LogEntry, LogOptions, Owner, Vote},
    testing::{
        files::{SimulatedFiles, environment},
        wire::{AnyFrames, AnyPeerMessage, AnyReply, AnyRequest, from_hex},
    },
    txn::AtomicOp,
    types::{
        ClusterId, IdempotencyPair, Isolation, KeyspaceId, LogId, NodeId, Term, Version,
        limits::FRAME_PAYLOAD_BYTES_MAX,
    },
    wire::{
        Header, Kind, Opcode, Request, RequestBody, RequestTags, peek,
        peer::{PEER_OPCODES, PEER_PAYLOAD_BYTES_MAX, PeerOpcode},
        preface::PREFACE,
        put_frame,
        registry::{FLAG_AFTER, OPCODES},
    },
};
use quickcheck::{Arbitrary, Gen};
use std::{collections::BTreeMap, fs, path::Path};

/// Odd: checksums are made right. Split into 7, 64, and all that is left.
const REPAIRED: [u8; 4] = [1, 7, 64, 0];
/// Even: as it stands, all at once.
const WHOLE: [u8; 4] = [0, 0, 0, 0];

fn seeds() -> BTreeMap<String, Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut g = Gen::from_size_and_seed(12, 1);
    for number in 0..12 {
        let frames = AnyFrames::arbitrary(&mut g).bytes();
        let prefix = if number % 2 == 0 { REPAIRED } else { WHOLE };
        seeds.insert(format!("frame/frames-{number:02}"), [&prefix[..], &frames].concat());
    }
    for opcode in OPCODES.iter().map(|row| row.opcode) {
        let name = format!("{opcode:?}").to_lowercase();
        let any = AnyRequest::of(&mut g, opcode);
        seeds.insert(format!("request/{name}"), [&opcode.number().to_be_bytes()[..], &any.payload()].concat());
        if !opcode.is_stream() {
            reply(&mut seeds, &mut g, &name, Kind::Response, opcode);
        }
    }
    for kind in [Kind::Hello, Kind::Welcome, Kind::Chunk, Kind::End, Kind::Error, Kind::Credit, Kind::Cancel] {
        reply(&mut seeds, &mut g, &format!("{kind:?}").to_lowercase(), kind, Opcode::Scan);
    }
    for kind in [Kind::Chunk, Kind::End] {
        reply(&mut seeds, &mut g, &format!("backup-{kind:?}").to_lowercase(), kind, Opcode::Backup);
    }
    for kind in [Kind::Ping, Kind::Notice, Kind::Goaway] {
        reply(&mut seeds, &mut g, &format!("{kind:?}").to_lowercase(), kind, Opcode::Status);
    }
    vectors(&mut seeds);
    peers(&mut seeds);
    backups(&mut seeds);
    for (name, stream) in sessions() {
        seeds.insert(format!("session/{name}"), [&REPAIRED[..], &stream].concat());
    }
    for (name, pieces) in logs() {
        seeds.insert(format!("log/{name}"), [&[0][..], &pieces].concat());
        seeds.insert(format!("log/{name}-repaired"), [&[1][..], &pieces].concat());
    }
    seeds
}

/// Messages between nodes: any of each opcode, both ways, and the golden vectors.
fn peers(seeds: &mut BTreeMap<String, Vec<u8>>) {
    // Of their own, so that what stands before them does not change them.
    let mut g = Gen::from_size_and_seed(12, 2);
    let seed =
        |kind: Kind, opcode: u16, payload: &[u8]| [&[kind.number()][..], &opcode.to_be_bytes(), payload].concat();
    for row in PEER_OPCODES {
        for kind in [Kind::Request, Kind::Response] {
            let any = AnyPeerMessage::of(&mut g, kind, row.opcode);
            let name = format!("{}-{}", kind.name(), row.name).to_lowercase();
            seeds.insert(format!("peer/{name}"), seed(kind, row.opcode.number(), &any.payload()));
        }
    }
    for file in ["peer", "peer-negative"] {
        for (number, frame) in vectors_of(file).into_iter().enumerate() {
            let Some((header, total)) = peek(&frame, PEER_PAYLOAD_BYTES_MAX).ok().flatten() else { continue };
            // HELLO and WELCOME have no opcode, and the target wants one.
            let opcode = if header.kind.has_opcode() { header.opcode } else { PeerOpcode::Vote.number() };
            let bytes = seed(header.kind, opcode, &frame[Header::BYTES..total]);
            seeds.insert(format!("peer/{file}-{number:02}"), bytes);
        }
    }
}

/// Files of backups: of nothing, of few rows, of two blocks, and cut short. Even: as they stand; odd: made right first.
fn backups(seeds: &mut BTreeMap<String, Vec<u8>>) {
    let header = BackupHeader { cluster: ClusterId([7; 16]), version: Version(99), taken_ms: 1_700_000_000_000 };
    let file = |rows: &[(&str, usize)]| {
        let mut writer = Writer::begin(Vec::new(), header).expect("memory takes it");
        for (name, length) in rows {
            let (key, value) = (KeyspaceId::DEFAULT.full_key(name.as_bytes()), vec![b'v'; *length]);
            writer.push(&Row { key: &key, version: Version(3), value: &value }).expect("rows are in order");
        }
        writer.finish(1_700_000_000_001).expect("memory takes it").0
    };
    let few = file(&[("", 0), ("a", 3), ("ab", 20)]);
    for (name, file) in [("nothing", &file(&[])[..]), ("few", &few), ("cut", &few[..90])] {
        for (how, first) in [("as-it-is", 0), ("made-right", 1)] {
            seeds.insert(format!("backup/{name}-{how}"), [&[first], file].concat());
        }
    }
    // The writer gathers 64 KiB in a block, more than a fuzzer's input: two short ones are put together from three files.
    let (header_bytes, footer_bytes) = (48, 61);
    let (one, other, both) = (file(&[("a", 3)]), file(&[("b", 20)]), file(&[("a", 3), ("b", 20)]));
    let block = |file: &[u8]| file[header_bytes..file.len() - footer_bytes].to_vec();
    let (header, footer) = (&both[..header_bytes], &both[both.len() - footer_bytes..]);
    seeds.insert("backup/blocks-made-right".into(), [&[1], header, &block(&one), &block(&other), footer].concat());
}

/// The blocks of small logs, as `fuzz/src/segments.rs` reads them: one segment, two, and one with a torn tail.
fn logs() -> Vec<(&'static str, Vec<u8>)> {
    let id = |index| LogId { term: Term(1), leader: NodeId(1), index };
    let entry = |index, bytes: usize| LogEntry { id: id(index), kind: 1, payload: vec![index as u8; bytes].into() };
    let run = |sizes: &[usize], purge: bool, segment_bytes: u64| {
        let files = SimulatedFiles::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it can be built");
        runtime.block_on(async {
            let owner = Owner { cluster: ClusterId([7; 16]), node: NodeId(1) };
            let options = LogOptions { segment_bytes, cache_bytes_max: 0, owner };
            let env = environment(files.clone());
            let (log, _) = Log::open(&env, Path::new("/log"), options).expect("an empty directory opens");
            log.save_vote(Vote { term: Term(1), node: NodeId(1), committed: true }, Box::new(|_| ()));
            for (index, bytes) in sizes.iter().enumerate() {
                log.append(vec![entry(index as u64, *bytes)], Box::new(|_| ()));
                if !purge {
                    // Each a group of its own.
                    tokio::task::yield_now().await;
                }
            }
            if purge {
                log.truncate_after(Some(id(1)), Box::new(|_| ()));
                log.purge(id(0), Box::new(|_| ()));
            }
            log.close().await.expect("nothing fails");
        });
        files
    };
    let pieces = |files: &SimulatedFiles| {
        let mut pieces = Vec::new();
        for (number, path) in files.paths().into_iter().filter(|path| path.starts_with("/log")).enumerate() {
            let bytes = files.contents(&path).expect("it is there");
            for (at, block) in bytes.chunks(512).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
                pieces.extend_from_slice(&[number as u8, at as u8]);
                pieces.extend_from_slice(block);
            }
        }
        pieces
    };
    let one = pieces(&run(&[10, 20, 500], true, 16 << 10));
    // What a log is that lost its first pages: found by fuzzing.
    let headless = pieces(&run(&[10, 20], false, 16 << 10)).split_off(514 * 9);
    let torn = [&one[..514 * 3], &one[514 * 4..]].concat();
    vec![("headless", headless), ("torn", torn), ("one", one), ("two", pieces(&run(&[100, 200], false, 12 << 10)))]
}

/// The golden vectors of the specification: each by its kind, those of a file as one stream, and all requests in a session.
fn vectors(seeds: &mut BTreeMap<String, Vec<u8>>) {
    let mut session = Stream::new();
    for file in ["requests", "replies", "connection", "errors", "tags", "negative"] {
        let mut stream = WHOLE.to_vec();
        for (number, bytes) in vectors_of(file).into_iter().enumerate() {
            let header = peek(&bytes, FRAME_PAYLOAD_BYTES_MAX).ok().flatten();
            if file == "negative" {
                seeds.insert(format!("frame/negative-{number:02}"), [&WHOLE[..], &bytes].concat());
            }
            let Some((header, total)) = header else { continue };
            let (opcode, payload) = (header.opcode.to_be_bytes(), &bytes[Header::BYTES..total]);
            stream.extend_from_slice(&bytes[..total]);
            if header.kind == Kind::Request {
                seeds.insert(format!("request/{file}-{number:02}"), [&opcode[..], payload].concat());
                session.id += 1;
                put_frame(&mut session.bytes, Kind::Request, header.flags, header.opcode, session.id, |out| {
                    out.put_slice(payload);
                });
            } else {
                let prefix = [&[header.kind.number()][..], &opcode].concat();
                seeds.insert(format!("reply/{file}-{number:02}"), [&prefix[..], payload].concat());
            }
        }
        if file != "negative" {
            seeds.insert(format!("frame/{file}"), stream);
        }
    }
    seeds.insert("session/vectors".into(), [&REPAIRED[..], &session.end()].concat());
}

/// The bytes of the golden vectors of a file.
fn vectors_of(file: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("protocol-spec/vectors/{file}.json"));
    let text = fs::read_to_string(path).expect("the vectors are there");
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("they are JSON");
    let bytes = |vector: &serde_json::Value| from_hex(vector["hex"].as_str().expect("a vector has bytes"));
    list.iter().map(|vector| bytes(vector).expect("in hex")).collect()
}

fn reply(seeds: &mut BTreeMap<String, Vec<u8>>, g: &mut Gen, name: &str, kind: Kind, opcode: Opcode) {
    let payload = AnyReply::of(g, kind, opcode).payload();
    let prefix = [&[kind.number()][..], &opcode.number().to_be_bytes()].concat();
    seeds.insert(format!("reply/{name}"), [&prefix[..], &payload].concat());
}

/// A client's stream: preface, HELLO, then requests with ids that rise from 1.
struct Stream {
    bytes: BytesMut,
    id: u64,
}

impl Stream {
    fn new() -> Stream {
        let mut bytes = BytesMut::from(&PREFACE[..]);
        // Versions 1 to 1, 64 KiB of credit, no name, no features.
        put_frame(&mut bytes, Kind::Hello, 0, 0, 0, |out| out.put_slice(&[1, 1, 0, 1, 0, 0, 0, 0, 0, 0]));
        Stream { bytes, id: 0 }
    }

    fn request(&mut self, flags: u8, body: RequestBody<'_>, tags: RequestTags<'_>) -> u64 {
        self.id += 1;
        let request = Request { body, tags };
        let opcode = request.opcode().number();
        put_frame(&mut self.bytes, Kind::Request, flags, opcode, self.id, |out| request.encode(out));
        self.id
    }

    fn plain(&mut self, body: RequestBody<'_>) -> u64 {
        self.request(FLAG_AFTER, body, RequestTags::default())
    }

    fn inside(&mut self, transaction: u64, body: RequestBody<'_>) -> u64 {
        self.request(0, body, RequestTags { transaction: Some(transaction), ..RequestTags::default() })
    }

    /// A request of its raw payload.
    fn raw(&mut self, opcode: Opcode, payload: &[u8]) {
        self.id += 1;
        let id = self.id;
        put_frame(&mut self.bytes, Kind::Request, FLAG_AFTER, opcode.number(), id, |out| out.put_slice(payload));
    }

    fn end(self) -> Bytes {
        self.bytes.freeze()
    }
}

fn sessions() -> Vec<(&'static str, Bytes)> {
    let key = |name: &str| KeyspaceId::DEFAULT.full_key(name.as_bytes());
    let (a, b) = (key("a"), key("b"));
    let mut sessions = Vec::new();

    let mut stream = Stream::new();
    stream.plain(RequestBody::Put { key: &a, value: b"1" });
    stream.plain(RequestBody::Get { key: &a });
    stream.plain(RequestBody::Atomic { op: AtomicOp::Append as u8, key: &a, operand: b"2" });
    stream.plain(RequestBody::Delete { key: &a });
    stream.plain(RequestBody::Status);
    stream.plain(RequestBody::ReadVersion);
    stream.plain(RequestBody::OpenKeyspace { create: true, name: "other" });
    sessions.push(("points", stream.end()));

    let mut stream = Stream::new();
    let begin = stream.plain(RequestBody::Begin { isolation: Isolation::Serializable });
    stream.inside(begin, RequestBody::Get { key: &a });
    stream.inside(begin, RequestBody::Put { key: &b, value: b"1" });
    stream.inside(begin, RequestBody::Savepoint { name: b"s" });
    stream.inside(begin, RequestBody::Atomic { op: AtomicOp::Add as u8, key: &b, operand: &[1] });
    stream.inside(begin, RequestBody::RollbackTo { name: b"s" });
    stream.inside(begin, RequestBody::Commit);
    let other = stream.plain(RequestBody::Begin { isolation: Isolation::Snapshot });
    stream.inside(other, RequestBody::Delete { key: &b });
    stream.inside(other, RequestBody::Rollback);
    sessions.push(("transaction", stream.end()));

    let mut stream = Stream::new();
    for name in ["a", "b", "c"] {
        stream.plain(RequestBody::Put { key: &key(name), value: b"value" });
    }
    // Keyspace 1, from the beginning, without an end; flags 0 and 1; no limit, then 2; a credit of 64 KiB.
    stream.raw(Opcode::Scan, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    stream.raw(Opcode::Scan, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0]);
    stream.raw(Opcode::Scan, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    // All of it, with a credit of 64 KiB.
    stream.raw(Opcode::Backup, &[0, 1, 0, 0]);
    stream.raw(Opcode::DeleteRange, &[0, 0, 0, 1, 0, 1, b'a', 1, 0, 1, b'c']);
    sessions.push(("ranges", stream.end()));

    let mut stream = Stream::new();
    let pair = IdempotencyPair { key: [7; 16], seen: Version(1) };
    let named = RequestTags { idempotency: Some(pair), ..RequestTags::default() };
    stream.plain(RequestBody::Put { key: &b, value: b"0" });
    stream.request(FLAG_AFTER, RequestBody::Put { key: &a, value: b"1" }, named);
    let again = RequestTags { retry_mark: true, ..named };
    stream.request(FLAG_AFTER, RequestBody::Put { key: &a, value: b"1" }, again);
    stream.plain(RequestBody::Outcome { pair });
    stream.plain(RequestBody::Outcome { pair: IdempotencyPair { key: [8; 16], ..pair } });
    sessions.push(("pairs", stream.end()));

    let mut stream = Stream::new();
    // If a is absent: put it and get it; else get it.
    let absent = [&[0, 1, 2, 0, 1][..], &a[..], &[0, 0, 0, 0]].concat();
    let then = [&[0, 2, 1, 0, 1][..], &a[..], &[0, 0, 0, 1, b'v', 16, 0, 1], &a[..]].concat();
    let otherwise = [&[0, 1, 16, 0, 1][..], &a[..]].concat();
    stream.raw(Opcode::Execute, &[&absent[..], &then, &otherwise].concat());
    stream.raw(Opcode::Execute, &[&absent[..], &then, &otherwise].concat());
    sessions.push(("execute", stream.end()));
    sessions
}

#[test]
fn the_seeds_follow_the_protocol() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, bytes) in seeds() {
        let path = folder.join(&name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().expect("a seed has a folder")).expect("it can be made");
            fs::write(&path, &bytes).expect("it can be written");
        }
        let there = fs::read(&path).unwrap_or_default();
        assert!(there == bytes, "fuzz/seeds/{name} is not what the protocol says today: run with UPDATE_GOLDEN=1");
    }
}
