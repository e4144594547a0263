//! Our state machine as openraft calls it.
//!
//! The snapshots that openraft has built are metadata only: what the store would come back with after a crash, up to which
//! the log may go. What a member is sent is captured when it is asked for ([`super::snapshots`]).

use super::{
    Failed, Position, StateMachine,
    agreement::Agreement,
    group::{Message, Queue},
    membership::{decode_stored, encode_stored},
    snapshots::{Captures, Data},
    store::Kept,
    types::{Payload, Raft, RaftLogId, RaftStoredMembership, Snapshot, SnapshotMeta, ours, theirs},
};
use crate::types::NodeId;
use futures_core::Stream;
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use std::{future::poll_fn, io, pin::Pin, sync::Arc};

/// How many bytes of entries may be applied before the group looks whether its log can shrink. A log in memory then stays
/// in the nearer caches.
const LOOK_BYTES: usize = 4 * 1024 * 1024;

/// See the module.
pub(super) struct Adapter<M> {
    machine: M,
    node: NodeId,
    queue: Queue,
    agreement: Arc<Agreement>,
    captures: Captures,
    kept: Kept,
    /// Bytes of entries applied since the group was asked to look.
    bytes: usize,
}

impl<M: StateMachine> Adapter<M> {
    pub(super) fn new(
        machine: M,
        node: NodeId,
        queue: Queue,
        agreement: Arc<Agreement>,
        captures: Captures,
        kept: Kept,
    ) -> Adapter<M> {
        Adapter { machine, node, queue, agreement, captures, kept, bytes: 0 }
    }

    fn apply_one(&mut self, (entry, responder): EntryResponder<Raft>) -> Result<(), Failed> {
        let log_id = ours(&entry.log_id);
        let outcome = match entry.payload {
            Payload::Normal(command) => {
                self.bytes += command.0.len();
                if self.bytes >= LOOK_BYTES {
                    self.bytes = 0;
                    self.queue.send(Message::Stored);
                }
                Some(self.machine.apply(log_id, &command.0)?)
            }
            Payload::Blank => {
                self.machine.apply_blank(log_id)?;
                if log_id.leader == self.node {
                    self.queue.send(Message::TermBegun(log_id.term));
                }
                None
            }
            Payload::Membership(membership) => {
                let stored = RaftStoredMembership::new(Some(entry.log_id), membership);
                self.machine.apply_membership(log_id, encode_stored(&stored))?;
                self.queue.send(Message::MembershipApplied);
                None
            }
        };
        self.agreement.note(log_id, self.machine.applied().chain);
        if let Some(responder) = responder {
            responder.send(outcome);
        }
        Ok(())
    }
}

fn failed(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

fn parts(position: &Position) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
    let membership = decode_stored(&position.membership).map_err(failed)?;
    Ok((position.log_id.map(theirs), membership))
}

fn snapshot(position: &Position) -> io::Result<Snapshot> {
    let (last_log_id, last_membership) = parts(position)?;
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: Data::Metadata })
}

impl<M: StateMachine> RaftStateMachine<Raft> for Adapter<M> {
    type SnapshotData = Data;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        parts(&self.machine.applied())
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Raft>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = poll_fn(|cx| Pin::new(&mut entries).poll_next(cx)).await {
            self.apply_one(entry?).map_err(|failure| {
                let text = failure.to_string();
                self.queue.send(Message::Failed(failure));
                failed(text)
            })?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder(self.machine.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Data) -> io::Result<()> {
        let Data::Received(install, sent) = data else {
            return Err(failed(format!("nobody has sent a snapshot of {:?}", meta.last_log_id)));
        };
        install.finish(sent).map_err(|error| {
            self.queue.send(Message::Failed(Failed(error.to_string())));
            failed(error)
        })?;
        // What was compared before was another way to here.
        self.agreement.forget();
        self.queue.send(Message::Installed);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(captured) = self.captures.current(&self.machine, self.kept.purged()) else { return Ok(None) };
        Ok(Some(Snapshot { meta: captured.meta()?, snapshot: Data::Captured(captured) }))
    }
}

/// Says what the store would come back with.
pub(super) struct Builder<M>(M);

impl<M: StateMachine> RaftSnapshotBuilder<Raft> for Builder<M> {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        snapshot(&self.0.stored())
    }
}
