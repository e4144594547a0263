//! One connection: what is queued for it, and who waits for what on it.
//!
//! Callers encode their requests into the queue under its lock, so that a request costs no buffer of its own and ids rise
//! in the order of the bytes; [`super::io`] takes the whole queue at once and writes it. A request counts as sent once its
//! last byte was given to the socket: before that no server can have done it.
//!
//! Bounds: requests and payload bytes in flight, as the server announced them. Who comes later waits here for room.
//!
//! A connection that was left for another still serves whoever holds it: the transactions that live on it, and the
//! requests that were sent.

use super::error::Error;
use super::lock;
use super::routes::Routes;
use super::waiters::{Cancelling, Delivery, Failure, Reply, Sink, Waiter, Waiters};
use crate::env::{Env, Moment};
use crate::types::{ClusterId, NodeId};
use crate::wire::{
    Cancel, Credit, ErrorCode, Frame, Goaway, Grease, Header, Kind, Notice, Opcode, Ping, Request, Retry, WireError,
    begin_frame, finish_frame, put_frame,
};
use bytes::{Bytes, BytesMut};
use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::sync::oneshot;

/// What the server said of itself in its WELCOME.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Where it was reached.
    pub(super) address: Arc<str>,
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) server_name: String,
    pub(super) requests_max: usize,
    pub(super) bytes_max: usize,
    /// How long the connection may stay silent before the server closes it.
    pub(super) idle_max: Option<Duration>,
}

/// One connection, seen by callers.
pub(super) struct Connection {
    state: Mutex<State>,
    pub(super) peer: Peer,
    routes: Arc<Routes>,
    credit_bytes: usize,
}

struct State {
    phase: Phase,
    out: BytesMut,
    /// Offset of the end of `out` in the stream of bytes sent.
    queued: u64,
    /// How much of that stream the socket has taken.
    written: u64,
    last_id: u64,
    waiters: Waiters,
    bytes_in_flight: usize,
    room: VecDeque<oneshot::Sender<()>>,
    pings: VecDeque<([u8; 8], Option<oneshot::Sender<()>>)>,
    pings_sent: u64,
    /// Whether a request was answered on it.
    answered: bool,
    /// Chunk bytes received whose credit was not returned.
    unreturned: usize,
    /// Who goes on using it after it was left.
    holders: usize,
    io: Option<Waker>,
    random: Option<Random>,
}

#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// Finishes what it has and takes nothing more.
    Draining(Error),
    Ended(Error),
}

/// What the io loop does after a batch of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum After {
    /// It goes on.
    Continue,
    /// The server will close the connection: one to another server is better.
    Leave,
    /// The connection takes nothing more: another one must.
    Drain,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.peer.address).finish()
    }
}

/// How a request is queued.
#[derive(Debug)]
pub(super) struct Posting {
    /// Where its reply goes.
    pub(super) sink: Sink,
    /// When to stop waiting for it.
    pub(super) give_up: Option<Moment>,
    /// When to tell the server that nobody waits any longer.
    pub(super) cancel: Cancelling,
    /// Whether it goes out however much is in flight: it frees what the server holds.
    pub(super) urgent: bool,
}

/// Why a request was not queued.
#[derive(Debug)]
pub(super) enum NotQueued {
    /// Too much is in flight; try again when told.
    Full(oneshot::Receiver<()>),
    /// The connection takes no more.
    Gone(Error),
}

/// A small generator for what need not be unpredictable: which requests get a tag that means nothing.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

impl Connection {
    pub(super) fn new(
        peer: Peer,
        routes: Arc<Routes>,
        credit_bytes: usize,
        grease: bool,
        env: &Env,
    ) -> Arc<Connection> {
        Arc::new(Connection {
            state: Mutex::new(State {
                phase: Phase::Open,
                out: BytesMut::with_capacity(16 << 10),
                queued: 0,
                written: 0,
                last_id: 0,
                waiters: Waiters::default(),
                bytes_in_flight: 0,
                room: VecDeque::new(),
                pings: VecDeque::new(),
                pings_sent: 0,
                answered: false,
                unreturned: 0,
                holders: 0,
                io: None,
                random: grease.then(|| Random(env.random_u64())),
            }),
            peer,
            routes,
            credit_bytes,
        })
    }

    /// Queues a request and returns its id.
    pub(super) fn queue(&self, request: &Request<'_>, posting: Posting) -> Result<u64, NotQueued> {
        let Posting { sink, give_up, cancel, urgent } = posting;
        let mut state = lock(&self.state);
        if let Phase::Draining(cause) | Phase::Ended(cause) = &state.phase {
            return Err(NotQueued::Gone(cause.clone()));
        }
        let state = &mut *state;
        if !urgent && state.waiters.len() >= self.peer.requests_max {
            return Err(state.wait_for_room());
        }
        let before = state.out.len();
        let (id, opcode) = (state.last_id + 1, request.opcode().number());
        let (flags, grease) = state.random.as_mut().map_or((0, None), grease);
        let mark = begin_frame(&mut state.out, Kind::Request, flags, opcode, id);
        request.encode_greased(&mut state.out, grease);
        let payload_bytes = state.out.len() - before - Header::BYTES;
        if !urgent && state.bytes_in_flight > 0 && state.bytes_in_flight + payload_bytes > self.peer.bytes_max {
            state.out.truncate(before);
            return Err(state.wait_for_room());
        }
        finish_frame(&mut state.out, mark);
        state.last_id = id;
        state.bytes_in_flight += payload_bytes;
        state.queued += (state.out.len() - before) as u64;
        let waiter = Waiter { opcode, sink, give_up, ends_at: state.queued, payload_bytes, cancel, started: false };
        state.waiters.insert(id, waiter);
        state.wake_io();
        Ok(id)
    }

    /// Queues a request whose reply the returned ticket waits for.
    pub(super) fn ask(
        self: &Arc<Self>,
        request: &Request<'_>,
        give_up: Moment,
        cancel: Cancelling,
    ) -> Result<Ticket, NotQueued> {
        let (sender, receiver) = oneshot::channel();
        let posting = Posting { sink: Sink::Caller(sender), give_up: Some(give_up), cancel, urgent: false };
        let id = self.queue(request, posting)?;
        Ok(Ticket { connection: self.clone(), id, receiver, done: false })
    }

    /// Queues a PING; the receiver completes with its echo.
    pub(super) fn ping(&self, caller: Option<oneshot::Sender<()>>) -> Result<(), NotQueued> {
        let mut state = lock(&self.state);
        if let Phase::Ended(cause) = &state.phase {
            return Err(NotQueued::Gone(cause.clone()));
        }
        state.pings_sent += 1;
        let opaque = state.pings_sent.to_be_bytes();
        state.pings.push_back((opaque, caller));
        state.put(Kind::Ping, 0, |out| Ping { opaque }.encode(out));
        Ok(())
    }

    /// Allows so many more bytes of chunks on a scan.
    pub(super) fn grant(&self, id: u64, bytes: u32) {
        let mut state = lock(&self.state);
        if state.waiters.contains_key(&id) {
            state.put(Kind::Credit, id, |out| Credit { bytes }.encode(out));
        }
    }

    /// Says that nobody waits for a reply any longer.
    pub(super) fn forget(&self, id: u64) {
        let mut state = lock(&self.state);
        if state.waiters.get_mut(&id).is_some_and(Waiter::abandon) {
            state.put(Kind::Cancel, id, |out| Cancel.encode(out));
        }
    }

    /// Whether it takes requests.
    pub(super) fn is_open(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Open)
    }

    /// Whether another server could do what this one does.
    pub(super) fn has_alternative(&self) -> bool {
        self.routes.has_other(&self.peer.address)
    }

    // What follows is called by the task that keeps the connection alone.

    /// Whether a request was answered on it.
    pub(super) fn has_answered(&self) -> bool {
        lock(&self.state).answered
    }

    /// Whether something is queued.
    pub(super) fn has_queue(&self) -> bool {
        !lock(&self.state).out.is_empty()
    }

    /// Takes all that is queued in exchange for an empty buffer; registers to be woken if there is nothing.
    pub(super) fn take_queue(&self, empty: &mut BytesMut, cx: &mut Context<'_>) -> bool {
        let mut state = lock(&self.state);
        if state.out.is_empty() {
            state.io = Some(cx.waker().clone());
            return false;
        }
        std::mem::swap(&mut state.out, empty);
        true
    }

    /// Notes that the socket has taken so many bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        lock(&self.state).written += bytes as u64;
    }

    /// Whether replies or echoes are still to come, or bytes to be sent.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.state).is_idle()
    }

    /// Whether somebody waits for an answer of the server.
    pub(super) fn is_awaited(&self) -> bool {
        !lock(&self.state).waiters.is_empty()
    }

    /// Whether nobody will miss it once it was left. What takes nothing more is of no use to who holds it.
    pub(super) fn is_finished(&self) -> bool {
        let state = lock(&self.state);
        state.is_idle() && (state.holders == 0 || !matches!(state.phase, Phase::Open))
    }

    /// Takes a batch of frames. An error ends the connection.
    pub(super) fn receive(&self, frames: &mut Vec<Frame>) -> Result<After, Error> {
        let mut deliveries = Vec::with_capacity(frames.len());
        let result = {
            let mut state = lock(&self.state);
            let mut after = After::Continue;
            let mut take = || -> Result<After, Error> {
                for frame in frames.drain(..) {
                    after = after.max(state.take(frame, self, &mut deliveries)?);
                }
                state.return_credit(self.credit_bytes);
                Ok(after)
            };
            take()
        };
        deliveries.into_iter().for_each(Delivery::deliver);
        result
    }

    /// Stops waiting for what is overdue.
    pub(super) fn sweep(&self, now: Moment) {
        let mut deliveries = Vec::new();
        {
            let state = &mut *lock(&self.state);
            let mut cancelled = Vec::new();
            for (id, waiter) in &mut state.waiters {
                if waiter.give_up.is_none_or(|give_up| now < give_up) {
                    continue;
                }
                let sink = std::mem::replace(&mut waiter.sink, Sink::Nobody);
                let sent = state.written >= waiter.ends_at;
                deliveries.extend(Delivery::terminal(sink, waiter.opcode, Err(Failure::GaveUp { sent })));
                if waiter.abandon() {
                    cancelled.push(*id);
                }
            }
            cancelled.into_iter().for_each(|id| state.put(Kind::Cancel, id, |out| Cancel.encode(out)));
        }
        deliveries.into_iter().for_each(Delivery::deliver);
    }

    /// Fails everything that still waits.
    pub(super) fn end(&self, cause: Error) {
        let mut deliveries = Vec::new();
        {
            let state = &mut *lock(&self.state);
            if matches!(state.phase, Phase::Ended(_)) {
                return;
            }
            // What the server said when it closed explains more than the end of the stream does.
            let cause = match &state.phase {
                Phase::Draining(told) => told.clone(),
                Phase::Open | Phase::Ended(_) => cause,
            };
            for (_, waiter) in state.waiters.drain() {
                let lost = Failure::Lost { sent: state.written >= waiter.ends_at, cause: cause.clone() };
                deliveries.extend(Delivery::terminal(waiter.sink, waiter.opcode, Err(lost)));
            }
            deliveries.extend(state.room.drain(..).map(Delivery::Room));
            state.pings.clear();
            state.out.clear();
            state.phase = Phase::Ended(cause);
        }
        deliveries.into_iter().for_each(Delivery::deliver);
    }
}

/// Flags and a tag that mean nothing, now and then.
fn grease(random: &mut Random) -> (u8, Option<Grease>) {
    let bits = random.next();
    let flag = if bits & 0x3f == 0 { 0x10 << (bits >> 6 & 3) } else { 0 };
    (flag, Grease::from_random(bits))
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.pings.is_empty() && self.written == self.queued
    }

    fn put(&mut self, kind: Kind, id: u64, write: impl FnOnce(&mut BytesMut)) {
        let before = self.out.len();
        put_frame(&mut self.out, kind, 0, 0, id, write);
        self.queued += (self.out.len() - before) as u64;
        self.wake_io();
    }

    fn wake_io(&mut self) {
        if let Some(io) = self.io.take() {
            io.wake();
        }
    }

    fn wait_for_room(&mut self) -> NotQueued {
        let (sender, receiver) = oneshot::channel();
        self.room.retain(|caller| !caller.is_closed());
        self.room.push_back(sender);
        NotQueued::Full(receiver)
    }

    /// Returns the connection's credit when half of it is used. It only paces the whole connection: what a scan holds
    /// unread is bounded by its own credit, and a scan that nobody reads must not starve the others.
    fn return_credit(&mut self, credit_bytes: usize) {
        if self.unreturned > 0 && self.unreturned >= credit_bytes / 2 {
            let bytes = u32::try_from(self.unreturned).unwrap_or(u32::MAX);
            self.unreturned = 0;
            self.put(Kind::Credit, 0, |out| Credit { bytes }.encode(out));
        }
    }

    fn take(&mut self, frame: Frame, on: &Connection, deliveries: &mut Vec<Delivery>) -> Result<After, Error> {
        match frame.kind {
            Kind::Response | Kind::End => self.take_terminal(frame, Ok, deliveries)?,
            Kind::Error => {
                let refused = Error::refused(WireError::decode(&frame.payload).map_err(Error::reply)?);
                if refused.retry() == Retry::Redirect {
                    on.routes.learn(&on.peer.address, refused.leader());
                }
                self.take_terminal(frame, |_| Err(Failure::Refused(refused)), deliveries)?;
            }
            Kind::Chunk => self.take_chunk(frame, deliveries)?,
            Kind::Ping => {
                let ping = Ping::decode(&frame.payload).map_err(Error::reply)?;
                self.put(Kind::Pong, 0, |out| ping.encode(out));
            }
            Kind::Pong => self.take_pong(&frame.payload, deliveries)?,
            Kind::Goaway => {
                let goaway = Goaway::decode(&frame.payload).map_err(Error::reply)?;
                self.take_goaway(&goaway, deliveries);
                return Ok(After::Drain);
            }
            Kind::Notice => {
                let notice = Notice::decode(&frame.payload).map_err(Error::reply)?;
                if notice.code == Notice::LEADER_CHANGED {
                    on.routes.learn(&on.peer.address, notice.leader);
                }
                let leaves = notice.code == Notice::SHUTTING_DOWN;
                return Ok(if leaves { After::Leave } else { After::Continue });
            }
            kind => return Err(Error::protocol(format!("the server sent a frame that only clients send: {kind:?}"))),
        }
        Ok(After::Continue)
    }

    fn take_terminal(
        &mut self,
        frame: Frame,
        reply: impl FnOnce(Bytes) -> Reply,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), Error> {
        let Some(waiter) = self.waiters.remove(&frame.request_id) else {
            return Err(Error::protocol(format!(
                "the server answered request {}, which is not open",
                frame.request_id
            )));
        };
        if waiter.opcode != frame.opcode {
            let (id, asked, told) = (frame.request_id, waiter.opcode, frame.opcode);
            let text = format!("the server answered request {id} of opcode {asked:#06x} with opcode {told:#06x}");
            return Err(Error::protocol(text));
        }
        self.answered = true;
        self.bytes_in_flight -= waiter.payload_bytes;
        deliveries.extend(Delivery::terminal(waiter.sink, waiter.opcode, reply(frame.payload)));
        while let Some(caller) = self.room.pop_front() {
            if !caller.is_closed() {
                deliveries.push(Delivery::Room(caller));
                break;
            }
        }
        Ok(())
    }

    fn take_chunk(&mut self, frame: Frame, deliveries: &mut Vec<Delivery>) -> Result<(), Error> {
        self.unreturned += frame.payload.len();
        let id = frame.request_id;
        let no_scan = || Error::protocol(format!("the server sent rows for request {id}, no scan"));
        let waiter = self.waiters.get_mut(&id).filter(|waiter| waiter.opcode == frame.opcode).ok_or_else(no_scan)?;
        waiter.started = true;
        if let Sink::Scan(inbox) = &waiter.sink {
            deliveries.push(Delivery::Chunk(inbox.clone(), frame.payload));
        } else if !Opcode::from_number(frame.opcode).is_some_and(Opcode::is_stream) {
            return Err(no_scan());
        } else if waiter.abandon() {
            self.put(Kind::Cancel, id, |out| Cancel.encode(out));
        }
        Ok(())
    }

    fn take_pong(&mut self, payload: &[u8], deliveries: &mut Vec<Delivery>) -> Result<(), Error> {
        let pong = Ping::decode(payload).map_err(Error::reply)?;
        match self.pings.pop_front() {
            Some((opaque, caller)) if opaque == pong.opaque => {
                deliveries.extend(caller.map(Delivery::Pong));
                Ok(())
            }
            _ => Err(Error::protocol("the server echoed a ping that was not sent")),
        }
    }

    /// What the server did not accept was not begun, and may be sent elsewhere.
    fn take_goaway(&mut self, goaway: &Goaway<'_>, deliveries: &mut Vec<Delivery>) {
        let told = told(goaway);
        let refused: Vec<u64> = self.waiters.keys().copied().filter(|id| *id > goaway.highest_request_id).collect();
        for id in refused {
            if let Some(waiter) = self.waiters.remove(&id) {
                self.bytes_in_flight -= waiter.payload_bytes;
                let lost = Failure::Lost { sent: false, cause: told.clone() };
                deliveries.extend(Delivery::terminal(waiter.sink, waiter.opcode, Err(lost)));
            }
        }
        deliveries.extend(self.room.drain(..).map(Delivery::Room));
        self.phase = Phase::Draining(told);
    }
}

/// A GOAWAY as the cause of what follows from it.
pub(super) fn told(goaway: &Goaway<'_>) -> Error {
    let text = format!("the server closed the connection: {}", goaway.message);
    let mut wire = WireError::new(goaway.code);
    wire.limit = goaway.limit;
    wire.actual = goaway.actual;
    let known = goaway.code != ErrorCode::NO_ERROR;
    let error = Error::refused(wire.with_message(text));
    if known { error } else { Error::lost("the server closed the connection").with_code(goaway.code) }
}

/// A connection that somebody goes on using: as long as this exists it is not closed for having been left.
pub(super) struct Held(Arc<Connection>);

impl Held {
    pub(super) fn new(connection: Arc<Connection>) -> Held {
        lock(&connection.state).holders += 1;
        Held(connection)
    }
}

impl Deref for Held {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.holders -= 1;
        state.wake_io();
    }
}

/// A request that was queued, and its reply to come. Dropping it says that nobody waits any longer.
#[derive(Debug)]
pub(super) struct Ticket {
    connection: Arc<Connection>,
    id: u64,
    receiver: oneshot::Receiver<Reply>,
    done: bool,
}

impl Future for Ticket {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let reply = std::task::ready!(Pin::new(&mut self.receiver).poll(cx));
        self.done = true;
        Poll::Ready(reply.unwrap_or_else(|_| Err(Failure::Lost { sent: true, cause: Error::closed() })))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.connection.forget(self.id);
        }
    }
}
