//! Scans: chunks within credit, one at a time and in turn, so that small replies overtake them.

use super::{Session, requests::Incoming, transactions::own_or_stored};
use crate::{
    env::Moment,
    server::{errors, metrics::add},
    storage::{self, Snapshot},
    txn::{ReadKind, TransactionScan, Visit},
    types::{KeyRange, Version, key_after, limits},
    wire::{self, Chunk, ErrorCode, IfGone, Kind, Opcode, ResumeToken, Row, Scan, ScanEnd, ScanEndReason, WireError},
};
use bytes::{Bytes, BytesMut};

/// Replies that wait to be written before scans pause, so that what is small need not queue behind them.
pub(super) const UNWRITTEN_BYTES_MAX: usize = 256 * 1024;
/// Most keys that one step of a scan passes.
const STEP_KEYS: usize = 1_024;

/// A scan between two chunks.
pub(super) struct Stream {
    pub(super) request: u64,
    pub(super) transaction: Option<u64>,
    /// What it may still be sent, in bytes; a chunk may overdraw it.
    pub(super) credit: i64,
    scan: TransactionScan,
    keys_only: bool,
    count_only: bool,
    /// Rows still wanted.
    rows_left: u64,
    rows: u64,
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

impl Session {
    /// Begins a scan: its view is fixed here, and frames that follow are answered past it.
    // spec: QP-STR-001
    pub(super) fn begin_scan(&mut self, incoming: &Incoming<'_>, scan: &Scan<'_>) {
        match self.open_stream(incoming, scan) {
            Ok(stream) => {
                add(&self.shared.metrics.scans_total, 1);
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

    fn open_stream(&mut self, incoming: &Incoming<'_>, scan: &Scan<'_>) -> Result<Stream, WireError> {
        let scans_max = self.shared.options.scans_max;
        if self.streams.len() >= scans_max {
            return Err(WireError::new(ErrorCode::TOO_MANY_SCANS).with_bound(scans_max as u64, scans_max as u64 + 1));
        }
        let mut range = scan.range.to_key_range();
        let token = self.token_of(incoming, scan, &mut range)?;
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
        Ok(Stream {
            request: incoming.request,
            transaction: incoming.tags.transaction,
            credit: i64::from(scan.credit),
            scan: view,
            keys_only: scan.keys_only,
            count_only: scan.count_only,
            rows_left: if scan.limit == 0 { u64::MAX } else { scan.limit },
            rows: 0,
            first_version,
            deadline: incoming.tags.deadline_ms.map(|_| incoming.deadline),
            told: self.now,
            last_key: BytesMut::new(),
        })
    }

    /// The version that a resume token names, if there is one; cuts the range to what lies behind its position.
    // spec: QP-STR-020
    fn token_of(
        &self,
        incoming: &Incoming<'_>,
        scan: &Scan<'_>,
        range: &mut KeyRange,
    ) -> Result<Option<Version>, WireError> {
        let Some(token) = incoming.tags.resume_token else { return Ok(None) };
        let token = ResumeToken::decode(token)?;
        if token.cluster != ResumeToken::cluster_of(self.shared.node.identity().cluster) {
            return Err(WireError::new(ErrorCode::OTHER_TIMELINE));
        }
        if token.reverse != scan.reverse || !range.contains(token.position) {
            return Err(WireError::new(ErrorCode::BAD_TOKEN).with_message("the token is of another scan"));
        }
        if scan.reverse {
            range.end = Bytes::copy_from_slice(token.position);
        } else {
            range.start = key_after(token.position);
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

    /// Lets every scan that may write a chunk write one. Returns whether any did.
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
                    self.respond_error(Opcode::Scan.number(), stream.request, &error);
                    progress = true;
                }
                Pumped::Waits => self.streams.push_back(stream),
                Pumped::Ended => progress = true,
            }
        }
        progress
    }

    fn pump(&mut self, stream: &mut Stream) -> Pumped {
        let in_credit = stream.count_only || (stream.credit > 0 && self.credit > 0);
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
                self.respond_error(Opcode::Scan.number(), stream.request, &error);
                Pumped::Ended
            }
        }
    }

    /// Writes one chunk at most. Returns whether the scan has come to its end.
    fn step(&mut self, stream: &mut Stream) -> Result<bool, WireError> {
        let start = self.outbound.len();
        let out = &mut self.outbound;
        let mark = wire::begin_frame(out, Kind::Chunk, 0, Opcode::Scan.number(), stream.request);
        let mut list = Chunk::begin(out);
        let (keys_only, count_only) = (stream.keys_only, stream.count_only);
        let (rows_left, rows, last_key) = (&mut stream.rows_left, &mut stream.rows, &mut stream.last_key);
        let stepped = stream.scan.step(STEP_KEYS, &mut |key, found| {
            if *rows_left == 0 {
                return Visit::StopBefore;
            }
            let value = if keys_only { &[][..] } else { found.value };
            let row = Row { key: key.get(4..).unwrap_or_default(), version: own_or_stored(&found), value };
            if !count_only {
                let fits = list.encoded_bytes(out) + row.encoded_bytes() + token_bytes(key) <= limits::CHUNK_BYTES_MAX;
                if list.count() > 0 && !fits {
                    return Visit::StopBefore;
                }
                list.push(out, &row);
            }
            *rows += 1;
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
        if list.count() == 0 {
            self.outbound.truncate(start);
        } else {
            let token = self.token(stream);
            Chunk::finish(list, &mut self.outbound, Some(&token));
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
            reverse: stream.scan.is_reverse(),
            cluster: ResumeToken::cluster_of(self.shared.node.identity().cluster),
            position: &stream.last_key,
        };
        let mut bytes = BytesMut::with_capacity(token.encoded_bytes());
        token.encode(&mut bytes);
        bytes
    }

    fn put_end(&mut self, stream: &Stream) {
        let limited = stream.rows_left == 0 && !stream.scan.is_exhausted();
        let token = limited.then(|| self.token(stream));
        let end = ScanEnd {
            version: stream.scan.version(),
            rows: stream.rows,
            reason: if limited { ScanEndReason::Limit } else { ScanEndReason::Exhausted },
            first_version: stream.first_version,
            resume_token: token.as_deref(),
        };
        let (opcode, request) = (Opcode::Scan.number(), stream.request);
        wire::put_frame(&mut self.outbound, Kind::End, 0, opcode, request, |out| end.encode(out));
    }

    /// Ends a scan with an error. Returns whether there was one.
    pub(super) fn end_stream(&mut self, request: u64, error: &WireError) -> bool {
        let Some(place) = self.streams.iter().position(|stream| stream.request == request) else { return false };
        self.streams.remove(place);
        self.respond_error(Opcode::Scan.number(), request, error);
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
        let is_idle =
            |stream: &Stream| stream.transaction.is_none() && !stream.count_only && now - stream.told >= idle_max;
        let is_late = |stream: &&Stream| stream.deadline.is_some_and(|deadline| deadline <= now) || is_idle(stream);
        let requests: Vec<u64> = self.streams.iter().filter(is_late).map(|stream| stream.request).collect();
        for request in requests {
            self.end_stream(request, &WireError::new(ErrorCode::DEADLINE_EXCEEDED));
        }
    }
}

/// What a resume token with this position takes in a chunk.
fn token_bytes(position: &[u8]) -> usize {
    2 + 4 + 1 + 8 + 1 + 4 + 2 + position.len()
}
