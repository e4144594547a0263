//! openraft's conformance suite for log stores, over both logs. It wants a state machine beside the log: the simplest.

use super::super::{
    disk_log::DiskLog,
    group::Queue,
    snapshots::Data,
    store::{LogStore, Reads},
    types::{Payload, Raft, RaftEntry, RaftLogId, RaftStoredMembership, RaftVote, Snapshot, SnapshotMeta, leader},
};
use super::NODE;
use crate::{
    env::Env,
    log::{Log, LogOptions, Owner},
    testing::directory::TemporaryDirectory,
    types::{ClusterId, NodeId, Term},
};
use futures_core::Stream;
use openraft::{
    LogState, OptionalSend, RaftSnapshotBuilder, StorageError,
    storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use std::{future::poll_fn, io, pin::Pin, sync::Arc};

/// Remembers the last entry and the last membership.
#[derive(Clone, Default)]
struct Reference {
    last: Option<RaftLogId>,
    membership: RaftStoredMembership,
}

impl Reference {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            snapshot: Data::Metadata,
        }
    }
}

impl RaftStateMachine<Raft> for Reference {
    type SnapshotData = Data;
    type SnapshotBuilder = Reference;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Raft>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = poll_fn(|cx| Pin::new(&mut entries).poll_next(cx)).await {
            let (entry, responder) = entry?;
            self.last = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = RaftStoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(None);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Reference {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _data: Data) -> io::Result<()> {
        *self = Reference { last: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.last.is_some().then(|| self.snapshot()))
    }
}

impl RaftSnapshotBuilder<Raft> for Reference {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(self.snapshot())
    }
}

struct InMemory;

impl StoreBuilder<Raft, LogStore, Reference> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Reference), StorageError<Raft>> {
        Ok(((), LogStore::in_memory(Arc::new(Reads::new(NODE))), Reference::default()))
    }
}

#[tokio::test]
async fn the_log_in_memory_passes() {
    Suite::test_all(InMemory).await.expect("the suite says what is wrong");
}

/// The suite begins some logs at index 1, which openraft never does by itself and our log refuses as a gap: what stands
/// before counts as purged then.
struct Begun(LogStore);

impl RaftLogStorage<Raft> for Begun {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Raft>> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.0.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.0.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Raft>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let is_empty = self.0.get_log_state().await?.last_log_id.is_none();
        if let Some(before) = entries.first().and_then(|entry| entry.log_id.index.checked_sub(1))
            && is_empty
        {
            self.0.purge(RaftLogId { leader_id: leader(Term(0), NodeId(0)), index: before }).await?;
        }
        self.0.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.0.truncate_after(last).await
    }

    async fn purge(&mut self, up_to: RaftLogId) -> io::Result<()> {
        self.0.purge(up_to).await
    }
}

struct OnDisk;

impl StoreBuilder<Raft, Begun, Reference, TemporaryDirectory> for OnDisk {
    async fn build(&self) -> Result<(TemporaryDirectory, Begun, Reference), StorageError<Raft>> {
        let directory = TemporaryDirectory::new("suite");
        let options = LogOptions { segment_bytes: 1 << 16, ..LogOptions::new(OWNER) };
        let (log, _) = Log::open(&Env::real(), directory.path(), options).expect("an empty directory is a log");
        let (queue, _) = Queue::new();
        let store = LogStore::on_disk(DiskLog::new(log, queue), Arc::new(Reads::new(NODE)));
        Ok((directory, Begun(store), Reference::default()))
    }
}

const OWNER: Owner = Owner { cluster: ClusterId(*b"suite suite suit"), node: NODE };

#[tokio::test]
async fn the_log_on_disk_passes() {
    Suite::test_all(OnDisk).await.expect("the suite says what is wrong");
}
