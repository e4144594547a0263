//! openraft's entries in the log on disk.
//!
//! | kind | payload |
//! |---|---|
//! | 0 | nothing: the first entry of a term |
//! | 1 | an entry's bytes, as the committer built them |
//! | 2 | a membership ([`super::membership`]) |

use super::{
    Failed,
    group::{Message, Queue},
    membership,
    types::{Command, Payload, Raft, RaftEntry, RaftLogId, RaftVote, leader, ours, theirs},
};
use crate::{
    encoding::Reader,
    log::{self, Log, LogEntry, LogError},
    types::{NodeId, Term},
};
use bytes::{Bytes, BytesMut};
use openraft::storage::IOFlushed;
use std::io;
use tokio::sync::oneshot;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// See the module. Clones share the log.
#[derive(Clone)]
pub(super) struct DiskLog {
    log: Log,
    /// Hears of the first failure, whoever waits for it.
    queue: Queue,
}

impl DiskLog {
    pub(super) fn new(log: Log, queue: Queue) -> DiskLog {
        DiskLog { log, queue }
    }

    pub(super) fn vote(&self) -> Option<RaftVote> {
        self.log.vote().map(|vote| RaftVote { leader_id: leader(vote.term, vote.node), committed: vote.committed })
    }

    pub(super) fn last(&self) -> Option<RaftLogId> {
        self.log.last().map(theirs)
    }

    pub(super) fn purged(&self) -> Option<RaftLogId> {
        self.log.purged().map(theirs)
    }

    pub(super) fn append(&self, entries: Vec<RaftEntry>, callback: IOFlushed<Raft>) {
        let entries = entries.into_iter().map(encode).collect();
        let queue = self.queue.clone();
        self.log.append(
            entries,
            Box::new(move |done| {
                if let Err(error) = &done {
                    queue.send(Message::Failed(Failed(error.to_string())));
                }
                callback.io_completed(done.map_err(failed));
            }),
        );
    }

    pub(super) async fn save_vote(&self, vote: RaftVote) -> io::Result<()> {
        let (term, node) = (Term(vote.leader_id.term), NodeId(vote.leader_id.node_id));
        let vote = log::Vote { term, node, committed: vote.committed };
        done(|told| self.log.save_vote(vote, told)).await
    }

    pub(super) async fn truncate_after(&self, last: Option<RaftLogId>) -> io::Result<()> {
        let (kept, ends) = (last.map(|last| last.index), self.log.last().map(|last| last.index));
        if kept > ends {
            // Nothing stands behind it.
            return Ok(());
        }
        done(|told| self.log.truncate_after(last.as_ref().map(ours), told)).await
    }

    pub(super) async fn purge(&self, up_to: RaftLogId) -> io::Result<()> {
        done(|told| self.log.purge(ours(&up_to), told)).await
    }

    /// The entries of `first..end` that are here: openraft asks for more than it needs, and looks at what it got.
    pub(super) fn read(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let mut first = first.max(self.log.purged().map_or(0, |purged| purged.index + 1));
        loop {
            match self.log.read(first, end, bytes_max) {
                // Purged between the two calls.
                Err(LogError::Purged { purged }) if purged.index >= first => first = purged.index + 1,
                read => return read.map_err(failed)?.into_iter().map(decode).collect(),
            }
        }
    }

    pub(super) async fn close(&self) {
        // A log that failed has said so to whoever waited for it.
        let _ = self.log.close().await;
    }
}

fn failed(error: LogError) -> io::Error {
    io::Error::other(error)
}

/// Hands over one thing and waits until it is durable.
async fn done(hand_over: impl FnOnce(log::Done)) -> io::Result<()> {
    let (sender, told) = oneshot::channel();
    hand_over(Box::new(move |result| {
        // Whoever waited has ended.
        let _ = sender.send(result);
    }));
    match told.await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(io::Error::other("the log has ended")),
    }
}

pub(super) fn encode(entry: RaftEntry) -> LogEntry {
    let id = ours(&entry.log_id);
    let (kind, payload) = match entry.payload {
        Payload::Blank => (KIND_BLANK, Bytes::new()),
        Payload::Normal(Command(bytes)) => (KIND_NORMAL, bytes),
        Payload::Membership(membership) => {
            let mut bytes = BytesMut::new();
            membership::put(&mut bytes, &membership);
            (KIND_MEMBERSHIP, bytes.freeze())
        }
    };
    LogEntry { id, kind, payload }
}

pub(super) fn decode(entry: LogEntry) -> io::Result<RaftEntry> {
    let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("log entry {}: {what}", entry.id));
    let payload = match entry.kind {
        KIND_BLANK if entry.payload.is_empty() => Payload::Blank,
        KIND_NORMAL => Payload::Normal(Command(entry.payload)),
        KIND_MEMBERSHIP => {
            let mut reader = Reader::new(&entry.payload);
            let membership = membership::read(&mut reader).map_err(|error| damaged(error.to_string()))?;
            reader.finish().map_err(|error| damaged(error.to_string()))?;
            Payload::Membership(membership)
        }
        kind => return Err(damaged(format!("kind {kind} is not known here"))),
    };
    Ok(RaftEntry { log_id: theirs(entry.id), payload })
}
