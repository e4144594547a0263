//! What only the leader may decide, sent to it by another node, and taken from one.
//!
//! A forwarded request goes as its client sent it; a transaction, which lives here, goes whole. The answer is the leader's own,
//! once what it tells of is applied here too.

use super::{Session, requests::Incoming};
use crate::{
    env::Moment,
    node::{Forwarded, Work},
    server::errors,
    txn::{AtomicOp, CommitRequest, Mutation, Mutations},
    types::{Isolation, KeyRange},
    wire::{
        self, ErrorCode, Kind, Notice, Opcode, RequestBody, RequestTags, WireError,
        peer::{CommitWhole, PeerOpcode},
    },
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

impl Session {
    /// Whether a request outside of a transaction is for the leader to decide.
    pub(super) fn belongs_to_leader(&self, incoming: &Incoming<'_>, body: &RequestBody<'_>) -> bool {
        if self.is_peer || incoming.tags.transaction.is_some() {
            // A node forwards once: whoever does not lead any more says so.
            return false;
        }
        match body {
            RequestBody::Put { .. }
            | RequestBody::Delete { .. }
            | RequestBody::DeleteRange { .. }
            | RequestBody::Execute(_)
            | RequestBody::OpenKeyspace { create: true, .. }
            | RequestBody::Outcome { .. }
            | RequestBody::ClusterRemove { .. }
            | RequestBody::ClusterTransfer { .. }
            | RequestBody::ClusterPromote { .. }
            | RequestBody::ClusterAdd { .. } => true,
            // Who leads knows most; where nobody does, what is known here will do.
            RequestBody::ClusterStatus => self.shared.node.leader().is_some(),
            RequestBody::Atomic { op, .. } => AtomicOp::from_u8(*op).is_some(),
            _ => false,
        }
    }

    /// Sends a request to the leader as it came.
    pub(super) fn forward(&mut self, incoming: &Incoming<'_>) {
        let payload = Bytes::copy_from_slice(incoming.payload);
        self.send_to_leader(incoming, incoming.opcode.number(), payload);
    }

    /// Sends a transaction to the leader.
    pub(super) fn forward_commit(&mut self, incoming: &Incoming<'_>, commit: &CommitRequest) {
        let (mut points, mut ranges) = (BytesMut::new(), BytesMut::new());
        commit.points.iter().for_each(|point| CommitWhole::put_point(&mut points, point));
        for range in &commit.ranges {
            CommitWhole::put_range(&mut ranges, &range.start, &range.end);
        }
        let whole = CommitWhole {
            read_version: commit.read_version,
            points: &points,
            ranges: &ranges,
            mutations: commit.mutations,
            body: &commit.body,
        };
        let left = incoming.deadline - self.now;
        let tags = RequestTags {
            deadline_ms: Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX)),
            idempotency: incoming.tags.idempotency,
            retry_mark: incoming.tags.retry_mark,
            ..RequestTags::default()
        };
        let mut payload = BytesMut::new();
        whole.encode(&tags, &mut payload);
        self.send_to_leader(incoming, PeerOpcode::CommitWhole.number(), payload.freeze());
    }

    fn send_to_leader(&mut self, incoming: &Incoming<'_>, opcode: u16, payload: Bytes) {
        self.await_answer(incoming);
        let asks = matches!(incoming.opcode, Opcode::Outcome | Opcode::ClusterStatus);
        let forwarded = Forwarded {
            mailbox: Arc::clone(&self.control.mailbox),
            request: incoming.request,
            deadline: incoming.deadline,
            opcode,
            payload,
            writes: !asks,
            tells_version: !asks,
        };
        if self.shared.node.forward(forwarded).is_err() {
            self.finish_with_error(incoming.request, &WireError::new(ErrorCode::OVERLOADED));
        }
    }

    /// A node sends a transaction that one of its sessions has collected.
    pub(super) fn commit_whole(&mut self, request: u64, payload: &[u8]) {
        let decoded = CommitWhole::decode(payload).map_err(WireError::from);
        let decoded = decoded.and_then(|(commit, tags)| Ok((commit_of(&commit)?, tags)));
        let (commit, tags) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return self.respond_error(Opcode::Commit.number(), request, &error),
        };
        let deadline: Moment = match tags.deadline_ms {
            Some(ms) => self.now + std::time::Duration::from_millis(u64::from(ms)),
            None => self.now + self.shared.options.deadline_default,
        };
        let incoming = Incoming { request, opcode: Opcode::Commit, payload, deadline, tags };
        self.decide(&incoming, Work::Commit(Box::new(commit)));
    }

    /// Tells a client who leads, if that is another node and not what it was told last.
    pub(super) fn tell_leader(&mut self) {
        let leader = self.other_leader();
        if leader.is_none() || leader == self.told_leader {
            return;
        }
        let notice = Notice { code: Notice::LEADER_CHANGED, leader: leader.as_deref() };
        wire::put_frame(&mut self.outbound, Kind::Notice, 0, 0, 0, |out| notice.encode(out));
        self.told_leader = leader;
    }
}

/// A commit as the committer takes it; decoding has checked all that a session would have.
fn commit_of(whole: &CommitWhole<'_>) -> Result<CommitRequest, WireError> {
    let points = whole.points().map(|point| point.map(Bytes::copy_from_slice)).collect::<Result<Vec<_>, _>>()?;
    let range = |(start, end): (&[u8], &[u8])| KeyRange {
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
    };
    let ranges = whole.ranges().map(|read| read.map(range)).collect::<Result<Vec<_>, _>>()?;
    let mut atomics = 0;
    for mutation in Mutations::new(whole.body) {
        let mutation = mutation.map_err(|error| errors::of_mutation(&error))?;
        atomics += u32::from(matches!(mutation, Mutation::Atomic { .. }));
    }
    Ok(CommitRequest {
        read_version: whole.read_version,
        // What the isolation asks for is in the points and ranges.
        isolation: Isolation::Serializable,
        points,
        ranges,
        body: Bytes::copy_from_slice(whole.body),
        mutations: whole.mutations,
        atomics,
    })
}
