//! Requests that another node must carry out: over one connection to the leader, many at a time.
//!
//! ```text
//! sessions ──> forwarder ──> lane to the leader ──> its session ──> its committer
//!    ▲                           │
//!    └──────── mailbox <─────────┘  once what was written is applied here too
//! ```
//!
//! A request goes out once. Where the connection is lost, what became of it is unknown; where it never went out, nothing
//! happened. Reads of many sessions share one question: which version everything acknowledged is in. One that was sent is
//! joined by nobody.
//!
//! When another node leads, a new lane begins and the old one ends with its last answer.

use super::{
    admission::{Admission, Permit},
    answer::{Body, Completion, Mailbox, Refusal, Reply},
};
use crate::{
    consensus::{Group, Leader},
    env::{BoxFuture, Env, Moment},
    peer::{Connection, Dialer, PeerError},
    storage::Engine,
    types::{NodeId, Version},
    wire::{Frame, Kind, Opcode, WireError, peer::Lane},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How long making the connection may take.
const DIAL_MAX: Duration = Duration::from_millis(500);
/// A leader that is silent for so long while answers are awaited is gone.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long an answer waits for what it wrote to be applied here; then it says what the leader said.
const APPLIED_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often that is looked for.
const APPLIED_POLL: Duration = Duration::from_millis(1);
/// So long before its session gives up an answer is told in any case: a few of the session's ticks.
const BEFORE_DEADLINE: Moment = Moment(60_000_000);
/// Questions for a version under way at once.
const ROUNDS_MAX: usize = 4;
/// Bytes that wait to be sent before the lane stops taking requests from its queue.
const UNSENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A request to be carried out by the leader.
pub struct Forwarded {
    /// Where the answer goes.
    pub mailbox: Arc<Mailbox>,
    /// The session's name for it.
    pub request: u64,
    /// When its session stops waiting.
    pub deadline: Moment,
    /// Its opcode: the client's, or one between peers.
    pub opcode: u16,
    /// Its payload, tags included.
    pub payload: Bytes,
    /// Whether losing its answer leaves it open what became of it.
    pub writes: bool,
    /// Whether its answer begins with the version at which it was carried out.
    pub tells_version: bool,
}

/// The way to whoever leads.
pub(super) struct Forwarder {
    env: Env,
    dialer: Dialer,
    group: Group,
    engine: Arc<dyn Engine>,
    admission: Arc<Admission>,
    own: NodeId,
    lane: Mutex<Option<Open>>,
    reads: Mutex<Reads>,
}

struct Open {
    to: Leader,
    queue: mpsc::UnboundedSender<Outgoing>,
}

#[derive(Default)]
struct Reads {
    under_way: usize,
    waiting: Vec<oneshot::Sender<Option<Version>>>,
}

struct Outgoing {
    opcode: u16,
    payload: Bytes,
    origin: Origin,
}

enum Origin {
    Session {
        mailbox: Arc<Mailbox>,
        request: u64,
        deadline: Moment,
        writes: bool,
        tells_version: bool,
        _permit: Permit,
    },
    Round(Vec<oneshot::Sender<Option<Version>>>),
}

impl Forwarder {
    pub(super) fn new(
        dialer: Dialer,
        group: Group,
        engine: Arc<dyn Engine>,
        admission: Arc<Admission>,
        own: NodeId,
    ) -> Arc<Forwarder> {
        let env = dialer.env().clone();
        let (lane, reads) = (Mutex::default(), Mutex::default());
        Arc::new(Forwarder { env, dialer, group, engine, admission, own, lane, reads })
    }

    /// Sends a request on its way, or gives it back when too much is under way.
    pub(super) fn forward(self: &Arc<Self>, forwarded: Forwarded) -> Result<(), Forwarded> {
        let Some(permit) = self.admission.enter(1, forwarded.payload.len()) else { return Err(forwarded) };
        let Forwarded { mailbox, request, deadline, opcode, payload, writes, tells_version } = forwarded;
        let origin = Origin::Session { mailbox, request, deadline, writes, tells_version, _permit: permit };
        self.send(Outgoing { opcode, payload, origin });
        Ok(())
    }

    fn send(self: &Arc<Self>, outgoing: Outgoing) {
        let own = self.own;
        // A node that was elected and is not ready yet would ask itself.
        let Some(leader) = self.group.leader().filter(|leader| leader.node != own) else {
            return outgoing.origin.refuse(self, &Refusal::Unavailable);
        };
        let mut lane = self.lane.lock();
        let outgoing = match &*lane {
            Some(open) if open.to == leader => match open.queue.send(outgoing) {
                Ok(()) => return,
                Err(mpsc::error::SendError(outgoing)) => outgoing,
            },
            _ => outgoing,
        };
        let (queue, requests) = mpsc::unbounded_channel();
        // The receiver is right here.
        let _ = queue.send(outgoing);
        *lane = Some(Open { to: leader.clone(), queue });
        let this = Arc::clone(self);
        // It ends with its queue, which the next lane drops, or with its connection.
        self.env.spawn("forward", run(this, leader, requests)).detach();
    }

    /// A version in which everything is that was acknowledged when this was called; `None` if nobody could say.
    pub(super) async fn read_version(self: &Arc<Self>) -> Option<Version> {
        let (sender, version) = oneshot::channel();
        self.reads.lock().waiting.push(sender);
        self.begin_round();
        version.await.ok().flatten()
    }

    fn begin_round(self: &Arc<Self>) {
        let asking = {
            let mut reads = self.reads.lock();
            if reads.waiting.is_empty() || reads.under_way >= ROUNDS_MAX {
                return;
            }
            reads.under_way += 1;
            std::mem::take(&mut reads.waiting)
        };
        let opcode = Opcode::ReadVersion.number();
        self.send(Outgoing { opcode, payload: Bytes::new(), origin: Origin::Round(asking) });
    }

    fn end_round(self: &Arc<Self>, asking: Vec<oneshot::Sender<Option<Version>>>, version: Option<Version>) {
        for sender in asking {
            // Whoever asked may have given up.
            let _ = sender.send(version);
        }
        self.reads.lock().under_way -= 1;
        self.begin_round();
    }
}

impl Origin {
    fn refuse(self, forwarder: &Arc<Forwarder>, refusal: &Refusal) {
        match self {
            Origin::Session { mailbox, request, .. } => {
                mailbox.deliver([Completion { request, result: Err(refusal.clone()) }]);
            }
            Origin::Round(asking) => {
                let forwarder = Arc::clone(forwarder);
                let env = forwarder.env.clone();
                // Not from within a round that ends, or one after the other would nest.
                env.spawn("read round", async move { forwarder.end_round(asking, None) }).detach();
            }
        }
    }

    /// The connection was lost behind it.
    fn lose(self, forwarder: &Arc<Forwarder>) {
        let writes = matches!(self, Origin::Session { writes: true, .. });
        self.refuse(forwarder, if writes { &Refusal::Unknown } else { &Refusal::Unavailable });
    }
}

/// An answer that waits for what it wrote to be applied here.
struct Early {
    version: Version,
    until: Moment,
    mailbox: Arc<Mailbox>,
    completion: Completion,
}

struct Running {
    forwarder: Arc<Forwarder>,
    connection: Connection,
    requests: mpsc::UnboundedReceiver<Outgoing>,
    open: bool,
    in_flight: HashMap<u64, Origin>,
    last_request: u64,
    early: VecDeque<Early>,
    /// And whether it is the one of answers that wait.
    timer: Option<(bool, BoxFuture<()>)>,
    heard: Moment,
}

async fn run(forwarder: Arc<Forwarder>, leader: Leader, mut requests: mpsc::UnboundedReceiver<Outgoing>) {
    let env = forwarder.env.clone();
    let until = env.now() + DIAL_MAX;
    let dialed = forwarder.dialer.dial(leader.node, &leader.addresses.peer, Lane::Requests, until).await;
    let Ok((connection, _)) = dialed else {
        requests.close();
        while let Some(outgoing) = requests.recv().await {
            outgoing.origin.refuse(&forwarder, &Refusal::Unavailable);
        }
        return;
    };
    let mut running = Running {
        connection,
        requests,
        open: true,
        in_flight: HashMap::new(),
        last_request: 0,
        early: VecDeque::new(),
        timer: None,
        heard: env.now(),
        forwarder,
    };
    // However it ends, what is in flight then is lost, and what is queued never went out.
    let _ = poll_fn(|cx| running.poll(cx)).await;
    let Running { forwarder, in_flight, mut requests, early, .. } = running;
    early.into_iter().for_each(Early::deliver);
    requests.close();
    while let Some(outgoing) = requests.recv().await {
        outgoing.origin.refuse(&forwarder, &Refusal::Unavailable);
    }
    let mut lost: Vec<(u64, Origin)> = in_flight.into_iter().collect();
    lost.sort_by_key(|(id, _)| *id);
    lost.into_iter().for_each(|(_, origin)| origin.lose(&forwarder));
}

impl Early {
    fn deliver(self) {
        self.mailbox.deliver([self.completion]);
    }
}

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        loop {
            self.take_requests(cx);
            if let Poll::Ready(Err(error)) = self.connection.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            match self.connection.poll_next(cx) {
                Poll::Ready(Ok(Some(frame))) => {
                    self.answer(frame);
                    continue;
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            self.tell_applied();
            if !self.open && self.in_flight.is_empty() && self.early.is_empty() && self.connection.unsent() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !self.poll_timer(cx)? {
                return Poll::Pending;
            }
        }
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) {
        while self.open && self.connection.unsent() < UNSENT_BYTES_MAX {
            match self.requests.poll_recv(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.open = false,
                Poll::Ready(Some(Outgoing { opcode, payload, origin })) => {
                    self.last_request += 1;
                    let id = self.last_request;
                    self.connection.put(Kind::Request, opcode, id, |out| out.extend_from_slice(&payload));
                    if self.in_flight.is_empty() {
                        self.heard = self.forwarder.env.now();
                    }
                    self.in_flight.insert(id, origin);
                }
            }
        }
    }

    fn answer(&mut self, frame: Frame) {
        let now = self.forwarder.env.now();
        self.heard = now;
        let Some(origin) = self.in_flight.remove(&frame.request_id) else { return };
        let version = frame.payload.first_chunk::<8>().map(|bytes| Version(u64::from_be_bytes(*bytes)));
        match origin {
            Origin::Round(asking) => {
                let version = version.filter(|_| frame.kind == Kind::Response);
                self.forwarder.end_round(asking, version);
            }
            Origin::Session { mailbox, request, deadline, tells_version, .. } => {
                let relayed = matches!(frame.kind, Kind::Response);
                let version = version.filter(|_| relayed && tells_version).unwrap_or_default();
                let result = match frame.kind {
                    Kind::Response => Ok(Reply::new(version, Body::Relayed(frame.payload))),
                    Kind::Error => Err(match WireError::decode(&frame.payload) {
                        Ok(error) => Refusal::Relayed(Box::new(error)),
                        Err(_) => Refusal::Unknown,
                    }),
                    _ => Err(Refusal::Unknown),
                };
                let completion = Completion { request, result };
                // What the leader said is told before the session gives up.
                let until = (now + APPLIED_WAIT_MAX).min(Moment(deadline.0.saturating_sub(BEFORE_DEADLINE.0)));
                let early = Early { version, until, mailbox, completion };
                if self.forwarder.engine.visible() >= version {
                    early.deliver();
                } else {
                    self.early.push_back(early);
                }
            }
        }
    }

    /// Lets answers go whose writes are applied here, and those that have waited for long enough.
    fn tell_applied(&mut self) {
        if self.early.is_empty() {
            return;
        }
        let (visible, now) = (self.forwarder.engine.visible(), self.forwarder.env.now());
        for early in std::mem::take(&mut self.early) {
            if early.version <= visible || early.until <= now {
                early.deliver();
            } else {
                self.early.push_back(early);
            }
        }
    }

    /// Whether it is time to look again; an error once the leader has been silent for too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, PeerError> {
        let waits = !self.early.is_empty();
        if !waits && self.in_flight.is_empty() {
            self.timer = None;
            return Ok(false);
        }
        let env = &self.forwarder.env;
        self.timer.take_if(|(short, _)| waits && !*short);
        let sleep = || (waits, env.sleep(if waits { APPLIED_POLL } else { SILENCE_MAX / 4 }));
        let (_, timer) = self.timer.get_or_insert_with(sleep);
        if timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.timer = None;
        if !self.in_flight.is_empty() && env.now() - self.heard >= SILENCE_MAX {
            return Err(PeerError::Late);
        }
        Ok(true)
    }
}
