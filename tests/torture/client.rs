//! One client: what it sends, what it waits for, how it loses its connection, and what it writes down of all that.

use super::message::{Message, found, range_ref, row};
use bytes::{BufMut, Bytes, BytesMut};
use quantadb::{
    testing::{
        connection::{Arrived, Connection},
        generators::Random,
        history::{Found, Outcome, RangeEnd, RangeRead, Recorder, Recording, Step},
    },
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, Isolation, KeyRange, KeyspaceId, Version, key_after},
    wire::{
        self, Chunk, Course, ErrorCode, Kind, ListBuf, OutcomeState, Request, RequestBody, RequestTags, Response,
        ResumeToken, Scan, ScanEnd, ScanEndReason, WireError,
    },
};
use std::{collections::BTreeMap, io::Write, net::SocketAddr};

/// Tries of something that must come to an answer before the test fails.
const TRIES_MAX: usize = 100_000;
/// A request id above all that a connection counts up to, for the last request of a connection.
const LAST_REQUEST: u64 = 1 << 40;

/// How many attempts there were, by kind and by what became of them.
pub type Tally = BTreeMap<(&'static str, &'static str), u64>;

/// The transaction cannot go on; it has been rolled back or is gone.
#[derive(Debug)]
pub struct Abandoned;

/// Settings of a whole run.
#[derive(Clone)]
pub struct Settings {
    pub address: SocketAddr,
    pub recorder: Recorder,
    /// Whether outcomes may be unknown, so that commits are named and connections lost.
    pub losses: bool,
}

/// See the module.
pub struct Client {
    pub number: u64,
    pub random: Random,
    pub tally: Tally,
    settings: Settings,
    link: Option<Link>,
    /// The greatest version that it was told.
    seen: Version,
    serial: u64,
    /// Commits of which it does not know what became.
    unknown: Vec<(IdempotencyPair, Attempt)>,
}

/// A connection. What nobody waits for is passed over: writes of a transaction, whose commit tells whether one failed,
/// and the end of a scan that was left open.
struct Link {
    connection: Connection,
}

impl Link {
    fn open(address: SocketAddr) -> Link {
        Link { connection: Connection::open_with_credit(address, 1 << 30) }
    }

    /// The next frame of a request.
    fn wait(&mut self, request: u64) -> Arrived {
        loop {
            let arrived = self.connection.receive();
            if arrived.header.request_id == request {
                return arrived;
            }
        }
    }
}

/// An interactive transaction.
pub struct Interactive {
    pub id: u64,
    pub read_version: Version,
    isolation: Isolation,
    recording: Recording,
    steps: Vec<Step>,
}

/// How a range is scanned.
#[derive(Clone, Copy, Default)]
pub struct How {
    pub reverse: bool,
    pub keys_only: bool,
    pub limit: u64,
    /// Stop after so many chunks, if that is not zero.
    pub chunks: usize,
}

impl Client {
    pub fn new(number: u64, seed: u64, settings: &Settings) -> Client {
        Client {
            number,
            // Through the generator itself: seeds that differ by a multiple of its step give one sequence, shifted.
            random: Random::new(Random::new(seed ^ number).bits()),
            tally: Tally::new(),
            settings: settings.clone(),
            link: None,
            seen: Version::ZERO,
            serial: 0,
            unknown: Vec::new(),
        }
    }

    fn link(&mut self) -> &mut Link {
        let address = self.settings.address;
        self.link.get_or_insert_with(|| Link::open(address))
    }

    /// Text that nobody else writes, nor this client again.
    pub fn unique(&mut self) -> String {
        self.serial += 1;
        format!("c{}.{}", self.number, self.serial)
    }

    fn count(&mut self, kind: &'static str, outcome: &'static str) {
        *self.tally.entry((kind, outcome)).or_default() += 1;
    }

    fn call(&mut self, request: &Request<'_>) -> Arrived {
        let link = self.link();
        let id = link.connection.queue_request(0, request);
        link.connection.flush();
        link.wait(id)
    }

    fn call_in(&mut self, transaction: u64, body: RequestBody<'_>) -> Arrived {
        let mut request = Request::new(body);
        request.tags.transaction = Some(transaction);
        self.call(&request)
    }

    fn begin_recording(&self) -> Recording {
        self.settings.recorder.begin(self.number)
    }

    fn saw(&mut self, version: Version) {
        self.seen = self.seen.max(version);
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Reads outside of transactions.

    /// Reads keys at one version, one request each or all in one.
    pub fn read(&mut self, keys: &[FullKey]) -> Option<Vec<Option<Found>>> {
        let mut recording = self.begin_recording();
        let arrived = match keys {
            [key] => self.call(&Request::new(RequestBody::Get { key })),
            _ => self.call(&Request::new(RequestBody::GetMany { keys: key_list(keys).as_list() })),
        };
        let (version, told) = match told_reads(&arrived) {
            Ok(told) => told,
            Err(_) => {
                recording.complete(Outcome::NotApplied);
                self.count("read", "refused");
                return None;
            }
        };
        keys.iter().zip(&told).for_each(|(key, told)| recording.get(key, told.clone()));
        recording.complete(Outcome::ReadOnly(version));
        self.saw(version);
        self.count("read", "told");
        (told.len() == keys.len()).then_some(told)
    }

    /// Scans; goes on from the token where it stopped, sometimes, at what is by then an old version.
    pub fn scan(&mut self, range: &KeyRange, how: How) -> Option<RangeRead> {
        let mut recording = self.begin_recording();
        let Some((version, read)) = self.stream(None, range, how, None) else {
            recording.complete(Outcome::NotApplied);
            self.count("scan", "refused");
            return None;
        };
        recording.range(read.clone());
        recording.complete(Outcome::ReadOnly(version));
        self.saw(version);
        self.count("scan", "told");
        if read.end != RangeEnd::Exhausted && self.random.once_in(2) {
            self.resume(range, how, version, &read);
        }
        Some(read)
    }

    fn resume(&mut self, range: &KeyRange, how: How, version: Version, read: &RangeRead) {
        let last = match &read.end {
            RangeEnd::Stopped(last) => last.clone(),
            _ => read.rows.last().map(|(key, _)| key.clone()),
        };
        let Some(last) = last else { return };
        let mut token = BytesMut::new();
        let cluster = *b"test";
        ResumeToken { version, course: Course::of_scan(how.reverse), cluster, position: &last }.encode(&mut token);
        let mut recording = self.begin_recording();
        recording.stale_allowed();
        let rest = match how.reverse {
            true => KeyRange { start: range.start.clone(), end: last },
            false => KeyRange { start: key_after(&last), end: range.end.clone() },
        };
        match self.stream(None, range, How { limit: 0, chunks: 0, ..how }, Some(&token)) {
            Some((again, read)) => {
                assert_eq!(again, version, "a resumed scan reads at its token's version");
                recording.range(RangeRead { range: rest, ..read });
                recording.complete(Outcome::ReadOnly(version));
                self.count("resumed scan", "told");
            }
            None => {
                recording.complete(Outcome::NotApplied);
                self.count("resumed scan", "refused");
            }
        }
    }

    /// Counts a range without seeing its rows.
    pub fn count_rows(&mut self, range: &KeyRange) {
        let mut recording = self.begin_recording();
        match self.stream_count(None, range) {
            Some((version, count)) => {
                recording.count(range, count);
                recording.complete(Outcome::ReadOnly(version));
                self.saw(version);
                self.count("count", "told");
            }
            None => {
                recording.complete(Outcome::NotApplied);
                self.count("count", "refused");
            }
        }
    }

    fn stream_count(&mut self, transaction: Option<u64>, range: &KeyRange) -> Option<(Version, u64)> {
        let scan =
            Scan { range: range_ref(range), reverse: false, keys_only: false, count_only: true, limit: 0, credit: 0 };
        let mut request = Request::new(RequestBody::Scan(scan));
        request.tags.transaction = transaction;
        let arrived = self.call(&request);
        if arrived.header.kind == Kind::Error {
            return None;
        }
        let end = ScanEnd::decode(&arrived.payload).expect("a count ends");
        assert_eq!(end.reason, ScanEndReason::Exhausted);
        Some((end.version, end.rows))
    }

    /// Runs a scan with little credit, granted chunk by chunk.
    fn stream(
        &mut self,
        transaction: Option<u64>,
        range: &KeyRange,
        how: How,
        token: Option<&[u8]>,
    ) -> Option<(Version, RangeRead)> {
        let scan = Scan {
            range: range_ref(range),
            reverse: how.reverse,
            keys_only: how.keys_only,
            count_only: false,
            limit: how.limit,
            credit: 1,
        };
        let mut request = Request::new(RequestBody::Scan(scan));
        request.tags.transaction = transaction;
        request.tags.resume_token = token;
        let leave_open = transaction.is_some() && self.random.once_in(2);
        let link = self.link();
        let id = link.connection.queue_request(0, &request);
        link.connection.flush();
        let limit = (how.limit > 0).then_some(how.limit);
        let mut read =
            RangeRead { range: range.clone(), reverse: how.reverse, limit, rows: Vec::new(), end: RangeEnd::Exhausted };
        let (mut chunks, mut last, mut version) = (0, None, Version::ZERO);
        loop {
            let arrived = link.wait(id);
            match arrived.header.kind {
                Kind::Chunk => {
                    let chunk = Chunk::decode(&arrived.payload).expect("the server encodes chunks well");
                    read.rows.extend(chunk.rows.iter().map(|there| row(&there, how.keys_only)));
                    let token = chunk.resume_token.expect("every chunk has a token");
                    let token = ResumeToken::decode(token).expect("the server encodes tokens well");
                    (last, version) = (Some(Bytes::copy_from_slice(token.position)), token.version);
                    chunks += 1;
                    let bytes = arrived.payload.len() as u32;
                    link.connection.queue(Kind::Credit, 0, 0, 0, |out| out.put_u32(bytes));
                    if chunks != how.chunks {
                        link.connection.queue(Kind::Credit, 0, 0, id, |out| out.put_u32(bytes));
                    } else if !leave_open {
                        link.connection.queue(Kind::Cancel, 0, 0, id, |_| {});
                    }
                    link.connection.flush();
                    if chunks == how.chunks && leave_open {
                        read.end = RangeEnd::Stopped(last);
                        return Some((version, read));
                    }
                }
                Kind::End => {
                    let end = ScanEnd::decode(&arrived.payload).expect("the server encodes ends well");
                    assert_eq!(end.rows as usize, read.rows.len(), "an end tells how many rows there were");
                    read.end = match end.reason {
                        ScanEndReason::Exhausted => RangeEnd::Exhausted,
                        ScanEndReason::Limit => RangeEnd::Limit,
                    };
                    return Some((end.version, read));
                }
                Kind::Error if arrived.error().code == ErrorCode::CANCELLED => {
                    read.end = RangeEnd::Stopped(last);
                    return Some((version, read));
                }
                _ => {
                    let _ = arrived.error();
                    return None;
                }
            }
        }
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Interactive transactions.

    /// Runs a transaction to its commit, unless `body` fails or something is refused.
    pub fn interactive(
        &mut self,
        kind: &'static str,
        isolation: Isolation,
        body: impl FnOnce(&mut Client, &mut Interactive) -> Result<(), Abandoned>,
    ) {
        let mut recording = self.begin_recording();
        recording.isolation(isolation);
        let arrived = self.call(&Request::new(RequestBody::Begin { isolation }));
        if arrived.header.kind == Kind::Error {
            recording.complete(Outcome::NotApplied);
            return self.count(kind, "refused");
        }
        let Response::Version(reply) = arrived.response() else { panic!("a version") };
        recording.read_version(reply.version);
        self.saw(reply.version);
        let mut transaction = Interactive {
            id: arrived.header.request_id,
            read_version: reply.version,
            isolation,
            recording,
            steps: Vec::new(),
        };
        let done = body(self, &mut transaction);
        let Interactive { id, read_version, mut recording, steps, isolation, .. } = transaction;
        if done.is_err() || self.random.once_in(40) {
            let _ = self.call_in(id, RequestBody::Rollback);
            steps.into_iter().for_each(|step| recording.step(step));
            recording.complete(Outcome::NotApplied);
            return self.count(kind, "rolled back");
        }
        let message = Message::Commit { transaction: id, steps, read_version };
        self.commit_recorded(kind, message, recording, isolation);
    }

    pub fn get(&mut self, within: &mut Interactive, key: &FullKey) -> Result<Option<Found>, Abandoned> {
        let mut told = self.get_many(within, std::slice::from_ref(key))?;
        Ok(told.remove(0))
    }

    pub fn get_many(&mut self, within: &mut Interactive, keys: &[FullKey]) -> Result<Vec<Option<Found>>, Abandoned> {
        let arrived = match keys {
            [key] => self.call_in(within.id, RequestBody::Get { key }),
            _ => self.call_in(within.id, RequestBody::GetMany { keys: key_list(keys).as_list() }),
        };
        let (_, told) = told_reads(&arrived).map_err(|_| Abandoned)?;
        for (key, told) in keys.iter().zip(&told) {
            within.steps.push(Step::Get { key: key.clone(), found: told.clone() });
        }
        if told.len() == keys.len() { Ok(told) } else { Err(Abandoned) }
    }

    pub fn scan_in(&mut self, within: &mut Interactive, range: &KeyRange, how: How) -> Result<RangeRead, Abandoned> {
        let (version, read) = self.stream(Some(within.id), range, how, None).ok_or(Abandoned)?;
        if !read.rows.is_empty() {
            assert_eq!(version, within.read_version, "a scan reads at its transaction's version");
        }
        within.steps.push(Step::Range(read.clone()));
        Ok(read)
    }

    pub fn count_in(&mut self, within: &mut Interactive, range: &KeyRange) -> Result<u64, Abandoned> {
        let (_, count) = self.stream_count(Some(within.id), range).ok_or(Abandoned)?;
        within.steps.push(Step::Count { range: range.clone(), count });
        Ok(count)
    }

    /// Sends a write without waiting for its answer.
    fn write_in(&mut self, within: &mut Interactive, body: RequestBody<'_>, step: Step) {
        self.link().connection.queue_in(within.id, body);
        within.steps.push(step);
    }

    pub fn put(&mut self, within: &mut Interactive, key: &FullKey, value: &Bytes) {
        let step = Step::Put { key: key.clone(), value: value.clone() };
        self.write_in(within, RequestBody::Put { key, value }, step);
    }

    pub fn delete(&mut self, within: &mut Interactive, key: &FullKey) {
        self.write_in(within, RequestBody::Delete { key }, Step::Delete { key: key.clone() });
    }

    pub fn atomic(&mut self, within: &mut Interactive, op: AtomicOp, key: &FullKey, operand: &Bytes) {
        let step = Step::Atomic { op, key: key.clone(), operand: operand.clone(), result: None };
        self.write_in(within, RequestBody::Atomic { op: op as u8, key, operand }, step);
    }

    pub fn savepoint(&mut self, within: &mut Interactive, name: &str) {
        let body = RequestBody::Savepoint { name: name.as_bytes() };
        self.write_in(within, body, Step::Savepoint(name.into()));
    }

    pub fn rollback_to(&mut self, within: &mut Interactive, name: &str) {
        let body = RequestBody::RollbackTo { name: name.as_bytes() };
        self.write_in(within, body, Step::RollbackTo(name.into()));
    }

    pub fn delete_range_in(&mut self, within: &mut Interactive, range: &KeyRange) -> Result<(), Abandoned> {
        let arrived = self.call_in(within.id, RequestBody::DeleteRange { range: range_ref(range) });
        if arrived.header.kind == Kind::Error {
            return Err(Abandoned);
        }
        let Response::DeleteRange(reply) = arrived.response() else { panic!("a number of rows") };
        within.steps.push(Step::DeleteRange { range: range.clone(), deleted: Some(reply.deleted) });
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------------------------
    // Commits.

    /// Sends what commits, and sees to it that what becomes of it is known, now or at the end.
    pub fn commit(&mut self, kind: &'static str, message: Message) -> Outcome {
        let recording = self.begin_recording();
        self.commit_recorded(kind, message, recording, Isolation::Serializable)
    }

    fn commit_recorded(
        &mut self,
        kind: &'static str,
        message: Message,
        mut recording: Recording,
        isolation: Isolation,
    ) -> Outcome {
        let pair = (self.settings.losses || self.random.once_in(4)).then(|| self.pair());
        if let Some(pair) = pair {
            recording.pair(pair);
        }
        let attempt = Attempt { kind, message, isolation, pair };
        if self.settings.losses {
            match self.random.below(40) {
                0 | 1 => return self.lose_connection(attempt, recording),
                2 => return self.ask_before_it_arrives(attempt, recording),
                _ => {}
            }
        }
        let hurried = self.settings.losses && self.random.once_in(30);
        let tags = RequestTags {
            idempotency: pair,
            deadline_ms: hurried.then_some(1 + self.number as u32 % 3),
            ..RequestTags::default()
        };
        let arrived = attempt.message.with_request(tags, |request| self.call(request));
        let outcome = self.conclude(&attempt, recording, &arrived);
        self.count(kind, name_of(outcome));
        match (outcome, pair) {
            (Outcome::Unknown, Some(pair)) => self.find_out(attempt, pair),
            (Outcome::Unknown, None) => {
                assert!(self.settings.losses, "nothing was lost: {:?}", arrived.error());
                outcome
            }
            // What was told to be so is so for whoever asks.
            (Outcome::Committed(_), Some(pair)) if self.random.once_in(20) => self.ask(&attempt, pair),
            _ => outcome,
        }
    }

    /// A commit without a name: what became of it may stay unknown.
    pub fn commit_nameless(&mut self, kind: &'static str, message: Message) {
        let recording = self.begin_recording();
        let attempt = Attempt { kind, message, isolation: Isolation::Serializable, pair: None };
        let arrived = attempt.message.with_request(RequestTags::default(), |request| self.call(request));
        let outcome = self.conclude(&attempt, recording, &arrived);
        self.count(kind, name_of(outcome));
    }

    fn pair(&mut self) -> IdempotencyPair {
        let (a, b) = (self.random.bits().to_be_bytes(), (self.random.bits() ^ self.serial << 1).to_be_bytes());
        let mut key = [0; 16];
        key.iter_mut().zip(a.iter().chain(&b)).for_each(|(to, from)| *to = *from);
        IdempotencyPair { key, seen: self.seen }
    }

    /// Writes down what an answer to a commit says.
    fn conclude(&mut self, attempt: &Attempt, mut recording: Recording, arrived: &Arrived) -> Outcome {
        let (steps, outcome) = match arrived.header.kind {
            Kind::Error => (attempt.message.untold(), outcome_of(&arrived.error())),
            _ => attempt.message.told(&arrived.response()),
        };
        if let Outcome::Committed(version) | Outcome::ReadOnly(version) = outcome {
            self.saw(version);
        }
        steps.into_iter().for_each(|step| recording.step(step));
        match outcome {
            Outcome::Unknown => drop(recording),
            outcome => recording.complete(outcome),
        }
        outcome
    }

    /// Another attempt of the same commit.
    fn record_again(&self, attempt: &Attempt) -> Recording {
        let mut recording = self.begin_recording();
        recording.isolation(attempt.isolation);
        if let Some(pair) = attempt.pair {
            recording.pair(pair);
        }
        if let Message::Commit { read_version, .. } = attempt.message {
            recording.read_version(read_version);
        }
        recording
    }

    /// Sends it and hangs up at once.
    fn lose_connection(&mut self, attempt: Attempt, mut recording: Recording) -> Outcome {
        let pair = attempt.pair.expect("where connections are lost commits are named");
        let mut link = self.link.take().unwrap_or_else(|| Link::open(self.settings.address));
        let tags = RequestTags { idempotency: Some(pair), ..RequestTags::default() };
        attempt.message.with_request(tags, |request| link.connection.queue_request(0, request));
        link.connection.flush();
        for _ in 0..self.random.below(3) {
            std::thread::yield_now();
        }
        drop(link);
        attempt.message.untold().into_iter().for_each(|step| recording.step(step));
        drop(recording);
        self.count(attempt.kind, "connection lost");
        self.find_out(attempt, pair)
    }

    /// Sends all but the end of it, asks on another connection what became of it, and then sends the end.
    fn ask_before_it_arrives(&mut self, attempt: Attempt, recording: Recording) -> Outcome {
        let pair = attempt.pair.expect("where connections are lost commits are named");
        let mut link = self.link.take().unwrap_or_else(|| Link::open(self.settings.address));
        let mut frame = BytesMut::new();
        let tags = RequestTags { idempotency: Some(pair), ..RequestTags::default() };
        attempt.message.with_request(tags, |request| {
            let opcode = request.opcode().number();
            wire::put_frame(&mut frame, Kind::Request, 0, opcode, LAST_REQUEST, |out| request.encode(out));
        });
        link.connection.flush();
        let (front, back) = frame.split_at(frame.len() - 1);
        link.connection.socket().write_all(front).expect("the server reads");
        let asked = self.ask(&attempt, pair);
        link.connection.socket().write_all(back).expect("the server reads");
        let arrived = link.wait(LAST_REQUEST);
        let outcome = self.conclude(&attempt, recording, &arrived);
        self.count(attempt.kind, if asked == Outcome::Never { "fenced before it arrived" } else { "asked too early" });
        outcome
    }

    /// Sends it again, marked, or asks; unless that is left for the end.
    fn find_out(&mut self, attempt: Attempt, pair: IdempotencyPair) -> Outcome {
        match self.random.below(4) {
            0 => {
                self.unknown.push((pair, attempt));
                Outcome::Unknown
            }
            1 | 2 if attempt.message.repeats() => self.send_again(&attempt, pair),
            _ => self.ask(&attempt, pair),
        }
    }

    fn send_again(&mut self, attempt: &Attempt, pair: IdempotencyPair) -> Outcome {
        for _ in 0..TRIES_MAX {
            let recording = self.record_again(attempt);
            let tags = RequestTags { idempotency: Some(pair), retry_mark: true, ..RequestTags::default() };
            let arrived = attempt.message.with_request(tags, |request| self.call(request));
            let outcome = self.conclude(attempt, recording, &arrived);
            if matches!(outcome, Outcome::Committed(_) | Outcome::ReadOnly(_)) {
                self.count(attempt.kind, "told when sent again");
                return if self.random.once_in(4) { self.ask(attempt, pair) } else { outcome };
            }
            std::thread::yield_now();
        }
        panic!("a marked retry never came to an answer: {attempt:?}");
    }

    fn ask(&mut self, attempt: &Attempt, pair: IdempotencyPair) -> Outcome {
        for _ in 0..TRIES_MAX {
            let mut recording = self.record_again(attempt);
            let arrived = self.call(&Request::new(RequestBody::Outcome { pair }));
            if arrived.header.kind == Kind::Error {
                let _ = arrived.error();
                recording.complete(Outcome::NotApplied);
                std::thread::yield_now();
                continue;
            }
            let Response::Outcome(reply) = arrived.response() else { panic!("an outcome") };
            let (steps, outcome, name) = match reply.state {
                OutcomeState::Committed { version, results } => {
                    let results =
                        results.map(|results| results.iter().map(|blob| Bytes::copy_from_slice(blob.0)).collect());
                    let (steps, outcome) = attempt.message.recorded(version, results);
                    self.saw(version);
                    (steps, outcome, "asked: committed")
                }
                OutcomeState::Never => (attempt.message.untold(), Outcome::Never, "asked: never"),
                OutcomeState::Rejected { .. } => (attempt.message.untold(), Outcome::NotApplied, "asked: answered"),
                OutcomeState::Expired => panic!("nothing is old enough to have expired"),
            };
            steps.into_iter().for_each(|step| recording.step(step));
            recording.complete(outcome);
            self.count(attempt.kind, name);
            return outcome;
        }
        panic!("a question never came to an answer: {attempt:?}");
    }

    /// Asks about everything that is still unknown.
    pub fn settle(&mut self) {
        for (pair, attempt) in std::mem::take(&mut self.unknown) {
            self.ask(&attempt, pair);
        }
    }
}

/// A commit, as often as it is attempted.
#[derive(Debug)]
struct Attempt {
    kind: &'static str,
    message: Message,
    isolation: Isolation,
    pair: Option<IdempotencyPair>,
}

fn key_list(keys: &[FullKey]) -> ListBuf {
    let mut list = ListBuf::new();
    keys.iter().for_each(|key| list.push(&wire::Key(key)));
    list
}

fn told_reads(arrived: &Arrived) -> Result<(Version, Vec<Option<Found>>), WireError> {
    if arrived.header.kind == Kind::Error {
        return Err(arrived.error());
    }
    Ok(match arrived.response() {
        Response::Get(reply) => (reply.version, vec![found(reply.found)]),
        Response::GetMany(reply) => (reply.version, reply.answered.iter().map(found).collect()),
        other => panic!("not a read: {other:?}"),
    })
}

fn outcome_of(error: &WireError) -> Outcome {
    match (error.code, error.outcome) {
        (_, wire::Outcome::Unknown) => Outcome::Unknown,
        (_, wire::Outcome::Applied) => panic!("an error that says it was applied: {error:?}"),
        (ErrorCode::INTERNAL | ErrorCode::MALFORMED, _) => panic!("the server refuses what is right: {error:?}"),
        _ => Outcome::NotApplied,
    }
}

fn name_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed(_) => "committed",
        Outcome::ReadOnly(_) => "read only",
        Outcome::NotApplied | Outcome::Never => "not applied",
        Outcome::Unknown => "unknown",
    }
}

/// A full key of the default keyspace.
pub fn key(name: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(name.as_bytes())
}

/// All keys that begin with `prefix`, which ends with a slash.
pub fn under(prefix: &str) -> KeyRange {
    let end = format!("{}0", prefix.strip_suffix('/').expect("a prefix ends with a slash"));
    KeyRange { start: key(prefix), end: key(&end) }
}
