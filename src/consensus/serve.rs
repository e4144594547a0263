//! What members send to this one: votes, appends, transfer; one connection at a time.
//!
//! Appends go into openraft's stream in the order in which they came and are answered in that order once they are durable,
//! many being under way. Everything else on the connection is answered one by one.

use super::{
    Failed, StateMachine,
    adapter::Adapter,
    agreement::Agreement,
    disk_log,
    group::{Message, Queue},
    snapshots,
    types::{Raft, of_peer_vote, ours, peer_vote, theirs},
};
use crate::{
    env::{BoxFuture, Env},
    log::LogEntry,
    peer::{Connection, PeerError},
    wire::{
        DecodeError, ErrorCode, Frame, Kind, WireError,
        peer::{Append, AppendReply, AppendResult, PeerOpcode, PeerReport, Transfer, TransferReply, Vote, VoteReply},
    },
};
use bytes::BytesMut;
use futures_core::Stream;
use openraft::{
    async_runtime::WatchReceiver,
    errors::Fatal,
    raft::{
        AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
        VoteRequest,
    },
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;

/// Appends of one connection that wait for their sync. A member sends no more than 64.
const APPENDS_MAX: usize = 256;
/// A connection on which nothing happens for so long is closed; who wants it opens another.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Serves a member's connection for consensus until it ends.
pub(super) trait Inbound: Send + Sync {
    fn serve(&self, connection: Connection) -> BoxFuture<Result<(), PeerError>>;
    /// The same for the one that a snapshot comes on.
    fn take_snapshot(&self, connection: Connection) -> BoxFuture<Result<(), PeerError>>;
}

pub(super) struct Server<M: StateMachine> {
    pub(super) raft: openraft::Raft<Raft, Adapter<M>>,
    pub(super) machine: M,
    pub(super) agreement: Arc<Agreement>,
    pub(super) queue: Queue,
    pub(super) env: Env,
}

impl<M: StateMachine> Inbound for Server<M> {
    fn serve(&self, connection: Connection) -> BoxFuture<Result<(), PeerError>> {
        let serving = Serving {
            raft: self.raft.clone(),
            machine: self.machine.clone(),
            agreement: Arc::clone(&self.agreement),
            queue: self.queue.clone(),
            env: self.env.clone(),
            connection,
            appends: None,
        };
        Box::pin(serving.run())
    }

    fn take_snapshot(&self, connection: Connection) -> BoxFuture<Result<(), PeerError>> {
        Box::pin(snapshots::receive(self.env.clone(), self.raft.clone(), self.machine.clone(), connection))
    }
}

/// A receiver as the stream that openraft reads.
struct Requests(mpsc::Receiver<AppendEntriesRequest<Raft>>);

impl Stream for Requests {
    type Item = AppendEntriesRequest<Raft>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

type Results = Pin<Box<dyn Stream<Item = Result<StreamAppendResult<Raft>, Fatal<Raft>>> + Send>>;

/// openraft's stream of appends and who awaits its answers.
struct Appends {
    requests: mpsc::Sender<AppendEntriesRequest<Raft>>,
    results: Results,
    waiting: VecDeque<u64>,
}

struct Serving<M: StateMachine> {
    raft: openraft::Raft<Raft, Adapter<M>>,
    machine: M,
    agreement: Arc<Agreement>,
    queue: Queue,
    env: Env,
    connection: Connection,
    appends: Option<Appends>,
}

/// What happened next on a connection.
enum Event {
    Frame(Option<Frame>),
    Appended(Option<Result<StreamAppendResult<Raft>, Fatal<Raft>>>),
}

fn stopped(fatal: &Fatal<Raft>) -> PeerError {
    PeerError::Protocol(format!("this replica has stopped: {fatal}"))
}

fn refused(error: DecodeError) -> Box<WireError> {
    Box::new(WireError::new(error.code).with_message(error.what))
}

impl<M: StateMachine> Serving<M> {
    async fn run(mut self) -> Result<(), PeerError> {
        loop {
            let until = self.env.now() + SILENCE_MAX;
            let env = self.env.clone();
            match env.until(until, self.event()).await.ok_or(PeerError::Late)?? {
                Event::Frame(None) => return Ok(()),
                Event::Frame(Some(frame)) => self.frame(frame).await?,
                Event::Appended(result) => {
                    if !self.appended(result)? {
                        self.connection.send().await?;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends what is to be sent, and waits for whatever comes first.
    async fn event(&mut self) -> Result<Event, PeerError> {
        let (connection, appends) = (&mut self.connection, &mut self.appends);
        poll_fn(|cx| {
            if let Some(appends) = appends
                && let Poll::Ready(result) = appends.results.as_mut().poll_next(cx)
            {
                return Poll::Ready(Ok(Event::Appended(result)));
            }
            if let Poll::Ready(Err(error)) = connection.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            if appends.as_ref().is_none_or(|appends| appends.waiting.len() < APPENDS_MAX) {
                return connection.poll_next(cx).map(|next| next.map(Event::Frame));
            }
            Poll::Pending
        })
        .await
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), PeerError> {
        if frame.kind != Kind::Request {
            return Err(PeerError::Protocol(format!("a frame of kind {} where requests come", frame.kind.name())));
        }
        let done = match PeerOpcode::from_number(frame.opcode) {
            Some(PeerOpcode::Append) => self.append(&frame).await,
            Some(PeerOpcode::Vote) => self.vote(&frame, false).await,
            Some(PeerOpcode::PreVote) => self.vote(&frame, true).await,
            Some(PeerOpcode::Transfer) => self.transfer(&frame).await,
            _ => Ok(Err(Box::new(WireError::new(ErrorCode::UNKNOWN_OPCODE)))),
        };
        if let Err(error) = done? {
            self.connection.put(Kind::Error, frame.opcode, frame.request_id, |out| error.encode(out));
        }
        Ok(())
    }

    fn respond(&mut self, frame: &Frame, write: impl FnOnce(&mut BytesMut)) {
        self.connection.put(Kind::Response, frame.opcode, frame.request_id, write);
    }

    async fn append(&mut self, frame: &Frame) -> Done {
        let append = match Append::decode(&frame.payload) {
            Ok(append) => append,
            Err(error) => return Ok(Err(refused(error))),
        };
        let vote = of_peer_vote(&append.vote);
        let own = self.raft.server_metrics().borrow_watched().vote;
        // Only whoever may lead is believed.
        if let Some((log_id, chain)) = append.chain
            && vote.leader_id >= own.leader_id
            && self.agreement.compare(log_id, chain) == Some(false)
        {
            let what =
                format!("a majority has come to another state after entry {log_id}; this replica must be replaced");
            self.queue.send(Message::Failed(Failed(what.clone())));
            return Err(PeerError::Protocol(what));
        }
        let request = match request_of(append) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        let raft = &self.raft;
        let appends = self.appends.get_or_insert_with(|| {
            let (requests, receiver) = mpsc::channel(APPENDS_MAX);
            let results = Box::pin(raft.stream_append(Requests(receiver)));
            Appends { requests, results, waiting: VecDeque::new() }
        });
        appends.waiting.push_back(frame.request_id);
        // No more are waiting than it has room for; a stream that has ended says so by its results.
        let _ = appends.requests.try_send(request);
        Ok(Ok(()))
    }

    /// Answers the oldest append. Returns whether the connection goes on: behind a conflict what was sent after it is void.
    fn appended(&mut self, result: Option<Result<StreamAppendResult<Raft>, Fatal<Raft>>>) -> Result<bool, PeerError> {
        let Some(appends) = &mut self.appends else { return Ok(true) };
        let Some(result) = result else {
            let quiet = appends.waiting.is_empty();
            self.appends = None;
            return Ok(quiet);
        };
        let result = result.map_err(|fatal| stopped(&fatal))?;
        let Some(id) = appends.waiting.pop_front() else {
            return Err(PeerError::Protocol("an answer to nothing".into()));
        };
        let reply = AppendReply {
            result: match &result {
                Ok(last) => AppendResult::Matched(last.as_ref().map(ours)),
                Err(StreamAppendError::Conflict(log_id)) => AppendResult::Conflict(ours(log_id)),
                Err(StreamAppendError::HigherVote(vote)) => AppendResult::HigherVote(peer_vote(vote)),
            },
            report: self.report(),
        };
        self.connection.put(Kind::Response, PeerOpcode::Append.number(), id, |out| reply.encode(out));
        if result.is_err() {
            let quiet = self.appends.as_ref().is_none_or(|appends| appends.waiting.is_empty());
            self.appends = None;
            return Ok(quiet);
        }
        Ok(true)
    }

    fn report(&self) -> Option<PeerReport> {
        let position = self.machine.applied();
        let (version, chain) = (position.version, position.chain);
        position.log_id.map(|applied| PeerReport { applied, version, chain })
    }

    async fn vote(&mut self, frame: &Frame, pre: bool) -> Done {
        let Vote { vote, last } = match Vote::decode(&frame.payload) {
            Ok(vote) => vote,
            Err(error) => return Ok(Err(refused(error))),
        };
        let request = VoteRequest::new(of_peer_vote(&vote), last.map(theirs));
        let answered = if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        let response = answered.map_err(|error| PeerError::Protocol(error.to_string()))?;
        let reply = VoteReply {
            vote: peer_vote(&response.vote),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(ours),
        };
        self.respond(frame, |out| reply.encode(out));
        Ok(Ok(()))
    }

    async fn transfer(&mut self, frame: &Frame) -> Done {
        let Transfer { vote, to, last } = match Transfer::decode(&frame.payload) {
            Ok(transfer) => transfer,
            Err(error) => return Ok(Err(refused(error))),
        };
        let request = TransferLeaderRequest::new(of_peer_vote(&vote), to.0, last.map(theirs));
        let answered = self.raft.handle_transfer_leader(request).await.map_err(|fatal| stopped(&fatal))?;
        let reply = match answered {
            Ok(()) => TransferReply::Accepted,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => TransferReply::VoteChanged(peer_vote(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => TransferReply::Behind(actual.as_ref().map(ours)),
        };
        self.respond(frame, |out| reply.encode(out));
        Ok(Ok(()))
    }
}

/// Answered, or refused with this; or the connection ends.
type Done = Result<Result<(), Box<WireError>>, PeerError>;

fn request_of(append: Append) -> Result<AppendEntriesRequest<Raft>, Box<WireError>> {
    let malformed = |what: &'static str| Err(refused(DecodeError::malformed(what)));
    let first = append.previous.map_or(0, |previous| previous.index + 1);
    for (index, entry) in (first..).zip(&append.entries) {
        if entry.id.index != index {
            return malformed("the entries have a gap");
        }
        if (entry.id.term, entry.id.leader) > (append.vote.term, append.vote.node) {
            return malformed("an entry is of a later term than its leader");
        }
    }
    let entries = append.entries.into_iter().map(|entry| {
        disk_log::decode(LogEntry { id: entry.id, kind: entry.kind, payload: entry.payload })
            .map_err(|error| Box::new(WireError::new(ErrorCode::MALFORMED).with_message(error.to_string())))
    });
    Ok(AppendEntriesRequest {
        vote: of_peer_vote(&append.vote),
        prev_log_id: append.previous.map(theirs),
        entries: entries.collect::<Result<Vec<_>, _>>()?,
        leader_commit: append.committed.map(theirs),
    })
}
