//! openraft's types as this project uses them, and the way between them and ours.

use super::Fate;
use crate::{
    txn::EntryResult,
    types::{LogId, NodeId, Term},
    wire::peer::PeerVote,
};
use bytes::Bytes;
use openraft::{
    EntryPayload, OptionalSend, RaftTypeConfig,
    impls::{BoxedErrorSource, InlineBatch, leader_id_adv::LeaderId},
    raft::responder::Responder,
};
use std::fmt;

/// The parameters of openraft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Raft;

pub(super) type Leader = LeaderId<u64, u64>;
pub(super) type RaftLogId = openraft::LogId<Leader>;
pub(super) type RaftVote = openraft::Vote<Leader>;
pub(super) type RaftMembership = openraft::Membership<u64, Peer>;
pub(super) type RaftStoredMembership = openraft::StoredMembership<Leader, u64, Peer>;
pub(super) type Payload = EntryPayload<Command, u64, Peer>;
pub(super) type RaftEntry = openraft::Entry<Leader, Payload>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<Leader, u64, Peer>;
/// A snapshot as openraft passes it about.
pub(super) type Snapshot = openraft::Snapshot<Leader, u64, Peer, super::snapshots::Data>;

impl RaftTypeConfig for Raft {
    type D = Command;
    type R = Option<EntryResult>;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = Leader;
    type Vote = RaftVote;
    type Payload = Payload;
    type Entry = RaftEntry;
    type AsyncRuntime = super::runtime::Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// An entry's bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command(pub(super) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values are never logged.
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a membership says of a node besides its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// Where its peer listener is; empty while it has none.
    pub(super) address: String,
    /// Where its client listener is; empty while it is not known.
    pub(super) client_address: String,
}

/// Hears a result on openraft's task.
pub(super) struct Reply<T>(pub(super) Box<dyn FnOnce(T) + Send>);

impl<T: OptionalSend + 'static> Responder<Raft, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// Tells the committer of a proposal exactly once: as lost, if nobody says otherwise before it is dropped.
pub(super) struct Owed(Option<super::Respond>);

impl Owed {
    pub(super) fn new(respond: super::Respond) -> Owed {
        Owed(Some(respond))
    }

    pub(super) fn pay(mut self, fate: Fate) {
        if let Some(respond) = self.0.take() {
            respond(fate);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(respond) = self.0.take() {
            respond(Fate::Lost);
        }
    }
}

pub(super) fn ours(log_id: &RaftLogId) -> LogId {
    LogId { term: Term(log_id.leader_id.term), leader: NodeId(log_id.leader_id.node_id), index: log_id.index }
}

pub(super) fn theirs(log_id: LogId) -> RaftLogId {
    RaftLogId { leader_id: leader(log_id.term, log_id.leader), index: log_id.index }
}

pub(super) fn leader(term: Term, node: NodeId) -> Leader {
    Leader { term: term.0, node_id: node.0 }
}

pub(super) fn peer_vote(vote: &RaftVote) -> PeerVote {
    let Leader { term, node_id } = vote.leader_id;
    PeerVote { term: Term(term), node: NodeId(node_id), committed: vote.committed }
}

pub(super) fn of_peer_vote(vote: &PeerVote) -> RaftVote {
    RaftVote { leader_id: leader(vote.term, vote.node), committed: vote.committed }
}
