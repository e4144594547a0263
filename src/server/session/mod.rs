//! One client connection: reads what arrived, executes it, writes the replies.
//!
//! The whole session is one poll function over one socket. A round takes completions from the node, decodes every
//! frame that has arrived, executes reads inline against the visible version, hands everything that must be decided
//! to the committer as one batch, lets scans produce a chunk each, and writes once. No request has a task, a channel
//! or an allocation of its own on the way.
//!
//! ```text
//!   Preface ──> Hello ──> Open ──> Draining ──> Closing          (Closing from anywhere, on a protocol error)
//! ```
//!
//! Invariants:
//!
//! - Every accepted request gets exactly one terminal frame: RESPONSE, END or ERROR.
//! - Frames of one transaction start in the order in which they came.
//! - Replies that wait to be written are bounded: past `bytes_in_flight` requests are refused, and past
//!   `outbound_bytes` nothing more is read, but for which CANCEL and CREDIT always get through.

mod cluster;
mod completions;
mod forward;
mod frames;
mod held;
mod reads;
mod requests;
mod streams;
mod transactions;

use super::{Shared, metrics::add};
use crate::{
    env::{BoxFuture, Moment, Socket},
    node::{Batch, Completion, Item, Mailbox},
    peer::Connection,
    types::{KeyspaceId, Version, limits},
    wire::{self, ErrorCode, Goaway, Kind, Opcode, WireError},
};
use bytes::{Bytes, BytesMut};
use held::Held;
use requests::Outstanding;
use slog::{Logger, debug};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use streams::{Stream, UNWRITTEN_BYTES_MAX};
use tokio::io::AsyncWrite;
use transactions::Transactions;

/// Rounds of one poll before other tasks get their turn.
const ROUNDS_MAX: usize = 16;
/// How often deadlines and ages are looked at while there are any.
const TICK: Duration = Duration::from_millis(20);
/// How often an idle connection is looked at.
const TICK_IDLE: Duration = Duration::from_secs(1);
/// The least and the most room that a read is given.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;
/// A buffer for what arrives that is larger than this is given back once it is empty.
const INBOUND_KEEP_BYTES: usize = 2 * READ_BYTES_MAX;
/// A reply buffer larger than this is given back once it is empty.
const OUTBOUND_KEEP_BYTES: usize = 1024 * 1024;

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Eight bytes are awaited.
    Preface,
    /// HELLO is awaited.
    Hello,
    /// Requests are accepted.
    Open,
    /// The server is shutting down: requests are refused, accepted ones are answered.
    Draining,
    /// What is to be written is written, then the connection ends.
    Closing,
}

/// What the server tells a session from outside.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) draining: AtomicBool,
    /// Another leads than before, or nobody.
    pub(super) leader_changed: AtomicBool,
    pub(super) mailbox: Arc<Mailbox>,
}

/// See the module.
pub(super) struct Session {
    io: Box<dyn Socket>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    log: Logger,
    id: u64,
    /// Whether a node is at the other end, which forwards what its clients ask.
    is_peer: bool,
    /// Where clients find the leader, as it was told last.
    told_leader: Option<String>,
    state: State,
    /// How long what is to be written still may take, once the connection ends.
    closing_until: Option<Moment>,
    inbound: BytesMut,
    read_bytes: usize,
    read_closed: bool,
    /// Replies that wait to be written; what was written is cut off its front.
    outbound: BytesMut,
    /// The GOAWAY that ends the connection, until this round has answered what it can.
    farewell: Option<BytesMut>,
    /// Where `outbound` ends for good: behind that GOAWAY.
    sealed: Option<usize>,
    now: Moment,
    /// When a frame last arrived.
    heard: Moment,
    opened: Moment,
    timer: Option<(Moment, BoxFuture<()>)>,
    /// The greatest request id so far.
    last_request: u64,
    outstanding: HashMap<u64, Outstanding, foldhash::fast::RandomState>,
    /// Payload bytes of requests without a terminal frame.
    bytes_in_flight: usize,
    held: VecDeque<Held>,
    transactions: Transactions,
    streams: VecDeque<Stream>,
    /// What the connection may still be sent in chunks, in bytes; a chunk may overdraw it.
    credit: i64,
    /// Keyspaces that were found to exist.
    keyspaces: HashSet<KeyspaceId>,
    /// What this round hands to the committer.
    items: Vec<Item>,
    /// Single reads of this round, executed as a group: request id, and where the full key stands.
    gets: Vec<(u64, std::ops::Range<usize>)>,
    completions: Vec<Completion>,
}

impl Session {
    pub(super) fn new(
        io: Box<dyn Socket>,
        shared: Arc<Shared>,
        control: Arc<Control>,
        log: Logger,
        id: u64,
    ) -> Session {
        let now = shared.env.now();
        Session {
            io,
            control,
            log,
            id,
            is_peer: false,
            told_leader: None,
            state: State::Preface,
            closing_until: None,
            inbound: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            read_closed: false,
            outbound: BytesMut::new(),
            farewell: None,
            sealed: None,
            now,
            heard: now,
            opened: now,
            timer: None,
            last_request: 0,
            outstanding: HashMap::default(),
            bytes_in_flight: 0,
            held: VecDeque::new(),
            transactions: Transactions::new(Arc::clone(&shared)),
            streams: VecDeque::new(),
            credit: 0,
            keyspaces: HashSet::from([KeyspaceId::DEFAULT]),
            items: Vec::new(),
            gets: Vec::new(),
            completions: Vec::new(),
            shared,
        }
    }

    /// The session of a node that forwards requests, after the handshake between peers.
    pub(super) fn of_peer(
        connection: Connection,
        shared: Arc<Shared>,
        control: Arc<Control>,
        log: Logger,
        id: u64,
    ) -> Session {
        let (io, inbound) = connection.into_parts();
        let mut session = Session { is_peer: true, state: State::Open, ..Session::new(io, shared, control, log, id) };
        session.inbound = inbound;
        session.process();
        session
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        debug!(self.log, "connection ended"; "requests_open" => self.outstanding.len());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS_MAX {
            self.now = self.shared.env.now();
            let mut busy = self.poll_completions(cx);
            busy |= self.poll_held(cx);
            busy |= self.poll_read(cx);
            self.poll_control();
            busy |= self.pump_streams();
            let unwritten = self.unwritten();
            if self.poll_write(cx).is_err() {
                return Poll::Ready(());
            }
            // What paused for replies to be written looks again.
            busy |= unwritten > UNWRITTEN_BYTES_MAX && self.unwritten() < unwritten;
            busy |= self.poll_timer(cx);
            if self.is_over() {
                ready!(Pin::new(&mut self.io).poll_shutdown(cx)).ok();
                return Poll::Ready(());
            }
            if !busy {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether nothing is left to do.
    fn is_over(&self) -> bool {
        let written = self.outbound.is_empty();
        match self.state {
            State::Closing => {
                (written && self.farewell.is_none()) || self.closing_until.is_some_and(|when| when <= self.now)
            }
            State::Draining => written && self.is_quiet(),
            // Who closes its side still gets what it asked for, but grants no more credit.
            _ => self.read_closed && written && self.is_quiet(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.outstanding.is_empty() && self.streams.is_empty() && self.held.is_empty()
    }

    /// Reads once, and executes every frame that is whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let closed = self.read_closed || self.state == State::Closing;
        if closed || self.unwritten() > self.shared.options.outbound_bytes_max {
            return false;
        }
        if self.inbound.capacity() - self.inbound.len() < READ_BYTES_MIN / 2 {
            // Grows with what has arrived, not with what a header promises.
            self.inbound.reserve(self.read_bytes.max(self.inbound.len()));
        }
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut *self.io), cx, &mut self.inbound);
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.end_of_input(),
            Poll::Ready(Err(error)) => {
                debug!(self.log, "connection lost"; "error" => %error);
                self.close_at_once();
            }
            Poll::Ready(Ok(count)) => {
                add(&self.shared.metrics.bytes_in_total, count as u64);
                self.heard = self.now;
                if count >= self.read_bytes / 2 {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                }
                self.process();
            }
        }
        true
    }

    /// The client will send nothing more. What it asked for is still answered; a scan that comes to wait for credit
    /// ends, and transactions end with the session, for none of them can commit but by what is held already.
    fn end_of_input(&mut self) {
        self.read_closed = true;
        if matches!(self.state, State::Preface | State::Hello) {
            self.state = State::Closing;
        }
    }

    fn close_at_once(&mut self) {
        self.farewell = None;
        self.read_closed = true;
        self.state = State::Closing;
        self.outbound.clear();
    }

    /// Executes what has arrived.
    fn process(&mut self) {
        let mut block = std::mem::take(&mut self.inbound);
        let taken = self.take_frames(&block);
        if self.items.is_empty() {
            if taken == block.len() {
                block.clear();
                give_back(&mut block, INBOUND_KEEP_BYTES);
            } else {
                bytes::Buf::advance(&mut block, taken);
            }
        } else {
            let executed = block.split_to(taken).freeze();
            if block.is_empty() && taken > INBOUND_KEEP_BYTES {
                // The rest of a large buffer would keep all of it.
                block = BytesMut::new();
            }
            self.submit(executed);
        }
        self.inbound = block;
    }

    /// Takes every whole frame of `block`, returns how many bytes they were.
    fn take_frames(&mut self, block: &BytesMut) -> usize {
        let mut at = 0;
        if self.state == State::Preface {
            match self.take_preface(block) {
                true => at = wire::preface::PREFACE_BYTES,
                false => return 0,
            }
        }
        while self.state != State::Closing {
            let payload_max = match self.state {
                State::Hello => limits::HANDSHAKE_PAYLOAD_BYTES_MAX,
                _ if self.is_peer => wire::peer::PEER_PAYLOAD_BYTES_MAX,
                _ => limits::FRAME_PAYLOAD_BYTES_MAX,
            };
            match wire::peek(&block[at..], payload_max) {
                Ok(None) => break,
                Ok(Some((header, length))) => {
                    self.frame(block, at + wire::Header::BYTES, header);
                    at += length;
                }
                Err(error) => self.go_away(error.code(), &error.to_string()),
            }
        }
        self.execute_gets(block);
        at
    }

    /// Hands this round's items to the committer; their fields stand in `block`.
    fn submit(&mut self, block: Bytes) {
        let items = std::mem::take(&mut self.items);
        if items.is_empty() {
            return;
        }
        let batch = Batch { mailbox: Arc::clone(&self.control.mailbox), block, items };
        if let Err(refused) = self.shared.node.submit(batch) {
            for item in refused.items {
                self.finish_with_error(item.request, &WireError::new(ErrorCode::OVERLOADED));
            }
        }
    }

    /// Nothing follows the GOAWAY that ends the connection, whatever is answered while it waits to be written.
    // spec: QP-FRM-017
    fn seal(&mut self) {
        if let Some(farewell) = self.farewell.take() {
            self.outbound.extend_from_slice(&farewell);
            self.sealed = Some(self.outbound.len());
        }
        if let Some(end) = self.sealed {
            self.outbound.truncate(end);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        self.seal();
        while !self.outbound.is_empty() {
            match Pin::new(&mut *self.io).poll_write(cx, &self.outbound) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(()),
                Poll::Ready(Ok(count)) => {
                    add(&self.shared.metrics.bytes_out_total, count as u64);
                    // Cut off here and not once all is written, which a reader that stays behind never lets happen.
                    bytes::Buf::advance(&mut self.outbound, count);
                    self.sealed = self.sealed.map(|end| end.saturating_sub(count));
                }
                Poll::Ready(Err(error)) => {
                    debug!(self.log, "connection lost"; "error" => %error);
                    return Err(());
                }
            }
        }
        give_back(&mut self.outbound, OUTBOUND_KEEP_BYTES);
        Ok(())
    }

    /// Looks at every deadline and age now and then.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let waiting = !self.is_quiet() || !self.transactions.is_empty() || self.state != State::Open;
        let period = if waiting { TICK } else { TICK_IDLE };
        let due = self.now + period;
        let too_late = self.timer.as_ref().is_none_or(|(when, _)| *when > due);
        if too_late {
            self.timer = Some((due, self.shared.env.sleep_until(due)));
        }
        let Some((_, timer)) = &mut self.timer else { return false };
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        self.now = self.shared.env.now();
        self.tick();
        true
    }

    fn tick(&mut self) {
        let options = &self.shared.options;
        if self.state == State::Closing {
            // A client that does not read does not keep its connection either.
            self.closing_until.get_or_insert(self.now + options.handshake_max);
            return;
        }
        let handshaking = matches!(self.state, State::Preface | State::Hello);
        if handshaking && self.now - self.opened >= options.handshake_max {
            return self.go_away(ErrorCode::HANDSHAKE_TIMEOUT, "the handshake took too long");
        }
        let idle = self.now - self.heard >= options.idle_max && !self.is_peer;
        if self.state == State::Open && idle && self.is_quiet() {
            return self.go_away(ErrorCode::IDLE_TIMEOUT, "nothing was heard for too long");
        }
        self.expire_requests();
        for (id, expired) in self.transactions.expire(self.now) {
            self.close_streams_of(id, &expired);
        }
        self.expire_streams();
    }

    /// The server is shutting down: says so once, and accepts nothing more.
    fn poll_control(&mut self) {
        if self.state == State::Closing || self.state == State::Draining {
            return;
        }
        if self.control.leader_changed.swap(false, Ordering::AcqRel) && self.state == State::Open && !self.is_peer {
            self.tell_leader();
        }
        if self.control.draining.load(Ordering::Acquire) {
            if self.state == State::Open {
                let goaway = Goaway::new(ErrorCode::SHUTTING_DOWN, self.last_request, "the server is shutting down");
                put_goaway(&mut self.outbound, &goaway);
                self.state = State::Draining;
            } else {
                self.go_away(ErrorCode::SHUTTING_DOWN, "the server is shutting down");
            }
        }
    }

    /// Ends the connection for a reason that concerns all of it.
    fn go_away(&mut self, code: ErrorCode, message: &str) {
        let id = self.last_request;
        self.go_away_with(&Goaway::new(code, id, message));
    }

    fn go_away_with(&mut self, goaway: &Goaway<'_>) {
        let breach =
            matches!(goaway.code, ErrorCode::PROTOCOL_ERROR | ErrorCode::BAD_CHECKSUM | ErrorCode::FRAME_TOO_LARGE);
        if breach {
            add(&self.shared.metrics.protocol_errors_total, 1);
        }
        debug!(self.log, "ending the connection"; "code" => %goaway.code, "reason" => goaway.message);
        if self.state == State::Preface {
            // spec: QP-FRM-004
            self.outbound.extend_from_slice(&wire::preface::PREFACE);
        }
        if self.sealed.is_none() {
            let farewell = self.farewell.get_or_insert_default();
            farewell.clear();
            put_goaway(farewell, goaway);
        }
        self.state = State::Closing;
    }

    /// Writes a terminal RESPONSE.
    fn respond(&mut self, opcode: Opcode, request: u64, write: impl FnOnce(&mut BytesMut)) {
        wire::put_frame(&mut self.outbound, Kind::Response, 0, opcode.number(), request, write);
    }

    /// Writes the RESPONSE of a request that answers a version alone.
    fn respond_version(&mut self, opcode: Opcode, request: u64, version: Version) {
        self.respond(opcode, request, |out| wire::VersionReply { version }.encode(out));
    }

    /// Writes a terminal ERROR.
    fn respond_error(&mut self, opcode: u16, request: u64, error: &WireError) {
        add(&self.shared.metrics.errors_total, 1);
        wire::put_frame(&mut self.outbound, Kind::Error, 0, opcode, request, |out| error.encode(out));
    }

    /// Bytes of replies that wait to be written.
    fn unwritten(&self) -> usize {
        self.outbound.len()
    }

    /// Whether replies pile up so that nothing more may be asked for.
    fn is_congested(&self) -> bool {
        self.unwritten() > self.shared.options.bytes_in_flight_max
    }
}

/// Drops an empty buffer that is larger than `keep`, what was cut off its front included.
fn give_back(buffer: &mut BytesMut, keep: usize) {
    if buffer.try_reclaim(keep + 1) {
        *buffer = BytesMut::new();
    }
}

fn put_goaway(out: &mut BytesMut, goaway: &Goaway<'_>) {
    wire::put_frame(out, Kind::Goaway, 0, 0, 0, |out| goaway.encode(out));
}
