//! The way to other members: there is none yet, so nobody can be reached.

use super::types::{Peer, Raft, RaftVote, Snapshot};
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};

/// A network without anybody. *Seam*: the peer transport takes its place.
pub(super) struct NoPeers;

impl RaftNetworkFactory<Raft> for NoPeers {
    type Network = NoPeers;
    async fn new_client(&mut self, _target: u64, _node: &Peer) -> NoPeers {
        NoPeers
    }
}

fn nobody() -> Unreachable<Raft> {
    Unreachable::new(&AnyError::error("this build speaks to no peers"))
}

impl RaftNetworkV2<Raft> for NoPeers {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Raft>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Raft>, RPCError<Raft>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Raft>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Raft>, RPCError<Raft>> {
        Err(RPCError::Unreachable(nobody()))
    }

    /// openraft's own would grant it.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Raft>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Raft>, RPCError<Raft>> {
        Err(RPCError::Unreachable(nobody()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Raft>, StreamingError<Raft>> {
        Err(StreamingError::Unreachable(nobody()))
    }
}
