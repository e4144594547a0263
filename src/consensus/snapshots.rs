//! Snapshots between members: sent in parts from a captured state, taken beside what is there, and exchanged for it in one
//! step by whoever applies.
//!
//! What is sent is captured when openraft asks for it, by the one task that applies, so its metadata are of the very state
//! that its parts are read from. It is kept for a while: a transfer that was interrupted goes on in the same snapshot, after
//! the parts that are durable at the other side.
//!
//! Both sides run on threads of their own, for they read and write disks.

use super::{
    StateMachine,
    adapter::Adapter,
    membership::decode_stored,
    peers::{closed, decoded, payload_of, unreachable},
    types::{Raft, RaftVote, Snapshot, SnapshotMeta, of_peer_vote, peer_vote, theirs},
};
use crate::{
    env::{Env, Moment},
    peer::{Connection, Dialer, PeerError},
    storage::{Applied, Capture, CaptureTotals, Install, InstallError},
    types::{FullKey, NodeId},
    wire::{
        ErrorCode, Frame, Kind, WireError,
        peer::{Lane, PeerOpcode, SnapshotBegin, SnapshotBegun, SnapshotEnd, SnapshotEnded, SnapshotPart, SnapshotRow},
    },
};
use bytes::{Bytes, BytesMut};
use openraft::{
    async_runtime::WatchReceiver,
    errors::{ReplicationClosed, StreamingError},
    raft::SnapshotResponse,
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long the other side may take for one part, or to exchange its state at the end.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long making the connection may take.
const DIAL_MAX: Duration = Duration::from_secs(1);
/// How long a captured state is kept for a transfer that was interrupted.
const KEEP_MAX: Duration = Duration::from_secs(60);

/// What openraft hands about beside a snapshot's metadata.
pub(super) enum Data {
    /// Nothing: it only says how far the store is.
    Metadata,
    /// To be sent.
    Captured(Arc<Captured>),
    /// Taken from a member, to be made this node's own.
    Received(Box<dyn Install>, CaptureTotals),
}

/// A captured state, and how far it has been read.
pub(super) struct Captured {
    id: [u8; 16],
    capture: Capture,
    /// Where each part begins that was read, and what those before it amount to.
    read: Mutex<Vec<(FullKey, CaptureTotals)>>,
    /// When a member last took something of it.
    progress: Mutex<Moment>,
}

/// The captured states that are being sent, or were lately.
#[derive(Clone)]
pub(super) struct Captures {
    env: Env,
    kept: Arc<Mutex<Vec<Arc<Captured>>>>,
}

impl Captures {
    pub(super) fn new(env: &Env) -> Captures {
        Captures { env: env.clone(), kept: Arc::default() }
    }

    /// Lets go of those that have not come forward for long: whoever they were for is gone, or has them.
    fn trim(&self, kept: &mut Vec<Arc<Captured>>) {
        let now = self.env.now();
        kept.retain(|captured| now - *captured.progress.lock() < KEEP_MAX);
    }

    /// A captured state that is kept if entries from there on are still to be had, else a new one.
    pub(super) fn current<M: StateMachine>(&self, machine: &M, purged: Option<u64>) -> Option<Arc<Captured>> {
        let mut kept = self.kept.lock();
        self.trim(&mut kept);
        if let Some(captured) = kept.iter().rev().find(|captured| captured.index() >= purged) {
            return Some(Arc::clone(captured));
        }
        machine.applied().log_id?;
        let capture = machine.capture();
        let mut id = [0; 16];
        self.env.random(&mut id);
        let read = Mutex::new(vec![(Bytes::new(), CaptureTotals::default())]);
        let captured = Arc::new(Captured { id, capture, read, progress: Mutex::new(self.env.now()) });
        kept.push(Arc::clone(&captured));
        Some(captured)
    }

    /// Whoever is sent one needs the log from there on.
    pub(super) fn needs(&self) -> Option<u64> {
        let mut kept = self.kept.lock();
        self.trim(&mut kept);
        kept.iter().filter_map(|captured| captured.index()).min()
    }

    fn done(&self, captured: &Arc<Captured>) {
        self.kept.lock().retain(|kept| !Arc::ptr_eq(kept, captured));
    }
}

impl Captured {
    fn index(&self) -> Option<u64> {
        self.capture.applied().log_id.map(|log_id| log_id.index)
    }

    /// What it is of, as openraft says it.
    pub(super) fn meta(&self) -> std::io::Result<SnapshotMeta> {
        let stored = decode_stored(self.capture.membership()).map_err(std::io::Error::other)?;
        Ok(SnapshotMeta { last_log_id: self.capture.applied().log_id.map(theirs), last_membership: stored })
    }

    fn begin(&self, vote: &RaftVote) -> SnapshotBegin {
        let Applied { log_id, version, chain, clock_ms, idempotency_floor } = self.capture.applied();
        SnapshotBegin {
            vote: peer_vote(vote),
            snapshot: self.id,
            log_id,
            version,
            chain,
            clock_ms,
            idempotency_floor,
            membership: self.capture.membership().clone(),
        }
    }

    /// A part, and what all parts up to and with it amount to; `None` behind the last.
    fn part(&self, number: u64) -> Result<Option<Vec<SnapshotRow>>, PeerError> {
        let number = usize::try_from(number).map_err(|_| PeerError::Protocol("no such part".into()))?;
        loop {
            let (place, (start, mut totals)) = {
                let read = self.read.lock();
                let place = number.min(read.len() - 1);
                (place, read[place].clone())
            };
            if place > 0 && start.is_empty() {
                return Ok(None);
            }
            let part = self.capture.part(&start).map_err(|error| PeerError::Protocol(error.to_string()))?;
            totals.add(&part.rows);
            let mut read = self.read.lock();
            if read.len() == place + 1 {
                read.push((part.next.unwrap_or_default(), totals));
            }
            if place == number {
                let rows = part.rows.into_iter();
                return Ok(Some(
                    rows.map(|row| SnapshotRow { key: row.key, version: row.version, value: row.value }).collect(),
                ));
            }
        }
    }

    /// What all parts amount to, once all were read.
    fn totals(&self) -> CaptureTotals {
        self.read.lock().last().map(|(_, totals)| *totals).unwrap_or_default()
    }
}

/// Sends a captured state to a member, on a thread of its own, until that has made it its own.
pub(super) async fn send(
    dialer: Dialer,
    target: NodeId,
    address: String,
    vote: RaftVote,
    snapshot: Snapshot,
    captures: Captures,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Result<SnapshotResponse<Raft>, StreamingError<Raft>> {
    let Data::Captured(captured) = snapshot.snapshot else {
        let error = PeerError::Protocol("a snapshot without data".into());
        return Err(StreamingError::Unreachable(unreachable(&error)));
    };
    let (sender, sent) = oneshot::channel();
    let env = dialer.env().clone();
    let of_thread = Arc::clone(&captured);
    let task = env.spawn_on_thread("snapshot", async move {
        // Whoever waited may have been told to give up.
        let _ = sender.send(send_all(&dialer, target, &address, &vote, &of_thread).await);
    });
    let result = tokio::select! {
        biased;
        closed = cancel => return Err(StreamingError::Closed(closed)),
        result = sent => result,
    };
    drop(task);
    match result {
        Ok(Ok(vote)) => {
            captures.done(&captured);
            Ok(SnapshotResponse::new(vote))
        }
        Ok(Err(error)) => Err(StreamingError::Unreachable(unreachable(&error))),
        Err(_) => {
            let error = PeerError::Protocol("sending a snapshot ended by itself".into());
            Err(StreamingError::Unreachable(unreachable(&error)))
        }
    }
}

async fn send_all(
    dialer: &Dialer,
    target: NodeId,
    address: &str,
    vote: &RaftVote,
    captured: &Captured,
) -> Result<RaftVote, PeerError> {
    let env = dialer.env();
    let (connection, _) = dialer.dial(target, address, Lane::Snapshot, env.now() + DIAL_MAX).await?;
    let mut asking = Asking { env: env.clone(), connection, last_request: 0 };
    let begin = captured.begin(vote);
    let answer = asking.ask(PeerOpcode::SnapshotBegin, |out| begin.encode(out)).await?;
    let mut part = match decoded(SnapshotBegun::decode(&answer))? {
        SnapshotBegun::GoOn { part } => part,
        SnapshotBegun::HigherVote(vote) => return Ok(of_peer_vote(&vote)),
    };
    *captured.progress.lock() = env.now();
    while let Some(rows) = captured.part(part)? {
        let message = SnapshotPart { part, rows };
        asking.ask(PeerOpcode::SnapshotPart, |out| message.encode(out)).await?;
        *captured.progress.lock() = env.now();
        part += 1;
    }
    let CaptureTotals { parts, rows, hash } = captured.totals();
    let end = SnapshotEnd { parts, rows, hash };
    let answer = asking.ask(PeerOpcode::SnapshotEnd, |out| end.encode(out)).await?;
    Ok(of_peer_vote(&decoded(SnapshotEnded::decode(&answer))?.vote))
}

struct Asking {
    env: Env,
    connection: Connection,
    last_request: u64,
}

impl Asking {
    async fn ask(&mut self, opcode: PeerOpcode, write: impl FnOnce(&mut BytesMut)) -> Result<Bytes, PeerError> {
        self.last_request += 1;
        let id = self.last_request;
        let until = self.env.now() + SILENCE_MAX;
        let exchange = async {
            self.connection.put(Kind::Request, opcode.number(), id, write);
            self.connection.send().await?;
            let frame = self.connection.next().await?.ok_or_else(closed)?;
            match frame.request_id == id {
                true => payload_of(frame),
                false => Err(PeerError::Protocol("an answer to something else".into())),
            }
        };
        self.env.until(until, exchange).await.ok_or(PeerError::Late)?
    }
}

/// Takes a snapshot from a member, on a thread of its own, until the connection ends.
pub(super) async fn receive<M: StateMachine>(
    env: Env,
    raft: openraft::Raft<Raft, Adapter<M>>,
    machine: M,
    connection: Connection,
) -> Result<(), PeerError> {
    let (sender, received) = oneshot::channel();
    let of_thread = env.clone();
    let task = env.spawn_on_thread("snapshot", async move {
        let mut receiving = Receiving { env: of_thread, raft, machine, connection, begun: None };
        // Whoever waited may be gone.
        let _ = sender.send(receiving.run().await);
    });
    let ended = received.await.unwrap_or_else(|_| Err(PeerError::Protocol("taking a snapshot ended by itself".into())));
    drop(task);
    ended
}

struct Receiving<M: StateMachine> {
    env: Env,
    raft: openraft::Raft<Raft, Adapter<M>>,
    machine: M,
    connection: Connection,
    begun: Option<(SnapshotBegin, Box<dyn Install>)>,
}

/// What answers a request: how to write it, or a refusal.
type Answer = Result<Box<dyn FnOnce(&mut BytesMut) + Send>, Box<WireError>>;

fn refuse(code: ErrorCode, what: impl ToString) -> Box<WireError> {
    Box::new(WireError::new(code).with_message(what.to_string()))
}

fn not_installed(error: InstallError) -> Box<WireError> {
    match error {
        InstallError::NoSpace(_) => refuse(ErrorCode::DISK_FULL, error),
        InstallError::Refused(_) => refuse(ErrorCode::MALFORMED, error),
        InstallError::Reached | InstallError::Failed(_) => refuse(ErrorCode::UNAVAILABLE, error),
    }
}

impl<M: StateMachine> Receiving<M> {
    async fn run(&mut self) -> Result<(), PeerError> {
        loop {
            let until = self.env.now() + SILENCE_MAX;
            let next = self.env.until(until, self.connection.next()).await.ok_or(PeerError::Late)?;
            let Some(frame) = next? else { return Ok(()) };
            if frame.kind != Kind::Request {
                return Err(PeerError::Protocol(format!("a frame of kind {} where requests come", frame.kind.name())));
            }
            let answer = match PeerOpcode::from_number(frame.opcode) {
                Some(PeerOpcode::SnapshotBegin) => self.begin(&frame),
                Some(PeerOpcode::SnapshotPart) => self.part(&frame),
                Some(PeerOpcode::SnapshotEnd) => self.end(&frame).await,
                _ => Err(Box::new(WireError::new(ErrorCode::UNKNOWN_OPCODE))),
            };
            match answer {
                Ok(write) => self.connection.put(Kind::Response, frame.opcode, frame.request_id, write),
                Err(error) => {
                    self.connection.put(Kind::Error, frame.opcode, frame.request_id, |out| error.encode(out));
                }
            }
            self.connection.send().await?;
        }
    }

    /// This node's vote, if it is higher.
    fn higher(&self, vote: &RaftVote) -> Option<RaftVote> {
        let own = self.raft.server_metrics().borrow_watched().vote;
        (own.leader_id > vote.leader_id).then_some(own)
    }

    fn begin(&mut self, frame: &Frame) -> Answer {
        let begin = SnapshotBegin::decode(&frame.payload).map_err(|error| refuse(error.code, error.what))?;
        if let Some(own) = self.higher(&of_peer_vote(&begin.vote)) {
            let begun = SnapshotBegun::HigherVote(peer_vote(&own));
            return Ok(Box::new(move |out| begun.encode(out)));
        }
        let SnapshotBegin { log_id, version, chain, clock_ms, idempotency_floor, .. } = begin;
        if log_id.is_none_or(|log_id| (log_id.term, log_id.leader) > (begin.vote.term, begin.vote.node)) {
            return Err(refuse(ErrorCode::MALFORMED, "a snapshot of nothing, or of a later term than its leader"));
        }
        let committed = self.raft.data_metrics().borrow_watched().local_committed.map(|committed| committed.index);
        if log_id.map(|log_id| log_id.index) <= committed {
            return Err(refuse(ErrorCode::UNAVAILABLE, "the log is known to be committed beyond the snapshot"));
        }
        let applied = Applied { log_id, version, chain, clock_ms, idempotency_floor };
        // One that was begun on this connection before is let go first.
        self.begun = None;
        let install = self.machine.begin_install(begin.snapshot, applied, begin.membership.clone());
        let install = install.map_err(not_installed)?;
        let begun = SnapshotBegun::GoOn { part: install.parts() };
        self.begun = Some((begin, install));
        Ok(Box::new(move |out| begun.encode(out)))
    }

    fn part(&mut self, frame: &Frame) -> Answer {
        let part = SnapshotPart::decode(&frame.payload).map_err(|error| refuse(error.code, error.what))?;
        let Some((_, install)) = &mut self.begun else {
            return Err(refuse(ErrorCode::MALFORMED, "no snapshot was begun"));
        };
        let rows: Vec<_> = part
            .rows
            .into_iter()
            .map(|row| crate::storage::CapturedRow { key: row.key, version: row.version, value: row.value })
            .collect();
        install.part(part.part, &rows).map_err(not_installed)?;
        Ok(Box::new(|_| {}))
    }

    async fn end(&mut self, frame: &Frame) -> Answer {
        let SnapshotEnd { parts, rows, hash } =
            SnapshotEnd::decode(&frame.payload).map_err(|error| refuse(error.code, error.what))?;
        let Some((begin, mut install)) = self.begun.take() else {
            return Err(refuse(ErrorCode::MALFORMED, "no snapshot was begun"));
        };
        let sent = CaptureTotals { parts, rows, hash };
        // What is refused once openraft has it ends this node.
        if let Err(error) = install.seal(sent) {
            if matches!(error, InstallError::Refused(_)) {
                // Else it would be gone on with again and again. One that another has overtaken has nothing left to abort.
                let _ = install.abort();
            }
            return Err(not_installed(error));
        }
        let last_membership = decode_stored(&begin.membership).map_err(|error| refuse(ErrorCode::MALFORMED, error))?;
        let meta = SnapshotMeta { last_log_id: begin.log_id.map(theirs), last_membership };
        let data = Data::Received(install, sent);
        let snapshot = Snapshot { meta, snapshot: data };
        let installed = self.raft.install_full_snapshot(of_peer_vote(&begin.vote), snapshot).await;
        let response = installed.map_err(|fatal| refuse(ErrorCode::UNAVAILABLE, fatal))?;
        let ended = SnapshotEnded { vote: peer_vote(&response.vote) };
        Ok(Box::new(move |out| ended.encode(out)))
    }
}
