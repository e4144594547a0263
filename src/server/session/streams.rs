//! Streams: scans and backups, in chunks within credit, one at a time and in turn, so that small replies overtake them.
//!
//! A backup is a scan of the one ordered space that holds every keyspace, outside of transactions, at one version; what
//! differs is how its rows are written and that records of keyed commits are passed over.

use super::{Session, requests::Incoming, transactions::own_or_stored};
use crate::{
    env::Moment,
    server::{errors, metrics::add},
    storage::{self, Snapshot},
    txn::{ReadKind, TransactionScan, Visit, is_record_key},
    types::{KeyRange, KeyspaceId, Version, key_after, limits},
    wire::{
        self, BackupChunk, BackupEnd, BackupRow, Chunk, Course, ErrorCode, Field, IfGone, Kind, ListWriter, Opcode,
        ResumeToken, Row, Scan, ScanEnd, ScanEndReason, WireError,
    },
};
use bytes::{Bytes, BytesMut};

/// Replies that wait to be written before scans pause, so that what is small need not queue behind them.
pub(super) const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;
/// Most keys that one step of a scan passes.
const STEP_KEYS: usize = 1_024;

/// What a stream tells of what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Rows.
    Rows,
    /// Rows without their values.
    Keys,
    /// How many rows there are.
    Count,
    /// Rows with their full keys, but no records of keyed commits.
    Everything,
}

impl Telling {
    fn of(scan: &Scan<'_>) -> Telling {
        match (scan.count_only, scan.keys_only) {
            (true, _) => Telling::Count,
            (false, true) => Telling::Keys,
            (false, false) => Telling::Rows,
        }
    }
}

/// A stream between two chunks.
pub(super) struct Stream {
    pub(super) request: u64,
    pub(super) transaction: Option<u64>,
    /// What it may still be sent, in bytes; a chunk may overdraw it.
    pub(super) credit: i64,
    scan: TransactionScan,
    telling: Telling,
    /// Rows still wanted.
    rows_left: u64,
    rows: u64,
    /// Full keys and values of the rows told.
    bytes: u64,
    first_version: Version,
    deadline: Option<Moment>,
    /// When it last told something, or began.
    told: Moment,
    /// The last full key told, for the resume token.
    last_key: BytesMut,
}

/// What one step of a stream came to.
enum Pumped {
    /// It goes on.
    More,
    /// It cannot be in credit: it waits.
    Waits,
    /// Its terminal frame is written.
    Ended,
}

impl Stream {
    /// That of its request.
    fn opcode(&self) -> Opcode {
        if self.telling == Telling::Everything { Opcode::Backup } else { Opcode::Scan }
    }

    fn course(&self) -> Course {
        match self.telling {
            Telling::Everything => Course::Backup,
            Telling::Rows | Telling::Keys | Telling::Count => Course::of_scan(self.scan.is_reverse()),
        }
    }
}

impl Session {
    /// Begins a scan: its view is fixed here, and frames that follow are answered past it.
    // spec: QP-STR-001
    pub(super) fn begin_scan(&mut self, incoming: &Incoming<'_>, scan: &Scan<'_>) {
        let stream = self.open_scan(incoming, scan);
        self.begin_stream(incoming, stream);
    }

    /// Begins a backup, in the same way.
    // spec: QP-STR-030
    pub(super) fn begin_backup(&mut self, incoming: &Incoming<'_>, credit: u32) {
        let stream = self.open_backup(incoming, credit);
        self.begin_stream(incoming, stream);
    }

    fn begin_stream(&mut self, incoming: &Incoming<'_>, stream: Result<Stream, WireError>) {
        match stream {
            Ok(stream) => {
                let metrics = &self.shared.metrics;
                let begun = stream.telling == Telling::Everything;
                add(if begun { &metrics.backups_total } else { &metrics.scans_total }, 1);
                self.streams.push_back(stream);
            }
            Err(error) => {
                if let Some(transaction) = incoming.tags.transaction {
                    self.transactions.fail(transaction, &error);
                }
                self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
        }
    }

    /// Whether one more may be opened.
    fn check_streams(&self) -> Result<(), WireError> {
        let scans_max = self.shared.options.scans_max;
        if self.streams.len() >= scans_max {
            return Err(WireError::new(ErrorCode::TOO_MANY_SCANS).with_bound(scans_max as u64, scans_max as u64 + 1));
        }
        Ok(())
    }

    fn open_scan(&mut self, incoming: &Incoming<'_>, scan: &Scan<'_>) -> Result<Stream, WireError> {
        self.check_streams()?;
        let mut range = scan.range.to_key_range();
        let token = self.token_of(incoming, Course::of_scan(scan.reverse), &mut range)?;
        let (view, first_version) = match incoming.tags.transaction {
            Some(id) => {
                let transaction = self.transactions.usable(id, self.now)?;
                let version = transaction.read_version();
                if token.is_some_and(|token| token != version) {
                    return Err(WireError::new(ErrorCode::BAD_TOKEN)
                        .with_message("the token is of another version than the transaction reads"));
                }
                let view = transaction.scan(&range, scan.reverse).map_err(|error| errors::of_transaction(&error))?;
                (view, version)
            }
            None => {
                let snapshot = self.snapshot_for(token, incoming.tags.if_gone)?;
                let first_version = token.unwrap_or(snapshot.version());
                (TransactionScan::without_writes(snapshot, range, scan.reverse), first_version)
            }
        };
        let overlays = self.streams.iter().map(|stream| stream.scan.overlay_bytes()).sum::<usize>();
        let (limit, actual) = (self.shared.options.bytes_in_flight_max, overlays + view.overlay_bytes());
        if actual > limit {
            return Err(WireError::new(ErrorCode::TOO_MANY_SCANS)
                .with_message("the connection's scans hold too many of their transactions' writes")
                .with_bound(limit as u64, actual as u64));
        }
        let rows_left = if scan.limit == 0 { u64::MAX } else { scan.limit };
        Ok(Stream { rows_left, first_version, ..self.new_stream(incoming, Telling::of(scan), scan.credit, view) })
    }

    fn open_backup(&mut self, incoming: &Incoming<'_>, credit: u32) -> Result<Stream, WireError> {
        self.check_streams()?;
        let mut range = KeyRange { start: Bytes::new(), end: KeyspaceId::LAST.upper_bound() };
        let token = self.token_of(incoming, Course::Backup, &mut range)?;
        // A file is of one version: there is no going on at a newer one.
        let snapshot = self.snapshot_for(token, None)?;
        let view = TransactionScan::without_writes(snapshot, range, false);
        Ok(self.new_stream(incoming, Telling::Everything, credit, view))
    }

    /// A stream of the whole view.
    fn new_stream(&self, incoming: &Incoming<'_>, telling: Telling, credit: u32, scan: TransactionScan) -> Stream {
        Stream {
            request: incoming.request,
            transaction: incoming.tags.transaction,
            credit: i64::from(credit),
            telling,
            rows_left: u64::MAX,
            rows: 0,
            bytes: 0,
            first_version: scan.version(),
            scan,
            deadline: incoming.tags.deadline_ms.map(|_| incoming.deadline),
            told: self.now,
            last_key: BytesMut::new(),
        }
    }

    /// The version that a resume token names, if there is one; cuts the range to what lies behind its position.
    // spec: QP-STR-020
    fn token_of(
        &self,
        incoming: &Incoming<'_>,
        course: Course,
        range: &mut KeyRange,
    ) -> Result<Option<Version>, WireError> {
        let Some(token) = incoming.tags.resume_token else { return Ok(None) };
        let token = ResumeToken::decode(token)?;
        if token.cluster != ResumeToken::cluster_of(self.shared.node.identity().cluster) {
            return Err(WireError::new(ErrorCode::OTHER_TIMELINE));
        }
        if token.course != course || !range.contains(token.position) {
            return Err(WireError::new(ErrorCode::BAD_TOKEN).with_message("the token is of another stream"));
        }
        match course {
            Course::Reverse => range.end = Bytes::copy_from_slice(token.position),
            Course::Forward | Course::Backup => range.start = key_after(token.position),
        }
        Ok(Some(token.version))
    }

    fn snapshot_for(&self, version: Option<Version>, if_gone: Option<IfGone>) -> Result<Snapshot, WireError> {
        let engine = self.shared.node.engine();
        let Some(version) = version else { return Ok(Snapshot::now(engine)) };
        match Snapshot::at(engine, version) {
            Err(storage::Error::Gone { .. }) if if_gone == Some(IfGone::Newer) => Ok(Snapshot::now(engine)),
            result => result.map_err(|error| errors::of_storage(&error)),
        }
    }

    /// Lets every stream that may write a chunk write one. Returns whether any did.
    pub(super) fn pump_streams(&mut self) -> bool {
        let mut progress = false;
        for _ in 0..self.streams.len() {
            if self.unwritten() > UNWRITTEN_BYTES_MAX {
                break;
            }
            let Some(mut stream) = self.streams.pop_front() else { break };
            match self.pump(&mut stream) {
                Pumped::More => {
                    progress = true;
                    self.streams.push_back(stream);
                }
                // spec: QP-HSK-016
                Pumped::Waits if self.read_closed => {
                    let error = WireError::new(ErrorCode::CANCELLED).with_message("no credit can come any more");
                    self.respond_error(stream.opcode().number(), stream.request, &error);
                    progress = true;
                }
                Pumped::Waits => self.streams.push_back(stream),
                Pumped::Ended => progress = true,
            }
        }
        progress
    }

    fn pump(&mut self, stream: &mut Stream) -> Pumped {
        let in_credit = stream.telling == Telling::Count || (stream.credit > 0 && self.credit > 0);
        if !in_credit && !stream.scan.is_exhausted() {
            return Pumped::Waits;
        }
        match self.step(stream) {
            Ok(false) => Pumped::More,
            Ok(true) => {
                self.put_end(stream);
                Pumped::Ended
            }
            Err(error) => {
                if let Some(transaction) = stream.transaction {
                    self.transactions.fail(transaction, &error);
                }
                self.respond_error(stream.opcode().number(), stream.request, &error);
                Pumped::Ended
            }
        }
    }

    /// Writes one chunk at most. Returns whether the stream has come to its end.
    fn step(&mut self, stream: &mut Stream) -> Result<bool, WireError> {
        let start = self.outbound.len();
        let out = &mut self.outbound;
        let mark = wire::begin_frame(out, Kind::Chunk, 0, stream.opcode().number(), stream.request);
        let mut list = ChunkRows::begin(out, stream.telling, stream.scan.version());
        let (rows_left, rows, bytes) = (&mut stream.rows_left, &mut stream.rows, &mut stream.bytes);
        let (telling, last_key) = (stream.telling, &mut stream.last_key);
        let stepped = stream.scan.step(STEP_KEYS, &mut |key, found| {
            if *rows_left == 0 {
                return Visit::StopBefore;
            }
            // What a restored database cannot answer for is not part of it.
            // spec: QP-STR-031
            if telling == Telling::Everything && is_record_key(key) {
                return Visit::Continue;
            }
            if !list.push(out, key, own_or_stored(&found), found.value) {
                return Visit::StopBefore;
            }
            *rows += 1;
            *bytes += (key.len() + found.value.len()) as u64;
            *rows_left -= 1;
            last_key.clear();
            last_key.extend_from_slice(key);
            if *rows_left == 0 { Visit::StopAfter } else { Visit::Continue }
        });
        let told = stepped.map_err(|error| errors::of_storage(&error)).and_then(|step| {
            match stream.transaction {
                None => Ok(()),
                // What leaves here was read: it counts before it leaves.
                Some(id) => match self.transactions.of_scan(id) {
                    None => Err(WireError::new(ErrorCode::TRANSACTION_CLOSED)),
                    Some(transaction) => {
                        transaction.told(ReadKind::User, step.told).map_err(|error| errors::of_transaction(&error))
                    }
                },
            }
        });
        if let Err(error) = told {
            self.outbound.truncate(start);
            return Err(error);
        }
        if let Some(id) = stream.transaction {
            self.transactions.touch(id, self.now);
        }
        if list.rows.count() == 0 {
            self.outbound.truncate(start);
        } else {
            let token = self.token(stream);
            Chunk::finish(list.rows, &mut self.outbound, Some(&token));
            wire::finish_frame(&mut self.outbound, mark);
            let bytes = i64::try_from(self.outbound.len() - start - wire::Header::BYTES).unwrap_or(i64::MAX);
            stream.credit -= bytes;
            stream.told = self.now;
            self.credit -= bytes;
        }
        Ok(stream.scan.is_exhausted() || stream.rows_left == 0)
    }

    fn token(&self, stream: &Stream) -> BytesMut {
        let token = ResumeToken {
            version: stream.scan.version(),
            course: stream.course(),
            cluster: ResumeToken::cluster_of(self.shared.node.identity().cluster),
            position: &stream.last_key,
        };
        let mut bytes = BytesMut::with_capacity(token.encoded_bytes());
        token.encode(&mut bytes);
        bytes
    }

    fn put_end(&mut self, stream: &Stream) {
        let (opcode, request) = (stream.opcode().number(), stream.request);
        if stream.telling == Telling::Everything {
            let clock_ms = self.shared.node.engine().applied().clock_ms;
            let end = BackupEnd { version: stream.scan.version(), rows: stream.rows, bytes: stream.bytes, clock_ms };
            return wire::put_frame(&mut self.outbound, Kind::End, 0, opcode, request, |out| end.encode(out));
        }
        let limited = stream.rows_left == 0 && !stream.scan.is_exhausted();
        let token = limited.then(|| self.token(stream));
        let end = ScanEnd {
            version: stream.scan.version(),
            rows: stream.rows,
            reason: if limited { ScanEndReason::Limit } else { ScanEndReason::Exhausted },
            first_version: stream.first_version,
            resume_token: token.as_deref(),
        };
        wire::put_frame(&mut self.outbound, Kind::End, 0, opcode, request, |out| end.encode(out));
    }

    /// Ends a stream with an error. Returns whether there was one.
    pub(super) fn end_stream(&mut self, request: u64, error: &WireError) -> bool {
        let Some(place) = self.streams.iter().position(|stream| stream.request == request) else { return false };
        if let Some(stream) = self.streams.remove(place) {
            self.respond_error(stream.opcode().number(), request, error);
        }
        true
    }

    /// Ends the scans of a transaction that ends.
    pub(super) fn close_streams_of(&mut self, transaction: u64, error: &WireError) {
        let of_it = |stream: &&Stream| stream.transaction == Some(transaction);
        let requests: Vec<u64> = self.streams.iter().filter(of_it).map(|stream| stream.request).collect();
        for request in requests {
            self.end_stream(request, error);
        }
    }

    pub(super) fn expire_streams(&mut self) {
        let now = self.now;
        let idle_max = self.shared.options.transaction_idle_max;
        // What nobody grants credit pins its version all the same. In a transaction it is the transaction that does, and
        // that has ages of its own.
        let is_idle = |stream: &Stream| {
            stream.transaction.is_none() && stream.telling != Telling::Count && now - stream.told >= idle_max
        };
        let is_late = |stream: &&Stream| stream.deadline.is_some_and(|deadline| deadline <= now) || is_idle(stream);
        let requests: Vec<u64> = self.streams.iter().filter(is_late).map(|stream| stream.request).collect();
        for request in requests {
            self.end_stream(request, &WireError::new(ErrorCode::DEADLINE_EXCEEDED));
        }
    }
}

/// The rows of a chunk that is being written, in the form of its stream.
struct ChunkRows {
    telling: Telling,
    rows: ListWriter,
    /// What stands before the list.
    head_bytes: usize,
}

impl ChunkRows {
    fn begin(out: &mut BytesMut, telling: Telling, version: Version) -> ChunkRows {
        let (rows, head_bytes) = match telling {
            Telling::Everything => (BackupChunk::begin(out, version), BackupChunk::HEAD_BYTES),
            Telling::Rows | Telling::Keys | Telling::Count => (Chunk::begin(out), 0),
        };
        ChunkRows { telling, rows, head_bytes }
    }

    /// Tells a row, unless the chunk would become too long for it; the first always fits.
    // spec: QP-STR-003
    fn push(&mut self, out: &mut BytesMut, full_key: &[u8], version: Version, value: &[u8]) -> bool {
        let key = full_key.get(4..).unwrap_or_default();
        match self.telling {
            Telling::Count => true,
            Telling::Rows => self.put(out, full_key, &Row { key, version, value }, Row::encoded_bytes),
            Telling::Keys => self.put(out, full_key, &Row { key, version, value: &[] }, Row::encoded_bytes),
            Telling::Everything => {
                self.put(out, full_key, &BackupRow { key: full_key, version, value }, BackupRow::encoded_bytes)
            }
        }
    }

    fn put<'r, R: Field<'r>>(&mut self, out: &mut BytesMut, position: &[u8], row: &R, bytes: fn(&R) -> usize) -> bool {
        let all = self.head_bytes + self.rows.encoded_bytes(out) + bytes(row) + token_bytes(position);
        let fits = self.rows.count() == 0 || all <= limits::CHUNK_BYTES_MAX;
        if fits {
            self.rows.push(out, row);
        }
        fits
    }
}

/// What a resume token with this position takes in a chunk.
fn token_bytes(position: &[u8]) -> usize {
    2 + 4 + 1 + 8 + 1 + 4 + 2 + position.len()
}
