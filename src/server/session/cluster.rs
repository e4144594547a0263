//! The operations on a cluster's membership. They wait for the group, so each is a task of its own that answers through the
//! session's mailbox; there are few of them.

use super::{Session, requests::Incoming};
use crate::{
    consensus::{Change, ChangeError, MemberStatus, Status},
    env::{Env, Moment},
    node::{Body, Completion, Node, Refusal, Reply},
    server::peers,
    types::{NodeId, Version},
    wire::{
        ClusterAddReply, ClusterMember, ClusterStatusReply, ErrorCode, ListBuf, RequestBody, VersionReply, WireError,
    },
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

impl Session {
    /// A request about the membership, at the node that is to answer it.
    // spec: QP-MSG-036
    // spec: QP-MSG-037
    pub(super) fn cluster(&mut self, incoming: &Incoming<'_>, body: &RequestBody<'_>) {
        let node = Arc::clone(&self.shared.node);
        if !node.has_peers() {
            let error = WireError::new(ErrorCode::UNSUPPORTED)
                .with_message("this server is of no cluster: it has no listener for peers");
            return self.respond_error(incoming.opcode.number(), incoming.request, &error);
        }
        let asked = match *body {
            RequestBody::ClusterRemove { node } => Asked::Change(Change::Remove(node)),
            RequestBody::ClusterPromote { node } => Asked::Change(Change::Promote(node)),
            RequestBody::ClusterTransfer { node } => {
                Asked::Change(Change::Transfer((node != NodeId(0)).then_some(node)))
            }
            RequestBody::ClusterAdd { peer_address } => Asked::Add(peer_address.to_owned()),
            _ => Asked::Status,
        };
        self.await_answer(incoming);
        let (mailbox, request, deadline) = (Arc::clone(&self.control.mailbox), incoming.request, incoming.deadline);
        let env = self.shared.env.clone();
        // It ends by itself: by its answer, or at the deadline.
        self.shared
            .env
            .spawn("cluster", async move {
                let answered = env.until(deadline, asked.answer(&env, &node, deadline)).await;
                let result = match answered {
                    Some(Ok(payload)) => Ok(Reply { version: Version::ZERO, body: Body::Relayed(payload) }),
                    Some(Err(error)) => Err(Refusal::Relayed(Box::new(error))),
                    // The session says so itself.
                    None => return,
                };
                mailbox.deliver([Completion { request, result }]);
            })
            .detach();
    }
}

enum Asked {
    Status,
    Change(Change),
    Add(String),
}

impl Asked {
    async fn answer(self, env: &Env, node: &Node, deadline: Moment) -> Result<Bytes, WireError> {
        let mut out = BytesMut::new();
        match self {
            Asked::Status => put_status(&node.status().await, node.engine().visible(), &mut out),
            Asked::Change(change) => {
                node.change(change).await.map_err(|error| of_change(error, node))?;
                VersionReply { version: node.engine().visible() }.encode(&mut out);
            }
            // spec: QP-MSG-038
            Asked::Add(address) => {
                let (version, given) = peers::reserve_identity(env, node, &address, deadline).await?;
                ClusterAddReply { version, node: given }.encode(&mut out);
            }
        }
        Ok(out.freeze())
    }
}

fn of_change(error: ChangeError, node: &Node) -> WireError {
    match error {
        ChangeError::NotLeader => {
            let mut error = WireError::new(ErrorCode::NOT_LEADER);
            let leader = node.leader().filter(|leader| leader.node != node.identity().node);
            error.leader = leader.map(|leader| leader.addresses.client.into_boxed_str());
            error
        }
        ChangeError::UnknownNode => WireError::new(ErrorCode::UNKNOWN_NODE),
        ChangeError::QuorumAtRisk { needed, heard } => {
            WireError::new(ErrorCode::QUORUM_AT_RISK).with_message(error.to_string()).with_bound(needed, heard)
        }
        ChangeError::InProgress | ChangeError::TooMany { .. } | ChangeError::Behind => {
            WireError::new(ErrorCode::UNAVAILABLE).with_message(error.to_string())
        }
        ChangeError::Failed(what) => WireError::new(ErrorCode::NO_QUORUM).with_message(what),
    }
}

fn put_status(status: &Status, version: Version, out: &mut BytesMut) {
    let mut members = ListBuf::new();
    for MemberStatus { node, voter, addresses, progress } in &status.members {
        let known = *progress;
        members.push(&ClusterMember {
            node: *node,
            voter: *voter,
            peer_address: &addresses.peer,
            client_address: &addresses.client,
            known: known.is_some(),
            matched: known.and_then(|progress| progress.matched).unwrap_or(0),
            lag: known.map_or(0, |progress| progress.lag),
            contact_ms: known
                .and_then(|progress| progress.heard)
                .map_or(ClusterMember::NEVER, |heard| u64::try_from(heard.as_millis()).unwrap_or(ClusterMember::NEVER)),
            version: known.map_or(Version::ZERO, |progress| progress.version),
            chain: known.map_or(0, |progress| progress.chain),
            level: known.map_or(0, |progress| progress.level),
        });
    }
    let leader = status.leader.unwrap_or_default();
    ClusterStatusReply { version, leader, term: status.term, members: members.as_list() }.encode(out);
}
