//! The way to other members: what openraft wants to send, over connections that are opened when they are needed.
//!
//! openraft has three of these for each member: for entries, for signs of life, and for snapshots; an election makes more.
//! Each has one connection of its own, so a long append never delays a sign of life.

use super::{
    contacts::Contacts,
    disk_log,
    snapshots::{self, Captures, Data},
    types::{Peer, Raft, RaftVote, Snapshot, of_peer_vote, ours, peer_vote, theirs},
};
use crate::{
    env::{BoxFuture, Env, Moment},
    peer::{Connection, Dialer, PeerError},
    types::{LogId, NodeId},
    wire::{
        Frame, Kind, WireError,
        peer::{
            Append, AppendReply, AppendResult, Lane, PeerEntry, PeerOpcode, Transfer, TransferReply, Vote, VoteReply,
        },
    },
};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::BoxStream,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Appends on their way to one member without an answer.
const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// No further append is encoded while so many bytes wait to be sent.
const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a member may leave an append unanswered: it syncs before it answers, on whatever disk it has.
const APPEND_SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long making a connection may take.
const DIAL_MAX: Duration = Duration::from_millis(500);

/// openraft's boxed futures may borrow.
type RaftFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes the ways to members.
pub(super) struct Peers {
    /// `None` for a group that has no peers and never will.
    pub(super) dialer: Option<Dialer>,
    pub(super) contacts: Arc<Contacts>,
    pub(super) captures: Captures,
}

impl RaftNetworkFactory<Raft> for Peers {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link {
            dialer: self.dialer.clone(),
            contacts: Arc::clone(&self.contacts),
            captures: self.captures.clone(),
            target: NodeId(target),
            address: node.address.clone(),
            connection: Mutex::new(None),
            last_request: 0,
        }
    }
}

/// The way to one member.
pub(super) struct Link {
    dialer: Option<Dialer>,
    contacts: Arc<Contacts>,
    captures: Captures,
    target: NodeId,
    address: String,
    /// Only while nothing is awaited on it: a call that is given up takes its connection with it.
    /// openraft wants to share what it never shares.
    connection: Mutex<Option<Connection>>,
    last_request: u64,
}

pub(super) fn unreachable(error: &(impl std::error::Error + 'static)) -> Unreachable<Raft> {
    Unreachable::new(&AnyError::error(error.to_string()))
}

fn rpc_error(error: &PeerError) -> RPCError<Raft> {
    RPCError::Unreachable(unreachable(error))
}

/// The payload of an answer.
pub(super) fn payload_of(frame: Frame) -> Result<Bytes, PeerError> {
    match frame.kind {
        Kind::Response => Ok(frame.payload),
        Kind::Error => Err(match WireError::decode(&frame.payload) {
            Ok(error) => PeerError::Refused(Box::new(error)),
            Err(error) => PeerError::Protocol(error.to_string()),
        }),
        kind => Err(PeerError::Protocol(format!("a frame of kind {} answers nothing", kind.name()))),
    }
}

pub(super) fn decoded<T>(read: Result<T, crate::wire::DecodeError>) -> Result<T, PeerError> {
    read.map_err(|error| PeerError::Protocol(error.to_string()))
}

pub(super) fn closed() -> PeerError {
    PeerError::Io(std::io::ErrorKind::UnexpectedEof.into())
}

impl Link {
    /// Where the member is, as the newest membership says.
    fn current_address(&self) -> String {
        self.contacts.of(self.target).address.map_or_else(|| self.address.clone(), |address| address.to_string())
    }

    async fn open(&mut self, lane: Lane, until: Moment) -> Result<(Connection, Env), PeerError> {
        let Some(dialer) = &self.dialer else {
            return Err(PeerError::Protocol("this group has no peers".into()));
        };
        let env = dialer.env().clone();
        if let Some(connection) = self.connection.get_mut().take() {
            return Ok((connection, env));
        }
        let until = until.min(env.now() + DIAL_MAX);
        let address = self.current_address();
        let (connection, welcome) = dialer.dial(self.target, &address, lane, until).await?;
        self.contacts.level(self.target, welcome.level);
        Ok((connection, env))
    }

    /// One request and its answer.
    async fn call(
        &mut self,
        opcode: PeerOpcode,
        within: Duration,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Bytes, PeerError> {
        let env = self.dialer.as_ref().map(|dialer| dialer.env().clone());
        let until = env.as_ref().map_or(Moment(u64::MAX), |env| env.now() + within);
        let (mut connection, env) = self.open(Lane::Consensus, until).await?;
        self.last_request += 1;
        let id = self.last_request;
        let exchange = async {
            connection.put(Kind::Request, opcode.number(), id, write);
            connection.send().await?;
            let frame = connection.next().await?.ok_or_else(closed)?;
            match frame.request_id == id {
                true => payload_of(frame),
                false => Err(PeerError::Protocol("an answer to something else".into())),
            }
        };
        let payload = env.until(until, exchange).await.ok_or(PeerError::Late)??;
        self.contacts.heard(self.target, env.now(), None);
        *self.connection.get_mut() = Some(connection);
        Ok(payload)
    }

    async fn ask_for_vote(
        &mut self,
        opcode: PeerOpcode,
        request: VoteRequest<Raft>,
        option: &RPCOption,
    ) -> Result<VoteResponse<Raft>, RPCError<Raft>> {
        let vote = Vote { vote: peer_vote(&request.vote), last: request.last_log_id.as_ref().map(ours) };
        let asked = async {
            let payload = self.call(opcode, option.soft_ttl(), |out| vote.encode(out)).await?;
            decoded(VoteReply::decode(&payload))
        };
        let VoteReply { vote, granted, last } = asked.await.map_err(|error| rpc_error(&error))?;
        Ok(VoteResponse::new(of_peer_vote(&vote), last.map(theirs), granted))
    }
}

fn append_of(request: AppendEntriesRequest<Raft>, chain: Option<(LogId, u64)>) -> Append {
    let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = request;
    let entries = entries.into_iter().map(|entry| {
        let entry = disk_log::encode(entry);
        PeerEntry { id: entry.id, kind: entry.kind, payload: entry.payload }
    });
    Append {
        vote: peer_vote(&vote),
        previous: prev_log_id.as_ref().map(ours),
        committed: leader_commit.as_ref().map(ours),
        chain,
        entries: entries.collect(),
    }
}

fn append_result(result: AppendResult) -> StreamAppendResult<Raft> {
    match result {
        AppendResult::Matched(last) => Ok(last.map(theirs)),
        AppendResult::Conflict(log_id) => Err(StreamAppendError::Conflict(theirs(log_id))),
        AppendResult::HigherVote(vote) => Err(StreamAppendError::HigherVote(of_peer_vote(&vote))),
    }
}

impl RaftNetworkV2<Raft> for Link {
    type SnapshotData = Data;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Raft>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Raft>, RPCError<Raft>> {
        let append = append_of(request, self.contacts.of(self.target).differs);
        let asked = async {
            let payload = self.call(PeerOpcode::Append, option.soft_ttl(), |out| append.encode(out)).await?;
            decoded(AppendReply::decode(&payload))
        };
        let reply = asked.await.map_err(|error| rpc_error(&error))?;
        Ok(AppendEntriesResponse::from(append_result(reply.result)))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> RaftFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Raft>, RPCError<Raft>>>, RPCError<Raft>>>
    where
        S: Stream<Item = AppendEntriesRequest<Raft>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft keeps back the first request to a member that has failed: asked for it only once there is a connection, it
            // would have a refused one tried again at once, for ever.
            let Some(first) = poll_fn(|cx| Pin::new(&mut input).poll_next(cx)).await else {
                return Ok(Box::pin(Nothing) as BoxStream<'s, _>);
            };
            let opened = self.open(Lane::Consensus, Moment(u64::MAX)).await;
            let (connection, env) = opened.map_err(|error| rpc_error(&error))?;
            let appending = Appending {
                link: self,
                env,
                connection: Some(connection),
                first: Some(first),
                input: Some(input),
                in_flight: VecDeque::new(),
                silence: None,
            };
            Ok(Box::pin(appending) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Raft>,
        option: RPCOption,
    ) -> Result<VoteResponse<Raft>, RPCError<Raft>> {
        self.ask_for_vote(PeerOpcode::Vote, request, &option).await
    }

    /// openraft's own would grant it.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Raft>,
        option: RPCOption,
    ) -> Result<VoteResponse<Raft>, RPCError<Raft>> {
        self.ask_for_vote(PeerOpcode::PreVote, request, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Raft>, StreamingError<Raft>> {
        let Some(dialer) = self.dialer.clone() else {
            let error = PeerError::Protocol("this group has no peers".into());
            return Err(StreamingError::Unreachable(unreachable(&error)));
        };
        let (target, address, captures) = (self.target, self.current_address(), self.captures.clone());
        snapshots::send(dialer, target, address, vote, snapshot, captures, cancel).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Raft>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Raft>, RPCError<Raft>> {
        let last_log_id = request.last_log_id().copied();
        let transfer = Transfer {
            vote: peer_vote(request.from_leader()),
            to: NodeId(*request.to_node_id()),
            last: last_log_id.as_ref().map(ours),
        };
        let asked = async {
            // The one who is to lead syncs its log first.
            let within = option.soft_ttl().max(APPEND_SILENCE_MAX);
            let payload = self.call(PeerOpcode::Transfer, within, |out| transfer.encode(out)).await?;
            decoded(TransferReply::decode(&payload))
        };
        let (expected_vote, expected_log) = (*request.from_leader(), last_log_id);
        Ok(match asked.await.map_err(|error| rpc_error(&error))? {
            TransferReply::Accepted => Ok(()),
            TransferReply::VoteChanged(actual) => {
                Err(TransferLeaderError::VoteChanged { expected: expected_vote, actual: of_peer_vote(&actual) })
            }
            TransferReply::Behind(actual) => {
                Err(TransferLeaderError::LogNotFlushed { expected: expected_log, actual: actual.map(theirs) })
            }
        })
    }
}

/// Appends on their way and their answers, in one order: openraft's session. It ends after the last answer, or by an error.
struct Appending<'s, S> {
    link: &'s mut Link,
    env: Env,
    connection: Option<Connection>,
    /// What was taken from the input before there was a connection.
    first: Option<AppendEntriesRequest<Raft>>,
    /// `None` once it has ended.
    input: Option<S>,
    in_flight: VecDeque<u64>,
    /// When silence has lasted too long; only while an answer is awaited.
    silence: Option<BoxFuture<()>>,
}

/// A session in which there was nothing to send.
struct Nothing;

impl Stream for Nothing {
    type Item = Answer;
    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        Poll::Ready(None)
    }
}

type Answer = Result<StreamAppendResult<Raft>, RPCError<Raft>>;

impl<S: Stream<Item = AppendEntriesRequest<Raft>> + Unpin> Appending<'_, S> {
    fn take_input(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        while self.in_flight.len() < APPENDS_IN_FLIGHT_MAX && connection.unsent() < UNSENT_BYTES_MAX {
            let Some(input) = &mut self.input else { return };
            let next =
                self.first.take().map_or_else(|| Pin::new(input).poll_next(cx), |first| Poll::Ready(Some(first)));
            match next {
                Poll::Pending => return,
                Poll::Ready(None) => self.input = None,
                Poll::Ready(Some(request)) => {
                    let append = append_of(request, self.link.contacts.of(self.link.target).differs);
                    self.link.last_request += 1;
                    let id = self.link.last_request;
                    connection.put(Kind::Request, PeerOpcode::Append.number(), id, |out| append.encode(out));
                    if self.in_flight.is_empty() {
                        self.silence = Some(self.env.sleep(APPEND_SILENCE_MAX));
                    }
                    self.in_flight.push_back(id);
                }
            }
        }
    }

    fn answer(&mut self, frame: Frame) -> Result<StreamAppendResult<Raft>, PeerError> {
        if self.in_flight.pop_front() != Some(frame.request_id) {
            return Err(PeerError::Protocol("an answer out of order".into()));
        }
        let reply = decoded(AppendReply::decode(&payload_of(frame)?))?;
        self.silence = (!self.in_flight.is_empty()).then(|| self.env.sleep(APPEND_SILENCE_MAX));
        self.link.contacts.heard(self.link.target, self.env.now(), reply.report);
        Ok(append_result(reply.result))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.take_input(cx);
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        if let Poll::Ready(Err(error)) = connection.poll_send(cx) {
            return self.failed(&error);
        }
        match connection.poll_next(cx) {
            Poll::Ready(Ok(Some(frame))) => {
                return match self.answer(frame) {
                    Ok(result) => {
                        self.keep_if_over(result.is_err());
                        Poll::Ready(Some(Ok(result)))
                    }
                    Err(error) => self.failed(&error),
                };
            }
            Poll::Ready(Ok(None)) => return self.failed(&closed()),
            Poll::Ready(Err(error)) => return self.failed(&error),
            Poll::Pending => {}
        }
        if self.input.is_none() && self.in_flight.is_empty() {
            self.keep_if_over(true);
            return Poll::Ready(None);
        }
        if self.silence.as_mut().is_some_and(|silence| silence.as_mut().poll(cx).is_ready()) {
            return self.failed(&PeerError::Late);
        }
        Poll::Pending
    }

    /// Gives the connection back once nothing more comes from it, and ends the session.
    fn keep_if_over(&mut self, over: bool) {
        let quiet = self.in_flight.is_empty() && self.connection.as_ref().is_some_and(|kept| kept.unsent() == 0);
        if over {
            let connection = self.connection.take();
            *self.link.connection.get_mut() = if quiet { connection } else { None };
        }
    }

    fn failed(&mut self, error: &PeerError) -> Poll<Option<Answer>> {
        self.connection = None;
        Poll::Ready(Some(Err(rpc_error(error))))
    }
}

impl<S: Stream<Item = AppendEntriesRequest<Raft>> + Unpin> Stream for Appending<'_, S> {
    type Item = Answer;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        Appending::poll(&mut self, cx)
    }
}
