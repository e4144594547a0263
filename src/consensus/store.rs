//! openraft's log store over either log, and what it sees pass by that decides whether reads may be local.
//!
//! Appends return as soon as entries can be read; openraft hears from the log's writer that they are durable, in the
//! order in which they were handed over. Votes, truncations and purges are waited for.

use super::{
    disk_log::DiskLog,
    membership::is_alone,
    memory_log::MemoryLog,
    types::{Payload, Raft, RaftEntry, RaftLogId, RaftVote},
};
use crate::types::NodeId;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many entries openraft is handed at once, when it leaves the number open.
const READ_ENTRIES_MAX: u64 = 64;
/// And how many bytes, at least one entry.
const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Whether a read of the applied state speaks for the group without asking anybody.
///
/// It does while this node leads a term whose first entry it has applied, is the only voter in the membership that it
/// applied, and no other node could commit without it: it has appended no membership with another voter and has saved no
/// vote for another node or term. The store notes the last two in the same call in which they happen.
#[derive(Debug)]
pub(super) struct Reads {
    node: NodeId,
    state: Mutex<ReadState>,
    local: AtomicBool,
}

#[derive(Debug)]
struct ReadState {
    /// The term that this node leads with its first entry applied.
    ready: Option<u64>,
    alone_applied: bool,
    alone_appended: bool,
    vote: Option<RaftVote>,
}

impl Reads {
    pub(super) fn new(node: NodeId) -> Reads {
        let state = ReadState { ready: None, alone_applied: false, alone_appended: true, vote: None };
        Reads { node, state: Mutex::new(state), local: AtomicBool::new(false) }
    }

    pub(super) fn local(&self) -> bool {
        self.local.load(Ordering::Acquire)
    }

    /// Nothing is answered locally any more.
    pub(super) fn end(&self) {
        self.change(|state| state.ready = None);
    }

    pub(super) fn ready(&self, term: Option<u64>, alone_applied: bool) {
        self.change(|state| {
            state.ready = term;
            state.alone_applied = alone_applied;
        });
    }

    /// Whatever else is known, reads are local or not: for a group that only plays its part.
    #[cfg(feature = "testing")]
    pub(super) fn assume(&self, local: bool) {
        self.local.store(local, Ordering::Release);
    }

    fn saw_vote(&self, vote: RaftVote) {
        self.change(|state| state.vote = Some(vote));
    }

    fn saw_entries<'a>(&self, entries: impl Iterator<Item = &'a RaftEntry>) {
        for entry in entries {
            if let Payload::Membership(membership) = &entry.payload {
                let alone = is_alone(membership, self.node);
                self.change(|state| state.alone_appended = alone);
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut ReadState)) {
        let mut state = self.state.lock();
        change(&mut state);
        let own = |vote: &RaftVote, term| vote.leader_id.term == term && vote.leader_id.node_id == self.node.0;
        let leads = state.ready.is_some_and(|term| state.vote.as_ref().is_some_and(|vote| own(vote, term)));
        self.local.store(leads && state.alone_applied && state.alone_appended, Ordering::Release);
    }
}

/// See the module. Clones share the log.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Kept,
    reads: Arc<Reads>,
}

/// Where the entries are, for whoever asks how many bytes they have.
#[derive(Clone)]
pub(super) struct Kept {
    entries: Entries,
    /// Where the log stood each time so many bytes more had been appended: the first entry after it, and the bytes before.
    marks: Arc<Mutex<Marks>>,
}

/// Bytes between two marks.
const MARK_EVERY_BYTES: u64 = 64 * 1024;

#[derive(Debug, Default)]
struct Marks {
    appended: u64,
    marked: VecDeque<(u64, u64)>,
}

#[derive(Clone)]
enum Entries {
    Memory(Arc<Mutex<MemoryLog>>),
    Disk(DiskLog),
}

impl Kept {
    fn new(entries: Entries) -> Kept {
        Kept { entries, marks: Arc::default() }
    }

    /// The index of the last entry.
    pub(super) fn last(&self) -> Option<u64> {
        match &self.entries {
            Entries::Memory(log) => log.lock().last(),
            Entries::Disk(log) => log.last(),
        }
        .map(|log_id| log_id.index)
    }

    /// The index up to which entries are gone.
    pub(super) fn purged(&self) -> Option<u64> {
        match &self.entries {
            Entries::Memory(log) => log.lock().purged(),
            Entries::Disk(log) => log.purged(),
        }
        .map(|log_id| log_id.index)
    }

    /// Entries up to this index are more than `bytes` before the end of what was appended since the start; 0 if none is.
    pub(super) fn first_within(&self, bytes: u64) -> u64 {
        let mut marks = self.marks.lock();
        let appended = marks.appended;
        let mut first = 0;
        while let Some((index, before)) = marks.marked.front().copied() {
            if appended - before <= bytes {
                break;
            }
            first = index;
            match marks.marked.get(1) {
                Some((_, next)) if appended - next > bytes => drop(marks.marked.pop_front()),
                _ => break,
            }
        }
        first
    }

    fn note(&self, entries: &[RaftEntry]) {
        let mut marks = self.marks.lock();
        for entry in entries {
            if let Payload::Normal(command) = &entry.payload {
                marks.appended += command.0.len() as u64;
            }
            let last = marks.marked.back().map_or(0, |(_, before)| *before);
            if marks.appended - last >= MARK_EVERY_BYTES {
                let mark = (entry.log_id.index, marks.appended);
                marks.marked.push_back(mark);
            }
        }
    }
}

impl LogStore {
    pub(super) fn in_memory(reads: Arc<Reads>) -> LogStore {
        LogStore { log: Kept::new(Entries::Memory(Arc::default())), reads }
    }

    pub(super) fn on_disk(log: DiskLog, reads: Arc<Reads>) -> LogStore {
        if let Some(vote) = log.vote() {
            reads.saw_vote(vote);
        }
        LogStore { log: Kept::new(Entries::Disk(log)), reads }
    }

    pub(super) fn kept(&self) -> Kept {
        self.log.clone()
    }

    /// Waits until everything handed over is done.
    pub(super) async fn close(&self) {
        if let Entries::Disk(log) = &self.log.entries {
            log.close().await;
        }
    }

    fn read(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        match &self.log.entries {
            Entries::Memory(log) => Ok(log.lock().read(first, end, bytes_max)),
            Entries::Disk(log) => log.read(first, end, bytes_max),
        }
    }
}

impl RaftLogReader<Raft> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<RaftEntry>> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(first, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        self.read(start, end.min(start.saturating_add(READ_ENTRIES_MAX)), READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(match &self.log.entries {
            Entries::Memory(log) => log.lock().vote(),
            Entries::Disk(log) => log.vote(),
        })
    }
}

impl RaftLogStorage<Raft> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Raft>> {
        let (last_purged_log_id, last_log_id) = match &self.log.entries {
            Entries::Memory(log) => {
                let log = log.lock();
                (log.purged(), log.last())
            }
            Entries::Disk(log) => (log.purged(), log.last()),
        };
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.reads.saw_vote(*vote);
        match &self.log.entries {
            Entries::Memory(log) => log.lock().save_vote(*vote),
            Entries::Disk(log) => log.save_vote(*vote).await?,
        }
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Raft>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        self.reads.saw_entries(entries.iter());
        self.log.note(&entries);
        match &self.log.entries {
            Entries::Memory(log) => {
                log.lock().append(entries);
                callback.io_completed(Ok(()));
            }
            Entries::Disk(log) => log.append(entries, callback),
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        match &self.log.entries {
            Entries::Memory(log) => log.lock().truncate_after(last),
            Entries::Disk(log) => log.truncate_after(last).await?,
        }
        Ok(())
    }

    async fn purge(&mut self, up_to: RaftLogId) -> io::Result<()> {
        match &self.log.entries {
            Entries::Memory(log) => log.lock().purge(up_to),
            Entries::Disk(log) => log.purge(up_to).await?,
        }
        Ok(())
    }
}
